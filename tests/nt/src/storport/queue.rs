//! The queue of a logical unit and the gates before it: depth, busy, paused, frozen, locked. No NT type in it.
//! <https://learn.microsoft.com/windows-hardware/drivers/storage/storport-queue-management>

use alloc::collections::VecDeque;

/// Whether requests may pass: of an adapter or of a logical unit.
#[derive(Debug, Default)]
pub struct Gate {
    busy: Option<u32>,
    paused: Option<u32>,
}

impl Gate {
    /// Whether requests may pass.
    pub fn open(&self) -> bool {
        self.busy.is_none() && self.paused.is_none()
    }

    /// Closed until `completions` more requests are complete, or [`Gate::ready`].
    pub fn busy(&mut self, completions: u32) {
        self.busy = Some(completions.max(1));
    }

    /// Ends busy.
    pub fn ready(&mut self) {
        self.busy = None;
    }

    /// Closed for `seconds`, or until [`Gate::resume`].
    pub fn pause(&mut self, seconds: u32) {
        self.paused = Some(seconds.max(1));
    }

    /// Ends pause. False: it was not paused.
    pub fn resume(&mut self) -> bool {
        self.paused.take().is_some()
    }

    /// A request is complete; `left` are still with the miniport. Busy ends when nothing is left that could end it.
    pub fn completed(&mut self, left: u32) {
        self.busy = self.busy.and_then(|n| (n > 1 && left > 0).then_some(n - 1));
    }

    /// A second passed.
    pub fn tick(&mut self) {
        self.paused = self.paused.and_then(|n| (n > 1).then_some(n - 1));
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }
}

/// What lets a request past a stopped queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bypass {
    /// `SRB_FLAGS_BYPASS_FROZEN_QUEUE`.
    pub frozen: bool,
    /// `SRB_FLAGS_BYPASS_LOCKED_QUEUE`.
    pub locked: bool,
}

/// The requests of one logical unit that the miniport does not have yet.
#[derive(Debug)]
pub struct Queue<R> {
    waiting: VecDeque<(R, Bypass)>,
    /// Requests that the miniport has.
    pub outstanding: u32,
    /// Requests that it may have.
    pub depth: u32,
    /// Busy and paused.
    pub gate: Gate,
    /// A request failed; the class driver releases the queue.
    pub frozen: bool,
    /// The class driver locked the queue.
    pub locked: bool,
    /// The unit is gone: nothing starts any more.
    pub dead: bool,
}

impl<R> Queue<R> {
    /// An empty queue.
    pub fn new(depth: u32) -> Queue<R> {
        Queue {
            waiting: VecDeque::new(),
            outstanding: 0,
            depth: depth.max(1),
            gate: Gate::default(),
            frozen: false,
            locked: false,
            dead: false,
        }
    }

    /// Puts a request at the end.
    pub fn push(&mut self, request: R, bypass: Bypass) {
        self.waiting.push_back((request, bypass));
    }

    /// Puts a request back at its front, to be started again before the others.
    pub fn push_front(&mut self, request: R, bypass: Bypass) {
        self.waiting.push_front((request, bypass));
    }

    /// Takes the request that may start now and counts it as outstanding.
    pub fn pop(&mut self) -> Option<R> {
        if self.dead || !self.gate.open() || self.outstanding >= self.depth {
            return None;
        }
        let (frozen, locked) = (self.frozen, self.locked);
        let at = self.waiting.iter().position(|(_, b)| (b.frozen || !frozen) && (b.locked || !locked))?;
        self.outstanding += 1;
        let taken = if at == 0 { self.waiting.pop_front() } else { self.waiting.remove(at) };
        taken.map(|(request, _)| request)
    }

    /// A request came back from the miniport.
    pub fn returned(&mut self) {
        self.outstanding -= 1;
        self.gate.completed(self.outstanding);
    }

    /// Takes every waiting request out.
    pub fn drain(&mut self) -> impl Iterator<Item = R> + '_ {
        self.waiting.drain(..).map(|(request, _)| request)
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_and_order() {
        let mut q = Queue::new(2);
        for i in 0..4 {
            q.push(i, Bypass::default());
        }
        assert_eq!((q.pop(), q.pop(), q.pop()), (Some(0), Some(1), None));
        q.returned();
        q.push_front(0, Bypass::default());
        assert_eq!((q.pop(), q.pop()), (Some(0), None));
        assert_eq!(q.drain().collect::<alloc::vec::Vec<_>>(), [2, 3]);
    }

    #[test]
    fn busy_ends_by_completions() {
        let mut q = Queue::new(10);
        for i in 0..5 {
            q.push(i, Bypass::default());
        }
        q.pop();
        q.pop();
        q.pop();
        q.gate.busy(2);
        assert_eq!(q.pop(), None);
        q.returned();
        assert_eq!(q.pop(), None);
        q.returned();
        assert_eq!(q.pop(), Some(3));
        // With nothing left to complete, busy cannot last.
        q.gate.busy(100);
        q.returned();
        q.returned();
        assert_eq!(q.pop(), Some(4));
    }

    #[test]
    fn pause_ends_by_time() {
        let mut g = Gate::default();
        g.pause(2);
        g.tick();
        assert!(!g.open());
        g.tick();
        assert!(g.open() && !g.resume());
    }

    #[test]
    fn frozen_lets_only_bypassing_requests_pass() {
        let mut q = Queue::new(10);
        q.frozen = true;
        q.push(1, Bypass::default());
        q.push(2, Bypass { frozen: true, locked: false });
        assert_eq!((q.pop(), q.pop()), (Some(2), None));
        q.frozen = false;
        assert_eq!(q.pop(), Some(1));
    }
}

//! The keeper: a thread of the adapter's own, for what no event and no request asks for.

use core::{sync::atomic::Ordering, time::Duration};

use wdm::{ndis::status::NdisStatus, time::monotonic};
use xenbus::{
    client::Bus,
    frontend::{ATTEMPTS, Action},
    interface::LogLevel,
};

use super::{
    adapter::{Adapter, Queue},
    connection::Control,
};
use crate::front::announce::Learned;

/// Shortest wait.
const TICK: Duration = Duration::from_millis(1);
/// How long a backend has to answer what was sent before a pause.
const PAUSE_PATIENCE: Duration = Duration::from_secs(5);
/// Between two announcements of addresses.
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_secs(1);

impl Adapter {
    /// The keeper's thread: closes a connection whose rings are broken, keeps the time that a backend at fault has,
    /// announces addresses after a migration and ends pauses.
    pub fn keep(&self) {
        while !self.stopping.load(Ordering::Acquire) {
            match self.next_due().filter(|_| !self.common.is_frozen()) {
                None => self.common.work.wait(),
                Some(due) => {
                    // Whether something was signalled or the time has passed is seen below.
                    let _ = self.common.work.wait_for(due.saturating_sub(monotonic()).max(TICK));
                }
            }
            if self.stopping.load(Ordering::Acquire) || self.common.is_frozen() {
                continue;
            }
            let mut control = self.control.lock();
            self.look_for_fault(&mut control);
            self.look_for_refusal(&mut control);
            self.look_for_pause(&mut control);
            self.announce(&mut control);
            if control.moving.is_some_and(|due| monotonic() >= due) {
                control.moving = None;
                self.drop_link(&control);
            }
            if let Some((wait, due)) = control.waiting
                && monotonic() >= due
            {
                control.waiting = None;
                let peer = control.frontend.peer();
                let line = format_args!("{wait:?}: time has passed, the backend's state is {peer}");
                self.common.client.log(LogLevel::Info, line);
                let action = control.frontend.timed_out();
                self.drive(&mut control, action);
            }
        }
    }

    fn next_due(&self) -> Option<Duration> {
        let control = self.control.lock();
        let (waiting, announcing) = (control.waiting.map(|(_, due)| due), control.announcing.map(|(_, due)| due));
        [waiting, announcing, control.moving, control.pause_due].into_iter().flatten().min()
    }

    /// Has a connection closed whose rings are broken.
    pub fn look_for_fault(&self, control: &mut Control) {
        let broken = |queue: &alloc::boxed::Box<Queue>| {
            queue.tx.hot.lock().ring.is_broken() || queue.rx.hot.lock().ring.is_broken()
        };
        let control_broken = control.control_ring.as_ref().is_some_and(|control| control.ring.is_broken());
        if control_broken || self.queues.iter().any(broken) {
            self.fault(control);
        }
        for queue in &self.queues {
            if queue.tx.hot.lock().ring.has_held() {
                // It may have let go meanwhile.
                queue.tx.catch_up();
            }
        }
    }

    /// The backend is at fault: its connection is closed, and made again if the failures allow that.
    pub fn fault(&self, control: &mut Control) {
        let action = control.frontend.fault();
        if action != Action::Wait {
            let failures = control.frontend.failures();
            let line = format_args!("closing the connection: failure {failures} of {ATTEMPTS}");
            self.common.client.log(LogLevel::Error, line);
            self.drive(control, action);
        }
    }

    /// Ends a pause, or takes what was sent before it back from a backend that does not answer.
    fn look_for_pause(&self, control: &mut Control) {
        if !self.end_pause() {
            control.pause_due = None;
            return;
        }
        match control.pause_due {
            None => control.pause_due = Some(monotonic() + PAUSE_PATIENCE),
            Some(due) if monotonic() >= due => {
                control.pause_due = Some(monotonic() + PAUSE_PATIENCE);
                if self.queues.iter().any(|queue| queue.tx.lists() > 0) {
                    self.common.client.log(LogLevel::Error, format_args!("packets are not answered"));
                    self.fault(control);
                    self.stop_serving(NdisStatus::PAUSED);
                }
            }
            Some(_) => {}
        }
    }

    fn announce(&self, control: &mut Control) {
        let Some((left, due)) = control.announcing else { return };
        if monotonic() < due {
            return;
        }
        control.announcing =
            left.checked_sub(1).filter(|&left| left > 0).map(|left| (left, due + ANNOUNCEMENT_INTERVAL));
        let client = &self.common.client;
        let mut learned = Learned::new(self.address);
        for queue in &self.queues {
            learned.merge(queue.tx.hot.lock().ring.learned());
        }
        if let Some(queue) = self.queues.first() {
            queue.tx.step(|ring| ring.announce(client, &learned));
        }
    }
}

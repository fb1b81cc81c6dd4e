//! Event channels on the guest's side: both layouts, and the arithmetic against storms.
//!
//! The layouts are lock-free and run in the upcall. A channel is masked, cleared and handed to its DPC there, and
//! unmasked when the DPC is done with it. Unmasking must not lose an event that came in between; where the guest cannot
//! see to that by itself the answer is [`Unmask::Hypercall`].

use core::sync::atomic::Ordering;

use xen_abi::event::{Port, fifo, two_level};
use xen_abi::shared::{FrameTable, SharedRegion};
use xen_abi::shared_info::{OFFSET_PENDING_SEL, OFFSET_UPCALL_PENDING};

/// What is left to do after unmasking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an event may be lost"]
pub enum Unmask {
    /// Nothing.
    Done,
    /// The channel is still masked and may be pending: make the hypercall `EVTCHNOP_unmask`, which has the upcall
    /// come.
    Hypercall,
}

/// Takes the upcall of a CPU: whether Xen has something for it. To be called before the layout's scan, on that CPU or
/// with its upcalls off. `vcpu_info` is that CPU's. Any IRQL.
pub fn take_upcall(vcpu_info: &SharedRegion) -> bool {
    vcpu_info.atomic_u8(OFFSET_UPCALL_PENDING).swap(0, Ordering::SeqCst) != 0
}

/// The 2-level layout.
#[derive(Clone, Copy, Debug)]
pub struct TwoLevel {
    shared_info: SharedRegion,
}

impl TwoLevel {
    /// Over the mapped shared info page.
    pub fn new(shared_info: SharedRegion) -> Self {
        Self { shared_info }
    }

    /// Masks every port: before the first one is opened, and in a new domain. Any IRQL.
    pub fn mask_all(&self) {
        for port in (0..two_level::PORTS).step_by(64) {
            if let Some((offset, _)) = two_level::mask(port) {
                self.shared_info.atomic_u64(offset).store(u64::MAX, Ordering::SeqCst);
            }
        }
    }

    /// Masks a port: no upcall comes for it. Whether it was masked already. Any IRQL.
    pub fn mask(&self, port: Port) -> bool {
        let Some((offset, bit)) = two_level::mask(port) else { return true };
        self.shared_info.atomic_u64(offset).fetch_or(bit, Ordering::SeqCst) & bit != 0
    }

    /// Unmasks a port. Any IRQL.
    pub fn unmask(&self, port: Port) -> Unmask {
        let (Some((mask, bit)), Some((pending, _))) = (two_level::mask(port), two_level::pending(port)) else {
            return Unmask::Done;
        };
        let mask = self.shared_info.atomic_u64(mask);
        mask.fetch_and(!bit, Ordering::SeqCst);
        if self.shared_info.atomic_u64(pending).load(Ordering::SeqCst) & bit == 0 {
            return Unmask::Done;
        }
        // It came while the port was masked, so no upcall did. Xen raises one when it unmasks, which needs a mask.
        mask.fetch_or(bit, Ordering::SeqCst);
        Unmask::Hypercall
    }

    /// Masks every port that is pending and not masked among those that a CPU is told of, clears its pending bit, and
    /// calls `found` with it; how many there were. Runs on that CPU, after [`take_upcall`]. `start` makes the search
    /// begin at another word each time, so that no port starves. Any IRQL.
    pub fn scan(&self, vcpu_info: &SharedRegion, start: u32, mut found: impl FnMut(Port)) -> u32 {
        let mut count = 0;
        let selected = vcpu_info.atomic_u64(OFFSET_PENDING_SEL).swap(0, Ordering::SeqCst);
        for step in 0..two_level::WORDS {
            let word = start.wrapping_add(step) % two_level::WORDS;
            if selected >> word & 1 == 0 {
                continue;
            }
            let first = word * 64;
            let (Some((pending, _)), Some((mask, _))) = (two_level::pending(first), two_level::mask(first)) else {
                continue;
            };
            let pending = self.shared_info.atomic_u64(pending);
            let mask = self.shared_info.atomic_u64(mask);
            let mut ready = pending.load(Ordering::SeqCst) & !mask.load(Ordering::SeqCst);
            while ready != 0 {
                let bit = ready & ready.wrapping_neg();
                ready &= !bit;
                // Masked before it is cleared: another event then waits for the unmasking.
                if mask.fetch_or(bit, Ordering::SeqCst) & bit == 0
                    && pending.fetch_and(!bit, Ordering::SeqCst) & bit != 0
                {
                    count += 1;
                    found(first + bit.trailing_zeros());
                }
            }
        }
        count
    }
}

/// A bit for each queue.
const QUEUE_BITS: u32 = (1 << fifo::QUEUES) - 1;

/// Rounds that unmasking waits for Xen to finish with a link. Xen holds the bit for a handful of instructions.
const BUSY_ROUNDS: u32 = 10_000;

/// Pages of event words that are used at most: 8192 ports. Xen gives the lowest free port, so there are enough.
pub const FIFO_PAGES: usize = 8;

/// The FIFO layout: the event words. Each CPU's queues are a [`FifoQueues`].
#[derive(Debug, Default)]
pub struct Fifo {
    array: FrameTable<FIFO_PAGES>,
}

impl Fifo {
    /// Without event words.
    pub const fn new() -> Self {
        Self { array: FrameTable::new() }
    }

    /// Pages of the array that exist, counted from the first.
    pub fn pages(&self) -> usize {
        (0..FIFO_PAGES).take_while(|index| self.array.get(*index).is_some()).count()
    }

    /// Whether `port` has its word already.
    pub fn has_word(&self, port: Port) -> bool {
        self.word(port).is_some()
    }

    /// Makes `page` the next page of the array, all ports in it masked. The hypercall `EVTCHNOP_expand_array` comes
    /// after that. `false` if the array has its greatest size. IRQL <= DISPATCH_LEVEL, one CPU at a time.
    #[must_use]
    pub fn add_page(&self, page: SharedRegion) -> bool {
        for word in 0..fifo::WORDS_PER_PAGE {
            page.atomic_u32(word as usize * 4).store(fifo::MASKED, Ordering::Relaxed);
        }
        self.array.set(self.pages(), page)
    }

    fn word(&self, port: Port) -> Option<(SharedRegion, usize)> {
        let (page, offset) = fifo::word(port)?;
        Some((self.array.get(page)?, offset))
    }

    /// Masks a port. Whether it was masked already. Any IRQL.
    pub fn mask(&self, port: Port) -> bool {
        let Some((page, offset)) = self.word(port) else { return true };
        page.atomic_u32(offset).fetch_or(fifo::MASKED, Ordering::SeqCst) & fifo::MASKED != 0
    }

    /// Unmasks a port. Any IRQL.
    pub fn unmask(&self, port: Port) -> Unmask {
        let Some((page, offset)) = self.word(port) else { return Unmask::Done };
        let word = page.atomic_u32(offset);
        let mut now = word.load(Ordering::Acquire);
        for _ in 0..BUSY_ROUNDS {
            if now & fifo::MASKED == 0 {
                return Unmask::Done;
            }
            if now & fifo::PENDING != 0 {
                return Unmask::Hypercall;
            }
            // While Xen changes the link the guest must not unmask.
            let free = now & !fifo::BUSY;
            match word.compare_exchange_weak(free, free & !fifo::MASKED, Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => return Unmask::Done,
                Err(changed) => now = changed,
            }
            core::hint::spin_loop();
        }
        Unmask::Hypercall
    }
}

/// The sixteen queues of one CPU.
#[derive(Debug)]
pub struct FifoQueues {
    control: SharedRegion,
    /// Next port of each queue, 0: look into the control block.
    heads: [Port; fifo::QUEUES],
}

impl FifoQueues {
    /// Over a mapped control block at the start of `control`, which it clears; Xen gets it after that.
    pub fn new(control: SharedRegion) -> Self {
        Self::clear(&control);
        Self { control, heads: [0; fifo::QUEUES] }
    }

    /// Clears a control block, before Xen gets it again in a new domain. Any IRQL.
    pub fn clear(control: &SharedRegion) {
        for offset in (0..fifo::CONTROL_BLOCK_SIZE).step_by(4) {
            control.atomic_u32(offset).store(0, Ordering::SeqCst);
        }
    }

    /// Forgets what was next in the old domain. Any IRQL.
    pub fn restart(&mut self) {
        self.heads = [0; fifo::QUEUES];
    }

    /// Takes ports off the queues, first priority first. Masks each that is pending and not masked, clears its pending
    /// bit, and calls `found` with it; how many there were. Runs on that CPU, after [`take_upcall`]. Any IRQL.
    pub fn scan(&mut self, events: &Fifo, mut found: impl FnMut(Port)) -> u32 {
        let mut count = 0;
        let ready = self.control.atomic_u32(fifo::OFFSET_READY);
        let mut queues = ready.swap(0, Ordering::SeqCst) & QUEUE_BITS;
        while queues != 0 {
            let priority = queues.trailing_zeros();
            let head = &mut self.heads[priority as usize];
            if *head == 0 {
                *head = self.control.atomic_u32(fifo::offset_head(priority)).load(Ordering::SeqCst);
            }
            let port = *head;
            let Some((page, offset)) = events.word(port) else {
                // A link to a port without a word: nothing that Xen does. The queue begins anew at Xen's next head.
                *head = 0;
                queues &= !(1 << priority);
                continue;
            };
            let word = page.atomic_u32(offset);
            let before = word.fetch_and(!(fifo::LINKED | fifo::LINK_MASK), Ordering::SeqCst);
            *head = before & fifo::LINK_MASK;
            if *head == 0 {
                queues &= !(1 << priority);
            }
            if before & fifo::PENDING != 0
                && word.fetch_or(fifo::MASKED, Ordering::SeqCst) & fifo::MASKED == 0
                && word.fetch_and(!fifo::PENDING, Ordering::SeqCst) & fifo::PENDING != 0
            {
                count += 1;
                found(port);
            }
            queues |= ready.swap(0, Ordering::SeqCst) & QUEUE_BITS;
        }
        count
    }
}

/// When to unmask a channel after its handler has run: what Linux calls a late EOI. A peer that sends events without
/// work behind them, on purpose or not, gets its channel unmasked later and later. Times are in microseconds of a clock
/// that never goes back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throttle {
    /// Empty events in a row.
    spurious: u8,
}

impl Throttle {
    /// Empty events in a row that are let pass: a last response and its event may cross.
    pub const FREE: u8 = 2;
    /// The longest delay, in microseconds.
    pub const LONGEST: u64 = 1_000_000;
    /// The first delay, in microseconds. Each further one is twice as long.
    pub const FIRST: u64 = 1_000;

    /// A channel that has a good name.
    pub const fn new() -> Self {
        Self { spurious: 0 }
    }

    /// The handler found work: the channel's name is good again.
    pub fn worked(&mut self) {
        self.spurious = 0;
    }

    /// The handler found no work. Microseconds after which to unmask, 0: at once.
    #[must_use]
    pub fn was_spurious(&mut self) -> u64 {
        self.spurious = self.spurious.saturating_add(1);
        match self.spurious.checked_sub(Self::FREE + 1) {
            None => 0,
            Some(doublings) if doublings < 10 => (Self::FIRST << doublings).min(Self::LONGEST),
            Some(_) => Self::LONGEST,
        }
    }
}

#[cfg(test)]
mod tests {
    use xen_abi::shared_info::VCPU_INFO_SIZE;

    use super::*;
    use crate::core::testing::page;

    /// Xen's side of the 2-level layout, for one CPU.
    struct Xen2 {
        info: SharedRegion,
    }

    impl Xen2 {
        fn vcpu(&self) -> SharedRegion {
            self.info.slice(0, VCPU_INFO_SIZE).unwrap()
        }

        /// A pending port that is not masked raises the upcall.
        fn raise(&self, port: Port) {
            let word = u64::from(port / 64);
            if self.vcpu().atomic_u64(OFFSET_PENDING_SEL).fetch_or(1 << word, Ordering::SeqCst) >> word & 1 == 0 {
                self.vcpu().atomic_u8(OFFSET_UPCALL_PENDING).store(1, Ordering::SeqCst);
            }
        }

        fn send(&self, port: Port) {
            let ((pending, bit), (mask, _)) = (two_level::pending(port).unwrap(), two_level::mask(port).unwrap());
            if self.info.atomic_u64(pending).fetch_or(bit, Ordering::SeqCst) & bit == 0
                && self.info.atomic_u64(mask).load(Ordering::SeqCst) & bit == 0
            {
                self.raise(port);
            }
        }

        /// `EVTCHNOP_unmask`.
        fn unmask(&self, port: Port) {
            let ((pending, bit), (mask, _)) = (two_level::pending(port).unwrap(), two_level::mask(port).unwrap());
            if self.info.atomic_u64(mask).fetch_and(!bit, Ordering::SeqCst) & bit != 0
                && self.info.atomic_u64(pending).load(Ordering::SeqCst) & bit != 0
            {
                self.raise(port);
            }
        }
    }

    fn two_level_pair() -> (Xen2, TwoLevel) {
        let info = page();
        let guest = TwoLevel::new(info);
        guest.mask_all();
        (Xen2 { info }, guest)
    }

    fn scan2(guest: &TwoLevel, xen: &Xen2) -> Vec<Port> {
        let mut found = Vec::new();
        while take_upcall(&xen.vcpu()) {
            guest.scan(&xen.vcpu(), 0, |port| found.push(port));
        }
        found
    }

    #[test]
    fn two_level_events_are_found_once_and_stay_masked() {
        let (xen, guest) = two_level_pair();
        for port in [1, 63, 64, 4095] {
            assert_eq!(guest.unmask(port), Unmask::Done);
            xen.send(port);
            xen.send(port);
        }
        xen.send(7);
        assert_eq!(scan2(&guest, &xen), [1, 63, 64, 4095]);
        xen.send(63);
        assert_eq!(scan2(&guest, &xen), [], "masked until unmasked");
        assert_eq!(guest.unmask(63), Unmask::Hypercall);
        xen.unmask(63);
        assert_eq!(scan2(&guest, &xen), [63]);
        assert!(guest.mask(7), "nobody unmasked it");
        assert_eq!(guest.unmask(7), Unmask::Hypercall, "it waits");
        assert_eq!(guest.unmask(4096), Unmask::Done);
        assert!(guest.mask(4096));
    }

    #[test]
    fn the_search_begins_where_it_is_told() {
        let (xen, guest) = two_level_pair();
        for port in [10, 70, 130] {
            assert_eq!(guest.unmask(port), Unmask::Done);
            xen.send(port);
        }
        let mut found = Vec::new();
        assert!(take_upcall(&xen.vcpu()));
        assert_eq!(guest.scan(&xen.vcpu(), 2, |port| found.push(port)), 3);
        assert_eq!(found, [130, 10, 70]);
    }

    #[test]
    fn no_two_level_event_is_lost_between_two_threads() {
        let (xen, guest) = two_level_pair();
        assert_eq!(guest.unmask(5), Unmask::Done);
        let sent = std::sync::atomic::AtomicU32::new(0);
        let seen = std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..=20_000 {
                    sent.store(number, Ordering::SeqCst);
                    xen.send(5);
                }
            });
            let mut seen = 0;
            while seen < 20_000 {
                for port in scan2(&guest, &xen) {
                    seen = sent.load(Ordering::SeqCst);
                    if guest.unmask(port) == Unmask::Hypercall {
                        xen.unmask(port);
                    }
                }
            }
            seen
        });
        assert_eq!(seen, 20_000);
    }

    /// Xen's side of the FIFO layout, for one CPU and one priority.
    struct XenFifo {
        array: SharedRegion,
        control: SharedRegion,
        tail: Port,
    }

    impl XenFifo {
        fn word(&self, port: Port) -> &core::sync::atomic::AtomicU32 {
            self.array.atomic_u32(port as usize * 4)
        }

        fn link(&mut self, port: Port, priority: u32) {
            let word = self.word(port);
            let now = word.load(Ordering::SeqCst);
            if now & fifo::PENDING == 0 || now & (fifo::MASKED | fifo::LINKED) != 0 {
                return;
            }
            word.fetch_or(fifo::LINKED, Ordering::SeqCst);
            let tail = self.word(self.tail);
            if self.tail != 0 && tail.load(Ordering::SeqCst) & fifo::LINKED != 0 {
                tail.fetch_or(port, Ordering::SeqCst);
            } else {
                self.control.atomic_u32(fifo::offset_head(priority)).store(port, Ordering::SeqCst);
                self.control.atomic_u32(fifo::OFFSET_READY).fetch_or(1 << priority, Ordering::SeqCst);
            }
            self.tail = port;
        }

        fn send(&mut self, port: Port) {
            self.word(port).fetch_or(fifo::PENDING, Ordering::SeqCst);
            self.link(port, 7);
        }

        fn unmask(&mut self, port: Port) {
            self.word(port).fetch_and(!fifo::MASKED, Ordering::SeqCst);
            self.link(port, 7);
        }
    }

    fn fifo_pair() -> (XenFifo, Fifo, FifoQueues) {
        let (array, control) = (page(), page());
        let guest = Fifo::new();
        assert!(!guest.has_word(1));
        assert!(guest.add_page(array));
        assert!(guest.has_word(1023) && !guest.has_word(1024));
        (XenFifo { array, control, tail: 0 }, guest, FifoQueues::new(control))
    }

    fn scan(queues: &mut FifoQueues, guest: &Fifo) -> Vec<Port> {
        let mut found = Vec::new();
        assert_eq!(queues.scan(guest, |port| found.push(port)) as usize, found.len());
        found
    }

    #[test]
    fn fifo_events_come_in_order_and_stay_masked() {
        let (mut xen, guest, mut queues) = fifo_pair();
        for port in [9, 3, 500] {
            assert_eq!(guest.unmask(port), Unmask::Done);
            xen.send(port);
        }
        xen.send(4);
        assert_eq!(scan(&mut queues, &guest), [9, 3, 500]);
        xen.send(3);
        assert_eq!(scan(&mut queues, &guest), []);
        assert_eq!(guest.unmask(3), Unmask::Hypercall);
        xen.unmask(3);
        assert_eq!(scan(&mut queues, &guest), [3]);
        assert_eq!(guest.unmask(4), Unmask::Hypercall, "it waits");
    }

    #[test]
    fn a_fifo_port_that_was_masked_while_queued_is_skipped_and_not_lost() {
        let (mut xen, guest, mut queues) = fifo_pair();
        for port in [2, 6] {
            assert_eq!(guest.unmask(port), Unmask::Done);
            xen.send(port);
        }
        assert!(!guest.mask(2));
        assert_eq!(scan(&mut queues, &guest), [6]);
        assert_eq!(guest.unmask(2), Unmask::Hypercall);
        xen.unmask(2);
        assert_eq!(scan(&mut queues, &guest), [2]);
    }

    #[test]
    fn unmasking_waits_for_xen_to_finish_a_link() {
        let (xen, guest, _) = fifo_pair();
        xen.word(8).fetch_or(fifo::BUSY, Ordering::SeqCst);
        assert_eq!(guest.unmask(8), Unmask::Hypercall, "Xen never finished: let Xen unmask");
        xen.word(8).fetch_and(!fifo::BUSY, Ordering::SeqCst);
        assert_eq!(guest.unmask(8), Unmask::Done);
        assert_eq!(guest.unmask(8), Unmask::Done);
    }

    #[test]
    fn a_queue_with_a_link_to_nowhere_ends() {
        let (xen, guest, mut queues) = fifo_pair();
        xen.control.atomic_u32(fifo::offset_head(0)).store(5000, Ordering::SeqCst);
        xen.control.atomic_u32(fifo::OFFSET_READY).store(0xFFFF_0001, Ordering::SeqCst);
        assert_eq!(scan(&mut queues, &guest), []);
    }

    #[test]
    fn empty_events_wait_longer_and_longer() {
        let mut throttle = Throttle::new();
        let delays: Vec<u64> = (0..300).map(|_| throttle.was_spurious()).collect();
        assert_eq!(delays[..5], [0, 0, 1_000, 2_000, 4_000]);
        assert!(delays.is_sorted() && delays[299] == Throttle::LONGEST);
        throttle.worked();
        assert_eq!(throttle.was_spurious(), 0);
    }
}

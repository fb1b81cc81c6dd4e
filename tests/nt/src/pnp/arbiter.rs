//! Gives devices their ports, memory, interrupt lines and messages.
//!
//! A pure function of what is asked and of what is given out already, tested on the host. On x64 the translated form
//! of an interrupt holds the vector of the interrupt descriptor table and, as its level, the IRQL: the vector's upper
//! four bits. Sources: <https://learn.microsoft.com/windows-hardware/drivers/kernel/hardware-resources>,
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/using-interrupt-resource-descriptors>.
use super::resource::*;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// The lowest vector given to a device: IRQL 5.
const FIRST_VECTOR: u32 = 0x50;
/// One past the highest: the clock and what is above it are the system's (IRQL 13 and up).
const END_VECTOR: u32 = 0xD0;

/// Who holds something: the PnP manager's number of the device.
pub type Owner = u64;

/// An assignment: for each descriptor what the device decodes and what the processor uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// The raw descriptors.
    pub raw: Vec<CmDescriptor>,
    /// The translated descriptors, one for each raw one.
    pub translated: Vec<CmDescriptor>,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    start: u64,
    end: u64,
    shared: bool,
    owner: Owner,
}

#[derive(Clone, Copy, Debug)]
struct LineUse {
    vector: u32,
    shared: bool,
    owner: Owner,
}

/// What is given out.
#[derive(Clone, Debug, Default)]
pub struct Arbiter {
    ports: Vec<Range>,
    memory: Vec<Range>,
    buses: Vec<Range>,
    dma: Vec<Range>,
    lines: BTreeMap<u32, Vec<LineUse>>,
    messages: BTreeMap<u32, Owner>,
    cpus: u64,
}

/// What is asked for is not free.
struct Conflict;

/// Who holds what belongs to the machine. No device has this number.
pub const SYSTEM: Owner = 0;
/// The root bus decodes memory below this address, and gives out none above it.
const MEMORY_END: u64 = 1 << 32;
/// It decodes ports below this one.
const PORT_END: u64 = 1 << 16;

fn place(taken: &[Range], ask: &IoDescriptor, hint: Option<u64>) -> Option<u64> {
    let length = u64::from(ask.length()).max(1);
    let alignment = u64::from(ask.alignment()).max(1);
    let shared = ask.share == SHARE_SHARED;
    // A descriptor may ask for any address at all (a maximum of -1); what is given lies where the bus decodes. What
    // the firmware put elsewhere may stay there.
    let end = if ask.kind == TYPE_PORT { PORT_END } else { MEMORY_END };
    let maximum = match hint {
        Some(start) => ask.maximum().min(end.max(start.saturating_add(length)) - 1),
        None => ask.maximum().min(end - 1),
    };
    let last = maximum.checked_sub(length - 1)?;
    let fits = |start: u64| {
        start >= ask.minimum()
            && start <= last
            && start.is_multiple_of(alignment)
            && !taken.iter().any(|r| start < r.end && r.start < start + length && !(r.shared && shared))
    };
    if let Some(start) = hint.filter(|&start| fits(start)) {
        return Some(start);
    }
    // Top down: the highest place, or the highest one just below something taken.
    let down = |start: u64| start - start % alignment;
    let mut starts: Vec<u64> = taken.iter().filter_map(|r| r.start.checked_sub(length)).map(down).collect();
    starts.push(down(last));
    starts.sort_unstable_by(|a, b| b.cmp(a));
    starts.into_iter().find(|&start| fits(start))
}

impl Arbiter {
    /// Everything free, on a machine with the processors of the mask `cpus`.
    pub fn new(cpus: u64) -> Self {
        Self { cpus, ..Self::default() }
    }

    /// Marks a range as in use by `owner`: what the firmware set up, RAM, the system's own ports.
    pub fn reserve(&mut self, kind: u8, start: u64, length: u64, owner: Owner) {
        let range = Range { start, end: start.saturating_add(length), shared: false, owner };
        match kind {
            TYPE_PORT => self.ports.push(range),
            TYPE_BUS_NUMBER => self.buses.push(range),
            TYPE_DMA => self.dma.push(range),
            _ => self.memory.push(range),
        }
    }

    /// Marks an interrupt line as in use by the machine itself.
    pub fn reserve_line(&mut self, line: u32) {
        self.lines.entry(line).or_default().push(LineUse { vector: 0, shared: false, owner: SYSTEM });
    }

    /// Takes back all that `owner` holds.
    pub fn release(&mut self, owner: Owner) {
        for list in [&mut self.ports, &mut self.memory, &mut self.buses, &mut self.dma] {
            list.retain(|r| r.owner != owner);
        }
        for uses in self.lines.values_mut() {
            uses.retain(|u| u.owner != owner);
        }
        self.lines.retain(|_, uses| !uses.is_empty());
        self.messages.retain(|_, o| *o != owner);
    }

    /// Serves the first of the alternative lists that can be served whole. `boot` is what the device decodes now:
    /// it keeps that where the requirements allow it. None: a conflict, and nothing is changed.
    pub fn assign(&mut self, asked: &Requirements, boot: &[CmDescriptor], owner: Owner) -> Option<Assignment> {
        let before = self.clone();
        for list in &asked.lists {
            if let Some(assignment) = self.assign_list(list, boot, owner) {
                return Some(assignment);
            }
            self.clone_from(&before);
        }
        None
    }

    fn assign_list(&mut self, list: &[IoDescriptor], boot: &[CmDescriptor], owner: Owner) -> Option<Assignment> {
        let mut out = Assignment::default();
        let mut boot: Vec<CmDescriptor> = boot.to_vec();
        let mut at = 0;
        while at < list.len() {
            let mut end = at + 1;
            while end < list.len() && list[end].option & OPTION_ALTERNATIVE != 0 {
                end += 1;
            }
            let choices = &list[at..end];
            let ordered = choices
                .iter()
                .filter(|c| c.option & OPTION_PREFERRED != 0)
                .chain(choices.iter().filter(|c| c.option & OPTION_PREFERRED == 0));
            let mut found = None;
            for choice in ordered {
                found = self.one(choice, &mut boot, owner).ok();
                if found.is_some() {
                    break;
                }
            }
            if let Some((raw, translated)) = found? {
                out.raw.push(raw);
                out.translated.push(translated);
            }
            at = end;
        }
        Some(out)
    }

    /// One descriptor. None: it asks for nothing.
    fn one(
        &mut self,
        ask: &IoDescriptor,
        boot: &mut Vec<CmDescriptor>,
        owner: Owner,
    ) -> Result<Option<(CmDescriptor, CmDescriptor)>, Conflict> {
        let same = |cm: CmDescriptor| Ok(Some((cm, cm)));
        match ask.kind {
            TYPE_NULL => Ok(None),
            TYPE_PORT | TYPE_MEMORY | TYPE_MEMORY_LARGE => {
                let mut hint = None;
                let like = |b: &CmDescriptor| b.kind == ask.kind && b.length() == ask.length();
                let known = boot.iter().position(like);
                if let Some(index) = known {
                    hint = Some(boot[index].start());
                }
                let taken = if ask.kind == TYPE_PORT { &mut self.ports } else { &mut self.memory };
                let start = place(taken, ask, hint).ok_or(Conflict)?;
                if hint == Some(start)
                    && let Some(index) = known
                {
                    boot.remove(index);
                }
                let shared = ask.share == SHARE_SHARED;
                taken.push(Range { start, end: start + u64::from(ask.length()), shared, owner });
                same(CmDescriptor::range(ask.kind, ask.share, ask.flags, start, ask.length()))
            }
            TYPE_BUS_NUMBER => {
                let (length, minimum, maximum) = (ask.data[0], ask.data[1], ask.data[2]);
                let range = IoDescriptor::range(
                    TYPE_BUS_NUMBER,
                    ask.share,
                    0,
                    length,
                    1,
                    u64::from(minimum),
                    u64::from(maximum),
                );
                let start = place(&self.buses, &range, Some(u64::from(minimum))).ok_or(Conflict)?;
                self.buses.push(Range { start, end: start + u64::from(length), shared: false, owner });
                let data = [start as u32, length, 0, 0];
                same(CmDescriptor { kind: ask.kind, share: ask.share, flags: ask.flags, data })
            }
            TYPE_DMA => {
                let (minimum, maximum) = (u64::from(ask.data[0]), u64::from(ask.data[1]));
                let range = IoDescriptor::range(TYPE_DMA, ask.share, 0, 1, 1, minimum, maximum);
                let channel = place(&self.dma, &range, Some(minimum)).ok_or(Conflict)?;
                self.dma.push(Range { start: channel, end: channel + 1, shared: false, owner });
                let data = [channel as u32, 0, 0, 0];
                same(CmDescriptor { kind: ask.kind, share: ask.share, flags: ask.flags, data })
            }
            TYPE_INTERRUPT if ask.flags & INTERRUPT_MESSAGE != 0 => self.message(ask, owner).map(Some).ok_or(Conflict),
            TYPE_INTERRUPT => self.line(ask, boot, owner).map(Some).ok_or(Conflict),
            kind if kind >= TYPE_NON_ARBITRATED => {
                let data = [ask.data[0], ask.data[1], ask.data[2], 0];
                same(CmDescriptor { kind: ask.kind, share: ask.share, flags: ask.flags, data })
            }
            _ => Err(Conflict),
        }
    }

    fn processors(&self, ask: &IoDescriptor) -> u64 {
        let wanted = ask.targeted_processors() & self.cpus;
        let specified =
            ask.flags & INTERRUPT_POLICY_INCLUDED != 0 && ask.affinity_policy() == POLICY_SPECIFIED_PROCESSORS;
        if specified && wanted != 0 { wanted } else { self.cpus }
    }

    fn free_vector(&self) -> Option<u32> {
        let line = |vector: u32| self.lines.values().flatten().any(|u| u.vector == vector);
        (FIRST_VECTOR..END_VECTOR).find(|v| !self.messages.contains_key(v) && !line(*v))
    }

    /// A run of `count` messages. The first vector of a run is what the descriptors name.
    fn message(&mut self, ask: &IoDescriptor, owner: Owner) -> Option<(CmDescriptor, CmDescriptor)> {
        let (minimum, maximum) = ask.vectors();
        let count = if maximum == MESSAGE_TOKEN && minimum <= maximum { maximum - minimum + 1 } else { 1 };
        if count > END_VECTOR - FIRST_VECTOR {
            return None;
        }
        let line = |vector: u32| self.lines.values().flatten().any(|u| u.vector == vector);
        let free = |vector: u32| !self.messages.contains_key(&vector) && !line(vector);
        let before = self.messages.values().filter(|o| **o == owner).count();
        // A device with several messages puts their number into the low bits of the vector that it was given.
        let aligned = |v: u32| v.is_multiple_of(count.next_power_of_two());
        let first = (FIRST_VECTOR..=END_VECTOR - count).find(|&v| aligned(v) && (v..v + count).all(free))?;
        for vector in first..first + count {
            self.messages.insert(vector, owner);
        }
        let spread = ask.flags & INTERRUPT_POLICY_INCLUDED != 0 && ask.affinity_policy() == POLICY_SPREAD_MESSAGES;
        let mut affinity = self.processors(ask);
        if spread {
            // One processor for each message, in turn.
            let processors: Vec<u32> = (0..64).filter(|n| affinity >> n & 1 != 0).collect();
            affinity = 1 << processors[before % processors.len()];
        }
        let flags = ask.flags | INTERRUPT_LATCHED;
        let raw = CmDescriptor::messages(ask.share, flags, 0, count as u16, first, affinity);
        let level = (first >> 4) as u16;
        Some((raw, CmDescriptor::interrupt(ask.share, flags, level, 0, first, affinity)))
    }

    fn line(
        &mut self,
        ask: &IoDescriptor,
        boot: &[CmDescriptor],
        owner: Owner,
    ) -> Option<(CmDescriptor, CmDescriptor)> {
        let (minimum, maximum) = ask.vectors();
        let shared = ask.share == SHARE_SHARED;
        let wired = boot.iter().find(|b| b.kind == TYPE_INTERRUPT && b.flags & INTERRUPT_MESSAGE == 0);
        let wired = wired.map(CmDescriptor::vector).filter(|line| (minimum..=maximum).contains(line));
        let fits = |line: &u32| self.lines.get(line).is_none_or(|uses| uses.iter().all(|u| u.shared && shared));
        let line = match wired {
            Some(line) => Some(line).filter(fits)?,
            None => (minimum..=maximum.min(minimum.saturating_add(255))).find(fits)?,
        };
        let vector = match self.lines.get(&line).and_then(|uses| uses.first()) {
            Some(other) => other.vector,
            None => self.free_vector()?,
        };
        self.lines.entry(line).or_default().push(LineUse { vector, shared, owner });
        let affinity = self.processors(ask);
        let raw = CmDescriptor::interrupt(ask.share, ask.flags, line as u16, 0, line, affinity);
        let level = (vector >> 4) as u16;
        Some((raw, CmDescriptor::interrupt(ask.share, ask.flags, level, 0, vector, affinity)))
    }

    /// The interrupt line (global system interrupt) that is wired to a vector.
    pub fn line_of_vector(&self, vector: u32) -> Option<u32> {
        self.lines.iter().find(|(_, uses)| uses.iter().any(|u| u.vector == vector)).map(|(line, _)| *line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(list: Vec<IoDescriptor>) -> Requirements {
        Requirements { interface_type: 5, bus_number: 0, slot_number: 0, lists: alloc::vec![list] }
    }

    #[test]
    fn a_device_keeps_what_the_firmware_gave_it() {
        let mut arbiter = Arbiter::new(1);
        let boot = [
            CmDescriptor::range(TYPE_PORT, 1, PORT_IO, 0xc000, 0x100),
            CmDescriptor::interrupt(SHARE_SHARED, 0, 28, 0, 28, 1),
        ];
        let asked = ask(alloc::vec![
            IoDescriptor::range(TYPE_PORT, 1, PORT_IO, 0x100, 0x100, 0, 0xffff),
            IoDescriptor::interrupt(SHARE_SHARED, 0, 0, u32::MAX),
        ]);
        let first = arbiter.assign(&asked, &boot, 1).unwrap();
        assert_eq!(first.raw[0].start(), 0xc000);
        assert_eq!((first.raw[1].vector(), first.translated[1].vector()), (28, 0x50));
        assert_eq!(first.translated[1].level(), 5);
        assert_eq!(arbiter.line_of_vector(0x50), Some(28));
        // The second one is moved, and shares the line with its vector.
        let second = arbiter.assign(&asked, &boot, 2).unwrap();
        assert_eq!(second.raw[0].start(), 0xff00);
        assert_eq!(second.translated[1].vector(), 0x50);
    }

    #[test]
    fn messages_go_to_the_processor_they_ask_for() {
        let mut arbiter = Arbiter::new(0b1111);
        let mut list = Vec::new();
        for cpu in 0..4u32 {
            let flags = INTERRUPT_LATCHED | INTERRUPT_MESSAGE | INTERRUPT_POLICY_INCLUDED;
            let mut one = IoDescriptor::interrupt(SHARE_DEVICE_EXCLUSIVE, flags, MESSAGE_TOKEN, MESSAGE_TOKEN);
            one.data[2] = u32::from(POLICY_SPECIFIED_PROCESSORS);
            one.data[4] = 1 << cpu;
            list.push(one);
        }
        let done = arbiter.assign(&ask(list), &[], 1).unwrap();
        let got: Vec<(u32, u64)> = done.translated.iter().map(|d| (d.vector(), d.affinity())).collect();
        assert_eq!(got, [(0x50, 1), (0x51, 2), (0x52, 4), (0x53, 8)]);
        assert!(done.raw.iter().all(|d| d.message_count() == 1));
        arbiter.release(1);
        // Spread: one processor for each message, in turn.
        let flags = INTERRUPT_LATCHED | INTERRUPT_MESSAGE | INTERRUPT_POLICY_INCLUDED;
        let mut one = IoDescriptor::interrupt(SHARE_DEVICE_EXCLUSIVE, flags, MESSAGE_TOKEN, MESSAGE_TOKEN);
        one.data[2] = u32::from(POLICY_SPREAD_MESSAGES);
        let done = arbiter.assign(&ask(alloc::vec![one; 6]), &[], 2).unwrap();
        let got: Vec<u64> = done.translated.iter().map(CmDescriptor::affinity).collect();
        assert_eq!(got, [1, 2, 4, 8, 1, 2]);
        arbiter.release(2);
        assert!(arbiter.messages.is_empty());
    }

    #[test]
    fn a_run_of_messages_is_one_descriptor() {
        let mut arbiter = Arbiter::new(1);
        let flags = INTERRUPT_LATCHED | INTERRUPT_MESSAGE;
        let run = IoDescriptor::interrupt(SHARE_DEVICE_EXCLUSIVE, flags, MESSAGE_TOKEN - 3, MESSAGE_TOKEN);
        let done = arbiter.assign(&ask(alloc::vec![run]), &[], 1).unwrap();
        assert_eq!(done.raw[0].message_count(), 4);
        assert_eq!(arbiter.messages.len(), 4);
        // The number of a message fits into the low bits of a run's first vector.
        let one = IoDescriptor::interrupt(SHARE_DEVICE_EXCLUSIVE, flags, MESSAGE_TOKEN, MESSAGE_TOKEN);
        assert_eq!(arbiter.assign(&ask(alloc::vec![one]), &[], 2).unwrap().raw[0].vector(), 0x54);
        assert_eq!(arbiter.assign(&ask(alloc::vec![run]), &[], 3).unwrap().raw[0].vector(), 0x58);
    }

    #[test]
    fn alternatives_are_tried_in_turn_and_a_conflict_changes_nothing() {
        let mut arbiter = Arbiter::new(1);
        arbiter.reserve(TYPE_MEMORY, 0xf000_0000, 0x1000, 9);
        let fixed = IoDescriptor::range(TYPE_MEMORY, 1, 0, 0x1000, 0x1000, 0xf000_0000, 0xf000_0fff);
        let free = IoDescriptor::range(TYPE_MEMORY, 1, 0, 0x1000, 0x1000, 0, 0xffff_ffff);
        let both = ask(alloc::vec![fixed, free.with_option(OPTION_ALTERNATIVE)]);
        assert_eq!(arbiter.assign(&both, &[], 1).unwrap().raw[0].start(), 0xffff_f000);
        let port = IoDescriptor::range(TYPE_PORT, 1, PORT_IO, 8, 8, 0, 0xffff);
        assert_eq!(arbiter.assign(&ask(alloc::vec![port, fixed]), &[], 2), None);
        assert!(arbiter.ports.is_empty());
    }

    #[test]
    fn any_address_is_one_that_the_bus_decodes() {
        let mut arbiter = Arbiter::new(1);
        arbiter.reserve(TYPE_MEMORY, 0xfec0_0000, 0x140_0000, SYSTEM);
        arbiter.reserve_line(0);
        let memory = IoDescriptor::range(TYPE_MEMORY, 1, 0, 0x1000, 0x1000, 0, u64::MAX);
        let line = IoDescriptor::interrupt(SHARE_DEVICE_EXCLUSIVE, 0, 0, u32::MAX);
        let done = arbiter.assign(&ask(alloc::vec![memory, line]), &[], 1).unwrap();
        assert_eq!(done.raw[0].start(), 0xfebf_f000);
        assert_eq!(done.raw[1].vector(), 1);
        let port = IoDescriptor::range(TYPE_PORT, 1, PORT_IO, 8, 8, 0, u64::MAX);
        assert_eq!(arbiter.assign(&ask(alloc::vec![port]), &[], 2).unwrap().raw[0].start(), 0xfff8);
        // What the firmware put above stays there.
        let large = IoDescriptor::range(TYPE_MEMORY, 1, 0, 0x1000, 0x1000, 0, u64::MAX);
        let boot = [CmDescriptor::range(TYPE_MEMORY, 1, 0, 0x10_0000_0000, 0x1000)];
        assert_eq!(arbiter.assign(&ask(alloc::vec![large]), &boot, 3).unwrap().raw[0].start(), 0x10_0000_0000);
    }

    #[test]
    fn private_data_is_handed_through() {
        let mut arbiter = Arbiter::new(1);
        let mut private = IoDescriptor::interrupt(1, 0, 7, 8);
        private.kind = 129;
        private.data[2] = 9;
        let done = arbiter.assign(&ask(alloc::vec![private]), &[], 1).unwrap();
        assert_eq!(done.raw[0].data, [7, 8, 9, 0]);
    }
}

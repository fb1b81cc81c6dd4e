//! One step up the stack by an image's unwind data, and walks made of such steps.
//! <https://learn.microsoft.com/cpp/build/exception-handling-x64>

use super::abi::*;
use super::images;

/// Memory as the unwinder reads it. A walk for a crash report must not fault itself.
pub trait Memory {
    /// Fills `buf` from `address`; `None` if it cannot be read.
    fn read(&self, address: u64, buf: &mut [u8]) -> Option<()>;

    /// A little-endian number of `N` bytes.
    fn number<const N: usize>(&self, address: u64) -> Option<u64> {
        let mut buf = [0u8; 8];
        self.read(address, &mut buf[..N])?;
        Some(u64::from_le_bytes(buf))
    }
}

/// Memory of this machine, read as it stands: images, and a stack within bounds.
pub struct Direct {
    stack: core::ops::Range<u64>,
}

impl Direct {
    /// Reads images that are registered and the given stack.
    ///
    /// # Safety
    /// All of `stack` is mapped.
    pub unsafe fn new(stack: core::ops::Range<u64>) -> Direct {
        Direct { stack }
    }

    /// Reads images and anything from `rsp` upwards.
    ///
    /// # Safety
    /// The stack at `rsp` is whole, so that frames end before it does.
    pub unsafe fn above(rsp: u64) -> Direct {
        Direct { stack: rsp..u64::MAX }
    }
}

impl Memory for Direct {
    fn read(&self, address: u64, buf: &mut [u8]) -> Option<()> {
        let end = address.checked_add(buf.len() as u64)?;
        let on_stack = address >= self.stack.start && end <= self.stack.end;
        let in_image = || images::image_at(address).is_some_and(|i| end <= i.base + i.size);
        if !on_stack && !in_image() {
            return None;
        }
        // SAFETY: within a registered image, or the stack that the creator vouched for.
        unsafe { core::ptr::copy_nonoverlapping(address as *const u8, buf.as_mut_ptr(), buf.len()) };
        Some(())
    }
}

/// A language handler that the step passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handler {
    /// Its address.
    pub routine: u64,
    /// Its data.
    pub data: u64,
}

/// What one step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The frame that handlers of this function are told.
    pub establisher_frame: u64,
    /// The handler of the asked kind, if control was in the function's body.
    pub handler: Option<Handler>,
}

/// Steps `context` from a function to its caller. `kinds`: the handlers that are looked for, `UNW_FLAG_*`.
pub fn virtual_unwind(
    memory: &impl Memory,
    kinds: u32,
    base: u64,
    pc: u64,
    function: RuntimeFunction,
    context: &mut Context,
) -> Option<Step> {
    let mut function = follow(memory, base, function)?;
    let offset = pc - base - u64::from(function.begin);
    let first = Info::read(memory, base, function)?;
    let establisher_frame = frame_of(&first, offset, context, memory)?;
    let in_prolog = offset < u64::from(first.prolog);
    if !in_prolog && first.epilogue(memory, base, pc, function, context)? {
        return Some(Step { establisher_frame, handler: None });
    }
    let handler = first.handler(memory, base, kinds).filter(|_| !in_prolog);
    let mut info = first;
    let mut limit = offset;
    for _ in 0..32 {
        let machine_frame = info.undo(memory, limit, context)?;
        if info.flags & UNW_FLAG_CHAININFO == 0 {
            if !machine_frame {
                context.rip = memory.number::<8>(context.rsp())?;
                context.gpr[RSP] += 8;
            }
            return Some(Step { establisher_frame, handler });
        }
        function = follow(memory, base, info.chained(memory)?)?;
        info = Info::read(memory, base, function)?;
        limit = u64::MAX;
    }
    None
}

/// Follows an entry that points at another one.
fn follow(memory: &impl Memory, base: u64, mut function: RuntimeFunction) -> Option<RuntimeFunction> {
    for _ in 0..32 {
        if function.unwind & 1 == 0 {
            return Some(function);
        }
        function = read_function(memory, base + u64::from(function.unwind & !1))?;
    }
    None
}

fn read_function(memory: &impl Memory, at: u64) -> Option<RuntimeFunction> {
    let word = |i: u64| memory.number::<4>(at + i * 4).map(|n| n as u32);
    Some(RuntimeFunction { begin: word(0)?, end: word(1)?, unwind: word(2)? })
}

/// The frame of a function: what its frame register says once the prologue has set it, else RSP.
fn frame_of(info: &Info, offset: u64, context: &Context, memory: &impl Memory) -> Option<u64> {
    if info.frame_register == 0 {
        return Some(context.rsp());
    }
    let mut set = offset >= u64::from(info.prolog) || info.flags & UNW_FLAG_CHAININFO != 0;
    if !set {
        for i in 0..u64::from(info.count) {
            let code = memory.number::<2>(info.codes + i * 2)?;
            set |= (code >> 8) & 15 == 3 && offset >= (code & 0xff);
        }
    }
    let frame = context.gpr[info.frame_register].wrapping_sub(info.frame_offset);
    Some(if set { frame } else { context.rsp() })
}

/// The head of an UNWIND_INFO.
struct Info {
    flags: u32,
    version: u8,
    prolog: u8,
    count: u8,
    frame_register: usize,
    frame_offset: u64,
    codes: u64,
}

impl Info {
    fn read(memory: &impl Memory, base: u64, function: RuntimeFunction) -> Option<Info> {
        let at = base + u64::from(function.unwind);
        let head = memory.number::<4>(at)?.to_le_bytes();
        let version = head[0] & 7;
        (version == 1 || version == 2).then_some(Info {
            flags: u32::from(head[0] >> 3),
            version,
            prolog: head[1],
            count: head[2],
            frame_register: usize::from(head[3] & 15),
            frame_offset: u64::from(head[3] >> 4) * 16,
            codes: at + 4,
        })
    }

    /// Behind the codes, which are padded to an even number.
    fn tail(&self) -> u64 {
        self.codes + u64::from(self.count).next_multiple_of(2) * 2
    }

    fn chained(&self, memory: &impl Memory) -> Option<RuntimeFunction> {
        read_function(memory, self.tail())
    }

    fn handler(&self, memory: &impl Memory, base: u64, kinds: u32) -> Option<Handler> {
        if self.flags & UNW_FLAG_CHAININFO != 0 || self.flags & kinds & (UNW_FLAG_EHANDLER | UNW_FLAG_UHANDLER) == 0 {
            return None;
        }
        let rva = memory.number::<4>(self.tail())?;
        Some(Handler { routine: base + rva, data: self.tail() + 4 })
    }

    /// Undoes the prologue's instructions that ran, `limit` being how far control got. True: the return address came
    /// from a machine frame.
    fn undo(&self, memory: &impl Memory, limit: u64, context: &mut Context) -> Option<bool> {
        let mut i = 0;
        let mut machine_frame = false;
        while i < u64::from(self.count) {
            let slot = |n: u64| memory.number::<2>(self.codes + (i + n) * 2);
            let long = |n: u64| memory.number::<4>(self.codes + (i + n) * 2);
            let code = slot(0)?;
            let ran = limit >= (code & 0xff);
            let (operation, info) = ((code >> 8) & 15, (code >> 12) as usize);
            let frame = if self.frame_register == 0 {
                context.rsp()
            } else {
                context.gpr[self.frame_register].wrapping_sub(self.frame_offset)
            };
            let slots = match operation {
                0 => {
                    if ran {
                        context.gpr[info] = memory.number::<8>(context.rsp())?;
                        context.gpr[RSP] += 8;
                    }
                    1
                }
                1 => {
                    let (size, slots) = if info == 0 { (slot(1)? * 8, 2) } else { (long(1)?, 3) };
                    if ran {
                        context.gpr[RSP] = context.rsp().wrapping_add(size);
                    }
                    slots
                }
                2 => {
                    if ran {
                        context.gpr[RSP] = context.rsp().wrapping_add(info as u64 * 8 + 8);
                    }
                    1
                }
                3 => {
                    if ran {
                        context.gpr[RSP] = frame;
                    }
                    1
                }
                4 | 5 => {
                    let (at, slots) = if operation == 4 { (slot(1)? * 8, 2) } else { (long(1)?, 3) };
                    if ran {
                        context.gpr[info] = memory.number::<8>(frame.wrapping_add(at))?;
                    }
                    slots
                }
                // Version 2: where the epilogues are. They are found by their instructions instead.
                6 if self.version == 2 => 1,
                7 if self.version == 2 => 2,
                8 | 9 => {
                    let (at, slots) = if operation == 8 { (slot(1)? * 16, 2) } else { (long(1)?, 3) };
                    if ran {
                        let mut value = [0u8; 16];
                        memory.read(frame.wrapping_add(at), &mut value)?;
                        context.xmm[info] = u128::from_le_bytes(value);
                    }
                    slots
                }
                10 => {
                    if ran {
                        let at = context.rsp() + if info == 0 { 0 } else { 8 };
                        context.rip = memory.number::<8>(at)?;
                        context.eflags = memory.number::<8>(at + 16)? as u32;
                        context.gpr[RSP] = memory.number::<8>(at + 24)?;
                        machine_frame = true;
                    }
                    1
                }
                _ => return None,
            };
            i += slots;
        }
        Some(machine_frame)
    }

    /// If control is in an epilogue, finishes it: an `add rsp` or `lea rsp`, pops, and a `ret` or a jump out.
    fn epilogue(
        &self,
        memory: &impl Memory,
        base: u64,
        pc: u64,
        function: RuntimeFunction,
        context: &mut Context,
    ) -> Option<bool> {
        let byte = |at: u64| memory.number::<1>(at).map(|b| b as u8);
        let mut at = pc;
        let mut trial = *context;
        let rex = byte(at)?;
        if rex & 0xf8 == 0x48 {
            let (opcode, modrm) = (byte(at + 1)?, byte(at + 2)?);
            let displacement = |from: u64, wide: bool| {
                if wide {
                    memory.number::<4>(from).map(|d| d as i32 as u64)
                } else {
                    memory.number::<1>(from).map(|d| d as i8 as u64)
                }
            };
            if rex == 0x48 && modrm == 0xc4 && (opcode == 0x83 || opcode == 0x81) {
                let wide = opcode == 0x81;
                trial.gpr[RSP] = trial.rsp().wrapping_add(displacement(at + 3, wide)?);
                at += if wide { 7 } else { 4 };
            } else if opcode == 0x8d && modrm & 0x38 == 0x20 && self.frame_register != 0 {
                let register = usize::from(modrm & 7) | usize::from(rex & 1) << 3;
                let mode = modrm >> 6;
                if register == self.frame_register && modrm & 7 != 4 && (mode == 1 || mode == 2) {
                    trial.gpr[RSP] = trial.gpr[register].wrapping_add(displacement(at + 3, mode == 2)?);
                    at += if mode == 2 { 7 } else { 4 };
                }
            }
        }
        for _ in 0..16 {
            let first = byte(at)?;
            let (prefix, opcode) = if first & 0xf0 == 0x40 { (1, byte(at + 1)?) } else { (0, first) };
            if opcode & 0xf8 != 0x58 {
                break;
            }
            let high = if prefix == 1 { usize::from(first & 1) << 3 } else { 0 };
            trial.gpr[usize::from(opcode & 7) | high] = memory.number::<8>(trial.rsp())?;
            trial.gpr[RSP] += 8;
            at += 1 + prefix;
        }
        let leaves = |target: u64| {
            !(base + u64::from(function.begin)..base + u64::from(function.end)).contains(&target)
                || target == base + u64::from(function.begin)
        };
        let ends = match (byte(at)?, byte(at + 1).unwrap_or(0)) {
            (0xc3 | 0xc2, _) | (0xf3, 0xc3) | (0xff, 0x25) => true,
            (0xeb, d) => leaves((at + 2).wrapping_add(d as i8 as u64)),
            (0xe9, _) => leaves((at + 5).wrapping_add(memory.number::<4>(at + 1)? as i32 as u64)),
            (0x48, 0xff) => byte(at + 2)? & 0x38 == 0x20,
            _ => false,
        };
        if !ends {
            return Some(false);
        }
        trial.rip = memory.number::<8>(trial.rsp())?;
        trial.gpr[RSP] += 8;
        *context = trial;
        Some(true)
    }
}

/// Calls `visit` with the context of each frame from `context` upwards, as far as the images go. Stops when it returns
/// false. Any IRQL.
pub fn walk(memory: &impl Memory, mut context: Context, visit: &mut dyn FnMut(&Context) -> bool) {
    for _ in 0..256 {
        if images::image_at(context.rip).is_none() || !visit(&context) {
            return;
        }
        let before = context.rsp();
        let stepped = match images::function_at(context.rip) {
            Some((image, entry)) => {
                // SAFETY: entries of registered images stay valid.
                let function = unsafe { entry.read_unaligned() };
                virtual_unwind(memory, 0, image.base, context.rip, function, &mut context).is_some()
            }
            None => leaf(memory, &mut context).is_some(),
        };
        if !stepped || context.rsp() <= before {
            return;
        }
    }
}

/// Steps out of a function without unwind data: its return address is on top of the stack.
pub fn leaf(memory: &impl Memory, context: &mut Context) -> Option<()> {
    context.rip = memory.number::<8>(context.rsp())?;
    context.gpr[RSP] += 8;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// One flat memory from address 0 on; the image at 0x1000, the stack at 0x8000.
    struct Flat(Vec<u8>);

    impl Memory for Flat {
        fn read(&self, address: u64, buf: &mut [u8]) -> Option<()> {
            let at = usize::try_from(address).ok()?;
            buf.copy_from_slice(self.0.get(at..at + buf.len())?);
            Some(())
        }
    }

    impl Flat {
        fn new() -> Flat {
            Flat(alloc::vec![0; 0x10000])
        }
        fn put(&mut self, at: usize, bytes: &[u8]) {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }
        fn put64(&mut self, at: usize, value: u64) {
            self.put(at, &value.to_le_bytes());
        }
    }

    const BASE: u64 = 0x1000;
    const RBX: usize = 3;
    const RSI: usize = 6;
    const FUNCTION: RuntimeFunction = RuntimeFunction { begin: 0x100, end: 0x140, unwind: 0x800 };

    fn context(rsp: u64) -> Context {
        let mut c = Context::empty();
        c.gpr[RSP] = rsp;
        c
    }

    /// `push rbx; push rsi; sub rsp, 0x28`
    fn simple() -> Flat {
        let mut m = Flat::new();
        m.put(0x1800, &[0x01, 6, 3, 0, 6, 0x42, 2, 0x60, 1, 0x30]);
        m.put(0x1100, &[0x53, 0x56, 0x48, 0x83, 0xec, 0x28]);
        m.put(0x1106, &[0x90; 0x20]);
        m.put(0x1130, &[0x48, 0x83, 0xc4, 0x28, 0x5e, 0x5b, 0xc3]);
        m.put64(0x8028, 0x51);
        m.put64(0x8030, 0xb);
        m.put64(0x8038, 0xcafe);
        m
    }

    #[test]
    fn body() {
        let m = simple();
        let mut c = context(0x8000);
        let step = virtual_unwind(&m, 0, BASE, BASE + 0x110, FUNCTION, &mut c).unwrap();
        assert_eq!(step, Step { establisher_frame: 0x8000, handler: None });
        assert_eq!((c.rip, c.rsp(), c.gpr[RSI], c.gpr[RBX]), (0xcafe, 0x8040, 0x51, 0xb));
    }

    #[test]
    fn prologue_undoes_only_what_ran() {
        let m = simple();
        // Both pushes ran, the allocation did not.
        let mut c = context(0x8028);
        virtual_unwind(&m, 0, BASE, BASE + 0x102, FUNCTION, &mut c).unwrap();
        assert_eq!((c.rip, c.rsp(), c.gpr[RBX]), (0xcafe, 0x8040, 0xb));
        // Nothing ran.
        let mut c = context(0x8038);
        virtual_unwind(&m, 0, BASE, BASE + 0x100, FUNCTION, &mut c).unwrap();
        assert_eq!((c.rip, c.rsp(), c.gpr[RBX]), (0xcafe, 0x8040, 0));
    }

    #[test]
    fn epilogue_is_finished() {
        let m = simple();
        for (pc, rsp) in [(0x130, 0x8000), (0x134, 0x8028), (0x135, 0x8030), (0x136, 0x8038)] {
            let mut c = context(rsp);
            virtual_unwind(&m, 3, BASE, BASE + pc, FUNCTION, &mut c).unwrap();
            assert_eq!((c.rip, c.rsp()), (0xcafe, 0x8040), "at {pc:x}");
        }
    }

    #[test]
    fn frame_register_large_allocation_and_saves() {
        let mut m = Flat::new();
        // lea rbp,[rsp+0x20] at 12; save rbx at 0x100, xmm6 at 0x40; sub rsp,0x1000; push rbp
        m.put(0x1800, &[0x01, 20, 8, 0x25]);
        let codes: [u16; 8] = [0x6814, 0x0004, 0x3410, 0x0020, 0x030c, 0x0108, 0x0200, 0x5001];
        let bytes: Vec<u8> = codes.iter().flat_map(|c| c.to_le_bytes()).collect();
        m.put(0x1804, &bytes);
        m.put(0x1100, &[0x90; 0x40]);
        m.put(0x8040, &7u128.to_le_bytes());
        m.put64(0x8100, 0xbb);
        m.put64(0x9000, 0xbbbb);
        m.put64(0x9008, 0xcafe);
        // RSP moved down by an alloca: only the frame register tells.
        let mut c = context(0x7f00);
        c.gpr[RBP] = 0x8020;
        let step = virtual_unwind(&m, 0, BASE, BASE + 0x120, FUNCTION, &mut c).unwrap();
        assert_eq!(step.establisher_frame, 0x8000);
        assert_eq!((c.rip, c.rsp(), c.gpr[RBP], c.gpr[RBX], c.xmm[6]), (0xcafe, 0x9010, 0xbbbb, 0xbb, 7));
    }

    #[test]
    fn chained_entries_and_machine_frames() {
        let mut m = Flat::new();
        m.put(0x1100, &[0x90; 0x40]);
        // Nothing of its own, then the entry at 0x900: alloc 8, machine frame with error code.
        m.put(0x1800, &[0x21, 0, 0, 0]);
        m.put(0x1804, &0x200u32.to_le_bytes());
        m.put(0x1808, &0x240u32.to_le_bytes());
        m.put(0x180c, &0x900u32.to_le_bytes());
        m.put(0x1900, &[0x01, 4, 2, 0, 4, 0x02, 0, 0x1a]);
        m.put64(0x8008, 0xe);
        m.put64(0x8010, 0xdead);
        m.put64(0x8020, 0x246);
        m.put64(0x8028, 0x9999);
        let mut c = context(0x8000);
        virtual_unwind(&m, 0, BASE, BASE + 0x110, FUNCTION, &mut c).unwrap();
        assert_eq!((c.rip, c.rsp(), c.eflags), (0xdead, 0x9999, 0x246));
    }

    #[test]
    fn bad_data_is_refused() {
        let mut m = simple();
        m.put(0x1800, &[0x07]);
        assert!(virtual_unwind(&m, 0, BASE, BASE + 0x110, FUNCTION, &mut context(0x8000)).is_none());
        let m = simple();
        assert!(virtual_unwind(&m, 0, BASE, BASE + 0x110, FUNCTION, &mut context(0xfff8)).is_none());
    }
}

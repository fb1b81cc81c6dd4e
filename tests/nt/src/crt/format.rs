//! The engine behind `sprintf`, `DbgPrint` and their kin: the format language of the kernel's C runtime.
//!
//! Sizes `h l ll w I I32 I64 z j t`, conversions `d i u o x X c C s S p Z n %`. `Z` is an ANSI_STRING, with `w` a
//! UNICODE_STRING, by pointer. `%n` writes nothing. Floating point is not supported in the kernel: such a conversion
//! takes its argument and stands in the output as it was written.
//! <https://learn.microsoft.com/cpp/c-runtime-library/format-specification-syntax-printf-and-wprintf-functions>,
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-dbgprintex>

use super::unit::{self, Unit};

/// The arguments of a variadic call: 8 bytes each, as a win64 `va_list` points to them.
#[derive(Clone, Copy)]
pub struct Arguments(*const u64);

impl Arguments {
    /// The arguments at `list`.
    ///
    /// # Safety
    /// `list` has as many arguments as the format will take, of the types it says.
    pub unsafe fn new(list: *const u64) -> Arguments {
        Arguments(list)
    }

    /// Takes the next one.
    fn next(&mut self) -> u64 {
        // SAFETY: the promise of `new`.
        unsafe {
            let value = self.0.read_unaligned();
            self.0 = self.0.add(1);
            value
        }
    }
}

/// `ANSI_STRING` and `UNICODE_STRING`, as `%Z` and `%wZ` read them.
#[repr(C)]
struct Counted {
    length: u16,
    maximum_length: u16,
    buffer: *const u8,
}

/// Flags, width and precision of one conversion.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of the format language are independent")]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

/// The width of an integer argument, or of a character.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Default,
    Char,
    Short,
    Long,
    Wide,
    Quad,
}

/// Writes the formatted text to `out`, unit by unit, without a terminator. Returns the number of units.
///
/// # Safety
/// `format` is NUL-terminated; `arguments` are what it asks for.
pub unsafe fn format<T: Unit>(out: &mut dyn FnMut(T), format: *const T, mut arguments: Arguments) -> usize {
    let mut sink = Sink { out, count: 0 };
    let mut p = format;
    // SAFETY: `p` never passes the terminator: every step forward follows a look at a unit that is not it.
    let peek = |p: *const T| unsafe { p.read_unaligned() }.code();
    // SAFETY: as above.
    let advance = |p: *const T| unsafe { p.add(1) };
    loop {
        let c = peek(p);
        if c == 0 {
            return sink.count;
        }
        let start = p;
        p = advance(p);
        if c != u32::from(b'%') {
            sink.put(c);
            continue;
        }
        let mut spec = Spec::default();
        loop {
            match u8::try_from(peek(p)) {
                Ok(b'-') => spec.left = true,
                Ok(b'+') => spec.plus = true,
                Ok(b' ') => spec.space = true,
                Ok(b'#') => spec.alternate = true,
                Ok(b'0') => spec.zero = true,
                _ => break,
            }
            p = advance(p);
        }
        let number = |p: &mut *const T, arguments: &mut Arguments| -> i64 {
            if peek(*p) == u32::from(b'*') {
                *p = advance(*p);
                return i64::from(arguments.next() as i32);
            }
            let mut n = 0i64;
            while let Some(d) = char::from_u32(peek(*p)).and_then(|c| c.to_digit(10)) {
                n = (n * 10 + i64::from(d)).min(i64::from(i32::MAX));
                *p = advance(*p);
            }
            n
        };
        let width = number(&mut p, &mut arguments);
        spec.left |= width < 0;
        spec.width = width.unsigned_abs() as usize;
        if peek(p) == u32::from(b'.') {
            p = advance(p);
            spec.precision = usize::try_from(number(&mut p, &mut arguments)).ok();
        }
        let mut size = Size::Default;
        loop {
            let next = |n: usize| {
                // SAFETY: looked at only after the units before it were seen not to be the terminator.
                unsafe { p.add(n).read_unaligned() }.code()
            };
            let (new, units) = match u8::try_from(next(0)) {
                Ok(b'h') if size == Size::Short => (Size::Char, 1),
                Ok(b'h') => (Size::Short, 1),
                Ok(b'l') if size == Size::Long => (Size::Quad, 1),
                Ok(b'l') => (Size::Long, 1),
                Ok(b'w') => (Size::Wide, 1),
                Ok(b'z' | b'j' | b't') => (Size::Quad, 1),
                Ok(b'I') => {
                    let two = if next(1) == 0 { 0 } else { next(2) };
                    match (next(1), two) {
                        (0x36, 0x34) => (Size::Quad, 3),
                        (0x33, 0x32) => (Size::Default, 3),
                        _ => (Size::Quad, 1),
                    }
                }
                _ => break,
            };
            size = new;
            // SAFETY: these units were looked at above and none is the terminator.
            p = unsafe { p.add(units) };
        }
        let conversion = peek(p);
        if conversion == 0 {
            return sink.count;
        }
        p = advance(p);
        match u8::try_from(conversion).unwrap_or(0) {
            b'%' => sink.put(u32::from(b'%')),
            b'd' | b'i' => {
                let raw = arguments.next();
                let value = match size {
                    Size::Char => i64::from(raw as i8),
                    Size::Short => i64::from(raw as i16),
                    Size::Quad => raw as i64,
                    _ => i64::from(raw as i32),
                };
                let sign = match (value < 0, spec.plus, spec.space) {
                    (true, _, _) => Some(b'-'),
                    (false, true, _) => Some(b'+'),
                    (false, false, true) => Some(b' '),
                    _ => None,
                };
                sink.integer(&spec, value.unsigned_abs(), 10, false, sign.as_slice());
            }
            kind @ (b'u' | b'o' | b'x' | b'X') => {
                let raw = arguments.next();
                let value = match size {
                    Size::Char => u64::from(raw as u8),
                    Size::Short => u64::from(raw as u16),
                    Size::Quad => raw,
                    _ => u64::from(raw as u32),
                };
                let base = match kind {
                    b'u' => 10,
                    b'o' => 8,
                    _ => 16,
                };
                let prefix: &[u8] = match kind {
                    b'o' if spec.alternate => b"0",
                    b'x' if spec.alternate && value != 0 => b"0x",
                    b'X' if spec.alternate && value != 0 => b"0X",
                    _ => b"",
                };
                sink.integer(&spec, value, base, kind == b'X', prefix);
            }
            b'p' => {
                let value = arguments.next();
                sink.integer(&Spec { precision: Some(16), zero: false, ..spec }, value, 16, true, b"");
            }
            kind @ (b'c' | b'C') => {
                let raw = arguments.next();
                let code = if wide_text::<T>(kind == b'C', size) { raw as u16 as u32 } else { raw as u8 as u32 };
                sink.padded(&spec, 1, &mut |put| put(code));
            }
            kind @ (b's' | b'S') => {
                let pointer = arguments.next() as usize as *const u8;
                let limit = spec.precision.unwrap_or(usize::MAX);
                if pointer.is_null() {
                    sink.bytes(&spec, &b"(null)"[..limit.min(6)]);
                } else if wide_text::<T>(kind == b'S', size) {
                    let units = pointer.cast::<u16>();
                    // SAFETY: the caller's promise: a terminated string, or one as long as the precision.
                    let n = unsafe { unit::bounded_length(units, limit) };
                    // SAFETY: as above.
                    unsafe { sink.text(&spec, units, n) };
                } else {
                    // SAFETY: the caller's promise: a terminated string, or one as long as the precision.
                    let n = unsafe { unit::bounded_length(pointer, limit) };
                    // SAFETY: as above.
                    unsafe { sink.text(&spec, pointer, n) };
                }
            }
            b'Z' => {
                let counted = arguments.next() as usize as *const Counted;
                if counted.is_null() {
                    sink.bytes(&spec, b"(null)");
                    continue;
                }
                // SAFETY: the caller's promise: a counted string stands there.
                let (len, buffer) = unsafe { ((*counted).length as usize, (*counted).buffer) };
                let limit = spec.precision.unwrap_or(usize::MAX);
                if buffer.is_null() {
                    sink.bytes(&spec, b"(null)");
                } else if matches!(size, Size::Wide | Size::Long) {
                    // SAFETY: the string says how long it is.
                    unsafe { sink.text(&spec, buffer.cast::<u16>(), (len / 2).min(limit)) };
                } else {
                    // SAFETY: the string says how long it is.
                    unsafe { sink.text(&spec, buffer, len.min(limit)) };
                }
            }
            b'n' => {
                arguments.next();
            }
            kind => {
                if matches!(kind, b'e' | b'E' | b'f' | b'F' | b'g' | b'G' | b'a' | b'A') {
                    arguments.next();
                }
                let mut q = start;
                while q != p {
                    sink.put(peek(q));
                    q = advance(q);
                }
            }
        }
    }
}

/// Whether a character argument is UTF-16: `%s` and `%c` are of the function's own kind, `%S` and `%C` of the other,
/// `l` and `w` make it wide, `h` narrow.
fn wide_text<T: Unit>(other: bool, size: Size) -> bool {
    match size {
        Size::Long | Size::Wide => true,
        Size::Short => false,
        _ => T::WIDE != other,
    }
}

/// What writes one padded field: it hands each character to the function that it is given.
type Body<'a> = &'a mut dyn FnMut(&mut dyn FnMut(u32));

/// Where the units go.
struct Sink<'a, T> {
    out: &'a mut dyn FnMut(T),
    count: usize,
}

impl<T: Unit> Sink<'_, T> {
    fn put(&mut self, code: u32) {
        // A UTF-16 unit that has no place in the ANSI code page becomes a question mark.
        let code = if !T::WIDE && code > 0xff { u32::from(b'?') } else { code };
        (self.out)(T::from_code(code));
        self.count += 1;
    }

    fn fill(&mut self, code: u8, n: usize) {
        for _ in 0..n {
            self.put(u32::from(code));
        }
    }

    /// `len` units made by `body`, padded to the width.
    fn padded(&mut self, spec: &Spec, len: usize, body: Body<'_>) {
        let pad = spec.width.saturating_sub(len);
        if !spec.left {
            self.fill(if spec.zero { b'0' } else { b' ' }, pad);
        }
        body(&mut |code| self.put(code));
        if spec.left {
            self.fill(b' ', pad);
        }
    }

    fn bytes(&mut self, spec: &Spec, text: &[u8]) {
        self.padded(spec, text.len(), &mut |put| text.iter().for_each(|b| put(u32::from(*b))));
    }

    /// # Safety
    /// `text` has `len` units.
    unsafe fn text<U: Unit>(&mut self, spec: &Spec, text: *const U, len: usize) {
        self.padded(spec, len, &mut |put| {
            for i in 0..len {
                // SAFETY: the caller's promise.
                put(unsafe { text.add(i).read_unaligned() }.code());
            }
        });
    }

    fn integer(&mut self, spec: &Spec, mut value: u64, base: u64, upper: bool, prefix: &[u8]) {
        let digits = if upper { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
        let mut buffer = [0u8; 24];
        let mut at = buffer.len();
        while value != 0 {
            at -= 1;
            buffer[at] = digits[(value % base) as usize];
            value /= base;
        }
        let len = buffer.len() - at;
        let mut zeros = spec.precision.unwrap_or(1).saturating_sub(len);
        let total = prefix.len() + zeros + len;
        let pad = spec.width.saturating_sub(total);
        let zero_fill = spec.zero && !spec.left && spec.precision.is_none();
        if zero_fill {
            zeros += pad;
        } else if !spec.left {
            self.fill(b' ', pad);
        }
        for b in prefix {
            self.put(u32::from(*b));
        }
        self.fill(b'0', zeros);
        for b in &buffer[at..] {
            self.put(u32::from(*b));
        }
        if spec.left {
            self.fill(b' ', pad);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec::Vec;

    fn print(fmt: &core::ffi::CStr, args: &[u64]) -> String {
        let mut out = Vec::new();
        // SAFETY: each test gives the arguments that its format asks for.
        let n = unsafe { format(&mut |b: u8| out.push(b), fmt.as_ptr().cast(), Arguments::new(args.as_ptr())) };
        assert_eq!(n, out.len());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn integers() {
        assert_eq!(print(c"%d|%5d|%-5d|%05d|%+d", &[7, 7, 7, 7, 7]), "7|    7|7    |00007|+7");
        assert_eq!(print(c"%d %u", &[u64::MAX, 0xffff_ffff]), "-1 4294967295");
        assert_eq!(print(c"%I64x %llX %I64d", &[u64::MAX, 0xabc, u64::MAX]), "ffffffffffffffff ABC -1");
        assert_eq!(print(c"%#x %08lx %.3d %hx %hhu", &[255, 0x1234, 5, 0x12345, 0x1ff]), "0xff 00001234 005 2345 255");
        assert_eq!(print(c"%*d %.*d", &[4, 1, 3, 2]), "   1 002");
        assert_eq!(print(c"%p", &[0x1000]), "0000000000001000");
        assert_eq!(print(c"%I32d %Iu %zu", &[0xffff_ffff, u64::MAX, 3]), "-1 18446744073709551615 3");
    }

    #[test]
    fn text() {
        let wide: Vec<u16> = "wide\0".encode_utf16().collect();
        let w = wide.as_ptr() as u64;
        let s = c"narrow".as_ptr() as u64;
        assert_eq!(print(c"%s|%8s|%-8s|%.3s|%hs", &[s, s, s, s, s]), "narrow|  narrow|narrow  |nar|narrow");
        assert_eq!(print(c"%S|%ws|%ls|%.2S", &[w, w, w, w]), "wide|wide|wide|wi");
        assert_eq!(print(c"%c%C%%", &[u64::from(b'a'), u64::from(b'b')]), "ab%");
        let us = Counted { length: 4, maximum_length: 10, buffer: wide.as_ptr().cast() };
        let ans = Counted { length: 3, maximum_length: 3, buffer: s as *const u8 };
        assert_eq!(print(c"%wZ %Z", &[&raw const us as u64, &raw const ans as u64]), "wi nar");
        assert_eq!(print(c"%s %Z", &[0, 0]), "(null) (null)");
        assert_eq!(print(c"%f %d", &[0, 1]), "%f 1");
        assert_eq!(us.maximum_length, 10);
    }

    #[test]
    fn a_wide_function_swaps_the_kinds() {
        let fmt: Vec<u16> = "%s %S\0".encode_utf16().collect();
        let wide: Vec<u16> = "w\0".encode_utf16().collect();
        let args = [wide.as_ptr() as u64, c"n".as_ptr() as u64];
        let mut out = Vec::new();
        // SAFETY: the arguments are what the format asks for.
        unsafe { format(&mut |u: u16| out.push(u), fmt.as_ptr(), Arguments::new(args.as_ptr())) };
        assert_eq!(String::from_utf16(&out).unwrap(), "w n");
    }
}

//! Memory, versions, bit maps, images and status codes. Any IRQL unless it says otherwise, if the memory is resident.

use super::abi::*;
use core::ptr;

/// The version that the personality reports: Windows 10 2004.
pub const VERSION: (u32, u32, u32) = (10, 0, 19041);

/// `RtlGetVersion`: fills an `RTL_OSVERSIONINFOW` or `RTL_OSVERSIONINFOEXW`, by its size. IRQL = PASSIVE_LEVEL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlgetversion>
pub unsafe extern "win64" fn RtlGetVersion(info: *mut OsVersionInfoEx) -> i32 {
    // SAFETY: the caller gives a structure as long as its size says.
    unsafe {
        let extended = (*info).size as usize == size_of::<OsVersionInfoEx>();
        (&raw mut (*info).major).write(VERSION.0);
        (&raw mut (*info).minor).write(VERSION.1);
        (&raw mut (*info).build).write(VERSION.2);
        (&raw mut (*info).platform_id).write(2);
        (&raw mut (*info).csd_version).write([0; 128]);
        if extended {
            (&raw mut (*info).service_pack_major).write(0);
            (&raw mut (*info).service_pack_minor).write(0);
            (&raw mut (*info).suite_mask).write(0);
            (&raw mut (*info).product_type).write(1);
            (&raw mut (*info).reserved).write(0);
        }
    }
    STATUS_SUCCESS
}

/// `PsGetVersion`: FALSE: not a checked build. Each pointer may be null.
pub unsafe extern "win64" fn PsGetVersion(
    major: *mut u32,
    minor: *mut u32,
    build: *mut u32,
    csd: *mut UnicodeString,
) -> u8 {
    // SAFETY: each is null or writable.
    unsafe {
        for (to, value) in [(major, VERSION.0), (minor, VERSION.1), (build, VERSION.2)] {
            if !to.is_null() {
                to.write(value);
            }
        }
        if !csd.is_null() {
            csd.write(UnicodeString { length: 0, maximum_length: 0, buffer: ptr::null_mut() });
        }
    }
    0
}

/// `RtlIsNtDdiVersionAvailable`: 0x0A000008 is Windows 10 2004 (NTDDI_WIN10_VB).
pub extern "win64" fn RtlIsNtDdiVersionAvailable(version: u32) -> u8 {
    u8::from(version <= 0x0A00_0008)
}

/// `VerSetConditionMask`: three bits a kind of value.
pub extern "win64" fn VerSetConditionMask(mask: u64, kinds: u32, condition: u8) -> u64 {
    (0..8).filter(|i| kinds & 1 << i != 0).fold(mask, |m, i| m | u64::from(condition & 7) << (i * 3))
}

/// `RtlVerifyVersionInfo`: compares major, minor, build and service pack as `conditions` says, the first difference
/// deciding. STATUS_REVISION_MISMATCH if they do not hold. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn RtlVerifyVersionInfo(info: *const OsVersionInfoEx, kinds: u32, conditions: u64) -> i32 {
    // SAFETY: the caller gives a structure with the fields that `kinds` names.
    let wanted = unsafe { info.read_unaligned() };
    // Kinds: VER_MINORVERSION 1, VER_MAJORVERSION 2, VER_BUILDNUMBER 4, service pack minor 0x10 and major 0x20.
    let version = [
        (1u32, VERSION.0, wanted.major),
        (0, VERSION.1, wanted.minor),
        (2, VERSION.2, wanted.build),
        (5, 0, u32::from(wanted.service_pack_major)),
        (4, 0, u32::from(wanted.service_pack_minor)),
    ];
    let mut condition = 1;
    let mut result = core::cmp::Ordering::Equal;
    for (bit, ours, theirs) in version {
        if kinds & 1 << bit != 0 {
            let own = (conditions >> (bit * 3)) & 7;
            if own == 0 {
                return STATUS_INVALID_PARAMETER;
            }
            if condition == 1 {
                condition = own;
            }
            result = ours.cmp(&theirs);
            if result.is_ne() {
                break;
            }
        }
    }
    let holds = match condition {
        1 => result.is_eq(),
        2 => result.is_gt(),
        3 => result.is_ge(),
        4 => result.is_lt(),
        5 => result.is_le(),
        _ => return STATUS_INVALID_PARAMETER,
    };
    if holds { STATUS_SUCCESS } else { STATUS_REVISION_MISMATCH }
}

/// `RtlCompareMemory`: how many bytes are equal from the start.
pub unsafe extern "win64" fn RtlCompareMemory(a: *const u8, b: *const u8, len: usize) -> usize {
    // SAFETY: the caller gives two ranges of `len` bytes.
    (0..len).find(|i| unsafe { a.add(*i).read() != b.add(*i).read() }).unwrap_or(len)
}

/// `RtlCompareMemoryUlong`: bytes, from the start, that hold the pattern.
pub unsafe extern "win64" fn RtlCompareMemoryUlong(at: *const u32, len: usize, pattern: u32) -> usize {
    // SAFETY: the caller gives a range of `len` bytes.
    (0..len / 4).find(|i| unsafe { at.add(*i).read_unaligned() } != pattern).unwrap_or(len / 4) * 4
}

/// `RtlCopyMemory` (and `RtlCopyMemoryNonTemporal`).
pub unsafe extern "win64" fn RtlCopyMemory(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: the caller gives two ranges of `len` bytes that do not overlap.
    unsafe { ptr::copy_nonoverlapping(src, dst, len) };
}

/// `RtlMoveMemory`.
pub unsafe extern "win64" fn RtlMoveMemory(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: the caller gives two ranges of `len` bytes.
    unsafe { ptr::copy(src, dst, len) };
}

/// `RtlZeroMemory`.
pub unsafe extern "win64" fn RtlZeroMemory(dst: *mut u8, len: usize) {
    // SAFETY: the caller gives a range of `len` bytes.
    unsafe { ptr::write_bytes(dst, 0, len) };
}

/// `RtlFillMemory`: the length comes before the value.
pub unsafe extern "win64" fn RtlFillMemory(dst: *mut u8, len: usize, value: u8) {
    // SAFETY: the caller gives a range of `len` bytes.
    unsafe { ptr::write_bytes(dst, value, len) };
}

/// The PE header of a loaded image, or null if there is none.
pub unsafe extern "win64" fn RtlImageNtHeader(base: *const u8) -> *const u8 {
    // SAFETY: the caller gives a loaded image: its first page is mapped, and `e_lfanew` lies in its headers.
    unsafe {
        if base.is_null() || base.cast::<u16>().read_unaligned() != 0x5a4d {
            return ptr::null();
        }
        let header = base.add(base.add(0x3c).cast::<u32>().read_unaligned() as usize);
        if header.cast::<u32>().read_unaligned() == 0x4550 { header } else { ptr::null() }
    }
}

/// `RtlImageDirectoryEntryToData`: a data directory of an image, mapped (`as_image`) or as a flat file. Null if it is
/// absent; its size goes to `size`.
pub unsafe extern "win64" fn RtlImageDirectoryEntryToData(
    base: *const u8,
    as_image: u8,
    index: u16,
    size: *mut u32,
) -> *const u8 {
    // A low bit in the base says that it is mapped as a data file.
    let as_image = as_image != 0 && base as usize & 1 == 0;
    let base = (base as usize & !3) as *const u8;
    // SAFETY: the caller gives an image; the directory is read only if the header says that it is there.
    unsafe {
        size.write(0);
        let header = RtlImageNtHeader(base);
        // 0x20b: PE32+. The directories start at 0x70 of the optional header, which starts at 0x18.
        if header.is_null() || header.add(0x18).cast::<u16>().read_unaligned() != 0x20b {
            return ptr::null();
        }
        if u32::from(index) >= header.add(0x84).cast::<u32>().read_unaligned() {
            return ptr::null();
        }
        let entry = header.add(0x88 + usize::from(index) * 8).cast::<u32>();
        let (rva, len) = (entry.read_unaligned(), entry.add(1).read_unaligned());
        if rva == 0 {
            return ptr::null();
        }
        size.write(len);
        let headers = header.add(0x54).cast::<u32>().read_unaligned();
        if as_image || rva < headers {
            return base.add(rva as usize);
        }
        let sections = header.add(6).cast::<u16>().read_unaligned();
        let first = header.add(0x18 + usize::from(header.add(0x14).cast::<u16>().read_unaligned()));
        for i in 0..usize::from(sections) {
            let section = first.add(i * 40);
            let field = |offset: usize| section.add(offset).cast::<u32>().read_unaligned();
            let (va, raw_size, raw) = (field(12), field(16), field(20));
            if (va..va.saturating_add(raw_size)).contains(&rva) {
                return base.add((rva - va + raw) as usize);
            }
        }
        ptr::null()
    }
}

/// `RtlInitializeBitMap`.
pub unsafe extern "win64" fn RtlInitializeBitMap(map: *mut Bitmap, buffer: *mut u32, bits: u32) {
    // SAFETY: the caller gives a writable header.
    unsafe { map.write(Bitmap { size: bits, buffer }) };
}

/// # Safety
/// `map` is a valid bit map and `bit` below its size.
unsafe fn get(map: *const Bitmap, bit: u32) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*map).buffer.add(bit as usize / 32).read() & 1 << (bit % 32) != 0 }
}

/// # Safety
/// `map` is a valid bit map and `bit` below its size.
unsafe fn put(map: *mut Bitmap, bit: u32, value: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        let word = (*map).buffer.add(bit as usize / 32);
        let mask = 1 << (bit % 32);
        word.write(if value { word.read() | mask } else { word.read() & !mask });
    }
}

macro_rules! bitmap {
    ($($(#[$doc:meta])* fn $name:ident($map:ident $(, $arg:ident)*) $(-> $ret:ty)? = $body:expr;)*) => {
        $(
            $(#[$doc])*
            pub unsafe extern "win64" fn $name($map: *mut Bitmap $(, $arg: u32)*) $(-> $ret)? {
                // SAFETY: the caller gives a valid bit map and a range within it.
                unsafe { $body }
            }
        )*
    };
}

/// `RtlFindLongestRunClear`: its bits and, in `start`, where it begins; the first of several. 0: no bit is clear.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlfindlongestrunclear>
pub unsafe extern "win64" fn RtlFindLongestRunClear(map: *mut Bitmap, start: *mut u32) -> u32 {
    let (mut best, mut run) = ((0, 0), 0);
    // SAFETY: the caller gives a valid bit map and room for the result.
    unsafe {
        for bit in 0..(*map).size {
            run = if get(map, bit) { 0 } else { run + 1 };
            if run > best.1 {
                best = (bit + 1 - run, run);
            }
        }
        start.write(best.0);
    }
    best.1
}

/// `RtlFindLeastSignificantBit`: -1 if none is set. Any IRQL.
pub unsafe extern "win64" fn RtlFindLeastSignificantBit(set: u64) -> i8 {
    if set == 0 { -1 } else { set.trailing_zeros() as i8 }
}

/// `RtlNumberOfSetBitsUlongPtr`. Any IRQL.
pub unsafe extern "win64" fn RtlNumberOfSetBitsUlongPtr(set: u64) -> u32 {
    set.count_ones()
}

bitmap! {
    /// `RtlSetBit`.
    fn RtlSetBit(map, bit) = put(map, bit, true);
    /// `RtlClearBit`.
    fn RtlClearBit(map, bit) = put(map, bit, false);
    /// `RtlTestBit`.
    fn RtlTestBit(map, bit) -> u8 = u8::from(get(map, bit));
    /// `RtlSetBits`.
    fn RtlSetBits(map, start, count) = (start..start + count).for_each(|b| put(map, b, true));
    /// `RtlClearBits`.
    fn RtlClearBits(map, start, count) = (start..start + count).for_each(|b| put(map, b, false));
    /// `RtlSetAllBits`.
    fn RtlSetAllBits(map) = (0..(*map).size).for_each(|b| put(map, b, true));
    /// `RtlClearAllBits`.
    fn RtlClearAllBits(map) = (0..(*map).size).for_each(|b| put(map, b, false));
    /// `RtlAreBitsSet`.
    fn RtlAreBitsSet(map, start, count) -> u8 = u8::from(all(map, start, count, true));
    /// `RtlAreBitsClear`.
    fn RtlAreBitsClear(map, start, count) -> u8 = u8::from(all(map, start, count, false));
    /// `RtlNumberOfSetBits`.
    fn RtlNumberOfSetBits(map) -> u32 = (0..(*map).size).filter(|b| get(map, *b)).count() as u32;
    /// `RtlNumberOfClearBits`.
    fn RtlNumberOfClearBits(map) -> u32 = (0..(*map).size).filter(|b| !get(map, *b)).count() as u32;
    /// `RtlFindClearBits`: `u32::MAX` if there is no such run.
    fn RtlFindClearBits(map, count, hint) -> u32 = find_run(map, count, hint, false);
    /// `RtlFindSetBits`: `u32::MAX` if there is no such run.
    fn RtlFindSetBits(map, count, hint) -> u32 = find_run(map, count, hint, true);
    /// `RtlFindClearBitsAndSet`: `u32::MAX` if there is no such run.
    fn RtlFindClearBitsAndSet(map, count, hint) -> u32 = {
        let found = find_run(map, count, hint, false);
        if found != u32::MAX {
            RtlSetBits(map, found, count);
        }
        found
    };
    /// `RtlFindSetBitsAndClear`: `u32::MAX` if there is no such run.
    fn RtlFindSetBitsAndClear(map, count, hint) -> u32 = {
        let found = find_run(map, count, hint, true);
        if found != u32::MAX {
            RtlClearBits(map, found, count);
        }
        found
    };
}

/// # Safety
/// `map` is a valid bit map.
unsafe fn all(map: *const Bitmap, start: u32, count: u32, value: bool) -> bool {
    // SAFETY: the range is checked against the size.
    unsafe {
        count != 0
            && start.checked_add(count).is_some_and(|end| end <= (*map).size)
            && (start..start + count).all(|b| get(map, b) == value)
    }
}

/// The first run at or after `hint`, else from the start.
///
/// # Safety
/// `map` is a valid bit map.
unsafe fn find_run(map: *const Bitmap, count: u32, hint: u32, value: bool) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let size = (*map).size;
        let hint = if hint < size { hint } else { 0 };
        if count == 0 {
            return hint & !7;
        }
        (hint..size).chain(0..hint).find(|start| all(map, *start, count, value)).unwrap_or(u32::MAX)
    }
}

/// `RtlNtStatusToDosError`, as far as drivers meet it; ERROR_MR_MID_NOT_FOUND (317) otherwise.
pub extern "win64" fn RtlNtStatusToDosError(status: i32) -> u32 {
    match status as u32 {
        0 => 0,
        0x0000_0102 | 0xC000_00B5 => 1460,
        0x0000_0103 => 997,
        0x8000_0005 => 234,
        0x8000_001A => 259,
        0xC000_0001 => 31,
        0xC000_0002 | 0xC000_0010 => 1,
        0xC000_0008 => 6,
        0xC000_000D => 87,
        0xC000_000E | 0xC000_000F | 0xC000_0034 => 2,
        0xC000_0011 => 38,
        0xC000_0017 | 0xC000_009A => 1450,
        0xC000_0022 => 5,
        0xC000_0023 => 122,
        0xC000_003A => 3,
        0xC000_009C => 23,
        0xC000_009D => 1167,
        0xC000_00A2 => 19,
        0xC000_00A3 => 21,
        0xC000_00BB => 50,
        0xC000_0120 => 995,
        0xC000_0185 => 1117,
        _ => 317,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_documented() {
        // SAFETY: all zero is a valid structure of integers.
        let mut info: OsVersionInfoEx = unsafe { core::mem::zeroed() };
        (info.major, info.minor) = (6, 2);
        let mask = VerSetConditionMask(VerSetConditionMask(0, 2, 3), 1, 3);
        // SAFETY: the structure is whole.
        unsafe {
            assert_eq!(RtlVerifyVersionInfo(&info, 3, mask), STATUS_SUCCESS);
            (info.major, info.minor) = (10, 1);
            assert_eq!(RtlVerifyVersionInfo(&info, 3, mask), STATUS_REVISION_MISMATCH);
            info.size = size_of::<OsVersionInfoEx>() as u32;
            RtlGetVersion(&mut info);
        }
        assert_eq!((info.major, info.build), (10, 19041));
    }

    #[test]
    fn bit_maps() {
        let mut words = [0u32; 2];
        let mut map = Bitmap { size: 40, buffer: words.as_mut_ptr() };
        // SAFETY: the map stands on `words`.
        unsafe {
            assert_eq!(RtlFindClearBitsAndSet(&mut map, 35, 0), 0);
            assert_eq!(RtlFindClearBits(&mut map, 5, 0), 35);
            assert_eq!(RtlFindClearBits(&mut map, 6, 0), u32::MAX);
            RtlClearBits(&mut map, 10, 4);
            assert_eq!(RtlFindClearBits(&mut map, 4, 0), 10);
            assert_eq!(RtlNumberOfSetBits(&mut map), 31);
        }
    }
}

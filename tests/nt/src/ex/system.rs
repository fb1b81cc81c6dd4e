//! What the system tells about itself: `ZwQuerySystemInformation` and the list of loaded modules.
//! <https://learn.microsoft.com/windows/win32/api/winternl/nf-winternl-ntquerysysteminformation>,
//! <https://learn.microsoft.com/windows-hardware/drivers/devtest/aux-klib-functions>

use crate::ke::timer::TIME_INCREMENT;
use crate::loader;
use crate::platform::{PAGE_SIZE, platform};
use crate::status::*;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;

/// Bytes of a module's path in its records, with its terminator.
const PATH_BYTES: usize = 256;

/// A module as its records describe it.
struct Module {
    base: u64,
    size: u32,
    /// NUL-terminated, at most [`PATH_BYTES`].
    path: Vec<u8>,
    /// Where the file name begins in the path.
    file: u16,
}

/// The kernel, whose place is that of the thunks which drivers call, and the loaded images in the order they came.
fn modules() -> Vec<Module> {
    let module = |folder: &str, name: &str, base: usize, size: usize| {
        let mut path = alloc::format!("{folder}{name}").into_bytes();
        path.truncate(PATH_BYTES - 1);
        let file = folder.len().min(path.len()) as u16;
        path.push(0);
        Module { base: base as u64, size: size as u32, path, file }
    };
    let kernel = loader::thunk_range().map(|range| (String::from("ntoskrnl.exe"), range.start, range.len()));
    let kernel = kernel.map(|(name, base, size)| module(r"\SystemRoot\system32\", &name, base, size));
    let images = loader::images().into_iter();
    let images = images.map(|(name, base, size)| module(r"\SystemRoot\System32\drivers\", &name, base, size));
    kernel.into_iter().chain(images).collect()
}

/// `RTL_PROCESS_MODULES`: the number of modules, then a RTL_PROCESS_MODULE_INFORMATION for each.
fn module_information() -> Vec<u8> {
    let modules = modules();
    let mut out = (modules.len() as u64).to_le_bytes().to_vec();
    for (index, module) in modules.iter().enumerate() {
        // Section and MappedBase, which are not told.
        out.extend([0; 16]);
        out.extend(module.base.to_le_bytes());
        out.extend(module.size.to_le_bytes());
        out.extend(0_u32.to_le_bytes());
        // LoadOrderIndex, InitOrderIndex, LoadCount, OffsetToFileName.
        for field in [index as u16, index as u16, 1, module.file] {
            out.extend(field.to_le_bytes());
        }
        let start = out.len();
        out.extend(&module.path);
        out.resize(start + PATH_BYTES, 0);
    }
    out
}

/// `SYSTEM_BASIC_INFORMATION`.
fn basic_information() -> Vec<u8> {
    let ranges = platform().memory_ranges();
    let pages = ranges.iter().map(|range| range.len / PAGE_SIZE as u64).sum::<u64>();
    let lowest = ranges.first().map_or(0, |range| range.base / PAGE_SIZE as u64);
    let highest = ranges.last().map_or(0, |range| (range.base + range.len) / PAGE_SIZE as u64);
    let processors = platform().processors();
    let mut out = Vec::new();
    for field in [0, TIME_INCREMENT, PAGE_SIZE as u32, pages as u32, lowest as u32, highest as u32, 0x1_0000, 0] {
        out.extend(field.to_le_bytes());
    }
    // The bounds of user space, and the processors that run.
    let mask = if processors >= 64 { u64::MAX } else { (1 << processors) - 1 };
    for field in [0x1_0000_u64, 0x7fff_fffe_ffff, mask, u64::from(processors)] {
        out.extend(field.to_le_bytes());
    }
    out
}

/// `SYSTEM_TIMEOFDAY_INFORMATION`.
fn time_information() -> Vec<u8> {
    let now = platform().boot_time() + platform().interrupt_time();
    // BootTime, CurrentTime, TimeZoneBias, TimeZoneId and Reserved, BootTimeBias, SleepTimeBias.
    [platform().boot_time(), now, 0, 0, 0, 0].into_iter().flat_map(u64::to_le_bytes).collect()
}

/// `ZwQuerySystemInformation`: the classes basic (0), time of day (3) and modules (11). IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn ZwQuerySystemInformation(
    class: i32,
    buffer: *mut u8,
    length: u32,
    returned: *mut u32,
) -> NtStatus {
    let (data, exact) = match class {
        0 => (basic_information(), true),
        3 => (time_information(), false),
        11 => (module_information(), false),
        _ => return STATUS_INVALID_INFO_CLASS,
    };
    // SAFETY: the caller gives a buffer of that length and, or not, a place for the length.
    unsafe {
        if !returned.is_null() {
            returned.write(data.len() as u32);
        }
        if (length as usize) < data.len() || (exact && length as usize != data.len()) {
            return STATUS_INFO_LENGTH_MISMATCH;
        }
        buffer.copy_from_nonoverlapping(data.as_ptr(), data.len());
    }
    STATUS_SUCCESS
}

/// `RtlQueryModuleInformation`, on which AuxKlibQueryModuleInformation stands: records of one pointer (the base), or
/// with size and path. Without a buffer it tells the size. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn RtlQueryModuleInformation(size: *mut u32, unit: u32, buffer: *mut c_void) -> NtStatus {
    const BASIC: u32 = 8;
    const EXTENDED: u32 = 0x110;
    if unit != BASIC && unit != EXTENDED {
        return STATUS_INVALID_PARAMETER;
    }
    let mut out = Vec::new();
    for module in modules() {
        out.extend(module.base.to_le_bytes());
        if unit == EXTENDED {
            let start = out.len();
            out.extend(module.size.to_le_bytes());
            out.extend(module.file.to_le_bytes());
            out.extend(&module.path);
            out.resize(start + (EXTENDED - BASIC) as usize, 0);
        }
    }
    // SAFETY: the caller gives a place for the size, and a buffer of that size or none.
    unsafe {
        let room = size.read();
        size.write(out.len() as u32);
        if buffer.is_null() {
            return STATUS_SUCCESS;
        }
        if (room as usize) < out.len() {
            return STATUS_BUFFER_TOO_SMALL;
        }
        buffer.cast::<u8>().copy_from_nonoverlapping(out.as_ptr(), out.len());
    }
    STATUS_SUCCESS
}

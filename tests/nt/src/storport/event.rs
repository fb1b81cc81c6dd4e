//! StorPortLogSystemEvent: an event of a miniport's own, with its strings. It becomes a line of the log.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportlogsystemevent>,
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/ns-storport-_stor_log_event_details>

use super::abi::*;
use super::adapter::Adapter;
use crate::ke::abi::DISPATCH_LEVEL;
use crate::ke::irql::KeGetCurrentIrql;
use crate::platform::platform;
use alloc::string::String;
use core::fmt::Write;

/// `STOR_CURRENT_LOG_INTERFACE_REVISION`.
const REVISION: u32 = 0x100;
/// The most bytes of data and strings together.
const MOST: u32 = 150;

/// StorPortLogSystemEvent. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The pointers are null or valid, the details as long as their size says, with as much data and as many strings as they say.
pub unsafe fn log(adapter: &Adapter, details: *mut StorLogEventDetails, most: *mut u32) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        if KeGetCurrentIrql() > DISPATCH_LEVEL {
            return STOR_STATUS_INVALID_IRQL;
        }
        let Some(details) = details.as_mut() else { return STOR_STATUS_INVALID_PARAMETER };
        if details.interface_revision > REVISION {
            details.interface_revision = REVISION;
            return STOR_STATUS_UNSUPPORTED_VERSION;
        }
        if (details.size as usize) < size_of::<StorLogEventDetails>() || details.flags != 0 {
            return STOR_STATUS_INVALID_PARAMETER;
        }
        let mut text = String::new();
        let mut bytes = details.dump_data_size;
        for n in 0..details.string_count as usize {
            let mut at = *details.string_list.add(n);
            let mut units = alloc::vec::Vec::new();
            while *at != 0 && bytes <= MOST {
                units.push(*at);
                at = at.add(1);
                bytes += 2;
            }
            bytes += 2;
            _ = write!(text, " \"{}\"", String::from_utf16_lossy(&units));
            if bytes > MOST {
                break;
            }
        }
        if bytes > MOST {
            if let Some(most) = most.as_mut() {
                *most = MOST;
            }
            return STOR_STATUS_INVALID_BUFFER_SIZE;
        }
        platform().log(&alloc::format!(
            "storport {}: event {:#x} at {}.{}.{}, id {:#x}, {} bytes of data:{text}",
            adapter.port,
            details.error_code,
            details.path_id,
            details.target_id,
            details.lun_id,
            details.unique_id,
            details.dump_data_size,
        ));
    }
    STOR_STATUS_SUCCESS
}

//! Power settings that drivers want to know. They do not change here: who registers is told the value, and nothing more.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-poregisterpowersettingcallback>

use crate::io::abi::DeviceObject;
use crate::rtl::abi::Guid;
use crate::status::*;
use crate::sync::IrqLock;
use alloc::vec::Vec;
use core::ffi::c_void;

/// `POWER_SETTING_CALLBACK`.
pub type Callback =
    unsafe extern "win64" fn(setting: *const Guid, value: *const c_void, bytes: u32, context: *mut c_void) -> NtStatus;

/// The settings of a machine that is on, on mains: GUID_ACDC_POWER_SOURCE, GUID_MONITOR_POWER_ON,
/// GUID_CONSOLE_DISPLAY_STATE, GUID_SYSTEM_AWAYMODE, GUID_LIDSWITCH_STATE_CHANGE.
const SETTINGS: [(Guid, u32); 5] = [
    (guid(0x5d3e_9a59, 0xe9d5, 0x4b00, [0xa6, 0xbd, 0xff, 0x34, 0xff, 0x51, 0x65, 0x48]), 0),
    (guid(0x0273_1015, 0x4510, 0x4526, [0x99, 0xe6, 0xe5, 0xa1, 0x7e, 0xbd, 0x1a, 0xea]), 1),
    (guid(0x6fe6_9556, 0x704a, 0x47a0, [0x8f, 0x24, 0xc2, 0x8d, 0x93, 0x6f, 0xda, 0x47]), 1),
    (guid(0x98a7_f580, 0x01f7, 0x48aa, [0x9c, 0x0f, 0x44, 0x35, 0x2c, 0x29, 0xe5, 0xc0]), 0),
    (guid(0xba3e_0f4d, 0xb817, 0x4094, [0xa2, 0xd1, 0xd5, 0x63, 0x79, 0xe6, 0xa0, 0xf3]), 1),
];

const fn guid(data1: u32, data2: u16, data3: u16, data4: [u8; 8]) -> Guid {
    Guid { data1, data2, data3, data4 }
}

/// The handles that are registered.
static REGISTERED: IrqLock<(usize, Vec<usize>)> = IrqLock::new((0, Vec::new()));

/// `PoRegisterPowerSettingCallback`: the routine is called with the present value, if there is such a setting here, before
/// this returns. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn PoRegisterPowerSettingCallback(
    _device: *mut DeviceObject,
    setting: *const Guid,
    callback: Callback,
    context: *mut c_void,
    handle: *mut *mut c_void,
) -> NtStatus {
    let number = {
        let mut registered = REGISTERED.lock();
        registered.0 += 1;
        let number = registered.0;
        registered.1.push(number);
        number
    };
    // SAFETY: the caller gives a GUID, a routine that may be called, and room for the handle.
    unsafe {
        handle.write(number as *mut c_void);
        if let Some((_, value)) = SETTINGS.iter().find(|(known, _)| *known == *setting) {
            let value = *value;
            callback(setting, (&raw const value).cast(), size_of::<u32>() as u32, context);
        }
    }
    STATUS_SUCCESS
}

/// `PoUnregisterPowerSettingCallback`. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn PoUnregisterPowerSettingCallback(handle: *mut c_void) -> NtStatus {
    let mut registered = REGISTERED.lock();
    match registered.1.iter().position(|number| *number == handle as usize) {
        Some(at) => {
            registered.1.swap_remove(at);
            STATUS_SUCCESS
        }
        None => STATUS_INVALID_PARAMETER,
    }
}

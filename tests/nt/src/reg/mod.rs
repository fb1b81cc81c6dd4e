//! The registry: one [`hive::Hive`], and the kernel's functions on it.
// The names are those of the exports; the contract of each function is the one its documentation gives it.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

pub mod hive;
pub mod query;
pub mod zw;

use crate::sync::IrqLock;
use alloc::string::{String, ToString};
use hive::Hive;

static REGISTRY: IrqLock<Option<Hive>> = IrqLock::new(None);

/// Works on the registry. Calls nothing else of the kernel meanwhile.
pub fn with<T>(body: impl FnOnce(&mut Hive) -> T) -> T {
    let mut registry = REGISTRY.lock();
    body(registry.get_or_insert_with(Hive::new))
}

/// Replaces the registry by what an earlier boot left on the disk (see [`Hive::persistent`]).
///
/// # Errors
/// The number of the first line that is not understood; the registry is unchanged.
pub fn load(text: &str) -> Result<(), usize> {
    let mut hive = Hive::new();
    hive.import(text)?;
    *REGISTRY.lock() = Some(hive);
    Ok(())
}

/// What a boot that starts now would find.
pub fn persistent() -> String {
    let now = crate::io::kernel::now();
    with(|hive| hive.persistent(now).to_string())
}

/// As [`persistent`], of a machine that has stopped. `None`: it stopped while the registry was being worked on.
pub fn persistent_after_stop() -> Option<String> {
    let now = crate::io::kernel::now();
    let mut registry = REGISTRY.try_lock()?;
    registry.as_mut().map(|hive| hive.persistent(now).to_string())
}

/// Writes everything to the disk, as an orderly shutdown does.
pub fn flush() {
    with(Hive::flush);
}

/// The session manager's moment: from now on writes reach the disk.
pub fn make_writable() {
    with(Hive::make_writable);
}

crate::exports! {
    /// Names of ntoskrnl.exe in this area.
    pub static EXPORTS in "ntoskrnl.exe";
    fn ZwCreateKey = zw::ZwCreateKey;
    fn ZwOpenKey = zw::ZwOpenKey;
    fn ZwOpenKeyEx = zw::ZwOpenKeyEx;
    fn ZwDeleteKey = zw::ZwDeleteKey;
    fn ZwDeleteValueKey = zw::ZwDeleteValueKey;
    fn ZwEnumerateKey = zw::ZwEnumerateKey;
    fn ZwEnumerateValueKey = zw::ZwEnumerateValueKey;
    fn ZwFlushKey = zw::ZwFlushKey;
    fn ZwQueryKey = zw::ZwQueryKey;
    fn ZwQueryValueKey = zw::ZwQueryValueKey;
    fn ZwSetValueKey = zw::ZwSetValueKey;
    fn RtlQueryRegistryValues = query::RtlQueryRegistryValues;
    fn RtlWriteRegistryValue = query::RtlWriteRegistryValue;
    fn RtlDeleteRegistryValue = query::RtlDeleteRegistryValue;
    fn RtlCheckRegistryKey = query::RtlCheckRegistryKey;
    fn RtlCreateRegistryKey = query::RtlCreateRegistryKey;
}

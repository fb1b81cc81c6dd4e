//! Who may open a device: tokens, security descriptors in SDDL, and when the I/O manager looks at them.
//!
//! A device's descriptor and characteristics come from its INF (`HKR,,Security` and `HKR,,DeviceCharacteristics`) and
//! hold for the whole stack from before its start on. A name below a device is checked against the descriptor only if
//! the stack has FILE_DEVICE_SECURE_OPEN; without, the driver has to.
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/controlling-device-access>
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/setting-device-object-registry-properties-during-installation>
use super::abi::DeviceObject;
use super::status::{NtStatus, STATUS_ACCESS_DENIED};
use crate::inf::install::CONTROL_SET;
use crate::pnp;
use crate::reg::{self, hive};
use alloc::string::String;

/// FILE_DEVICE_SECURE_OPEN.
const SECURE_OPEN: u32 = 0x100;
/// What a device without a descriptor of its own gets: everyone may read. Windows' own default depends on the type of the
/// device; this one is as open as any of them, so that a driver that relies on it is noticed.
const DEFAULT: &str = "D:(A;;GA;;;SY)(A;;GA;;;BA)(A;;GRGX;;;WD)";

/// A right to read: GENERIC_READ, as far as the bench tells rights apart.
pub const READ: u32 = 1;
/// A right to write.
pub const WRITE: u32 = 2;
/// A right to anything else: attributes, synchronization.
pub const OTHER: u32 = 4;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The local system.
    System,
    /// A member of Administrators, elevated.
    Administrator,
    /// A user who is no administrator.
    User,
}

impl Token {
    /// Whether it has the SID with that abbreviation.
    fn has(self, sid: &str) -> bool {
        match sid {
            // Everyone, and all who logged on.
            "WD" | "AU" => true,
            "SY" => self == Self::System,
            "BA" => self != Self::User,
            "BU" | "IU" => self != Self::System,
            _ => false,
        }
    }
}

/// `GENERIC_*`, `FILE_*` and standard rights as the bench's three.
pub fn rights(access: u32) -> u32 {
    let mut rights = OTHER;
    if access & 0x9000_0001 != 0 {
        rights |= READ;
    }
    if access & 0x5000_0006 != 0 {
        rights |= WRITE;
    }
    rights
}

/// The rights of one access control entry.
fn granted(text: &str) -> Option<u32> {
    if let Some(mask) = text.strip_prefix("0x") {
        return u32::from_str_radix(mask, 16).ok().map(rights);
    }
    let mut sum = 0;
    for pair in text.as_bytes().chunks(2) {
        sum |= match pair {
            b"GA" | b"FA" => READ | WRITE | OTHER,
            b"GR" | b"FR" => READ | OTHER,
            b"GW" | b"FW" => WRITE | OTHER,
            b"GX" | b"FX" | b"RC" => OTHER,
            _ => return None,
        };
    }
    Some(sum)
}

/// Whether a descriptor lets a token have those rights. Entries count in their order; one that cannot be read refuses.
fn allows(sddl: &str, token: Token, wanted: u32) -> bool {
    let Some((_, list)) = sddl.split_once("D:") else { return false };
    let mut left = wanted;
    for entry in list.split('(').skip(1) {
        let Some((entry, _)) = entry.split_once(')') else { return false };
        let mut fields = entry.split(';');
        let (Some(kind), Some(_), Some(mask), Some(_), Some(_), Some(sid), None) =
            (fields.next(), fields.next(), fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return false;
        };
        let Some(mask) = granted(mask) else { return false };
        if !token.has(sid) {
            continue;
        }
        match kind {
            "A" => left &= !mask,
            "D" if left & mask != 0 => return false,
            "D" => {}
            _ => return false,
        }
        if left == 0 {
            return true;
        }
    }
    left == 0
}

/// A value of the device's key below `Enum`.
fn property(instance: &str, name: &str) -> Option<hive::Value> {
    reg::with(|registry| {
        let key = registry.open(None, &alloc::format!(r"{CONTROL_SET}\Enum\{instance}")).ok()?;
        registry.value(key, name).ok().cloned()
    })
}

/// Checks an open of `device` or of a name below it.
///
/// # Errors
/// STATUS_ACCESS_DENIED.
///
/// # Safety
/// The device is valid.
pub unsafe fn check(device: *mut DeviceObject, rest: &str, access: u32, token: Token) -> Result<(), NtStatus> {
    let node = pnp::node_of(device).and_then(|id| pnp::with_node(id, |node| node.instance.clone()));
    let (mut sddl, mut characteristics): (Option<String>, u32) = (None, 0);
    if let Some(instance) = &node {
        sddl = property(instance, "Security").map(|value| hive::sz_text(&value.data));
        characteristics = property(instance, "DeviceCharacteristics")
            .and_then(|value| value.data.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)))
            .unwrap_or(0);
    }
    // SAFETY: per the contract; the devices of a stack are valid.
    unsafe {
        for device in super::device::stack(device) {
            characteristics |= (*device).characteristics;
        }
    }
    if !rest.trim_matches('\\').is_empty() && characteristics & SECURE_OPEN == 0 {
        return Ok(());
    }
    if allows(sddl.as_deref().unwrap_or(DEFAULT), token, rights(access)) { Ok(()) } else { Err(STATUS_ACCESS_DENIED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_count_in_their_order() {
        let admins = "D:P(A;;GA;;;SY)(A;;GA;;;BA)";
        assert!(allows(admins, Token::System, READ | WRITE | OTHER));
        assert!(allows(admins, Token::Administrator, READ | WRITE | OTHER));
        assert!(!allows(admins, Token::User, OTHER));
        assert!(allows(DEFAULT, Token::User, READ | OTHER) && !allows(DEFAULT, Token::User, WRITE));
        assert!(!allows("D:(D;;GW;;;BA)(A;;GA;;;BA)", Token::Administrator, WRITE | OTHER));
        assert!(allows("D:(D;;GW;;;BU)(A;;GA;;;BA)", Token::System, WRITE | OTHER));
    }

    #[test]
    fn what_cannot_be_read_refuses() {
        for text in ["", "O:BA", "D:(A;;XX;;;WD)", "D:(A;;GA;;WD)", "D:(A;;GA;;;WD", "D:(Z;;GA;;;WD)"] {
            assert!(!allows(text, Token::System, OTHER), "{text}");
        }
    }
}

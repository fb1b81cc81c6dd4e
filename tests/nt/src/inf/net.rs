//! What the class installer of network adapters adds to an installation: the adapter's GUID, and the defaults of its
//! keywords.
//! <https://learn.microsoft.com/windows-hardware/drivers/network/specifying-configuration-parameters-for-the-advanced-properties-page>
use crate::reg::hive::{self, Hive, HiveError};
use alloc::string::String;

/// The class of network adapters.
pub const CLASS: &str = "{4d36e972-e325-11ce-bfc1-08002be10318}";

/// A GUID that is the same for the same device on every run.
fn guid(instance: &str) -> String {
    let half = |salt: u64| {
        instance.bytes().fold(0xcbf2_9ce4_8422_2325_u64 ^ salt, |hash, byte| {
            (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x100_0000_01b3)
        })
    };
    let (a, b) = (half(0), half(0x9e37_79b9_7f4a_7c15));
    alloc::format!(
        "{{{:08X}-{:04X}-4{:03X}-8{:03X}-{:012X}}}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 48 & 0xfff,
        b & 0xffff_ffff_ffff
    )
}

/// Completes the software key of a network adapter. Values that are there stay.
///
/// # Errors
/// The hive refuses a value.
pub fn install(hive: &mut Hive, software: &str, instance: &str, now: u64) -> Result<(), HiveError> {
    let key = hive.create_path(software, now)?;
    if hive.value(key, "NetCfgInstanceId").is_err() {
        hive.set_value(key, "NetCfgInstanceId", hive::REG_SZ, hive::sz(&guid(instance)), now)?;
    }
    let Ok(parameters) = hive.open(Some(key), r"Ndi\params") else { return Ok(()) };
    for keyword in hive.subkeys(parameters)? {
        let of = hive.open(Some(parameters), &keyword)?;
        let Ok(default) = hive.value(of, "default").cloned() else { continue };
        if hive.value(key, &keyword).is_err() {
            hive.set_value(key, &keyword, default.kind, default.data, now)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_of_keywords_are_written_once() {
        let mut hive = Hive::new();
        let software = r"\Registry\Machine\SYSTEM\Class\0000";
        let params = hive.create_path(&alloc::format!(r"{software}\Ndi\params\*JumboPacket"), 0).expect("a key");
        hive.set_value(params, "default", hive::REG_SZ, hive::sz("1514"), 0).expect("a value");
        install(&mut hive, software, r"XEN\VIF\0", 0).expect("an installation");
        let key = hive.open(None, software).expect("the key");
        assert_eq!(hive::sz_text(&hive.value(key, "*JumboPacket").expect("a default").data), "1514");
        let id = hive::sz_text(&hive.value(key, "NetCfgInstanceId").expect("an id").data);
        assert_eq!(id.len(), 38);
        hive.set_value(key, "*JumboPacket", hive::REG_SZ, hive::sz("9014"), 0).expect("a value");
        install(&mut hive, software, r"XEN\VIF\0", 0).expect("an installation");
        assert_eq!(hive::sz_text(&hive.value(key, "*JumboPacket").expect("a value").data), "9014");
    }
}

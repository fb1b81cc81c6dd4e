//! What is told of Windows, and the nodes it is told in: those that `xl` and xapi read.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// A network card of Windows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adapter {
    /// Its address.
    pub mac: [u8; 6],
    /// Its Internet addresses.
    pub addresses: Vec<IpAddr>,
}

/// What is known of Windows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `Microsoft Windows 10 Pro`.
    pub name: String,
    /// Major, minor, build.
    pub version: [u32; 3],
    /// The computer's name.
    pub host: String,
    /// The DNS domain, empty for none.
    pub domain: String,
    /// KiB of memory, all and free.
    pub memory: [u64; 2],
    /// Network cards.
    pub adapters: Vec<Adapter>,
}

/// What addresses of a card stand below.
pub const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];
/// Most addresses of a card that are told.
const ADDRESSES: usize = 16;
/// Longest text that is told, in bytes: xenstore takes 2048 in a node.
const TEXT: usize = 256;

/// From the form that the toolstack writes: `00:16:3e:01:02:03`.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.trim().split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

impl Facts {
    /// The nodes, with the network cards under the numbers that the toolstack gave them: `vifs` are number and address.
    pub fn nodes(&self, vifs: &[(u32, [u8; 6])]) -> BTreeMap<String, String> {
        let mut nodes = BTreeMap::new();
        let mut put = |path: &str, value: String| drop(nodes.insert(path.to_owned(), value));
        let [major, minor, build] = self.version.map(|number| number.to_string());
        put("attr/os/class", "windows NT".into());
        put("attr/os/major", major.clone());
        put("attr/os/minor", minor.clone());
        put("attr/os/build", build.clone());
        put("data/os_name", cut(&self.name));
        put("data/os_distro", "windows".into());
        put("data/os_majorver", major);
        put("data/os_minorver", minor);
        put("data/os_buildver", build);
        put("data/host_name", cut(&self.host));
        let qualified =
            if self.domain.is_empty() { self.host.clone() } else { format!("{}.{}", self.host, self.domain) };
        put("data/host_name_dns", cut(&qualified));
        put("data/meminfo_total", self.memory[0].to_string());
        put("data/meminfo_free", self.memory[1].to_string());
        let mut version = env!("CARGO_PKG_VERSION").split('.');
        for name in ["MajorVersion", "MinorVersion", "MicroVersion"] {
            put(&format!("attr/PVAddons/{name}"), version.next().unwrap_or("0").into());
        }
        put("attr/PVAddons/BuildVersion", "0".into());
        put("attr/PVAddons/Installed", "1".into());
        for (number, mac) in vifs {
            let addresses = self.adapters.iter().filter(|adapter| adapter.mac == *mac);
            let addresses: Vec<IpAddr> = addresses.flat_map(|adapter| adapter.addresses.iter().copied()).collect();
            let mut counts = [0; 2];
            for address in addresses.into_iter().take(ADDRESSES) {
                let family = usize::from(address.is_ipv6());
                put(&format!("attr/vif/{number}/{}/{}", FAMILIES[family], counts[family]), address.to_string());
                counts[family] += 1;
            }
        }
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stand_under_the_number_of_their_card() {
        let facts = Facts {
            host: "PC".into(),
            domain: "example.org".into(),
            adapters: vec![
                Adapter { mac: [0, 0x16, 0x3e, 0, 0, 9], addresses: vec!["192.0.2.9".parse().unwrap()] },
                Adapter {
                    mac: [0, 0x16, 0x3e, 0, 0, 1],
                    addresses: ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(|text| text.parse().unwrap()).into(),
                },
            ],
            ..Facts::default()
        };
        let nodes = facts.nodes(&[(3, [0, 0x16, 0x3e, 0, 0, 1]), (4, [2; 6])]);
        let vif: Vec<_> = nodes.iter().filter(|(path, _)| path.starts_with("attr/vif")).collect();
        let expected = [
            ("attr/vif/3/ipv4/0", "192.0.2.1"),
            ("attr/vif/3/ipv4/1", "192.0.2.2"),
            ("attr/vif/3/ipv6/0", "2001:db8::1"),
        ];
        assert_eq!(vif.len(), expected.len());
        for ((path, value), expected) in vif.into_iter().zip(expected) {
            assert_eq!((path.as_str(), value.as_str()), expected);
        }
        assert_eq!(nodes["data/host_name_dns"], "PC.example.org");
    }

    #[test]
    fn a_mac_is_six_bytes() {
        assert_eq!(parse_mac("00:16:3e:Ab:02:03"), Some([0, 0x16, 0x3e, 0xab, 2, 3]));
        for wrong in
            ["", "00:16:3e:01:02", "00:16:3e:01:02:03:04", "00:16:3e:01:02:0g", "0:16:3e:01:02:03", "+1:16:3e:01:02:03"]
        {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let facts = Facts { name: "ü".repeat(200), ..Facts::default() };
        assert_eq!(facts.nodes(&[])["data/os_name"], "ü".repeat(128));
    }
}

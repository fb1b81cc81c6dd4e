//! What an INF says of its package, as far as it tells one package from another.
//! <https://learn.microsoft.com/windows-hardware/drivers/install/inf-version-section>

use std::fmt;

/// A version of four numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub [u16; 4]);

impl Version {
    /// From `1.2.3` or `1.2.3.4`; missing numbers are 0.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = [0; 4];
        let parts: Vec<&str> = text.trim().split('.').collect();
        if parts.len() > numbers.len() {
            return None;
        }
        for (number, part) in numbers.iter_mut().zip(&parts) {
            *number = part.parse().ok()?;
        }
        Some(Self(numbers))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch, build] = self.0;
        write!(f, "{major}.{minor}.{patch}")?;
        if build == 0 { Ok(()) } else { write!(f, ".{build}") }
    }
}

/// What tells a driver package from others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `CatalogFile`, in lower case: `xenpci.cat`. The published INF has another name than the package's.
    pub catalog: String,
    /// `Provider`.
    pub provider: String,
    /// The version of `DriverVer`.
    pub version: Version,
}

/// The text of an INF's bytes: UTF-16 with a byte-order mark, or one byte a character.
fn text(bytes: &[u8]) -> String {
    match bytes {
        [0xff, 0xfe, rest @ ..] => {
            let units: Vec<u16> = rest.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
            String::from_utf16_lossy(&units)
        }
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

fn unquoted(value: &str) -> &str {
    let value = value.trim();
    match value.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
        Some((inside, _)) => inside,
        None => value.split(';').next().unwrap_or_default().trim(),
    }
}

impl Identity {
    /// Reads it. What the INF does not say is empty.
    pub fn of_inf(bytes: &[u8]) -> Self {
        let text = text(bytes);
        let mut section = String::new();
        let (mut version, mut strings) = (Vec::new(), Vec::new());
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                section = name.0.trim().to_ascii_lowercase();
            } else if let Some((key, value)) = line.split_once('=') {
                let entry = (key.trim().to_ascii_lowercase(), unquoted(value).to_owned());
                match section.as_str() {
                    "version" => version.push(entry),
                    "strings" => strings.push(entry),
                    _ => {}
                }
            }
        }
        let find = |list: &[(String, String)], key: &str| {
            list.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let value = |key: &str| {
            let value = find(&version, key);
            match value.strip_prefix('%').and_then(|rest| rest.strip_suffix('%')) {
                Some(token) => find(&strings, &token.to_ascii_lowercase()),
                None => value,
            }
        };
        // A catalog may be named for one architecture alone.
        let catalog = ["catalogfile", "catalogfile.ntamd64", "catalogfile.nt"]
            .map(value)
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_default();
        let number = value("driverver");
        let number = number.split_once(',').map_or("", |(_, number)| number);
        Self {
            catalog: catalog.to_ascii_lowercase(),
            provider: value("provider"),
            version: Version::parse(number).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inf_tells_whose_it_is() {
        let inf = "; comment\r\n[Version]\r\nProvider = %Provider% ; who\r\nCatalogFile=XenPci.cat\r\n\
                   DriverVer = 11/22/2026,0.1.0.0\r\n[Other]\r\nProvider=x\r\n[Strings]\r\nprovider = \"Xen; PV\"\r\n";
        let expected =
            Identity { catalog: "xenpci.cat".into(), provider: "Xen; PV".into(), version: Version([0, 1, 0, 0]) };
        assert_eq!(Identity::of_inf(inf.as_bytes()), expected);
        let wide: Vec<u8> = [0xff, 0xfe].into_iter().chain(inf.encode_utf16().flat_map(u16::to_le_bytes)).collect();
        assert_eq!(Identity::of_inf(&wide), expected);
        assert_eq!(Identity::of_inf(b"\xff\xfe\x00"), Identity::default());
        assert_eq!(Identity::of_inf(b"[Version]\nCatalogFile.NTamd64 = a.cat").catalog, "a.cat");
    }

    #[test]
    fn versions_are_numbers() {
        assert!(Version::parse("0.10.0") > Version::parse("0.9.9.9"));
        assert_eq!(Version::parse("1.2"), Some(Version([1, 2, 0, 0])));
        for wrong in ["", "1.2.3.4.5", "1.x", "70000"] {
            assert_eq!(Version::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Version([1, 2, 3, 0]).to_string(), "1.2.3");
    }
}

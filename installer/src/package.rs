//! What is installed: a folder with `package.json`, which names every file and its check sum.

use std::fmt::Write as _;
use std::io;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::inf::{Identity, Version};
use crate::machine::Machine;

/// The list's name.
pub const LIST: &str = "package.json";
/// The certificate that a package signed for tests has to have trusted.
pub const AUTHORITY: &str = "test-authority.cer";
/// Most bytes of a package, and so of what is read into memory: ten times what it has.
const MOST: u64 = 256 << 20;

/// How the drivers are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signature {
    /// By Microsoft or with a certificate that Windows trusts.
    Release,
    /// With a test certificate: Windows loads them in its test mode alone.
    Test,
}

/// A file of the package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageFile {
    /// Its path below the package, with `/`.
    pub path: String,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
}

#[derive(Deserialize)]
struct List {
    version: String,
    signature: Signature,
    files: Vec<PackageFile>,
}

/// A package that is whole.
#[derive(Clone, Debug)]
pub struct Package {
    /// Where it lies.
    pub folder: String,
    /// Its version.
    pub version: Version,
    /// How its drivers are signed.
    pub signature: Signature,
    /// Its files, without the list.
    pub files: Vec<PackageFile>,
}

/// A check sum as text.
pub fn sum(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether a path stays below the folder that it starts at, on Windows too.
fn stays_below(path: &str) -> bool {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    !path.is_empty()
        && path
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.') && part.chars().all(plain))
}

impl Package {
    /// Reads the list and checks every file against it.
    ///
    /// # Errors
    /// [`Error::Package`]: something is missing, or is not what the list says.
    pub fn open(machine: &impl Machine, folder: &str) -> Result<Self, Error> {
        let wrong = |what: String| Error::Package(format!("{folder}: {what}"));
        let read = |name: &str| -> Result<Vec<u8>, Error> {
            let path = join(folder, name);
            match machine.read(&path) {
                Ok(Some(content)) => Ok(content),
                Ok(None) => Err(Error::Package(format!("{path} is missing"))),
                Err(error) => Err(Error::Package(format!("{path} cannot be read: {error}"))),
            }
        };
        let list: List = serde_json::from_slice(&read(LIST)?).map_err(|error| wrong(format!("{LIST}: {error}")))?;
        let version =
            Version::parse(&list.version).ok_or_else(|| wrong(format!("`{}` is not a version", list.version)))?;
        if list.files.iter().try_fold(0_u64, |all, file| all.checked_add(file.size)).is_none_or(|all| all > MOST) {
            return Err(wrong(format!("{LIST} names more than {MOST} bytes")));
        }
        for file in &list.files {
            if !stays_below(&file.path) || file.path == LIST {
                return Err(wrong(format!("{LIST} names `{}`", file.path.escape_debug())));
            }
            let content = read(&file.path)?;
            if content.len() as u64 != file.size || sum(&content) != file.sha256 {
                return Err(wrong(format!("{} is damaged: it is not what {LIST} says", file.path)));
            }
        }
        Ok(Self { folder: folder.to_owned(), version, signature: list.signature, files: list.files })
    }

    /// The file of that path.
    pub fn file(&self, path: &str) -> Option<&PackageFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Bytes that it takes.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// A file's content, which is once more what the list says.
    ///
    /// # Errors
    /// It cannot be read or has changed.
    pub fn content(&self, machine: &impl Machine, path: &str, sha256: &str) -> io::Result<Vec<u8>> {
        let from = join(&self.folder, path);
        let content = machine.read(&from)?.ok_or_else(|| io::Error::other(format!("{from} is not there any more")))?;
        if path != LIST && sum(&content) != sha256 {
            return Err(io::Error::other(format!("{from} has changed")));
        }
        Ok(content)
    }

    /// What the INF of one of its drivers says.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn identity(&self, machine: &impl Machine, driver: &str) -> io::Result<Identity> {
        let path = join(&self.folder, &inf(driver));
        let content = machine.read(&path)?.ok_or_else(|| io::Error::other(format!("{path} is not there")))?;
        Ok(Identity::of_inf(&content))
    }
}

/// The path of a driver's INF in a package.
pub fn inf(driver: &str) -> String {
    format!("drivers/{driver}/{driver}.inf")
}

/// A path of the package below a folder of Windows.
pub fn join(folder: &str, path: &str) -> String {
    format!(r"{folder}\{}", path.replace('/', r"\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out() {
        for good in ["setup.exe", "drivers/xenpci/xenpci.inf", "a-b_c.1"] {
            assert!(stays_below(good), "{good}");
        }
        for bad in ["", "/x", "a//b", "../x", "a/../b", r"a\b", "C:x", "a/", ".x", "con ", "x.", "\u{fc}"] {
            assert!(!stays_below(bad), "{bad}");
        }
    }
}

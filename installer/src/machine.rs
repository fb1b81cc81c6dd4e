//! The machine that is changed, as far as the setup needs it: before, in and after each call the power may go off.

use std::io;

use serde::{Deserialize, Serialize};

use crate::inf::Identity;

/// A registry value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// `REG_SZ`.
    Text(String),
    /// `REG_DWORD`.
    Number(u32),
}

/// A driver package in Windows' driver store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDriver {
    /// The INF's name in `%SystemRoot%\INF`: `oem12.inf`.
    pub published: String,
    /// What its INF says of it.
    pub identity: Identity,
}

/// What a program left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub text: String,
}

/// The store of certificates of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CertificateStore {
    /// Authorities that are trusted.
    Root,
    /// Publishers whose drivers are installed without a question.
    TrustedPublisher,
}

/// See the module. Paths and keys are Windows'; every key is below `HKEY_LOCAL_MACHINE`. What is to be removed and is not
/// there is no error.
pub trait Machine {
    /// A file's content; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;

    /// Writes a file and waits until it is on the disk. A power cut may leave a part of it.
    ///
    /// # Errors
    /// No space; somebody else has it open.
    fn write(&self, path: &str, content: &[u8]) -> io::Result<()>;

    /// Gives a file another name, in place of one that has it. It is done or it is not.
    ///
    /// # Errors
    /// Somebody else has one of them open.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Somebody else has it open.
    fn remove_file(&self, path: &str) -> io::Result<()>;

    /// Whether there is a folder of that name.
    fn has_folder(&self, path: &str) -> bool;

    /// Makes a folder; its parent is there.
    ///
    /// # Errors
    /// Windows refuses.
    fn make_folder(&self, path: &str) -> io::Result<()>;

    /// Removes a folder if nothing is in it.
    ///
    /// # Errors
    /// Windows refuses.
    fn remove_folder(&self, path: &str) -> io::Result<()>;

    /// Whether there is a key of that name.
    fn has_key(&self, key: &str) -> bool;

    /// Makes a key.
    ///
    /// # Errors
    /// Windows refuses.
    fn make_key(&self, key: &str) -> io::Result<()>;

    /// Removes a key if nothing is in it.
    ///
    /// # Errors
    /// Windows refuses.
    fn remove_key(&self, key: &str) -> io::Result<()>;

    /// Removes a key and all that is in it.
    ///
    /// # Errors
    /// Windows refuses.
    fn remove_tree(&self, key: &str) -> io::Result<()>;

    /// The names of a key's values; none if there is no key.
    ///
    /// # Errors
    /// They cannot be read.
    fn value_names(&self, key: &str) -> io::Result<Vec<String>>;

    /// A value; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be read, or is of another type.
    fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>>;

    /// Sets a value; its key is there.
    ///
    /// # Errors
    /// Windows refuses.
    fn set_value(&self, key: &str, name: &str, value: &Value) -> io::Result<()>;

    /// Removes a value.
    ///
    /// # Errors
    /// Windows refuses.
    fn remove_value(&self, key: &str, name: &str) -> io::Result<()>;

    /// Waits until what was changed in the registry is on the disk.
    ///
    /// # Errors
    /// Windows refuses.
    fn flush_registry(&self) -> io::Result<()>;

    /// The driver packages in the store that did not come with Windows.
    ///
    /// # Errors
    /// The store cannot be read.
    fn stored_drivers(&self) -> io::Result<Vec<StoredDriver>>;

    /// Puts the package of that INF into the driver store and installs it on every device that it is the best for. The
    /// result is whether Windows has to be restarted.
    ///
    /// # Errors
    /// Windows refuses it.
    fn install_driver(&self, inf: &str) -> io::Result<bool>;

    /// Takes a package off every device and out of the driver store. The result is whether Windows has to be restarted.
    ///
    /// # Errors
    /// Windows refuses.
    fn remove_driver(&self, published: &str) -> io::Result<bool>;

    /// Forgets every device, present or not, of that enumerator and for that service. The result is whether Windows has to
    /// be restarted.
    ///
    /// # Errors
    /// Windows refuses.
    fn remove_devices(&self, enumerator: &str, service: &str) -> io::Result<bool>;

    /// Stops a service, and waits until it has. One that does not run has stopped.
    ///
    /// # Errors
    /// Windows refuses; it does not stop.
    fn stop_service(&self, name: &str) -> io::Result<()>;

    /// Removes a service from the service manager.
    ///
    /// # Errors
    /// Windows refuses.
    fn remove_service(&self, name: &str) -> io::Result<()>;

    /// Whether a certificate is in a store, by the SHA-256 of its bytes.
    ///
    /// # Errors
    /// The store cannot be read.
    fn has_certificate(&self, store: CertificateStore, sha256: &str) -> io::Result<bool>;

    /// Puts a certificate into a store.
    ///
    /// # Errors
    /// Windows refuses.
    fn add_certificate(&self, store: CertificateStore, certificate: &[u8]) -> io::Result<()>;

    /// Takes a certificate out of a store, by the SHA-256 of its bytes.
    ///
    /// # Errors
    /// Windows refuses.
    fn remove_certificate(&self, store: CertificateStore, sha256: &str) -> io::Result<()>;

    /// Runs a program to its end.
    ///
    /// # Errors
    /// It cannot be started.
    fn run(&self, program: &str, arguments: &[&str]) -> io::Result<Output>;

    /// The drive that Windows is on: `C:`.
    fn system_drive(&self) -> String;

    /// Where Windows' own programs are: `C:\Windows\System32`.
    fn system_folder(&self) -> String;

    /// `bcdedit` and `manage-bde`.
    fn boot_tool(&self) -> &dyn bootcfg::Tool;

    /// Writes a line into the log.
    fn note(&self, line: &str);
}

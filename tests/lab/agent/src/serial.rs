//! A guest's first serial port: the pty that the device model makes for `serial='pty'`, read to the end.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;

use crate::dom0::run;
use crate::store;

/// See the module.
pub struct Serial(Arc<Mutex<Vec<u8>>>);

impl Serial {
    /// Opens the pty of a domain and reads from then on: into the evidence, and for [`Self::bytes`].
    pub fn open(domain: u16, evidence: &Path) -> anyhow::Result<Self> {
        let path = store::read(&format!("/local/domain/{domain}/serial/0/tty"))?;
        // No echo, no change of line ends, and not this program's terminal.
        run("stty", &["-F", &path, "raw", "-echo"])?;
        let mut pty = OpenOptions::new().read(true).custom_flags(libc::O_NOCTTY).open(&path).context("no pty")?;
        let mut file = File::create(evidence.join("serial"))?;
        let kept = Arc::new(Mutex::new(Vec::new()));
        let ours = Arc::clone(&kept);
        // It ends when the device model closes its side.
        std::thread::Builder::new().name("serial".into()).spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = pty.read(&mut piece) {
                ours.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..count]);
                if file.write_all(&piece[..count]).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self(kept))
    }

    /// What came so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

//! The user-mode side of the modelled Windows: its registry, `bcdedit`, `manage-bde` and the way to xenstore, for the real
//! code of the installer and the service.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::time::Duration;

use bcd_model::Bcd;
use bootcfg::Tool;
use bootcfg::registry::Registry;
use bootcfg::tool::Output;
use nt::reg::hive::{self, Hive, HiveError, KeyId};
use shutdownmon::arming::facts::Nodes;
use shutdownmon::arming::{End, Wait};

use super::order::{self, file};

const CONTROL_SET: &str = r"\Registry\Machine\System\CurrentControlSet";

fn failed(error: HiveError) -> io::Error {
    io::Error::other(format!("{error:?}"))
}

/// The personality's registry as a program sees it.
pub struct Registers;

impl Registers {
    /// What stands at a key; none: it, or what is looked for, is not there.
    pub fn at<T>(key: &str, look: impl FnOnce(&mut Hive, KeyId) -> Result<T, HiveError>) -> io::Result<Option<T>> {
        let outcome = nt::reg::with(|hive| {
            let key = hive.open(None, &format!(r"{CONTROL_SET}\{key}"))?;
            look(hive, key)
        });
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(HiveError::NotFound) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Sets a value, and makes its key.
    pub fn put(key: &str, name: &str, kind: u32, data: Vec<u8>) -> io::Result<()> {
        let now = nt::io::kernel::now();
        nt::reg::with(|hive| {
            let key = hive.create_path(&format!(r"{CONTROL_SET}\{key}"), now)?;
            hive.set_value(key, name, kind, data, now)
        })
        .map_err(failed)
    }
}

impl Registry for Registers {
    fn number(&self, key: &str, name: &str) -> io::Result<Option<u32>> {
        let value = Self::at(key, |hive, key| hive.value(key, name).cloned())?;
        let number = value.map(|value| <[u8; 4]>::try_from(value.data.as_slice()).map(u32::from_le_bytes));
        number.transpose().map_err(|_| io::Error::other(format!(r"{key}\{name} is no number")))
    }

    fn text(&self, key: &str, name: &str) -> io::Result<Option<String>> {
        Self::at(key, |hive, key| hive.value(key, name).map(|value| hive::sz_text(&value.data)))
    }

    fn values(&self, key: &str) -> io::Result<Vec<String>> {
        let names = Self::at(key, |hive, key| Ok(hive.values(key)?.iter().map(|value| value.name.clone()).collect()))?;
        Ok(names.unwrap_or_default())
    }

    fn exists(&self, key: &str) -> io::Result<bool> {
        Ok(Self::at(key, |_, _| Ok(()))?.is_some())
    }

    fn set_number(&self, key: &str, name: &str, value: u32) -> io::Result<()> {
        Self::put(key, name, hive::REG_DWORD, value.to_le_bytes().to_vec())
    }

    fn set_text(&self, key: &str, name: &str, value: &str) -> io::Result<()> {
        Self::put(key, name, hive::REG_SZ, hive::sz(value))
    }

    fn remove_value(&self, key: &str, name: &str) -> io::Result<()> {
        let now = nt::io::kernel::now();
        Self::at(key, |hive, key| hive.delete_value(key, name, now)).map(drop)
    }

    fn remove_key(&self, key: &str) -> io::Result<()> {
        let now = nt::io::kernel::now();
        Self::at(key, |hive, key| hive.delete_tree(key, now)).map(drop)
    }

    fn flush(&self) -> io::Result<()> {
        nt::reg::flush();
        Ok(())
    }
}

/// The programs, on the store of the machine's folder. A change is on the disk when `bcdedit` returns.
pub struct Programs<'c> {
    folder: &'c Path,
    store: RefCell<Bcd>,
    bit_locker: i32,
    /// Changes until the power goes.
    left: Cell<Option<u32>>,
}

impl<'c> Programs<'c> {
    /// The programs of a machine.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn new(order: &'c order::Order) -> anyhow::Result<Self> {
        let left = match order.dies {
            Some(order::Death::BootChange(left)) => Some(left),
            _ => None,
        };
        Ok(Self {
            folder: &order.folder,
            store: RefCell::new(serde_json::from_str(&order::get(&order.folder, file::BOOT)?)?),
            bit_locker: order.bit_locker,
            left: Cell::new(left),
        })
    }
}

impl Tool for Programs<'_> {
    fn bcdedit(&self, arguments: &[&str]) -> io::Result<Output> {
        let mut store = self.store.borrow_mut();
        let output = store.bcdedit(arguments);
        if arguments.first() != Some(&"/enum") {
            order::put(self.folder, file::BOOT, serde_json::to_vec(&*store)?).map_err(io::Error::other)?;
            if let Some(left) = self.left.get() {
                self.left.set(left.checked_sub(1));
                if left <= 1 {
                    process::cut_power();
                }
            }
        }
        Ok(Output { code: Some(output.code), text: output.text })
    }

    fn manage_bde(&self, _arguments: &[&str]) -> io::Result<Option<Output>> {
        Ok(Some(Output { code: Some(self.bit_locker), text: String::new() }))
    }
}

/// xenstore as the domain sees it.
pub struct Xenstore<'c>(pub &'c process::Ctx);

impl Xenstore<'_> {
    fn path(&self, path: &str) -> String {
        if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/local/domain/{}/{path}", self.0.xen(|xen| xen.domid()))
        }
    }
}

impl Nodes for Xenstore<'_> {
    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let path = self.path(path);
        Ok(self.0.xen(|xen| xen.store().directory(&path)))
    }

    fn read(&self, path: &str) -> io::Result<Option<String>> {
        let path = self.path(path);
        Ok(self.0.xen(|xen| xen.store().read(&path)).and_then(|value| String::from_utf8(value).ok()))
    }
}

/// Simulated time, and an orderly shutdown or a power cut at its time.
pub struct Clock<'c> {
    /// The run.
    pub ctx: &'c process::Ctx,
    /// Milliseconds so far.
    pub now: Cell<u64>,
    /// When Windows is shut down.
    pub shutdown: u64,
    /// When the power goes.
    pub power_cut: Option<u64>,
    /// What Windows does by the way, as time passes.
    pub meanwhile: &'c dyn Fn(u64),
}

impl Wait for Clock<'_> {
    fn wait(&self, time: Duration) -> Option<End> {
        let until = self.now.get() + time.as_millis() as u64;
        while self.now.get() < until {
            if self.power_cut.is_some_and(|when| self.now.get() >= when) {
                process::cut_power();
            }
            if self.now.get() >= self.shutdown {
                return Some(End::Shutdown);
            }
            self.ctx.sleep_ms(500);
            self.now.set(self.now.get() + 500);
            (self.meanwhile)(self.now.get());
        }
        None
    }
}

//! A Windows of plain data, on which the power goes off after a given number of changes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bcd_model::Bcd;
use bootcfg::Tool;
use installer::inf::Identity;
use installer::machine::{CertificateStore, Machine, Output, StoredDriver, Value};
use installer::package::{join, sum};

/// An object of the boot store: its identifier, and its elements with their values.
pub type BootObject = (String, Vec<(String, Vec<String>)>);
/// Keys and their values.
type Registry = BTreeMap<String, BTreeMap<String, Value>>;

/// What is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub files: BTreeMap<String, Vec<u8>>,
    pub folders: BTreeSet<String>,
    pub registry: Registry,
    pub drivers: Vec<(String, Vec<u8>)>,
    pub services: BTreeSet<String>,
    /// Scheduled tasks: name, and what is run at the start.
    pub tasks: BTreeMap<String, String>,
    pub certificates: BTreeSet<(CertificateStore, Vec<u8>)>,
    pub boot: Vec<BootObject>,
}

/// What becomes of changes of the registry that were not flushed, when the power goes off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lazy {
    /// They were on the disk already.
    Kept,
    /// They are lost.
    Lost,
}

pub struct Fake {
    state: RefCell<State>,
    /// The registry on the disk.
    durable: RefCell<Registry>,
    bcd: RefCell<Bcd>,
    /// Changes until the power goes off.
    fuel: Cell<Option<u32>>,
    changes: Cell<u32>,
    numbers: Cell<u32>,
    pub bit_locker: Cell<bool>,
    /// The task scheduler is switched off.
    pub no_tasks: Cell<bool>,
    pub free_bytes: Cell<Option<usize>>,
    pub open: RefCell<BTreeSet<String>>,
    pub log: RefCell<Vec<String>>,
}

pub const ROOT: &str = r"C:\Program Files\Xen PV";
const SERVICES: &str = r"SYSTEM\CurrentControlSet\Services";

/// A package in `folder`: its drivers, and what else differs between versions.
pub fn package(fake: &Fake, folder: &str, version: &str, drivers: &[&str]) {
    package_with(fake, folder, version, drivers, &[]);
}

/// The same with further files.
pub fn package_with(fake: &Fake, folder: &str, version: &str, drivers: &[&str], more: &[&str]) {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for name in drivers {
        let inf = format!(
            "[Version]\nProvider=\"Xen PV drivers\"\nCatalogFile={name}.cat\nDriverVer=01/01/2026,{version}.0\n"
        );
        files.push((format!("drivers/{name}/{name}.inf"), inf.into_bytes()));
        files.push((format!("drivers/{name}/{name}.sys"), format!("{name} {version}").into_bytes()));
    }
    for name in ["shutdownmon.exe", "setup.exe", "xentool.exe"].iter().chain(more) {
        files.push(((*name).to_owned(), format!("{name} {version}").into_bytes()));
    }
    files.push(("test-authority.cer".into(), b"certificate".to_vec()));
    let list: Vec<String> = files
        .iter()
        .map(|(path, content)| format!(r#"{{"path":"{path}","sha256":"{}","size":{}}}"#, sum(content), content.len()))
        .collect();
    let text = format!(r#"{{"version":"{version}","signature":"test","files":[{}]}}"#, list.join(","));
    let mut state = fake.state.borrow_mut();
    state.folders.insert(folder.into());
    state.files.insert(join(folder, "package.json"), text.into_bytes());
    for (path, content) in files {
        state.files.insert(join(folder, &path), content);
    }
}

impl Fake {
    fn schtasks(state: &mut State, arguments: &[&str], off: bool) -> Output {
        let there = match arguments {
            ["/create", "/tn", name, "/sc", "onstart", "/ru", "SYSTEM", "/tr", command, "/f"] if !off => {
                state.tasks.insert((*name).into(), (*command).into());
                true
            }
            ["/query", "/tn", name] => state.tasks.contains_key(*name),
            ["/delete", "/tn", name, "/f"] => state.tasks.remove(*name).is_some(),
            _ => false,
        };
        Output { code: i32::from(!there), text: if there { String::new() } else { "ERROR: no".into() } }
    }

    pub fn new() -> Self {
        let bcd = Bcd::installed();
        let registry: Registry = [
            r"SOFTWARE\Microsoft\Windows\CurrentVersion\RunOnce",
            r"SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall",
            SERVICES,
            r"SYSTEM\CurrentControlSet\Services\storahci",
        ]
        .iter()
        .map(|key| ((*key).to_owned(), BTreeMap::new()))
        .collect();
        Self {
            state: RefCell::new(State { registry: registry.clone(), ..State::default() }),
            durable: RefCell::new(registry),
            bcd: RefCell::new(bcd),
            fuel: Cell::new(None),
            changes: Cell::new(0),
            numbers: Cell::new(0),
            bit_locker: Cell::new(false),
            no_tasks: Cell::new(false),
            free_bytes: Cell::new(None),
            open: RefCell::default(),
            log: RefCell::default(),
        }
    }

    pub fn edit(&self) -> std::cell::RefMut<'_, State> {
        self.state.borrow_mut()
    }

    /// All that is there, to be compared.
    pub fn snapshot(&self) -> State {
        let objects = self.bcd.borrow().objects().to_vec();
        let boot = objects.into_iter().map(|object| (object.id, object.elements)).collect();
        State { boot, ..self.state.borrow().clone() }
    }

    /// Changes since it was made.
    pub fn changes(&self) -> u32 {
        self.changes.get()
    }

    /// The power goes off instead of the change after so many.
    pub fn cut_after(&self, changes: u32) {
        self.fuel.set(Some(changes));
    }

    /// The power is back.
    pub fn power_on(&self, lazy: Lazy) {
        if self.fuel.take() == Some(0) && lazy == Lazy::Lost {
            self.state.borrow_mut().registry = self.durable.borrow().clone();
        }
        *self.durable.borrow_mut() = self.state.borrow().registry.clone();
    }

    /// Switches the machine on: the options of what the boot manager starts.
    pub fn boot(&self) -> String {
        self.bcd.borrow_mut().start().expect("something starts").options
    }

    fn spend(&self) -> io::Result<()> {
        match self.fuel.get() {
            Some(0) => return Err(io::Error::other("the power is off")),
            Some(left) => self.fuel.set(Some(left - 1)),
            None => {}
        }
        self.changes.set(self.changes.get() + 1);
        Ok(())
    }

    fn on(&self) -> io::Result<()> {
        if self.fuel.get() == Some(0) { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn locked(&self, path: &str) -> io::Result<()> {
        if self.open.borrow().contains(path) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "another program has it open"));
        }
        Ok(())
    }

    fn parent(path: &str) -> &str {
        path.rsplit_once('\\').map_or("", |(parent, _)| parent)
    }
}

impl Machine for Fake {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        self.on()?;
        Ok(self.state.borrow().files.get(path).cloned())
    }

    fn write(&self, path: &str, content: &[u8]) -> io::Result<()> {
        assert!(self.has_folder(Self::parent(path)), "{path} has no folder");
        self.locked(path)?;
        if self.free_bytes.get().is_some_and(|free| content.len() > free) {
            self.state.borrow_mut().files.insert(path.into(), content[..content.len() / 2].to_vec());
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        if let Err(error) = self.spend() {
            if self.fuel.get() == Some(0) {
                self.state.borrow_mut().files.insert(path.into(), content[..content.len() / 2].to_vec());
            }
            return Err(error);
        }
        self.state.borrow_mut().files.insert(path.into(), content.to_vec());
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.locked(to)?;
        self.spend()?;
        let mut state = self.state.borrow_mut();
        let content = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.into(), content);
        Ok(())
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.locked(path)?;
        self.spend()?;
        self.state.borrow_mut().files.remove(path);
        Ok(())
    }

    fn has_folder(&self, path: &str) -> bool {
        self.state.borrow().folders.contains(path)
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        self.spend()?;
        self.state.borrow_mut().folders.insert(path.into());
        Ok(())
    }

    fn remove_folder(&self, path: &str) -> io::Result<()> {
        self.spend()?;
        let mut state = self.state.borrow_mut();
        let inside = format!(r"{path}\");
        let full = state.files.keys().chain(&state.folders).any(|name| name.starts_with(&inside));
        if !full {
            state.folders.remove(path);
        }
        Ok(())
    }

    fn has_key(&self, key: &str) -> bool {
        self.state.borrow().registry.contains_key(key)
    }

    fn make_key(&self, key: &str) -> io::Result<()> {
        self.spend()?;
        self.state.borrow_mut().registry.entry(key.into()).or_default();
        Ok(())
    }

    fn remove_key(&self, key: &str) -> io::Result<()> {
        self.spend()?;
        let mut state = self.state.borrow_mut();
        let inside = format!(r"{key}\");
        let full = state.registry.keys().any(|name| name.starts_with(&inside))
            || state.registry.get(key).is_some_and(|values| !values.is_empty());
        if !full {
            state.registry.remove(key);
        }
        Ok(())
    }

    fn remove_tree(&self, key: &str) -> io::Result<()> {
        self.spend()?;
        let inside = format!(r"{key}\");
        self.state.borrow_mut().registry.retain(|name, _| name != key && !name.starts_with(&inside));
        Ok(())
    }

    fn value_names(&self, key: &str) -> io::Result<Vec<String>> {
        self.on()?;
        let state = self.state.borrow();
        Ok(state.registry.get(key).map_or_else(Vec::new, |values| values.keys().cloned().collect()))
    }

    fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>> {
        self.on()?;
        Ok(self.state.borrow().registry.get(key).and_then(|values| values.get(name)).cloned())
    }

    fn set_value(&self, key: &str, name: &str, value: &Value) -> io::Result<()> {
        self.spend()?;
        let mut state = self.state.borrow_mut();
        let values = state.registry.get_mut(key).ok_or(io::ErrorKind::NotFound)?;
        values.insert(name.into(), value.clone());
        Ok(())
    }

    fn remove_value(&self, key: &str, name: &str) -> io::Result<()> {
        self.spend()?;
        if let Some(values) = self.state.borrow_mut().registry.get_mut(key) {
            values.remove(name);
        }
        Ok(())
    }

    fn flush_registry(&self) -> io::Result<()> {
        self.spend()?;
        *self.durable.borrow_mut() = self.state.borrow().registry.clone();
        Ok(())
    }

    fn stored_drivers(&self) -> io::Result<Vec<StoredDriver>> {
        self.on()?;
        let state = self.state.borrow();
        let stored = |(published, inf): &(String, Vec<u8>)| StoredDriver {
            published: published.clone(),
            identity: Identity::of_inf(inf),
        };
        Ok(state.drivers.iter().map(stored).collect())
    }

    fn install_driver(&self, inf: &str) -> io::Result<bool> {
        self.spend()?;
        let mut state = self.state.borrow_mut();
        let content = state.files.get(inf).cloned().ok_or(io::ErrorKind::NotFound)?;
        if !state.drivers.iter().any(|(_, stored)| *stored == content) {
            self.numbers.set(self.numbers.get() + 1);
            state.drivers.push((format!("oem{}.inf", self.numbers.get()), content.clone()));
        }
        let name = Identity::of_inf(&content).catalog.replace(".cat", "");
        state.registry.entry(format!(r"{SERVICES}\{name}")).or_default();
        state.registry.entry(format!(r"{SERVICES}\{name}\Parameters")).or_default();
        // Windows writes the service's key through.
        let mut durable = self.durable.borrow_mut();
        durable.entry(format!(r"{SERVICES}\{name}")).or_default();
        durable.entry(format!(r"{SERVICES}\{name}\Parameters")).or_default();
        Ok(true)
    }

    fn remove_driver(&self, published: &str) -> io::Result<bool> {
        self.spend()?;
        self.state.borrow_mut().drivers.retain(|(name, _)| name != published);
        Ok(true)
    }

    fn remove_devices(&self, _enumerator: &str, _service: &str) -> io::Result<bool> {
        self.spend()?;
        Ok(false)
    }

    fn stop_service(&self, name: &str) -> io::Result<()> {
        self.spend()?;
        self.open.borrow_mut().remove(&format!(r"{ROOT}\{name}.exe"));
        Ok(())
    }

    fn remove_service(&self, name: &str) -> io::Result<()> {
        self.remove_tree(&format!(r"{SERVICES}\{name}"))?;
        self.state.borrow_mut().services.remove(&format!("{name}.exe"));
        Ok(())
    }

    fn has_certificate(&self, store: CertificateStore, sha256: &str) -> io::Result<bool> {
        self.on()?;
        Ok(self.state.borrow().certificates.iter().any(|(of, content)| *of == store && sum(content) == sha256))
    }

    fn add_certificate(&self, store: CertificateStore, certificate: &[u8]) -> io::Result<()> {
        self.spend()?;
        self.state.borrow_mut().certificates.insert((store, certificate.to_vec()));
        Ok(())
    }

    fn remove_certificate(&self, store: CertificateStore, sha256: &str) -> io::Result<()> {
        self.spend()?;
        self.state.borrow_mut().certificates.retain(|(of, content)| *of != store || sum(content) != sha256);
        Ok(())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> io::Result<Output> {
        self.spend()?;
        let mut state = self.state.borrow_mut();
        if program == r"C:\Windows\System32\schtasks.exe" {
            return Ok(Self::schtasks(&mut state, arguments, self.no_tasks.get()));
        }
        if !state.files.contains_key(program) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let name = program.rsplit('\\').next().unwrap_or_default().to_owned();
        match (name.as_str(), arguments) {
            // The service manager writes its keys through.
            ("shutdownmon.exe", ["install"]) => {
                state.services.insert(name);
                self.open.borrow_mut().insert(program.into());
                for registry in [&mut state.registry, &mut *self.durable.borrow_mut()] {
                    registry.entry(format!(r"{SERVICES}\shutdownmon")).or_default();
                }
            }
            ("shutdownmon.exe", ["uninstall"]) => {
                state.services.remove(&name);
                self.open.borrow_mut().remove(program);
                for registry in [&mut state.registry, &mut *self.durable.borrow_mut()] {
                    registry.retain(|key, _| !key.starts_with(&format!(r"{SERVICES}\shutdownmon")));
                }
            }
            ("xentool.exe", ["network", "remember", "--state", file]) => {
                state.folders.insert(Self::parent(file).into());
                state.files.insert((*file).into(), b"cards".to_vec());
            }
            ("xentool.exe", ["network", "copy", "--to", "emulated", "--state", file]) => {
                assert!(state.files.contains_key(*file));
            }
            _ => return Ok(Output { code: 2, text: format!("{name} does not know {arguments:?}") }),
        }
        Ok(Output { code: 0, text: "done\n".into() })
    }

    fn system_drive(&self) -> String {
        "C:".into()
    }

    fn system_folder(&self) -> String {
        r"C:\Windows\System32".into()
    }

    fn boot_tool(&self) -> &dyn Tool {
        self
    }

    fn note(&self, line: &str) {
        self.log.borrow_mut().push(line.into());
    }
}

impl Tool for Fake {
    fn bcdedit(&self, arguments: &[&str]) -> io::Result<bootcfg::tool::Output> {
        if arguments[0] == "/enum" {
            self.on()?;
        } else {
            self.spend()?;
        }
        let output = self.bcd.borrow_mut().bcdedit(arguments);
        Ok(bootcfg::tool::Output { code: Some(output.code), text: output.text })
    }

    fn manage_bde(&self, _arguments: &[&str]) -> io::Result<Option<bootcfg::tool::Output>> {
        self.on()?;
        let code = i32::from(!self.bit_locker.get());
        Ok(Some(bootcfg::tool::Output { code: Some(code), text: String::new() }))
    }
}

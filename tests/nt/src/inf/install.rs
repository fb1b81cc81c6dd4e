//! Installs a driver package from its INF: files, services, registry entries, filters.
//!
//! Works on a [`Hive`] and a [`Files`] and knows nothing of the running kernel. Sources:
//! <https://learn.microsoft.com/windows-hardware/drivers/install/inf-ddinstall-section>,
//! <https://learn.microsoft.com/windows-hardware/drivers/install/inf-addreg-directive>,
//! <https://learn.microsoft.com/windows-hardware/drivers/install/inf-addservice-directive>,
//! <https://learn.microsoft.com/windows-hardware/drivers/install/inf-addfilter-directive>.
use super::models::{ModelMatch, best_match, driver_version, install_section};
use super::parse::{Inf, InfError, Line, number};
use crate::reg::hive::{self, Hive, KeyId};
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Where the control set is.
pub const CONTROL_SET: &str = r"\Registry\Machine\SYSTEM\CurrentControlSet";

/// The system volume's driver files: full path in lower case, `\systemroot\...`, to content.
#[derive(Debug, Default)]
pub struct Files(BTreeMap<String, Arc<[u8]>>);

impl Files {
    /// The one form of a path that names a driver file: services name it relative to the system root, with
    /// `\SystemRoot`, or with a drive letter.
    pub fn normalize(path: &str) -> String {
        let path = path.trim().trim_matches('"').to_ascii_lowercase();
        for (prefix, root) in [
            (r"\systemroot\", r"\systemroot\"),
            (r"%systemroot%\", r"\systemroot\"),
            (r"\??\c:\windows\", r"\systemroot\"),
            (r"c:\windows\", r"\systemroot\"),
            (r"\", r"\"),
        ] {
            if let Some(rest) = path.strip_prefix(prefix) {
                return alloc::format!("{root}{rest}");
            }
        }
        alloc::format!(r"\systemroot\{path}")
    }

    /// Puts a file there.
    pub fn write(&mut self, path: &str, content: Arc<[u8]>) {
        self.0.insert(Self::normalize(path), content);
    }

    /// A file's content.
    pub fn read(&self, path: &str) -> Option<Arc<[u8]>> {
        self.0.get(&Self::normalize(path)).cloned()
    }

    /// All paths.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// An INF with the files next to it.
#[derive(Debug)]
pub struct Package {
    /// The INF's file name.
    pub name: String,
    /// The INF.
    pub inf: Inf,
    /// The files of its folder, by file name in lower case.
    pub files: BTreeMap<String, Arc<[u8]>>,
}

impl Package {
    /// A package out of the bytes of an INF and of the files next to it (`name`, content).
    ///
    /// # Errors
    /// The INF is not one.
    pub fn new(name: &str, inf: &[u8], files: impl IntoIterator<Item = (String, Arc<[u8]>)>) -> Result<Self, InfError> {
        let files = files.into_iter().map(|(name, content)| (name.to_ascii_lowercase(), content)).collect();
        Ok(Self { name: name.to_string(), inf: Inf::parse(inf)?, files })
    }

    /// The folder of the driver store that stands for `%13%`.
    pub(crate) fn store_folder(&self) -> String {
        alloc::format!(r"\SystemRoot\System32\DriverStore\FileRepository\{}_amd64", self.name.to_ascii_lowercase())
    }
}

/// All packages that are there to be installed.
#[derive(Debug, Default)]
pub struct Store {
    packages: Vec<Package>,
}

/// What an installation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// The service that drives the device. None for a null driver.
    pub service: Option<String>,
    /// `{class guid}\0000`: the software key below `Control\Class`.
    pub driver_key: String,
    /// Things that the INF asks for and that have no effect here, for the log.
    pub notes: Vec<String>,
}

impl Store {
    /// Adds a package.
    pub fn add(&mut self, package: Package) {
        self.packages.push(package);
    }

    /// The packages, in the order they were added.
    pub fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// The best package for a device: lowest rank, then newest `DriverVer`.
    pub fn best(&self, hardware: &[String], compatible: &[String]) -> Option<(usize, ModelMatch)> {
        let mut best: Option<(usize, ModelMatch)> = None;
        for (index, package) in self.packages.iter().enumerate() {
            let Some(found) = best_match(&package.inf, hardware, compatible) else { continue };
            let better = match &best {
                None => true,
                Some((other, old)) => {
                    let newer = driver_version(&package.inf) > driver_version(&self.packages[*other].inf);
                    found.rank < old.rank || (found.rank == old.rank && newer)
                }
            };
            if better {
                best = Some((index, found));
            }
        }
        best
    }

    /// Installs package `index` on the device whose instance key is `Enum\<instance>`.
    ///
    /// # Errors
    /// The install section is missing, a directive is malformed, or a file it copies is not in the package.
    pub fn install_device(
        &self,
        index: usize,
        found: &ModelMatch,
        instance: &str,
        hive: &mut Hive,
        files: &mut Files,
        now: u64,
    ) -> Result<Installed, InfError> {
        let package = &self.packages[index];
        let inf = &package.inf;
        let section = install_section(inf, &found.section)
            .ok_or_else(|| InfError::new(0, alloc::format!("there is no section [{}]", found.section)))?;
        let guid = inf
            .entry("Version", "ClassGuid")
            .ok_or_else(|| InfError::new(0, "[Version] has no ClassGuid"))?
            .to_ascii_lowercase();
        let class = inf.entry("Version", "Class").unwrap_or("Unknown").to_string();
        let mut work = Work { store: self, package, hive, files, now, notes: Vec::new() };

        let device_path = alloc::format!(r"{CONTROL_SET}\Enum\{instance}");
        let class_path = alloc::format!(r"{CONTROL_SET}\Control\Class\{guid}");
        let device = work.key(&device_path)?;
        work.set_sz(&class_path, "Class", &class)?;
        if let Some(class_install) = install_section(inf, "ClassInstall32") {
            work.registry(inf, &class_install, &Root::Plain(class_path.clone()))?;
        }

        let driver_key = work.software_key(device, &guid)?;
        let software = alloc::format!(r"{CONTROL_SET}\Control\Class\{driver_key}");
        for (name, text) in [
            ("InfPath", package.name.as_str()),
            ("InfSection", found.section.as_str()),
            ("DriverDesc", found.description.as_str()),
            ("ProviderName", inf.entry("Version", "Provider").unwrap_or("")),
            ("MatchingDeviceId", found.id.as_str()),
        ] {
            work.set_sz(&software, name, text)?;
        }
        for (name, text) in [
            ("Class", class.as_str()),
            ("ClassGUID", guid.as_str()),
            ("Driver", driver_key.as_str()),
            ("DeviceDesc", found.description.as_str()),
            ("Mfg", found.manufacturer.as_str()),
        ] {
            work.set_sz(&device_path, name, text)?;
        }

        work.copy_files(inf, &section)?;
        work.registry(inf, &section, &Root::Plain(software.clone()))?;
        if guid == super::net::CLASS {
            super::net::install(work.hive, &software, instance, now)
                .map_err(|error| InfError::new(0, alloc::format!("{software}: {error:?}")))?;
        }
        let root = Root::Device(device_path.clone());
        work.registry(inf, &alloc::format!("{section}.HW"), &root)?;
        work.filters(inf, &alloc::format!("{section}.Filters"), &device_path)?;
        let service = work.services(inf, &alloc::format!("{section}.Services"))?;
        if let Some(service) = &service {
            work.set_sz(&device_path, "Service", service)?;
        }
        work.set_dword(&device_path, "ConfigFlags", 0)?;
        let notes = work.notes;
        Ok(Installed { service, driver_key, notes })
    }

    /// Installs the package's `[DefaultInstall]`: a driver without a device. None where it has no such section.
    ///
    /// # Errors
    /// As [`Self::install_device`].
    pub fn install_default(
        &self,
        index: usize,
        hive: &mut Hive,
        files: &mut Files,
        now: u64,
    ) -> Result<Option<Installed>, InfError> {
        let package = &self.packages[index];
        let inf = &package.inf;
        let Some(section) = install_section(inf, "DefaultInstall") else { return Ok(None) };
        let mut work = Work { store: self, package, hive, files, now, notes: Vec::new() };
        work.copy_files(inf, &section)?;
        work.registry(inf, &section, &Root::None)?;
        let service = work.services(inf, &alloc::format!("{section}.Services"))?;
        let notes = work.notes;
        Ok(Some(Installed { service, driver_key: String::new(), notes }))
    }
}

/// What `HKR` stands for.
enum Root {
    /// Nothing: the section has no relative root.
    None,
    /// That key.
    Plain(String),
    /// A device's instance key: values that are device properties go there, all else below `Device Parameters`.
    Device(String),
}

/// Values of an `.HW` section that are properties of the device, not parameters of it.
const DEVICE_PROPERTIES: [&str; 9] = [
    "UpperFilters",
    "LowerFilters",
    "Security",
    "DeviceType",
    "DeviceCharacteristics",
    "Exclusive",
    "FriendlyName",
    "ConfigFlags",
    "Capabilities",
];

mod flag {
    pub const NO_CLOBBER: u64 = 0x2;
    pub const DELETE_VALUE: u64 = 0x4;
    pub const APPEND: u64 = 0x8;
    pub const KEY_ONLY: u64 = 0x10;
    pub const OVERWRITE_ONLY: u64 = 0x20;
    pub const TYPE_MASK: u64 = 0xFFFF_0001;
    pub const SZ: u64 = 0;
    pub const BINARY: u64 = 1;
    pub const MULTI_SZ: u64 = 0x1_0000;
    pub const EXPAND_SZ: u64 = 0x2_0000;
    pub const DWORD: u64 = 0x1_0001;
    pub const NONE: u64 = 0x2_0001;
    pub const DELETE_KEY_OR_STRING: u64 = 0x1_8002;
}

struct Work<'a> {
    store: &'a Store,
    package: &'a Package,
    hive: &'a mut Hive,
    files: &'a mut Files,
    now: u64,
    notes: Vec<String>,
}

fn at(line: &Line, what: impl Into<String>) -> InfError {
    InfError::new(line.number, what)
}

impl Work<'_> {
    fn key(&mut self, path: &str) -> Result<KeyId, InfError> {
        self.hive
            .create_path(path, self.now)
            .map_err(|error| InfError::new(0, alloc::format!("the key {path} cannot be made: {error:?}")))
    }

    fn set(&mut self, path: &str, name: &str, kind: u32, data: Vec<u8>) -> Result<(), InfError> {
        let key = self.key(path)?;
        self.hive
            .set_value(key, name, kind, data, self.now)
            .map_err(|error| InfError::new(0, alloc::format!("{path}: {name} cannot be set: {error:?}")))
    }

    fn set_sz(&mut self, path: &str, name: &str, text: &str) -> Result<(), InfError> {
        self.set(path, name, hive::REG_SZ, hive::sz(text))
    }

    fn set_dword(&mut self, path: &str, name: &str, value: u32) -> Result<(), InfError> {
        self.set(path, name, hive::REG_DWORD, value.to_le_bytes().to_vec())
    }

    fn strings(&self, path: &str, name: &str) -> Vec<String> {
        let found = self.hive.open(None, path).and_then(|key| self.hive.value(key, name).cloned());
        found.map(|value| hive::multi_sz_list(&value.data)).unwrap_or_default()
    }

    /// The device's software key, `{guid}\nnnn`: the one it has, or the next free one.
    fn software_key(&mut self, device: KeyId, guid: &str) -> Result<String, InfError> {
        if let Ok(value) = self.hive.value(device, "Driver") {
            let old = hive::sz_text(&value.data);
            if old.to_ascii_lowercase().starts_with(guid) {
                return Ok(old);
            }
        }
        let class = self.key(&alloc::format!(r"{CONTROL_SET}\Control\Class\{guid}"))?;
        let taken = self.hive.subkeys(class).unwrap_or_default();
        // One more name than there are taken ones: one of them is free.
        let free = (0..=taken.len()).map(|n| alloc::format!("{n:04}")).find(|name| !taken.contains(name));
        let name = alloc::format!(r"{guid}\{}", free.unwrap_or_default());
        self.key(&alloc::format!(r"{CONTROL_SET}\Control\Class\{name}"))?;
        Ok(name)
    }

    /// `Include`/`Needs`: sections of this INF or of an included package of the store. Windows' own INFs are not here.
    fn needs(&mut self, inf: &Inf, section: &str) -> Vec<(usize, String)> {
        let included: Vec<String> =
            inf.entries(section, "Include").flat_map(|line| line.values.iter().cloned()).collect();
        let mut out = Vec::new();
        for wanted in inf.entries(section, "Needs").flat_map(|line| &line.values) {
            let place = self.store.packages.iter().position(|package| {
                included.iter().any(|name| name.eq_ignore_ascii_case(&package.name))
                    && package.inf.section(wanted).is_some()
            });
            match place {
                Some(place) => out.push((place, wanted.clone())),
                None => self.notes.push(alloc::format!("[{section}] needs [{wanted}], which no package here has")),
            }
        }
        out
    }

    /// The DelReg and then the AddReg directives of a section.
    fn registry(&mut self, inf: &Inf, section: &str, root: &Root) -> Result<(), InfError> {
        for (place, needed) in self.needs(inf, section) {
            let store = self.store;
            self.registry(&store.packages[place].inf, &needed, root)?;
        }
        for (directive, delete) in [("DelReg", true), ("AddReg", false)] {
            for line in inf.entries(section, directive) {
                for name in line.values.iter().filter(|name| !name.is_empty()) {
                    let lines =
                        inf.section(name).ok_or_else(|| at(line, alloc::format!("there is no section [{name}]")))?;
                    for entry in lines {
                        if delete { self.del_reg(entry, root)? } else { self.add_reg(entry, root)? }
                    }
                }
            }
        }
        Ok(())
    }

    fn path_of(&mut self, line: &Line, root: &Root) -> Result<Option<String>, InfError> {
        let (name, sub) = (line.value(0).to_ascii_uppercase(), line.value(1).trim_matches('\\'));
        let base = match (name.as_str(), root) {
            ("HKLM", _) => r"\Registry\Machine".to_string(),
            ("HKCR", _) => r"\Registry\Machine\SOFTWARE\Classes".to_string(),
            ("HKU" | "HKCU", _) => r"\Registry\User\.DEFAULT".to_string(),
            ("HKR", Root::Plain(path)) => path.clone(),
            ("HKR", Root::Device(path)) => {
                let property = DEVICE_PROPERTIES.iter().any(|p| p.eq_ignore_ascii_case(line.value(2)));
                if sub.is_empty() && property { path.clone() } else { alloc::format!(r"{path}\Device Parameters") }
            }
            ("HKR", Root::None) => {
                self.notes.push(alloc::format!("line {}: HKR means nothing here", line.number));
                return Ok(None);
            }
            _ => return Err(at(line, alloc::format!("{} is not a registry root", line.value(0)))),
        };
        Ok(Some(if sub.is_empty() { base } else { alloc::format!(r"{base}\{sub}") }))
    }

    fn add_reg(&mut self, line: &Line, root: &Root) -> Result<(), InfError> {
        let Some(path) = self.path_of(line, root)? else { return Ok(()) };
        let name = line.value(2);
        let flags = number(line.value(3)).ok_or_else(|| at(line, "the flags are not a number"))?;
        let fields = line.values.get(4..).unwrap_or(&[]);
        if flags & flag::KEY_ONLY != 0 || (name.is_empty() && line.values.len() < 4) {
            self.key(&path)?;
            return Ok(());
        }
        let existing = self.hive.open(None, &path).and_then(|key| self.hive.value(key, name).cloned()).ok();
        if flags & flag::DELETE_VALUE != 0 {
            if existing.is_some()
                && let Ok(key) = self.hive.open(None, &path)
            {
                let _ = self.hive.delete_value(key, name, self.now);
            }
            return Ok(());
        }
        if (flags & flag::NO_CLOBBER != 0 && existing.is_some())
            || (flags & flag::OVERWRITE_ONLY != 0 && existing.is_none())
        {
            return Ok(());
        }
        let numeric = |text: &str| number(text).ok_or_else(|| at(line, alloc::format!("{text:?} is not a number")));
        // Binary values are lists of bytes in hexadecimal, with or without 0x.
        let bytes = || {
            let fields = fields.iter().map(|f| f.trim()).filter(|f| !f.is_empty());
            fields
                .map(|f| u8::from_str_radix(f.trim_start_matches("0x").trim_start_matches("0X"), 16).ok())
                .collect::<Option<Vec<u8>>>()
                .ok_or_else(|| at(line, "a byte of the value is not hexadecimal"))
        };
        let first = fields.first().map_or("", String::as_str);
        let (kind, data) = match flags & flag::TYPE_MASK {
            flag::SZ => (hive::REG_SZ, hive::sz(first)),
            flag::EXPAND_SZ => (hive::REG_EXPAND_SZ, hive::sz(first)),
            flag::MULTI_SZ => {
                let mut list: Vec<String> = Vec::new();
                if flags & flag::APPEND != 0 {
                    list = existing.map(|value| hive::multi_sz_list(&value.data)).unwrap_or_default();
                }
                for text in fields.iter().filter(|f| !f.is_empty()) {
                    let known = flags & flag::APPEND != 0 && list.iter().any(|l| l.eq_ignore_ascii_case(text));
                    if !known {
                        list.push(text.clone());
                    }
                }
                (hive::REG_MULTI_SZ, hive::multi_sz(&list))
            }
            // A DWORD may also be written as its four bytes.
            flag::DWORD if fields.len() == 4 => (hive::REG_DWORD, bytes()?),
            flag::DWORD => (hive::REG_DWORD, (numeric(first)? as u32).to_le_bytes().to_vec()),
            flag::BINARY => (hive::REG_BINARY, bytes()?),
            flag::NONE => (hive::REG_NONE, bytes()?),
            other if other & 1 != 0 => ((other >> 16) as u32, bytes()?),
            other => return Err(at(line, alloc::format!("{other:#x} is not a type of value"))),
        };
        self.set(&path, name, kind, data)
    }

    fn del_reg(&mut self, line: &Line, root: &Root) -> Result<(), InfError> {
        let Some(path) = self.path_of(line, root)? else { return Ok(()) };
        let Ok(key) = self.hive.open(None, &path) else { return Ok(()) };
        let name = line.value(2);
        let flags = number(line.value(3)).ok_or_else(|| at(line, "the flags are not a number"))?;
        if flags == flag::DELETE_KEY_OR_STRING && !line.value(4).is_empty() {
            let mut list = self.strings(&path, name);
            list.retain(|text| !text.eq_ignore_ascii_case(line.value(4)));
            return self.set(&path, name, hive::REG_MULTI_SZ, hive::multi_sz(&list));
        }
        // What is not there need not be deleted.
        let _ = if line.values.len() < 3 || (name.is_empty() && flags == 0) {
            self.hive.delete_tree(key, self.now)
        } else {
            self.hive.delete_value(key, name, self.now)
        };
        Ok(())
    }

    /// The AddService directives. Returns the service that is the device's function driver.
    fn services(&mut self, inf: &Inf, section: &str) -> Result<Option<String>, InfError> {
        const ASSOCIATE: u64 = 2;
        let mut function = None;
        for (place, needed) in self.needs(inf, section) {
            let store = self.store;
            function = self.services(&store.packages[place].inf, &needed)?.or(function);
        }
        for line in inf.entries(section, "AddService") {
            let name = line.value(0);
            let flags = number(line.value(1)).ok_or_else(|| at(line, "the flags are not a number"))?;
            if flags & ASSOCIATE != 0 {
                function = (!name.is_empty()).then(|| name.to_string());
            }
            if name.is_empty() {
                continue;
            }
            self.service(inf, line, name, flags)?;
        }
        Ok(function)
    }

    fn service(&mut self, inf: &Inf, line: &Line, name: &str, flags: u64) -> Result<(), InfError> {
        let section = line.value(2);
        if inf.section(section).is_none() {
            return Err(at(line, alloc::format!("there is no section [{section}]")));
        }
        let path = alloc::format!(r"{CONTROL_SET}\Services\{name}");
        let new = self.hive.open(None, &path).is_err();
        let required = |entry: &str| {
            let text =
                inf.entry(section, entry).ok_or_else(|| at(line, alloc::format!("[{section}] has no {entry}")))?;
            number(text).ok_or_else(|| at(line, alloc::format!("[{section}] {entry} is not a number")))
        };
        let (kind, start, control) = (required("ServiceType")?, required("StartType")?, required("ErrorControl")?);
        let binary = inf
            .entry(section, "ServiceBinary")
            .ok_or_else(|| at(line, alloc::format!("[{section}] has no ServiceBinary")))?;
        let image = self.expand(binary).ok_or_else(|| at(line, alloc::format!("{binary}: unknown directory")))?;
        // ServiceBinary in the driver store is in place without a CopyFiles.
        if binary.starts_with("%13%") {
            let file = image.rsplit('\\').next().unwrap_or("").to_ascii_lowercase();
            self.copy(line, &file, &image)?;
        }
        self.set_dword(&path, "Type", kind as u32)?;
        // SPSVCINST_NOCLOBBER_STARTTYPE, _ERRORCONTROL, _LOADORDERGROUP: an old value stays.
        if new || flags & 0x10 == 0 {
            self.set_dword(&path, "Start", start as u32)?;
        }
        if new || flags & 0x20 == 0 {
            self.set_dword(&path, "ErrorControl", control as u32)?;
        }
        self.set(&path, "ImagePath", hive::REG_EXPAND_SZ, hive::sz(&image))?;
        if let Some(text) = inf.entry(section, "DisplayName") {
            self.set_sz(&path, "DisplayName", text)?;
        }
        if let Some(group) = inf.entry(section, "LoadOrderGroup")
            && (new || flags & 0x40 == 0)
        {
            self.set_sz(&path, "Group", group)?;
            if start <= 1 {
                self.tag(&path, group, flags & 1 != 0)?;
            }
        }
        if let Some(text) = inf.entry(section, "BootFlags") {
            let value = number(text).ok_or_else(|| at(line, "BootFlags is not a number"))?;
            self.set_dword(&path, "BootFlags", value as u32)?;
        }
        if let Some(list) = inf.entries(section, "Dependencies").next() {
            let group = |text: &&String| text.starts_with('+');
            let services: Vec<&String> = list.values.iter().filter(|t| !group(t) && !t.is_empty()).collect();
            let groups: Vec<&str> = list.values.iter().filter(group).map(|t| &t[1..]).collect();
            if !services.is_empty() {
                self.set(&path, "DependOnService", hive::REG_MULTI_SZ, hive::multi_sz(&services))?;
            }
            if !groups.is_empty() {
                self.set(&path, "DependOnGroup", hive::REG_MULTI_SZ, hive::multi_sz(&groups))?;
            }
        }
        self.registry(inf, section, &Root::Plain(path))?;
        let log = line.value(3);
        if !log.is_empty() {
            let kind = if line.value(4).is_empty() { "System" } else { line.value(4) };
            let event = if line.value(5).is_empty() { name } else { line.value(5) };
            let path = alloc::format!(r"{CONTROL_SET}\Services\EventLog\{kind}\{event}");
            self.key(&path)?;
            self.registry(inf, log, &Root::Plain(path))?;
        }
        Ok(())
    }

    /// Gives a service its tag and puts that into the group's order.
    fn tag(&mut self, service: &str, group: &str, front: bool) -> Result<(), InfError> {
        let key = self.key(service)?;
        if self.hive.value(key, "Tag").is_ok() {
            return Ok(());
        }
        let path = alloc::format!(r"{CONTROL_SET}\Control\GroupOrderList");
        let key = self.key(&path)?;
        let old = self.hive.value(key, group).map(|v| v.data.clone()).unwrap_or_default();
        let mut tags: Vec<u32> =
            old.chunks_exact(4).skip(1).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        let tag = tags.iter().max().map_or(1, |t| t + 1);
        tags.insert(if front { 0 } else { tags.len() }, tag);
        let mut data = (tags.len() as u32).to_le_bytes().to_vec();
        data.extend(tags.iter().flat_map(|t| t.to_le_bytes()));
        self.set(&path, group, hive::REG_BINARY, data)?;
        self.set_dword(service, "Tag", tag)
    }

    /// The AddFilter directives of a `.Filters` section: device filters, by position.
    fn filters(&mut self, inf: &Inf, section: &str, device: &str) -> Result<(), InfError> {
        for line in inf.entries(section, "AddFilter") {
            let (name, details) = (line.value(0), line.value(2));
            let position = inf.entry(details, "FilterPosition").unwrap_or("Upper");
            let list = match position.to_ascii_lowercase().as_str() {
                "upper" => "UpperFilters",
                "lower" => "LowerFilters",
                other => return Err(at(line, alloc::format!("{other} is not a FilterPosition"))),
            };
            let mut names = self.strings(device, list);
            if !names.iter().any(|n| n.eq_ignore_ascii_case(name)) {
                names.push(name.to_string());
                self.set(device, list, hive::REG_MULTI_SZ, hive::multi_sz(&names))?;
            }
        }
        Ok(())
    }

    /// `%12%\x.sys` and the like to a path of the system volume.
    fn expand(&self, text: &str) -> Option<String> {
        let rest = text.strip_prefix('%')?;
        let (id, rest) = rest.split_once('%')?;
        let base = self.directory(id.parse().ok()?)?;
        Some(alloc::format!("{base}{rest}"))
    }

    /// A directory identifier.
    /// <https://learn.microsoft.com/windows-hardware/drivers/install/using-dirids>
    fn directory(&self, id: u32) -> Option<String> {
        Some(match id {
            10 => r"\SystemRoot".to_string(),
            11 => r"\SystemRoot\System32".to_string(),
            12 => r"\SystemRoot\System32\drivers".to_string(),
            13 => self.package.store_folder(),
            17 => r"\SystemRoot\INF".to_string(),
            _ => return None,
        })
    }

    fn copy(&mut self, line: &Line, source: &str, target: &str) -> Result<(), InfError> {
        let content = self
            .package
            .files
            .get(&source.to_ascii_lowercase())
            .ok_or_else(|| at(line, alloc::format!("{source} is not in the package")))?;
        self.files.write(target, Arc::clone(content));
        Ok(())
    }

    /// The CopyFiles directives of a section.
    fn copy_files(&mut self, inf: &Inf, section: &str) -> Result<(), InfError> {
        for line in inf.entries(section, "CopyFiles") {
            for name in line.values.iter().filter(|name| !name.is_empty()) {
                let (list, plain);
                let entries: &[Line] = if let Some(file) = name.strip_prefix('@') {
                    plain = [Line { key: None, values: alloc::vec![file.to_string()], number: line.number }];
                    &plain
                } else {
                    list = inf.section(name).ok_or_else(|| at(line, alloc::format!("there is no section [{name}]")))?;
                    list
                };
                let destination = inf
                    .entries("DestinationDirs", name)
                    .chain(inf.entries("DestinationDirs", "DefaultDestDir"))
                    .next()
                    .ok_or_else(|| at(line, alloc::format!("[DestinationDirs] says nothing of {name}")))?;
                let Some(base) = number(destination.value(0)).and_then(|id| self.directory(id as u32)) else {
                    self.notes.push(alloc::format!("{name}: files of directory {} stay out", destination.value(0)));
                    continue;
                };
                let below = destination.value(1).trim_matches('\\');
                let base = if below.is_empty() { base } else { alloc::format!(r"{base}\{below}") };
                for entry in entries {
                    let target = entry.value(0);
                    let source = if entry.value(1).is_empty() { target } else { entry.value(1) };
                    let file = source.rsplit('\\').next().unwrap_or(source);
                    // Only kernel images are used here; a missing catalog or tool is no fault of the driver.
                    if self.package.files.contains_key(&file.to_ascii_lowercase()) {
                        self.copy(entry, file, &alloc::format!(r"{base}\{target}"))?;
                    } else if file.to_ascii_lowercase().ends_with(".sys") {
                        return Err(at(entry, alloc::format!("{file} is not in the package")));
                    } else {
                        self.notes.push(alloc::format!("{file} is not in the package"));
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[Version]
Signature="$Windows NT$"
Class=System
ClassGuid={4D36E97D-E325-11CE-BFC1-08002BE10318}
Provider=%P%
DriverVer=01/01/2026,1.0.0.0
[SourceDisksNames]
1=disk
[DestinationDirs]
DefaultDestDir=13
Extra=12
[Manufacturer]
%P%=Models,NTamd64.10.0...16299
[Models.NTamd64.10.0...16299]
%D%=Install,PCI\VEN_5853&DEV_0001
[Install.NT]
CopyFiles=@x.sys,Extra
AddReg=Soft
[Extra]
y.sys,z.sys
[Soft]
HKR,,Depth,0x00010001,32
HKR,Sub,Bytes,1,01,0xff,a
HKLM,"SYSTEM\CurrentControlSet\Control\Class\{X}",UpperFilters,0x00010008,x
HKLM,"SYSTEM\CurrentControlSet\Control\Class\{X}",UpperFilters,0x00010008,x
[Install.NT.HW]
AddReg=Hard
[Hard]
HKR,,UpperFilters,0x00010000,up
HKR,"Interrupt Management\MessageSignaledInterruptProperties",MSISupported,0x00010001,1
HKR,,Security,,"D:P(A;;GA;;;SY)"
[Install.NT.Services]
AddService=x,2,Service,Log
[Install.NT.Filters]
AddFilter=low,,Low
[Low]
FilterPosition=Lower
[Service]
ServiceType=1
StartType=0
ErrorControl=1
ServiceBinary=%13%\x.sys
LoadOrderGroup=Boot Bus Extender
AddReg=Params
Dependencies=+Base,pci
[Params]
HKR,Parameters,LogLevel,%REG_DWORD%,2
[Log]
AddReg=LogReg
[LogReg]
HKR,,TypesSupported,0x00010001,7
[Strings]
P="Us"
D="Device"
REG_DWORD=0x00010001
"#;

    fn package() -> Package {
        let file = |name: &str| (name.to_string(), Arc::from(name.as_bytes()));
        Package::new("x.inf", TEXT.as_bytes(), [file("X.sys"), file("z.sys")]).unwrap()
    }

    #[test]
    fn a_device_is_installed() {
        let mut store = Store::default();
        store.add(package());
        let ids = [r"PCI\VEN_5853&DEV_0001".to_string()];
        let (index, found) = store.best(&ids, &[]).unwrap();
        let (mut hive, mut files) = (Hive::new(), Files::default());
        let done = store.install_device(index, &found, r"PCI\A\3", &mut hive, &mut files, 1).unwrap();
        assert_eq!(done.service.as_deref(), Some("x"));
        let value = |path: &str, name: &str| {
            let key = hive.open(None, &alloc::format!(r"{CONTROL_SET}\{path}")).unwrap();
            hive.value(key, name).unwrap().clone()
        };
        let class = r"Control\Class\{4d36e97d-e325-11ce-bfc1-08002be10318}\0000";
        assert_eq!(value(class, "Depth").data, [32, 0, 0, 0]);
        assert_eq!(value(&alloc::format!(r"{class}\Sub"), "Bytes").data, [1, 255, 10]);
        assert_eq!(hive::multi_sz_list(&value(r"Control\Class\{X}", "UpperFilters").data), ["x"]);
        assert_eq!(hive::multi_sz_list(&value(r"Enum\PCI\A\3", "UpperFilters").data), ["up"]);
        assert_eq!(hive::multi_sz_list(&value(r"Enum\PCI\A\3", "LowerFilters").data), ["low"]);
        let msi = r"Enum\PCI\A\3\Device Parameters\Interrupt Management\MessageSignaledInterruptProperties";
        assert_eq!(value(msi, "MSISupported").data, [1, 0, 0, 0]);
        assert_eq!(value(r"Services\x\Parameters", "LogLevel").data, [2, 0, 0, 0]);
        assert_eq!(value(r"Services\x", "Tag").data, [1, 0, 0, 0]);
        assert_eq!(hive::multi_sz_list(&value(r"Services\x", "DependOnGroup").data), ["Base"]);
        assert_eq!(value(r"Services\EventLog\System\x", "TypesSupported").kind, hive::REG_DWORD);
        let image = hive::sz_text(&value(r"Services\x", "ImagePath").data);
        assert_eq!(files.read(&image).as_deref(), Some(&b"X.sys"[..]));
        assert_eq!(files.read(r"System32\Drivers\Y.SYS").as_deref(), Some(&b"z.sys"[..]));
        let again = store.install_device(index, &found, r"PCI\A\3", &mut hive, &mut files, 1).unwrap();
        assert_eq!(again.driver_key, done.driver_key);
        let second = store.install_device(index, &found, r"PCI\A\4", &mut hive, &mut files, 1).unwrap();
        assert!(second.driver_key.ends_with("0001"));
    }

    #[test]
    fn a_missing_image_is_an_error_with_its_line() {
        let mut store = Store::default();
        let mut package = package();
        package.files.remove("z.sys");
        store.add(package);
        let (index, found) = store.best(&[r"PCI\VEN_5853&DEV_0001".to_string()], &[]).unwrap();
        let error =
            store.install_device(index, &found, r"PCI\A\3", &mut Hive::new(), &mut Files::default(), 1).unwrap_err();
        assert!(error.to_string().contains("z.sys is not in the package"), "{error}");
    }

    #[test]
    fn paths_have_one_form() {
        for path in
            [r"System32\drivers\x.sys", r"\SystemRoot\System32\Drivers\X.sys", r"\??\C:\Windows\system32\drivers\x.sys"]
        {
            assert_eq!(Files::normalize(path), r"\systemroot\system32\drivers\x.sys");
        }
    }
}

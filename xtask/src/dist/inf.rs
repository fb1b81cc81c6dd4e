//! What a shipped INF must be: the rules of an isolated driver package for Windows 10 2004 and later, as far as they can be
//! told without Windows' own `infverif`.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/develop/driver-isolation>,
//! <https://learn.microsoft.com/windows-hardware/drivers/install/general-guidelines-for-inf-files>,
//! <https://learn.microsoft.com/windows-hardware/drivers/develop/creating-a-primitive-driver>

use std::collections::{BTreeMap, BTreeSet};

/// The one decoration of models that is allowed: x64, from Windows 10 2004 on.
const DECORATION: &str = "NTamd64.10.0...19041";
/// Setup classes and their GUIDs.
const CLASSES: [(&str, &str); 3] = [
    ("System", "{4d36e97d-e325-11ce-bfc1-08002be10318}"),
    ("SCSIAdapter", "{4d36e97b-e325-11ce-bfc1-08002be10318}"),
    ("Net", "{4d36e972-e325-11ce-bfc1-08002be10318}"),
];
/// Directives that an isolated package does not use.
const FORBIDDEN: [&str; 11] = [
    "coinstallers32",
    "copyinf",
    "delfiles",
    "delreg",
    "delservice",
    "ini2reg",
    "logconfig",
    "profileitems",
    "registerdlls",
    "renfiles",
    "updateinis",
];

/// A line of a section: what stands before the first `=`, and the fields behind it.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    number: usize,
    key: String,
    fields: Vec<String>,
}

/// An INF as sections by lower-case name.
#[derive(Debug, Default)]
pub struct Inf {
    sections: BTreeMap<String, Vec<Line>>,
    strings: BTreeMap<String, String>,
    doubled: Vec<String>,
}

/// Splits at commas outside of quotation marks; takes the marks off.
fn fields(text: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field).trim().to_owned()),
            _ => field.push(character),
        }
    }
    fields.push(field.trim().to_owned());
    fields
}

/// The line without its comment.
fn bare(line: &str) -> &str {
    let mut quoted = false;
    let end = line.char_indices().find(|(_, character)| {
        quoted ^= *character == '"';
        *character == ';' && !quoted
    });
    line[..end.map_or(line.len(), |(at, _)| at)].trim()
}

impl Inf {
    /// Reads an INF.
    pub fn read(text: &str) -> Self {
        let mut inf = Self::default();
        let mut section = String::new();
        for (index, line) in text.lines().enumerate() {
            let line = bare(line);
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name.trim().to_ascii_lowercase();
                if inf.sections.insert(section.clone(), Vec::new()).is_some() {
                    inf.doubled.push(section.clone());
                }
            } else if !line.is_empty() {
                let equals = line.find('=').filter(|at| !line[..*at].contains('"'));
                let (key, rest) = equals.map_or(("", line), |at| (line[..at].trim(), &line[at + 1..]));
                let entry = Line { number: index + 1, key: key.to_owned(), fields: fields(rest) };
                inf.sections.entry(section.clone()).or_default().push(entry);
            }
        }
        for line in inf.sections.get("strings").into_iter().flatten() {
            inf.strings.insert(line.key.to_ascii_lowercase(), line.fields.join(","));
        }
        inf
    }

    fn lines(&self, section: &str) -> &[Line] {
        self.sections.get(&section.to_ascii_lowercase()).map_or(&[], Vec::as_slice)
    }

    fn value(&self, section: &str, key: &str) -> Option<&str> {
        let line = self.lines(section).iter().find(|line| line.key.eq_ignore_ascii_case(key))?;
        line.fields.first().map(String::as_str)
    }

    /// The hardware ids that the package is for, in the order of the INF.
    pub fn hardware_ids(&self) -> Vec<String> {
        let mut ids = Vec::new();
        for line in self.lines("Manufacturer") {
            for decoration in &line.fields[1..] {
                for model in self.lines(&format!("{}.{decoration}", line.fields[0])) {
                    ids.extend(model.fields[1..].iter().cloned());
                }
            }
        }
        ids
    }

    /// Checks the INF of package `name`; `files` are the package's files beside it. The result is what is wrong.
    pub fn check(&self, name: &str, files: &[String]) -> Vec<String> {
        let mut check = Check { inf: self, wrong: Vec::new(), used: BTreeSet::new() };
        check.version(name);
        check.strings();
        let installs = check.models();
        for install in &installs {
            check.install(install);
        }
        check.files(name, files);
        for name in ["version", "sourcedisksnames", "sourcedisksfiles", "destinationdirs", "manufacturer", "strings"] {
            check.used.insert(name.to_owned());
        }
        for section in self.sections.keys().filter(|section| !check.used.contains(*section)) {
            check.wrong.push(format!("[{section}] is used by nothing"));
        }
        check.wrong.extend(self.doubled.iter().map(|section| format!("[{section}] stands there twice")));
        check.wrong
    }
}

struct Check<'a> {
    inf: &'a Inf,
    wrong: Vec<String>,
    used: BTreeSet<String>,
}

impl Check<'_> {
    fn expect(&mut self, condition: bool, what: impl FnOnce() -> String) {
        if !condition {
            self.wrong.push(what());
        }
    }

    fn version(&mut self, name: &str) {
        let inf = self.inf;
        let value = |key: &str| inf.value("Version", key).unwrap_or_default();
        self.expect(value("Signature").eq_ignore_ascii_case("$WINDOWS NT$"), || {
            "[Version] Signature is not $WINDOWS NT$".into()
        });
        let class = CLASSES.iter().find(|(class, _)| class.eq_ignore_ascii_case(value("Class")));
        match class {
            Some((class, guid)) => self.expect(guid.eq_ignore_ascii_case(value("ClassGuid")), || {
                format!("[Version] ClassGuid is not that of {class}")
            }),
            None => self.wrong.push(format!("[Version] Class {} is not one of ours", value("Class"))),
        }
        self.expect(value("CatalogFile").eq_ignore_ascii_case(&format!("{name}.cat")), || {
            format!("[Version] CatalogFile is not {name}.cat")
        });
        self.expect(value("PnpLockdown") == "1", || "[Version] PnpLockdown is not 1".into());
        self.expect(value("Provider").starts_with('%'), || "[Version] Provider is no string of [Strings]".into());
        let date_and_version = inf.lines("Version").iter().find(|line| line.key.eq_ignore_ascii_case("DriverVer"));
        self.expect(date_and_version.is_some_and(|line| line.fields.len() == 2), || {
            "[Version] DriverVer is not a date and a version".into()
        });
    }

    /// Every %name% is defined, and every definition is used.
    fn strings(&mut self) {
        let mut used = BTreeSet::new();
        for (section, lines) in &self.inf.sections {
            if section == "strings" {
                continue;
            }
            for line in lines {
                for text in line.fields.iter().chain([&line.key]) {
                    // Between two per cent signs: a string, a directory number, or nothing, which is the sign itself.
                    for name in text.split('%').skip(1).step_by(2) {
                        let name = name.to_ascii_lowercase();
                        if name.is_empty() || name.parse::<u32>().is_ok() || text.contains("%%") {
                            continue;
                        }
                        if !self.inf.strings.contains_key(&name) {
                            self.wrong.push(format!("line {}: %{name}% is not defined", line.number));
                        }
                        used.insert(name);
                    }
                }
            }
        }
        for name in self.inf.strings.keys().filter(|name| !used.contains(*name)) {
            self.wrong.push(format!("[Strings] {name} is used by nothing"));
        }
    }

    /// The install sections, without decoration.
    fn models(&mut self) -> Vec<String> {
        let inf = self.inf;
        let mut installs = BTreeSet::new();
        for line in inf.lines("Manufacturer") {
            for decoration in &line.fields[1..] {
                self.expect(decoration == DECORATION, || {
                    format!("line {}: the decoration is {decoration}, not {DECORATION}", line.number)
                });
                let section = format!("{}.{decoration}", line.fields[0]).to_ascii_lowercase();
                self.expect(!inf.lines(&section).is_empty(), || format!("[{section}] is missing or empty"));
                for model in inf.lines(&section) {
                    self.expect(model.fields.len() == 2, || {
                        format!("line {}: a model is an install section and one hardware id", model.number)
                    });
                    installs.insert(format!("{}.NT", model.fields[0]));
                }
                self.used.insert(section);
            }
        }
        if inf.sections.contains_key("defaultinstall.ntamd64") {
            installs.insert("DefaultInstall.NTamd64".to_owned());
        }
        self.expect(!installs.is_empty(), || "nothing is installed".into());
        installs.into_iter().collect()
    }

    fn install(&mut self, name: &str) {
        let inf = self.inf;
        self.used.insert(name.to_ascii_lowercase());
        self.expect(inf.sections.contains_key(&name.to_ascii_lowercase()), || format!("[{name}] is missing"));
        self.directives(name);
        for part in ["HW", "Services", "Events", "Wdf", "Filters"] {
            let section = format!("{name}.{part}");
            if inf.sections.contains_key(&section.to_ascii_lowercase()) {
                self.used.insert(section.to_ascii_lowercase());
                self.directives(&section);
            }
        }
        let services = format!("{name}.Services");
        self.expect(inf.value(&services, "AddService").is_some(), || format!("[{services}] adds no service"));
    }

    /// What a section asks to be done.
    fn directives(&mut self, section: &str) {
        let inf = self.inf;
        for line in inf.lines(section) {
            let key = line.key.to_ascii_lowercase();
            self.expect(!FORBIDDEN.contains(&key.as_str()), || {
                format!("line {}: {} has no place in an isolated package", line.number, line.key)
            });
            match key.as_str() {
                "addreg" => line.fields.iter().for_each(|name| self.registry(name)),
                "copyfiles" => {
                    for name in line.fields.iter().filter(|name| !name.starts_with('@')) {
                        self.used.insert(name.to_ascii_lowercase());
                        self.expect(!inf.lines(name).is_empty(), || format!("[{name}] is missing or empty"));
                    }
                }
                "addservice" => self.service(line),
                _ => {}
            }
        }
    }

    fn registry(&mut self, section: &str) {
        let inf = self.inf;
        self.used.insert(section.to_ascii_lowercase());
        self.expect(!inf.lines(section).is_empty(), || format!("[{section}] is missing or empty"));
        for line in inf.lines(section) {
            let root = line.fields.first().map(String::as_str).unwrap_or_default();
            self.expect(root.eq_ignore_ascii_case("HKR"), || {
                format!("line {}: {root}: an isolated package writes below HKR alone", line.number)
            });
        }
    }

    fn service(&mut self, line: &Line) {
        let inf = self.inf;
        let [service, flags, section, rest @ ..] = line.fields.as_slice() else {
            self.wrong.push(format!("line {}: AddService takes a name, flags and a section", line.number));
            return;
        };
        let known = ["", "0x00000002", "0x00000800", "0x00000802"].contains(&flags.as_str());
        self.expect(known, || format!("line {}: the flags {flags} of AddService", line.number));
        for events in rest.iter().filter(|name| !name.is_empty()) {
            self.used.insert(events.to_ascii_lowercase());
            self.directives(events);
        }
        self.used.insert(section.to_ascii_lowercase());
        let value = |key: &str| inf.value(section, key).unwrap_or_default();
        self.expect(value("ServiceType") == "1", || format!("[{section}] ServiceType is not 1"));
        self.expect(["0", "3"].contains(&value("StartType")), || format!("[{section}] StartType is neither 0 nor 3"));
        self.expect(["0", "1", "3"].contains(&value("ErrorControl")), || format!("[{section}] ErrorControl"));
        self.expect(value("ServiceBinary").eq_ignore_ascii_case(&format!(r"%13%\{service}.sys")), || {
            format!(r"[{section}] ServiceBinary is not %13%\{service}.sys")
        });
        self.directives(section);
    }

    fn files(&mut self, name: &str, files: &[String]) {
        let inf = self.inf;
        for line in inf.lines("DestinationDirs") {
            self.expect(line.fields == ["13"], || {
                format!("line {}: files stay in the driver store: directory 13", line.number)
            });
        }
        let listed: BTreeSet<_> =
            inf.lines("SourceDisksFiles").iter().map(|line| line.key.to_ascii_lowercase()).collect();
        let there: BTreeSet<_> = files.iter().map(|file| file.to_ascii_lowercase()).collect();
        for file in listed.difference(&there) {
            self.wrong.push(format!("{file} is listed and not in the package"));
        }
        let beside = [format!("{name}.inf"), format!("{name}.cat"), format!("{name}.pdb")];
        for file in there.difference(&listed).filter(|file| !beside.contains(file)) {
            self.wrong.push(format!("{file} is in the package and not listed"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[Version]
Signature   = "$WINDOWS NT$"
Class       = System
ClassGuid   = {4D36E97D-E325-11CE-BFC1-08002BE10318}
Provider    = %Who%
CatalogFile = x.cat
DriverVer   = 01/01/2026,1.0.0.0
PnpLockdown = 1
[SourceDisksNames]
1 = %Disk%
[SourceDisksFiles]
x.sys = 1
[DestinationDirs]
DefaultDestDir = 13
[Manufacturer]
%Who% = Models,NTamd64.10.0...19041
[Models.NTamd64.10.0...19041]
%Device% = Install,XENPV\X&REV_01 ; a device
[Install.NT]
CopyFiles = Files
[Files]
x.sys
[Install.NT.Services]
AddService = x,0x00000002,Service
[Service]
ServiceType   = 1
StartType     = 3
ErrorControl  = 1
ServiceBinary = %13%\x.sys
AddReg        = Values
[Values]
HKR,Parameters,"A, B; C",0x00010003,2
[Strings]
Who    = "Somebody"
Disk   = "A disk"
Device = "A device"
"#;

    fn wrong(text: &str) -> Vec<String> {
        Inf::read(text).check("x", &["x.sys".into(), "x.pdb".into()])
    }

    #[test]
    fn a_good_one_passes() {
        assert_eq!(wrong(GOOD), Vec::<String>::new());
        assert_eq!(Inf::read(GOOD).hardware_ids(), [r"XENPV\X&REV_01"]);
        assert_eq!(Inf::read(GOOD).lines("Values")[0].fields[2], "A, B; C");
    }

    #[test]
    fn each_planted_fault_is_found() {
        let planted = [
            ("PnpLockdown = 1", "PnpLockdown = 0", "PnpLockdown"),
            ("CatalogFile = x.cat", "CatalogFile = y.cat", "CatalogFile"),
            ("Class       = System", "Class       = Sample", "Class"),
            ("{4D36E97D", "{4D36E97E", "ClassGuid"),
            ("DriverVer   = 01/01/2026,1.0.0.0", "DriverVer   = 01/01/2026", "DriverVer"),
            ("%Device% = Install", "%Devise% = Install", "not defined"),
            ("Device = \"A device\"", "Device = \"A device\"\nOther = \"x\"", "used by nothing"),
            ("%Who% = Models,NTamd64.10.0...19041", "%Who% = Models,NTamd64", "decoration"),
            ("DefaultDestDir = 13", "DefaultDestDir = 12", "driver store"),
            (r"ServiceBinary = %13%\x.sys", r"ServiceBinary = %12%\x.sys", "ServiceBinary"),
            ("HKR,Parameters", "HKLM,Software", "HKR"),
            ("CopyFiles = Files", "CopyFiles = Filez", "[Filez] is missing"),
            ("AddReg        = Values", "AddReg        = Values\nDelReg = Values", "isolated"),
            ("StartType     = 3", "StartType     = 2", "StartType"),
            ("[SourceDisksFiles]\nx.sys = 1", "[SourceDisksFiles]\ny.sys = 1", "y.sys is listed"),
            ("AddService = x,0x00000002,Service", "; none", "adds no service"),
            ("[Values]", "[Values]\nHKR,,A,,b\n[Values]", "twice"),
            ("[Strings]", "[Unused]\na = b\n[Strings]", "[unused] is used by nothing"),
        ];
        for (from, to, expected) in planted {
            assert!(GOOD.contains(from), "{from}");
            let found = wrong(&GOOD.replacen(from, to, 1));
            assert!(found.iter().any(|line| line.contains(expected)), "{to}: {found:?}");
        }
        assert!(Inf::read(GOOD).check("x", &["x.sys".into(), "z.dll".into()])[0].contains("z.dll"));
    }
}

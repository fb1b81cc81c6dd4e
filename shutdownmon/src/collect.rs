//! `shutdownmon collect`: what a bug report needs, in one zip file. What cannot be had is said in it, and never ends it.
//!
//! Nothing secret goes in: keys of the suite alone; the key of a network debugger and the names of users are left out. Of the
//! network it has what xenstore and the service's own events say: MACs, and the addresses that were carried over.

use std::fmt::Write as _;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use xentool::registry::Registry;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// The keys that are listed with all that is below them.
const TREES: [&str; 9] = [
    r"CurrentControlSet\Services\xenpci",
    r"CurrentControlSet\Services\xenvbd",
    r"CurrentControlSet\Services\xennet",
    r"CurrentControlSet\Services\xenhide",
    r"CurrentControlSet\Services\xenstub",
    r"CurrentControlSet\Services\shutdownmon",
    r"CurrentControlSet\Enum\XENPV",
    r"CurrentControlSet\Enum\SCSI",
    r"CurrentControlSet\Services\EventLog\Application\shutdownmon",
];
/// The drivers of emulated disks, with what Windows makes of their start.
const EMULATED: [&str; 5] = ["storahci", "pciide", "intelide", "atapi", "stornvme"];
/// Single values.
const VALUES: [(&str, &str); 4] = [
    (r"CurrentControlSet\Control", "SystemStartOptions"),
    (r"CurrentControlSet\Control", "FirmwareBootDevice"),
    (r"CurrentControlSet\Control\CrashControl", "CrashDumpEnabled"),
    (r"CurrentControlSet\Control\SafeBoot\Option", "OptionValue"),
];
/// Names that mark a section of Windows' log of device installs as ours.
const OURS: [&str; 6] = ["xenpv", "ven_5853", "xenpci", "xenvbd", "xennet", "xenhide"];
/// Most keys that a listing goes through.
const KEYS: usize = 4000;
/// Most bytes of an entry of the archive; the newest are kept.
const ENTRY: usize = 4 << 20;

/// A program of Windows and what it is asked; the entry that its answer goes to.
pub struct Question {
    /// The entry.
    pub entry: &'static str,
    /// The program, in Windows' system folder.
    pub program: &'static str,
    /// Its arguments.
    pub arguments: &'static [&'static str],
}

/// What Windows' own programs are asked.
pub const QUESTIONS: [Question; 5] = [
    Question { entry: "boot-entries.txt", program: "bcdedit.exe", arguments: &["/enum", "all"] },
    Question { entry: "driver-packages.txt", program: "pnputil.exe", arguments: &["/enum-drivers"] },
    Question {
        entry: "devices.txt",
        program: "pnputil.exe",
        arguments: &["/enum-devices", "/connected", "/ids", "/relations", "/drivers"],
    },
    Question {
        entry: "events-system.txt",
        program: "wevtutil.exe",
        arguments: &[
            "qe",
            "System",
            "/q:*[System[Provider[@Name='xenpci' or @Name='xenvbd' or @Name='xennet' or @Name='disk' or \
             @Name='Microsoft-Windows-Kernel-Power' or @Name='Microsoft-Windows-WER-SystemErrorReporting']]]",
            "/c:500",
            "/rd:true",
            "/f:text",
        ],
    },
    Question {
        entry: "events-service.txt",
        program: "wevtutil.exe",
        arguments: &[
            "qe",
            "Application",
            "/q:*[System[Provider[@Name='shutdownmon']]]",
            "/c:500",
            "/rd:true",
            "/f:text",
        ],
    },
];

/// Windows, as far as a report asks it.
pub trait Source {
    /// Versions: this program's, and Windows'.
    fn versions(&self) -> String;

    /// `HKEY_LOCAL_MACHINE\SYSTEM`.
    fn registry(&self) -> &dyn Registry;

    /// Asks a program of Windows.
    ///
    /// # Errors
    /// It cannot be started, or fails; the error has its words.
    fn ask(&self, question: &Question) -> io::Result<Vec<u8>>;

    /// Logs: the entry, and what the file says. `setupapi.dev.log` is Windows' own of device installs.
    fn logs(&self) -> Vec<(&'static str, io::Result<Vec<u8>>)>;

    /// What xenstore has below a node: its value and its children's names.
    ///
    /// # Errors
    /// xenstore cannot be reached, or refuses.
    fn node(&self, path: &str) -> io::Result<(Vec<u8>, Vec<String>)>;
}

/// The entry of Windows' log of device installs.
pub const INSTALLS: &str = "device-installs.txt";
/// The installer's log, in the folder of temporary files of whoever ran it.
const SETUP: &str = "xen-pv-setup.log";

/// The folders of a folder; none where it cannot be listed.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    found
}

/// What the installer and the uninstaller said, whoever ran them, the newest last, each after its file's name. SYSTEM's folders
/// of temporary files (group policy, a task at the start of Windows) are below Windows' folder, those of users below their
/// profiles, where each session of a terminal server may have one of its own; `temporary` is that of this process.
/// <https://learn.microsoft.com/windows/win32/api/fileapi/nf-fileapi-gettemppath2w>
///
/// # Errors
/// There is none.
pub fn setup_logs(temporary: &Path, windows: &Path, profiles: &Path) -> io::Result<Vec<u8>> {
    let mut places = vec![temporary.to_owned(), windows.join("SystemTemp"), windows.join("Temp")];
    for profile in folders(profiles) {
        let of_user = profile.join("AppData").join("Local").join("Temp");
        places.extend(folders(&of_user).into_iter().filter(|folder| {
            folder.file_name().is_some_and(|name| name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
        }));
        places.push(of_user);
    }
    let mut files = Vec::new();
    for place in places {
        let file = place.join(SETUP);
        // The same folder has more than one name.
        let Ok(whole) = file.canonicalize() else { continue };
        if !files.iter().any(|(_, _, other)| *other == whole) {
            files.push((std::fs::metadata(&file).and_then(|about| about.modified()).ok(), file, whole));
        }
    }
    if files.is_empty() {
        let text = format!("no {SETUP} in a folder of temporary files; with /LOG= it is where that says");
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    files.sort();
    let mut text = Vec::new();
    for (_, file, whole) in files {
        let _ = writeln!(text, "== {}", file.display());
        match std::fs::read(whole) {
            Ok(content) => text.extend(content),
            Err(error) => drop(writeln!(text, "{error}")),
        }
    }
    Ok(text)
}

fn list_key(registry: &dyn Registry, root: &str, text: &mut String) -> io::Result<()> {
    let mut left = vec![root.to_owned()];
    let mut count = 0;
    while let Some(key) = left.pop() {
        count += 1;
        if count > KEYS {
            let _ = writeln!(text, "... and more than {KEYS} keys");
            break;
        }
        if !registry.has_key(&key)? {
            let _ = writeln!(text, "[{key}] is not there");
            continue;
        }
        let _ = writeln!(text, "[{key}]");
        for name in registry.names(&key)? {
            match registry.value(&key, &name) {
                Ok(Some(value)) => drop(writeln!(text, "  {name} = {value}")),
                Ok(None) => {}
                Err(error) => drop(writeln!(text, "  {name}: {error}")),
            }
        }
        // What is below `Properties` is for SYSTEM alone and says nothing here.
        let below = registry.subkeys(&key)?.into_iter().rev().filter(|name| name != "Properties");
        left.extend(below.map(|name| format!("{key}\\{name}")));
    }
    Ok(())
}

fn registry(registry: &dyn Registry) -> String {
    let mut text = String::new();
    for root in TREES {
        if let Err(error) = list_key(registry, root, &mut text) {
            let _ = writeln!(text, "[{root}]: {error}");
        }
    }
    let starts = EMULATED.iter().flat_map(|driver| {
        let key = format!(r"CurrentControlSet\Services\{driver}");
        [(key.clone(), "Start"), (format!(r"{key}\StartOverride"), "0")]
    });
    for (key, name) in starts.chain(VALUES.map(|(key, name)| (key.to_owned(), name))) {
        let _ = match registry.value(&key, name) {
            Ok(Some(value)) => writeln!(text, "{key}\\{name} = {value}"),
            Ok(None) => writeln!(text, "{key}\\{name}: nothing"),
            Err(error) => writeln!(text, "{key}\\{name}: {error}"),
        };
    }
    text
}

/// The sections of a log of device installs (`>>>` to `<<<`) that name something of ours.
fn our_installs(log: &str) -> String {
    let mut text = String::new();
    let mut section = String::new();
    for line in log.lines() {
        // A section's first line is `>>>  [What it is]`, the next `>>>  Section start ...`.
        if line.starts_with(">>>  [") {
            section.clear();
        }
        section.push_str(line);
        section.push('\n');
        if line.starts_with("<<<  [") {
            let lower = section.to_lowercase();
            if OURS.iter().any(|name| lower.contains(name)) {
                text.push_str(&section);
            }
            section.clear();
        }
    }
    text
}

/// Without the keys of network debuggers.
fn without_keys(answer: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(answer.len());
    for line in answer.split_inclusive(|byte| *byte == b'\n') {
        let word = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        if word.eq_ignore_ascii_case(b"key") {
            lines.extend_from_slice(b"key                     (left out)\r\n");
        } else {
            lines.extend_from_slice(line);
        }
    }
    lines
}

/// Without the names of users, as far as they stand in paths of their folders and in the lines of events.
fn without_users(text: &[u8]) -> Vec<u8> {
    const FOLDER: &[u8] = br"\users\";
    const EVENT: &[u8] = b"user name:";
    const LEFT_OUT: &[u8] = b"(left out)";
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.first() {
        let begins = |with: &[u8]| rest.get(..with.len()).is_some_and(|part| part.eq_ignore_ascii_case(with));
        let (word, ends): (_, &[u8]) = if begins(FOLDER) {
            (FOLDER.len(), b"\\/\"'\r\n")
        } else if begins(EVENT) {
            (EVENT.len(), b"\r\n")
        } else {
            out.push(*first);
            rest = &rest[1..];
            continue;
        };
        out.extend_from_slice(&rest[..word]);
        out.extend_from_slice(LEFT_OUT);
        let name = &rest[word..];
        rest = &name[name.iter().position(|byte| ends.contains(byte)).unwrap_or(name.len())..];
    }
    out
}

fn xenstore(source: &dyn Source) -> String {
    let mut text = String::new();
    let mut left: Vec<String> = ["control", "device"].map(str::to_owned).into();
    let mut count = 0;
    while let Some(path) = left.pop() {
        count += 1;
        if count > KEYS {
            let _ = writeln!(text, "... and more than {KEYS} nodes");
            break;
        }
        match source.node(&path) {
            Ok((value, names)) => {
                let _ = writeln!(text, "{path} = \"{}\"", value.escape_ascii());
                left.extend(names.into_iter().rev().map(|name| format!("{path}/{name}")));
            }
            Err(error) => drop(writeln!(text, "{path}: {error}")),
        }
    }
    text
}

/// Writes the report; what could not be had, one line each, as it also stands in the report.
///
/// # Errors
/// The archive cannot be written.
pub fn write<W: Write + Seek>(source: &dyn Source, out: W) -> anyhow::Result<Vec<String>> {
    let mut archive = ZipWriter::new(out);
    let mut missing = Vec::new();
    let mut put = |entry: &str, content: io::Result<Vec<u8>>| -> anyhow::Result<()> {
        let content = match content {
            Ok(content) => content,
            Err(error) => {
                missing.push(format!("{entry}: {error}"));
                return Ok(());
            }
        };
        let content = without_users(&content);
        let newest = &content[content.len().saturating_sub(ENTRY)..];
        archive.start_file(entry, SimpleFileOptions::default()).context("making an entry of the report")?;
        archive.write_all(newest).context("writing the report")
    };
    put("versions.txt", Ok(source.versions().into_bytes()))?;
    put("registry.txt", Ok(registry(source.registry()).into_bytes()))?;
    put("xenstore.txt", Ok(xenstore(source).into_bytes()))?;
    for question in &QUESTIONS {
        put(question.entry, source.ask(question).map(|answer| without_keys(&answer)))?;
    }
    for (entry, content) in source.logs() {
        let of_ours = |content: Vec<u8>| {
            if entry == INSTALLS { our_installs(&String::from_utf8_lossy(&content)).into_bytes() } else { content }
        };
        put(entry, content.map(of_ours))?;
    }
    let lines = if missing.is_empty() { "everything could be had".to_owned() } else { missing.join("\n") };
    archive.start_file("missing.txt", SimpleFileOptions::default()).context("making an entry of the report")?;
    archive.write_all(lines.as_bytes()).context("writing the report")?;
    archive.finish().context("writing the report")?;
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Cursor, Read};

    use regf::reg_import::RegImporter;
    use xentool::hive::HiveFile;
    use xentool::registry::Value;

    use super::*;

    const HIVE: &str = include_str!("../../tools/tests/data/unbootable.reg");

    /// A Windows whose first control set is the current one.
    struct Sick(HiveFile);

    fn path(key: &str) -> String {
        key.replacen("CurrentControlSet", "ControlSet001", 1)
    }

    impl Registry for Sick {
        fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>> {
            if name == "ImagePath" {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            self.0.value(&path(key), name)
        }

        fn has_key(&self, key: &str) -> io::Result<bool> {
            self.0.has_key(&path(key))
        }

        fn subkeys(&self, key: &str) -> io::Result<Vec<String>> {
            self.0.subkeys(&path(key))
        }

        fn names(&self, key: &str) -> io::Result<Vec<String>> {
            self.0.names(&path(key))
        }
    }

    impl Source for Sick {
        fn versions(&self) -> String {
            "Xen PV drivers 1.2.3".into()
        }

        fn registry(&self) -> &dyn Registry {
            self
        }

        fn ask(&self, question: &Question) -> io::Result<Vec<u8>> {
            match question.program {
                "bcdedit.exe" => Ok(b"{dbgsettings}\r\nkey          1.2.3.4\r\nKEYBOARD yes\r\ndebugport 1\r\n".into()),
                "pnputil.exe" => Err(io::ErrorKind::NotFound.into()),
                _ => Ok(vec![b'x'; ENTRY + 5]),
            }
        }

        fn logs(&self) -> Vec<(&'static str, io::Result<Vec<u8>>)> {
            let installs = ">>>  [Device Install - PCI\\VEN_8086]\n>>>  Section start\n     inf: machine.inf\n<<<  [Exit status]\n\
                            >>>  [Device Install - XENPV\\VBD&REV_01]\n>>>  Section start\n     inf: oem1.inf\n<<<  [Exit status]\n\
                            >>>  [Cut off";
            let setup = "\"C:\\Users\\Bo B\\setup.exe\" /LOG=c:\\users\\bob\r\nUser Name: CORP\\bob\r\ndone".into();
            vec![(INSTALLS, Ok(installs.into())), ("setup.txt", Ok(setup))]
        }

        fn node(&self, path: &str) -> io::Result<(Vec<u8>, Vec<String>)> {
            match path {
                "control" => Ok((b"".into(), vec![])),
                "device" => Ok((b"".into(), vec!["vbd".into(), "vif".into()])),
                "device/vbd" => Ok((b"a\nb".into(), vec![])),
                _ => Err(io::ErrorKind::PermissionDenied.into()),
            }
        }
    }

    fn report() -> (BTreeMap<String, String>, Vec<String>) {
        let hive = RegImporter::from_string(HIVE).build_hive().unwrap();
        let mut out = Cursor::new(Vec::new());
        let missing = write(&Sick(HiveFile::new(hive).unwrap()), &mut out).unwrap();
        let mut archive = zip::ZipArchive::new(out).unwrap();
        let mut entries = BTreeMap::new();
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            entries.insert(entry.name().unwrap().into_owned(), text);
        }
        (entries, missing)
    }

    #[test]
    fn a_report_has_what_can_be_had_and_names_the_rest() {
        let (entries, missing) = report();
        let registry = &entries["registry.txt"];
        for line in [
            "[CurrentControlSet\\Services\\xenhide\\Parameters]",
            "  Disks = 1",
            "CurrentControlSet\\Services\\storahci\\StartOverride\\0 = 3",
            "CurrentControlSet\\Services\\pciide\\StartOverride\\0: nothing",
            "[CurrentControlSet\\Services\\xenstub] is not there",
            "CurrentControlSet\\Control\\SystemStartOptions = \" NOEXECUTE=OPTIN GPLPV\"",
            "  ImagePath: permission denied",
        ] {
            assert!(registry.lines().any(|found| found == line), "{line} is not in\n{registry}");
        }
        assert!(!registry.contains("Services\\disk"), "{registry}");
        assert_eq!(entries["xenstore.txt"].lines().count(), 4);
        assert!(entries["xenstore.txt"].contains("device/vbd = \"a\\nb\""), "{}", entries["xenstore.txt"]);
        assert_eq!(missing.len(), 2);
        assert_eq!(entries["missing.txt"], missing.join("\n"));
        assert_eq!(entries["versions.txt"], "Xen PV drivers 1.2.3");
    }

    #[test]
    fn the_log_of_each_way_to_run_the_installer_is_found() {
        let top = tempfile::tempdir().unwrap();
        let put = |folder: &str, text: &str, seconds: u64| {
            let folder = top.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(SETUP), text).unwrap();
            let file = std::fs::File::options().append(true).open(folder.join(SETUP)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        };
        let [windows, profiles] = ["Windows", "Users"].map(|name| top.path().join(name));
        let mine = profiles.join("bo").join("AppData").join("Local").join("Temp");
        let found = || setup_logs(&mine.join("..").join("Temp"), &windows, &profiles);
        assert_eq!(found().unwrap_err().kind(), io::ErrorKind::NotFound);
        put("Windows/Temp", "old system\n", 3);
        put("Windows/SystemTemp", "system\n", 2);
        put("Users/bo/AppData/Local/Temp", "mine\n", 5);
        put("Users/al/AppData/Local/Temp", "another's\n", 1);
        put("Users/al/AppData/Local/Temp/7", "session's\n", 4);
        put("Users/al/AppData/Local/Temp/other", "no place\n", 6);
        let text = String::from_utf8(found().unwrap()).unwrap();
        let (names, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with("== "));
        assert_eq!(lines, ["another's", "system", "old system", "session's", "mine"]);
        assert!(names.len() == 5 && names.iter().all(|name| name.ends_with(SETUP)), "{names:?}");
    }

    #[test]
    fn secrets_and_what_is_not_ours_stay_out() {
        let (entries, _) = report();
        assert!(!entries["boot-entries.txt"].contains("1.2.3.4"), "{}", entries["boot-entries.txt"]);
        assert!(
            entries["boot-entries.txt"].contains("KEYBOARD yes") && entries["boot-entries.txt"].contains("debugport 1")
        );
        assert!(
            entries[INSTALLS].contains("XENPV") && !entries[INSTALLS].contains("machine.inf"),
            "{}",
            entries[INSTALLS]
        );
        assert_eq!(entries["events-system.txt"].len(), ENTRY);
        let setup = "\"C:\\Users\\(left out)\\setup.exe\" /LOG=c:\\users\\(left out)\r\nUser Name:(left out)\r\ndone";
        assert_eq!(entries["setup.txt"], setup);
    }
}

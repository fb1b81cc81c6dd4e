//! A SYSTEM hive that does not boot, as Windows lays it out, made to boot again. The hives are made by a library that has
//! nothing to do with the one that reads them.

use std::path::Path;
use std::process::{Command, Output};

use regf::reg_import::RegImporter;
use xentool::hive::HiveFile;
use xentool::registry::Registry;
use xentool::repair;

const UNBOOTABLE: &str = include_str!("data/unbootable.reg");

fn hive(text: &str) -> Vec<u8> {
    RegImporter::from_string(text).build_hive().unwrap()
}

fn number(hive: &HiveFile, key: &str, name: &str) -> Option<u32> {
    hive.value(key, name).unwrap().and_then(|value| value.as_number())
}

fn xentool(arguments: &[&str], place: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xentool")).arg("repair").args(arguments).arg(place).output().unwrap()
}

fn said(output: &Output) -> String {
    [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).concat()
}

#[test]
fn what_keeps_windows_from_booting_is_found() {
    let hive = HiveFile::new(hive(UNBOOTABLE)).unwrap();
    let plan = repair::plan(&hive, false).unwrap();
    let lines: Vec<String> =
        plan.iter().map(|change| format!("{}\\{} {}", change.key, change.name, change.after)).collect();
    let expected = [
        r"ControlSet001\Services\xenhide\Parameters\Disks 0",
        r"ControlSet001\Services\xenhide\Parameters\Nics 0",
        r"ControlSet001\Services\storahci\StartOverride\0 0",
        r"ControlSet001\Services\intelide\StartOverride\0 0",
        r"ControlSet001\Services\stornvme\StartOverride\0 0",
        r"ControlSet001\Services\xenhide\Start 4",
        r"ControlSet001\Services\xenvbd\Start 4",
        r"ControlSet001\Services\xenpci\Start 4",
        // The other one that may be booted; what is right in it stays. The third is none that Windows uses.
        r"ControlSet002\Services\pciide\StartOverride\0 0",
        r"ControlSet002\Services\xenhide\Start 4",
        r"ControlSet002\Services\xenvbd\Start 4",
        r"ControlSet002\Services\xenpci\Start 4",
    ];
    assert_eq!(lines, expected);
    let kept = repair::plan(&hive, true).unwrap();
    assert!(kept.iter().all(|change| change.name != "Start"));
    assert_eq!(kept.len(), 6);
}

#[test]
fn the_file_is_repaired_and_a_copy_kept() {
    let folder = tempfile::tempdir().unwrap();
    // As the disk is mounted on Linux: whatever case the names are in.
    let config = folder.path().join("WINDOWS/system32/config");
    std::fs::create_dir_all(&config).unwrap();
    let file = config.join("SYSTEM");
    let before = hive(UNBOOTABLE);
    std::fs::write(&file, &before).unwrap();
    std::fs::write(config.join("SYSTEM.LOG1"), b"log").unwrap();

    let dry = xentool(&["--dry-run"], folder.path());
    assert!(dry.status.success(), "{}", said(&dry));
    assert!(
        said(&dry).contains(r"would change ControlSet001\Services\xenhide\Parameters\Disks: 1 -> 0"),
        "{}",
        said(&dry)
    );
    assert_eq!(std::fs::read(&file).unwrap(), before);
    assert_eq!(std::fs::read_dir(&config).unwrap().count(), 2);

    let done = xentool(&[], folder.path());
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(std::fs::read(config.join("SYSTEM.xentool-1")).unwrap(), before);
    assert_eq!(std::fs::read(config.join("SYSTEM.LOG1.xentool-1")).unwrap(), b"log");
    let after = std::fs::read(&file).unwrap();
    let differ = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert_eq!((after.len(), differ), (before.len(), 12));
    let mended = HiveFile::new(after.clone()).unwrap();
    assert_eq!(number(&mended, r"ControlSet001\Services\xenhide\Parameters", "Disks"), Some(0));
    assert_eq!(number(&mended, r"ControlSet001\Services\storahci\StartOverride", "0"), Some(0));
    assert_eq!(number(&mended, r"ControlSet001\Services\xenpci", "Start"), Some(4));
    assert_eq!(number(&mended, r"ControlSet001\Services\disk", "Start"), Some(0));
    // The library that made it reads it as well.
    let other = regf::RegistryHive::from_bytes(after.clone()).unwrap();
    let key = other.open_key(r"ControlSet001\Services\xenvbd").unwrap();
    assert_eq!(key.value("Start").unwrap().dword_data().unwrap(), 4);

    let again = xentool(&[], &file);
    assert!(again.status.success() && said(&again).contains("nothing to change"), "{}", said(&again));
    assert_eq!(std::fs::read(&file).unwrap(), after);
}

/// On a disk with room for the first of two copies the repair stops; with more room it goes on.
#[test]
#[cfg(unix)]
fn without_room_for_the_copy_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("SYSTEM");
    let before = hive(UNBOOTABLE);
    std::fs::write(&file, &before).unwrap();
    std::fs::write(folder.path().join("SYSTEM.LOG1"), b"log").unwrap();
    // No file may be larger than 2 KiB, which fails as a full disk does, and without a signal.
    let script = "trap '' XFSZ; ulimit -f 4; exec \"$0\" repair \"$1\"";
    let full = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_xentool")]).arg(&file).output().unwrap();
    assert!(!full.status.success() && said(&full).contains("nothing is changed without a copy"), "{}", said(&full));
    assert_eq!(std::fs::read(&file).unwrap(), before);
    assert!(!folder.path().join("SYSTEM.xentool-1").exists(), "half a copy");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "the hive, its log, the log's copy");

    let done = xentool(&[], &file);
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(std::fs::read(folder.path().join("SYSTEM.xentool-1")).unwrap(), before);
    assert_eq!(std::fs::read(folder.path().join("SYSTEM.LOG1.xentool-1")).unwrap(), b"log");
}

#[test]
fn a_hive_that_cannot_be_trusted_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("SYSTEM");
    let good = hive(UNBOOTABLE);
    let mut dirty = good.clone();
    // The second sequence number, and the check sum over the header that it changes.
    dirty[8] ^= 1;
    dirty[0x1fc] ^= 1;
    let mut header = good.clone();
    header[0x24] ^= 0xff;
    let software =
        hive("Windows Registry Editor Version 5.00\n\n[HKEY_LOCAL_MACHINE\\SOFTWARE\\Classes]\n\"a\"=dword:00000001\n");
    let table: [(&str, &[u8], &str); 6] = [
        ("dirty", &dirty, "Windows did not close this hive"),
        ("header", &header, "no hive, or it is damaged"),
        ("short", &good[..1000], "no hive, or it is damaged"),
        ("text", b"regf, but for the rest", "no hive, or it is damaged"),
        ("empty", b"", "no hive, or it is damaged"),
        ("software", &software, "no SYSTEM hive"),
    ];
    for (name, content, message) in table {
        std::fs::write(&file, content).unwrap();
        let output = xentool(&[], &file);
        assert!(!output.status.success() && said(&output).contains(message), "{name}: {}", said(&output));
        assert_eq!(std::fs::read(&file).unwrap(), content, "{name}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{name}");
    }
    let nothing = xentool(&[], &folder.path().join("nothing"));
    assert!(!nothing.status.success() && said(&nothing).contains("there is no Windows"), "{}", said(&nothing));
}

#[test]
fn damage_anywhere_leaves_the_file_as_it_was_or_repairs_it() {
    let good = hive(UNBOOTABLE);
    let cells = 0x1000..good.len();
    let (mut refused, mut repaired, mut panicked) = (0, 0, None);
    for place in cells.step_by(7) {
        let mut bad = good.clone();
        bad[place] ^= 0xff;
        // The library panics at some kinds of damage: then nothing has been written either.
        let outcome = std::panic::catch_unwind(|| {
            let mut hive = HiveFile::new(bad.clone()).ok()?;
            let plan = repair::plan(&hive, false).ok()?;
            plan.iter().try_for_each(|change| hive.set_number(&change.key, change.name, change.after)).ok()?;
            // What was planned is what is there then.
            Some(plan.iter().all(|change| number(&hive, &change.key, change.name) == Some(change.after)))
        });
        match outcome {
            Ok(Some(done)) => {
                assert!(done, "{place:#x}");
                repaired += 1;
            }
            Ok(None) => refused += 1,
            Err(_) => {
                refused += 1;
                panicked.get_or_insert(bad);
            }
        }
    }
    assert!(refused > 10 && repaired > 10, "{refused} refused, {repaired} repaired");
    // The program says so, and ends.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("SYSTEM");
    let bad = panicked.expect("the library takes all damage well: let it go without the hook in main.rs");
    std::fs::write(&file, &bad).unwrap();
    let output = xentool(&[], &file);
    let text = said(&output);
    assert!(!output.status.success() && text.contains("the hive is damaged, and nothing was changed"), "{text}");
    assert_eq!(std::fs::read(&file).unwrap(), bad);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

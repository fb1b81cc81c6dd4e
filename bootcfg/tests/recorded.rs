//! Outputs of `bcdedit`, ordinary and odd: what is read of them, and what may be done.

use bootcfg::arm::check;
use bootcfg::output::objects;
use bootcfg::{Entry, Error, Id, Mode, Store};

const FIRST: &str = "{5d1f7c2a-30b6-4c58-9e04-8a61d3f7c4e2}";
const SECOND: &str = "{5d1f7c2a-30b6-4c58-9e04-8a61d3f7c4e3}";
const THIRD: &str = "{5d1f7c2a-30b6-4c58-9e04-8a61d3f7c4e4}";

fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

fn text(name: &str) -> String {
    let path = format!("{}/tests/recorded/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

fn parsed(text: &str) -> Store {
    Store::new(&objects(text).unwrap()).unwrap()
}

fn store(name: &str) -> Store {
    parsed(&text(name))
}

fn ids(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.id.as_str()).collect()
}

#[test]
fn an_ordinary_store_is_the_same_in_every_language() {
    let plain = store("plain");
    assert_eq!(plain.default, Some(id(FIRST)));
    assert_eq!(plain.display_order, [id(FIRST)]);
    assert_eq!((plain.boot_sequence.len(), plain.persistent_sequence), (0, false));
    // Recovery, the memory tester and the settings start no Windows of their own.
    assert_eq!(ids(&plain.entries), [FIRST]);
    assert_eq!(plain.entries[0].description, "Windows 10");
    assert_eq!((plain.entries[0].load_options.as_deref(), plain.entries[0].mode()), (None, Mode::Unsaid));
    for language in ["german", "japanese", "chinese"] {
        assert_eq!(store(language), plain, "{language}");
    }
}

#[test]
fn what_is_no_windows_is_no_entry() {
    let french = store("french");
    assert_eq!((french.default.clone(), ids(&french.entries)), (Some(id(FIRST)), vec![FIRST]));
    assert_eq!(french.display_order.len(), 2);
    assert_eq!(french.entries[0].mode(), Mode::Emulated);
    let all = objects(&text("french")).unwrap();
    assert_eq!(all.len(), 8);
    assert!(all[7].elements.is_empty(), "bad memory has no elements");
}

/// The console's code page is not asked for: its letters become others, and nothing else does.
#[test]
fn letters_that_do_not_come_through_change_nothing() {
    for language in ["german", "japanese", "chinese", "french"] {
        let text = text(language);
        assert!(!text.is_ascii(), "{language}");
        for other in ["\u{fffd}", "?", "{x", "}\u{fffd}"] {
            let changed: String =
                text.chars().map(|letter| if letter.is_ascii() { letter.to_string() } else { other.into() }).collect();
            assert_eq!(parsed(&changed), parsed(&text), "{language} with {other}");
        }
    }
}

#[test]
fn two_entries_are_ready() {
    let ready = store("two-entries");
    assert_eq!(ready.boot_sequence, [id(SECOND)]);
    let modes: Vec<Mode> = ready.entries.iter().map(Entry::mode).collect();
    assert_eq!(modes, [Mode::Emulated, Mode::Paravirtual]);
    assert!(ready.entries[0].same_system(&ready.entries[1]));
    check(&ready, &id(SECOND)).unwrap();
}

#[test]
fn what_a_user_edited_is_read_as_words() {
    let edited = store("edited");
    let modes: Vec<Mode> = edited.entries.iter().map(Entry::mode).collect();
    assert_eq!(modes, [Mode::Emulated, Mode::Paravirtual, Mode::Emulated]);
    assert_eq!(edited.entries[0].load_options.as_deref(), Some("DEBUGPORT=COM1 nogplpv /MAXPROC"));
    check(&edited, &id(SECOND)).unwrap();
    assert!(matches!(check(&edited, &id(THIRD)), Err(Error::Edited(edited)) if edited == id(THIRD)));
}

#[test]
fn what_could_loop_is_never_armed() {
    let outcome = |name: &str, entry: &str| check(&store(name), &id(entry)).unwrap_err();
    assert!(matches!(outcome("no-default", FIRST), Error::NoDefault));
    assert!(matches!(outcome("default-gone", FIRST), Error::NoDefault));
    // The default is the entry itself, and asks for nothing.
    assert!(matches!(outcome("plain", FIRST), Error::DefaultParavirtual(_)));
    assert!(matches!(outcome("plain", SECOND), Error::NoEntry));
    // Older drivers had the option in the default entry.
    assert!(matches!(outcome("old-gplpv", SECOND), Error::DefaultParavirtual(default) if default == id(FIRST)));
    assert!(matches!(outcome("dual-boot", FIRST), Error::Edited(_)));
    assert!(matches!(outcome("persistent", SECOND), Error::Persistent));
    // Recovery is to start next: somebody asked for that.
    assert!(matches!(outcome("taken", SECOND), Error::Taken(_)));
}

#[test]
fn every_reason_says_what_to_do() {
    for (error, part) in [
        (Error::NoDefault, "bcdedit /default"),
        (Error::OtherDefault(id(FIRST)), "bcdedit /default"),
        (Error::DefaultParavirtual(id(FIRST)), "loadoptions NOGPLPV"),
        (Error::Persistent, "/deletevalue {bootmgr} persistbootsequence"),
        (Error::BitLocker, "manage-bde -protectors -disable"),
        (Error::NoEntry, "install again"),
        (Error::BitLockerUnknown(Some(5)), "manage-bde ends with 5"),
    ] {
        let text = error.to_string();
        assert!(text.contains(part), "{text}");
    }
}

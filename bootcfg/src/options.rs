//! The words of a boot entry's load options. The kernel copies them, among others, to `SystemStartOptions`.
//!
//! They are words between blanks, in either case, with or without a slash before them: `NOGPLPV` contains `GPLPV`, and
//! is something else. `xenhide` reads them by the same rules before Windows finds its disks; a test holds the two
//! together.

/// Asks for the paravirtual devices.
pub const PARAVIRTUAL: &str = "GPLPV";
/// Asks for the emulated ones. It wins.
pub const EMULATED: &str = "NOGPLPV";
const SAFE_BOOT: &str = "SAFEBOOT:";

/// What a boot's options ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Safe mode, which uses the emulated devices whatever else is asked for.
    Safe,
    /// The emulated devices, by `NOGPLPV`.
    Emulated,
    /// The paravirtual devices, by `GPLPV`.
    Paravirtual,
    /// Nothing: the emulated devices.
    Unsaid,
}

fn words(options: &str) -> impl Iterator<Item = &str> {
    options.split([' ', '\t']).filter(|word| !word.is_empty())
}

fn is(word: &str, name: &str) -> bool {
    word.strip_prefix('/').unwrap_or(word).eq_ignore_ascii_case(name)
}

fn is_safe_boot(word: &str) -> bool {
    let word = word.strip_prefix('/').unwrap_or(word);
    word.get(..SAFE_BOOT.len()).is_some_and(|start| start.eq_ignore_ascii_case(SAFE_BOOT))
}

/// What the options ask for.
pub fn mode(options: &str) -> Mode {
    let has = |name| words(options).any(|word| is(word, name));
    if words(options).any(is_safe_boot) {
        Mode::Safe
    } else if has(EMULATED) {
        Mode::Emulated
    } else if has(PARAVIRTUAL) {
        Mode::Paravirtual
    } else {
        Mode::Unsaid
    }
}

/// The options with neither of the two words, in the order in which they were.
pub fn without(options: &str) -> String {
    words(options).filter(|word| !is(word, PARAVIRTUAL) && !is(word, EMULATED)).collect::<Vec<_>>().join(" ")
}

/// The options with `word`, and without the other of the two.
pub fn with(options: &str, word: &str) -> String {
    let rest = without(options);
    if rest.is_empty() { word.to_owned() } else { format!("{rest} {word}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_words() {
        let table = [
            ("", Mode::Unsaid),
            (" NOEXECUTE=OPTIN  FVEBOOT=264", Mode::Unsaid),
            (" NOEXECUTE=OPTIN GPLPV", Mode::Paravirtual),
            ("/gplpv", Mode::Paravirtual),
            ("NOGPLPV", Mode::Emulated),
            ("nogplpv gplpv", Mode::Emulated),
            ("GPLPVX", Mode::Unsaid),
            ("GPLPVUSEFILTERHIDE", Mode::Unsaid),
            ("GPLPV SAFEBOOT:MINIMAL", Mode::Safe),
            ("/safeboot:network NOGPLPV", Mode::Safe),
            ("SAFEBOOT GPLPV", Mode::Paravirtual),
            ("GPLPV=1 \u{fc}", Mode::Unsaid),
        ];
        for (options, expected) in table {
            assert_eq!(mode(options), expected, "{options:?}");
        }
    }

    #[test]
    fn other_words_stay_as_they_are() {
        assert_eq!(with("", EMULATED), "NOGPLPV");
        assert_eq!(with("/GPLPV DEBUGport=com1", EMULATED), "DEBUGport=com1 NOGPLPV");
        assert_eq!(with("a NOGPLPV b gplpv", PARAVIRTUAL), "a b GPLPV");
        assert_eq!(without(" nogplpv "), "");
        assert_eq!(without("GPLPVUSEFILTERHIDE  x"), "GPLPVUSEFILTERHIDE x");
    }

    /// The driver decides by its own reading of the same words.
    #[test]
    fn the_driver_reads_the_same() {
        use xen_hide::{Boot, Readiness, decide};
        for options in
            ["", "GPLPV", "/gplpv x", "NOGPLPV", "GPLPV NOGPLPV", "GPLPVX", "SAFEBOOT:MINIMAL GPLPV", "SAFEBOOT GPLPV"]
        {
            let wide: Vec<u16> = options.encode_utf16().collect();
            let ready = Readiness { armed: true, drivers: true };
            let boot = Boot { on_xen: true, options: &wide, safe_mode: false, disks: ready, nics: ready };
            let unplugged = decide(&boot, &Ports, 0, 0).disks.is_ok();
            assert_eq!(unplugged, mode(options) == Mode::Paravirtual, "{options:?}");
        }
    }

    use xenhide::policy as xen_hide;

    /// A device model with version 0 of the protocol.
    struct Ports;

    impl xen_abi::unplug::PortIo for Ports {
        fn read_u8(&self, _port: u16) -> u8 {
            0
        }
        fn read_u16(&self, _port: u16) -> u16 {
            0x49d2
        }
        fn write_u16(&self, _port: u16, _value: u16) {}
        fn write_u32(&self, _port: u16, _value: u32) {}
    }
}

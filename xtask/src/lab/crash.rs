//! A guest that is to crash: whether it stopped for the right reason, and whether its report leads back to the source.

use anyhow::{Context, bail, ensure};

use crate::symbolize::Symbols;

/// What a crash must look like: `crash=CODE,FUNCTION,...` of `tests/lab/cases.txt`.
#[derive(Debug, PartialEq, Eq)]
pub struct Crash {
    /// The bug check.
    code: u32,
    /// What the stack must show without a gap, the innermost first.
    functions: Vec<String>,
}

impl Crash {
    /// Reads `0x7e,ReadFrom,Control`.
    ///
    /// # Errors
    /// The code is no hexadecimal number, or there is no function.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut words = text.split(',');
        let code = words.next().and_then(|word| word.strip_prefix("0x")).context("a crash begins with a code, 0x7e")?;
        let code = u32::from_str_radix(code, 16)?;
        let functions: Vec<String> = words.map(str::to_owned).collect();
        ensure!(!functions.is_empty(), "a crash needs a function");
        Ok(Self { code, functions })
    }

    /// Reads what the guest printed: the stack as it was found.
    ///
    /// # Errors
    /// There was no stop or another one, a place of the report has no function, file and line, or the functions are others.
    pub fn judge(&self, lines: &[&str], symbols: &Symbols) -> anyhow::Result<String> {
        let stop = |line: &&str| line.contains(" lab: stop ");
        let Some(at) = lines.iter().position(stop) else { bail!("the guest has not stopped: no `lab: stop`") };
        let wanted = format!(" lab: stop {:#x} ", self.code);
        ensure!(lines[at].contains(&wanted), "it stopped otherwise: `{}`, not with {:#x}", lines[at], self.code);
        let places = symbols.places(&lines[at..].join("\n"));
        let mut functions = Vec::new();
        for place in &places {
            ensure!(!place.frames.is_empty(), "{} has no symbols", place.text);
            for frame in &place.frames {
                let (Some(function), Some(_)) = (&frame.function, &frame.line) else {
                    bail!("{} has no function, file or line: {frame}", place.text)
                };
                // Without the parameters.
                functions.push(function.split('(').next().unwrap_or_default());
            }
        }
        let found = functions.windows(self.functions.len()).any(|window| window == self.functions);
        ensure!(found, "the stack shows {}, not {}", functions.join(" < "), self.functions.join(" < "));
        Ok(format!("{} places by file and line, {}", places.len(), self.functions.join(" < ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_cases_says_what_a_crash_is() {
        let crash = Crash::parse("0x7e,ReadFrom,Control").expect("a crash");
        assert_eq!((crash.code, crash.functions.len()), (0x7e, 2));
        for text in ["", "0x7e", "7e,ReadFrom", "0xg,ReadFrom"] {
            assert!(Crash::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_such_crash_fails() {
        let crash = Crash::parse("0x7e,ReadFrom").expect("a crash");
        let symbols = Symbols::new(&std::env::temp_dir().join("no-such-folder"));
        let why = |lines: &[&str]| crash.judge(lines, &symbols).expect_err("it is none").to_string();
        assert!(why(&["(d1) lab: booted"]).contains("no `lab: stop`"));
        assert!(why(&["(d1) lab: stop 0x7 [0]", "(d1) lab:   at f.sys+0x10"]).contains("not with 0x7e"));
        assert!(why(&["(d1) lab: stop 0x7e [0]", "(d1) lab:   at f.sys+0x10"]).contains("f.sys+0x10 has no symbols"));
        assert!(why(&["(d1) lab: stop 0x7e [0]"]).contains("not ReadFrom"));
    }
}

//! A text as Windows' event log takes it. It may have parts that a stranger wrote: what xenstore says.
//!
//! <https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-reporteventw>: a string of an event has an end, a most
//! length, and no `%1`, for which the event viewer would put in something else.

/// Most UTF-16 units of a text; a longer one would not be written at all.
const LONGEST: usize = 31_000;

/// The text in UTF-16, with a NUL at its end and none before. What is too long is cut.
pub fn event_text(text: &str) -> Vec<u16> {
    let mut units = Vec::with_capacity(text.len().min(LONGEST) + 1);
    let mut left = text.chars().filter(|character| *character != '\0').peekable();
    while let Some(character) = left.next() {
        units.extend_from_slice(character.encode_utf16(&mut [0; 2]));
        if character == '%' && left.peek().is_some_and(char::is_ascii_digit) {
            units.push(u16::from(b' '));
        }
        if units.len() > LONGEST {
            break;
        }
    }
    units.truncate(LONGEST);
    units.push(0);
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let units = event_text(text);
        let (end, text) = units.split_last().unwrap();
        assert_eq!((*end, text.contains(&0)), (0, false));
        String::from_utf16_lossy(text)
    }

    #[test]
    fn nothing_is_put_in_for_a_part_of_it() {
        for (text, expected) in [
            ("", ""),
            ("100 % of it, 5%", "100 % of it, 5%"),
            ("%1 %%2 %\x003 fe80::1%12", "% 1 %% 2 % 3 fe80::1% 12"),
            ("a\0b\u{1f600}", "ab\u{1f600}"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn a_long_one_is_cut() {
        for text in ["x".repeat(100_000), "%1".repeat(50_000), "\u{1f600}".repeat(50_000)] {
            assert_eq!(event_text(&text).len(), LONGEST + 1);
        }
    }
}

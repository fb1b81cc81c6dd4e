//! Turns a driver's committed INF into the one that ships: version stamped, lines ended as Windows ends them.

use anyhow::{Context, bail};

/// The INF in `text` with its `DriverVer` set to `date` (`2026-11-22`) and `version` (`0.1.0`).
///
/// # Errors
/// Where there is not exactly one `DriverVer` line, or the text is not ASCII: Windows would read anything else in the
/// code page of the day.
pub fn stamp(text: &str, date: &str, version: &str) -> anyhow::Result<String> {
    if let Some(line) = text.lines().position(|line| !line.is_ascii()) {
        bail!("line {} is not ASCII", line + 1);
    }
    let value = format!("{},{version}.0", american(date).with_context(|| format!("`{date}` is not a date"))?);
    let mut stamped = 0;
    let mut result = String::with_capacity(text.len() + 256);
    for line in text.lines() {
        let key = line.split('=').next().unwrap_or_default().trim();
        if key.eq_ignore_ascii_case("DriverVer") {
            stamped += 1;
            result.push_str(line.split_inclusive('=').next().unwrap_or_default());
            result.push(' ');
            result.push_str(&value);
        } else {
            result.push_str(line);
        }
        result.push_str("\r\n");
    }
    match stamped {
        1 => Ok(result),
        count => bail!("{count} DriverVer lines, expected one"),
    }
}

/// `2026-11-22` as `11/22/2026`.
fn american(date: &str) -> Option<String> {
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_date = parts.next().is_none() && digits(year, 4) && digits(month, 2) && digits(day, 2);
    is_date.then(|| format!("{month}/{day}/{year}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_and_line_ends_are_set() {
        let inf = "[Version]\nClass = System\nDriverVer = 01/01/2000,0.0.0.0\n";
        assert_eq!(
            stamp(inf, "2026-11-22", "0.1.0").unwrap(),
            "[Version]\r\nClass = System\r\nDriverVer = 11/22/2026,0.1.0.0\r\n"
        );
    }

    #[test]
    fn what_windows_would_misread_is_refused() {
        assert!(stamp("[Version]\n", "2026-11-22", "0.1.0").is_err());
        assert!(stamp("DriverVer=1\nDriverVer=2\n", "2026-11-22", "0.1.0").is_err());
        assert!(stamp("DriverVer=1\n; \u{e9}\n", "2026-11-22", "0.1.0").is_err());
        assert!(stamp("DriverVer=1\n", "22.11.2026", "0.1.0").is_err());
    }
}

//! What stands in `control/shutdown` (`docs/misc/xenstore-paths.pandoc` in Xen's source).

use std::fmt;

/// How Windows is to go down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Off.
    PowerOff,
    /// And up again.
    Reboot,
}

impl fmt::Display for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "shut down",
            Self::Reboot => "restart",
        })
    }
}

/// A request of the toolstack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing: the node is empty, which is also how a request is acknowledged.
    None,
    /// Go down.
    Shutdown(Shutdown),
    /// Suspend: xenpci does that and acknowledges it.
    Suspend,
    /// Sleep (`s3`) or hibernate (`s4`): not offered, so nobody should ask.
    Sleep(String),
    /// Nobody knows it.
    Unknown(String),
}

/// Longest part of an unknown request that is shown.
const SHOWN: usize = 32;

impl Request {
    /// From the node's value. What is not known is kept in a form that is fit for a log.
    pub fn parse(value: &[u8]) -> Self {
        match value {
            b"" => Self::None,
            b"poweroff" | b"halt" => Self::Shutdown(Shutdown::PowerOff),
            b"reboot" => Self::Shutdown(Shutdown::Reboot),
            b"suspend" => Self::Suspend,
            b"s3" | b"s4" | b"hibernate" => Self::Sleep(shown(value)),
            _ => Self::Unknown(shown(value)),
        }
    }

    /// Whether this service takes it, and so acknowledges it.
    pub fn is_ours(&self) -> bool {
        !matches!(self, Self::None | Self::Suspend)
    }
}

fn shown(value: &[u8]) -> String {
    let text = value[..value.len().min(SHOWN)].escape_ascii().to_string();
    if value.len() > SHOWN { format!("{text}... ({} bytes)", value.len()) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_meaning() {
        let table: [(&[u8], Request, bool); 10] = [
            (b"", Request::None, false),
            (b"poweroff", Request::Shutdown(Shutdown::PowerOff), true),
            (b"halt", Request::Shutdown(Shutdown::PowerOff), true),
            (b"reboot", Request::Shutdown(Shutdown::Reboot), true),
            (b"suspend", Request::Suspend, false),
            (b"s3", Request::Sleep("s3".into()), true),
            (b"s4", Request::Sleep("s4".into()), true),
            (b"Reboot", Request::Unknown("Reboot".into()), true),
            (b"reboot\n", Request::Unknown("reboot\\n".into()), true),
            (b"\xff\0x", Request::Unknown("\\xff\\x00x".into()), true),
        ];
        for (value, request, ours) in table {
            assert_eq!(Request::parse(value), request);
            assert_eq!(request.is_ours(), ours);
        }
    }

    #[test]
    fn a_long_value_is_cut() {
        let Request::Unknown(text) = Request::parse(&[b'x'; 4000]) else { panic!("known") };
        assert_eq!(text, format!("{}... (4000 bytes)", "x".repeat(32)));
    }
}

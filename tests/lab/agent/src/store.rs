//! xenstored, by its socket and by its trace: writes that fall into a guest's transactions, and what came of them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};

/// Where xenstored listens.
const SOCKET: &str = "/run/xenstored/socket";
/// What labinit has xenstored log its messages to.
pub const TRACE: &str = "/run/xenstored.trace";
/// `XS_WRITE` and `XS_ERROR` of Xen's public/io/xs_wire.h.
const WRITE: u32 = 11;
const ERROR: u32 = 16;
const POLL: Duration = Duration::from_millis(1);

/// A connection to xenstored that writes. `xenstore-write` would take 10 ms to start.
struct Writer(UnixStream);

impl Writer {
    fn connect() -> anyhow::Result<Self> {
        UnixStream::connect(SOCKET).map(Self).context("cannot connect to xenstored")
    }

    fn write(&mut self, path: &str, value: &str) -> anyhow::Result<()> {
        let len = (path.len() + 1 + value.len()) as u32;
        let mut message: Vec<u8> = [WRITE, 0, 0, len].iter().flat_map(|word| word.to_le_bytes()).collect();
        message.extend_from_slice(path.as_bytes());
        message.push(0);
        message.extend_from_slice(value.as_bytes());
        self.0.write_all(&message)?;
        let mut header = [0; 16];
        self.0.read_exact(&mut header)?;
        let word = |n: usize| u32::from_le_bytes(header[4 * n..][..4].try_into().unwrap_or_default());
        let mut answer = vec![0; word(3).min(4096) as usize];
        self.0.read_exact(&mut answer)?;
        if word(0) == ERROR {
            bail!("xenstored: {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }
}

/// One message of the trace.
struct Message<'l> {
    /// To xenstored, or from it.
    into: bool,
    /// Which connection: an address of xenstored's.
    connection: &'l str,
    /// `TRANSACTION_END`, `ERROR`.
    kind: &'l str,
    content: &'l str,
}

/// `IN 0x55.. 20261122 18:22:01 TRANSACTION_START ( )`.
fn parse(line: &str) -> Option<Message<'_>> {
    let (head, content) = line.split_once(" (")?;
    let mut words = head.split_ascii_whitespace();
    let into = match words.next()? {
        "IN" => true,
        "OUT" => false,
        _ => return None,
    };
    let connection = words.next()?;
    Some(Message { into, connection, kind: words.last()?, content })
}

/// Writes from dom0 into a guest's transactions.
pub struct Conflicts {
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Conflicts {
    /// From now on, until `most` of the guest's transactions were refused, writes to a node of `home` while one of them
    /// is open. The guest is known by its relative path `own`, which nobody else asks for.
    pub fn start(home: String, own: String, most: u64) -> anyhow::Result<Self> {
        let trace = File::open(TRACE).context("xenstored writes no trace")?;
        let mut dom0 = Writer::connect()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (writes, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (stopping, written, conflicts) = (stop.clone(), writes.clone(), refused.clone());
        let thread = std::thread::spawn(move || {
            let mut lines = BufReader::new(trace);
            let (mut line, mut guest, mut open) = (String::new(), None::<String>, false);
            while !stopping.load(Ordering::Relaxed) {
                if lines.read_line(&mut line)? == 0 {
                    if open && conflicts.load(Ordering::Relaxed) < most {
                        // The node that the frontend publishes its ring's size in: every transaction touches it.
                        let value = written.fetch_add(1, Ordering::Relaxed).to_string();
                        dom0.write(&format!("{home}/{own}"), &value)?;
                    } else {
                        std::thread::sleep(POLL);
                    }
                    continue;
                }
                if !line.ends_with('\n') {
                    continue;
                }
                if let Some(message) = parse(line.trim_end()) {
                    if message.into && message.content.starts_with(own.as_str()) {
                        guest = Some(message.connection.to_owned());
                        open = true;
                    }
                    if guest.as_deref() == Some(message.connection) {
                        match (message.into, message.kind) {
                            (true, "TRANSACTION_END") => open = false,
                            (false, "ERROR") if message.content.starts_with("EAGAIN") => {
                                conflicts.fetch_add(1, Ordering::Relaxed);
                            }
                            _ => {}
                        }
                    }
                }
                line.clear();
            }
            Ok(())
        });
        Ok(Self { stop, writes, refused, thread: Some(thread) })
    }

    /// Ends it: how often dom0 wrote, and how many transactions xenstored refused with EAGAIN.
    pub fn end(mut self) -> anyhow::Result<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(error)) = self.thread.take().map(JoinHandle::join).transpose().ok().flatten() {
            return Err(error);
        }
        Ok((self.writes.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_trace() {
        let asked = parse("IN 0x556f 20261122 18:48:46 RM (device/vbd/51792/ring-page-order )").expect("a message");
        assert!(asked.into && asked.kind == "RM" && asked.content.starts_with("device/vbd/51792/"));
        let refused = parse("OUT 0x556f 20261122 18:48:46 ERROR (EAGAIN )").expect("a message");
        assert!(!refused.into && refused.kind == "ERROR" && refused.content.starts_with("EAGAIN"));
        assert_eq!(asked.connection, refused.connection);
        assert!(parse("CREATE connection 0x556f").is_none());
    }
}

//! xenstored, by its socket and by its trace: what stands in it, writes that fall into a guest's transactions, and what came of
//! those.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use xenstore_client::{Client, Store};

/// Where xenstored listens.
const SOCKET: &str = "/run/xenstored/socket";
/// What labinit has xenstored log its messages to.
pub const TRACE: &str = "/run/xenstored.trace";
const POLL: Duration = Duration::from_millis(1);

/// The connection that everybody here uses.
static CLIENT: OnceLock<Client> = OnceLock::new();

/// A program of xenstore's takes longer to start here than to do its work.
fn client() -> anyhow::Result<&'static Client> {
    if let Some(client) = CLIENT.get() {
        return Ok(client);
    }
    let client = Client::connect_unix(SOCKET).context("cannot connect to xenstored")?;
    Ok(CLIENT.get_or_init(|| client))
}

/// A node's value.
pub fn read(path: &str) -> anyhow::Result<String> {
    client()?.read_string(path).with_context(|| format!("cannot read {path}"))
}

/// Writes a node.
pub fn write(path: &str, value: &str) -> anyhow::Result<()> {
    client()?.write(path, value).with_context(|| format!("cannot write {path}"))
}

/// Removes a node with everything below it.
pub fn remove(path: &str) -> anyhow::Result<()> {
    client()?.remove(path).with_context(|| format!("cannot remove {path}"))
}

/// Whether there is such a node.
pub fn exists(path: &str) -> anyhow::Result<bool> {
    client()?.exists(path).with_context(|| format!("cannot look for {path}"))
}

/// The names right below a node; none if it is not there.
pub fn list(path: &str) -> anyhow::Result<Vec<String>> {
    match client()?.list(path) {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        names => names.with_context(|| format!("cannot list {path}")),
    }
}

/// The nodes right below a node, with their values.
pub fn keys(path: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let names = list(path)?.into_iter();
    // A node may go between the two.
    Ok(names.filter_map(|name| read(&format!("{path}/{name}")).ok().map(|value| (name, value))).collect())
}

/// The whole store, a line a node.
pub fn tree() -> anyhow::Result<String> {
    fn below(path: &str, text: &mut String) -> anyhow::Result<()> {
        for name in list(if path.is_empty() { "/" } else { path })? {
            let node = format!("{path}/{name}");
            let Ok(value) = client()?.read(&node) else { continue };
            let _ = writeln!(text, "{node} = \"{}\"", value.escape_ascii());
            below(&node, text)?;
        }
        Ok(())
    }
    let mut text = String::new();
    below("", &mut text)?;
    Ok(text)
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
        let dom0 = client()?;
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

//! The client over a socket, against a xenstored of a few lines.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use xen_abi::xenstore::{HEADER_SIZE, Header, MessageType};
use xenstore_client::{Change, Client, Errno, Error, Store};

/// A xenstored whose transactions are copies of everything; one that finds the nodes changed ends with `EAGAIN`.
#[derive(Default)]
struct Server {
    nodes: BTreeMap<String, Vec<u8>>,
    changes: u32,
    transactions: BTreeMap<u32, (u32, BTreeMap<String, Vec<u8>>)>,
    last_transaction: u32,
    watches: Vec<(String, String)>,
}

const OK: &[u8] = b"OK\0";

impl Server {
    fn answer(&mut self, header: &Header, payload: &[u8], fired: &mut Vec<Vec<u8>>) -> Result<Vec<u8>, &'static str> {
        let mut parts = payload.splitn(2, |byte| *byte == 0);
        let path = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let rest = parts.next().unwrap_or_default();
        let nodes = match header.tx_id {
            0 => &mut self.nodes,
            id => &mut self.transactions.get_mut(&id).ok_or("ENOENT")?.1,
        };
        match header.message_type().ok_or("ENOSYS")? {
            MessageType::Read => nodes.get(&path).cloned().ok_or("ENOENT"),
            MessageType::Write => {
                nodes.insert(path.clone(), rest.to_vec());
                if header.tx_id == 0 {
                    self.changes += 1;
                    let below = |watched: &str| path.starts_with(watched);
                    for (_, token) in self.watches.iter().filter(|(watched, _)| below(watched)) {
                        fired.push([path.as_bytes(), b"\0", token.as_bytes(), b"\0"].concat());
                    }
                }
                Ok(OK.to_vec())
            }
            MessageType::Rm => nodes.remove(&path).map(|_| OK.to_vec()).ok_or("ENOENT"),
            MessageType::Directory => {
                let below = format!("{path}/");
                let names: Vec<_> = nodes.keys().filter_map(|name| name.strip_prefix(&below)).collect();
                if names.len() > 100 {
                    return Err("E2BIG");
                }
                Ok(names.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect())
            }
            MessageType::DirectoryPart => {
                let below = format!("{path}/");
                let names = nodes.keys().filter_map(|name| name.strip_prefix(&below));
                let all: Vec<u8> = names.flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
                let offset: usize =
                    String::from_utf8_lossy(rest).trim_end_matches('\0').parse().map_err(|_| "EINVAL")?;
                let left = &all[offset..];
                let mut reply = b"7\0".to_vec();
                let end = left.iter().take(500).rposition(|byte| *byte == 0).map_or(0, |at| at + 1);
                reply.extend_from_slice(&left[..end]);
                if end == left.len() {
                    reply.push(0);
                }
                Ok(reply)
            }
            MessageType::Watch => {
                let token = String::from_utf8_lossy(rest).trim_end_matches('\0').to_owned();
                fired.push([path.as_bytes(), b"\0", token.as_bytes(), b"\0"].concat());
                self.watches.push((path, token));
                Ok(OK.to_vec())
            }
            MessageType::Unwatch => {
                let token = String::from_utf8_lossy(rest).trim_end_matches('\0').to_owned();
                self.watches.retain(|watch| *watch != (path.clone(), token.clone()));
                Ok(OK.to_vec())
            }
            MessageType::TransactionStart => {
                self.last_transaction += 1;
                self.transactions.insert(self.last_transaction, (self.changes, self.nodes.clone()));
                Ok(format!("{}\0", self.last_transaction).into_bytes())
            }
            MessageType::TransactionEnd => {
                let (changes, nodes) = self.transactions.remove(&header.tx_id).ok_or("ENOENT")?;
                if payload == b"T\0" {
                    if changes != self.changes {
                        return Err("EAGAIN");
                    }
                    self.nodes = nodes;
                    self.changes += 1;
                }
                Ok(OK.to_vec())
            }
            _ => Err("ENOSYS"),
        }
    }

    /// Serves until the client is gone; itself afterwards. Reads of `mute` get no answer, of `garbage` a length that
    /// cannot be.
    fn serve(mut self, mut socket: UnixStream) -> Self {
        let mut head = [0; HEADER_SIZE];
        while socket.read_exact(&mut head).is_ok() {
            let header = Header::from_bytes(&head);
            let mut payload = vec![0; header.len as usize];
            socket.read_exact(&mut payload).unwrap();
            if payload == b"mute\0" {
                continue;
            }
            if payload == b"garbage\0" {
                socket.write_all(&[0xFF; HEADER_SIZE]).unwrap();
                continue;
            }
            let mut fired = Vec::new();
            let (kind, reply) = match self.answer(&header, &payload, &mut fired) {
                Ok(reply) => (header.kind, reply),
                Err(name) => (MessageType::Error.number(), [name.as_bytes(), b"\0"].concat()),
            };
            let mut bytes = Vec::new();
            let mut put = |kind: u32, req_id: u32, payload: &[u8]| {
                bytes.extend(Header { kind, req_id, tx_id: 0, len: payload.len() as u32 }.to_bytes());
                bytes.extend_from_slice(payload);
            };
            put(kind, header.req_id, &reply);
            for event in fired {
                put(MessageType::WatchEvent.number(), 0, &event);
            }
            // In small pieces, as a stream may bring it.
            for piece in bytes.chunks(7) {
                if socket.write_all(piece).is_err() {
                    return self;
                }
            }
        }
        self
    }
}

fn pair() -> (Client, JoinHandle<Server>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = std::thread::spawn(move || Server::default().serve(theirs));
    (Client::new(ours).unwrap(), server)
}

#[test]
fn values_are_written_read_listed_and_removed() {
    let (client, server) = pair();
    client.write("data/a", "one").unwrap();
    client.write("data/b", [0xFF, 0]).unwrap();
    assert_eq!(client.read_string("data/a").unwrap(), "one");
    assert_eq!(client.read("data/b").unwrap(), [0xFF, 0]);
    assert!(matches!(client.read_string("data/b"), Err(Error::NotText)));
    assert_eq!(client.list("data").unwrap(), ["a", "b"]);
    client.remove("data/a").unwrap();
    client.remove("data/a").unwrap();
    assert!(!client.exists("data/a").unwrap() && client.exists("data/b").unwrap());
    assert!(client.read("data/a").unwrap_err().is_not_found());
    assert!(matches!(client.make_dir("data/c"), Err(Error::Store(Errno::ENOSYS))));
    assert!(matches!(client.read(""), Err(Error::Invalid(_))));
    assert!(matches!(client.read("a\0b"), Err(Error::Invalid(_))));
    assert!(matches!(client.write("data/long", vec![b'x'; 5000]), Err(Error::Invalid(_))));
    for number in 0..300 {
        client.write(&format!("many/{number:03}"), "").unwrap();
    }
    let names = client.list("many").unwrap();
    assert_eq!((names.len(), names[299].as_str()), (300, "299"), "a directory that comes in parts");
    drop(client);
    server.join().unwrap();
}

#[test]
fn threads_share_a_connection() {
    let (client, server) = pair();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let client = &client;
            scope.spawn(move || {
                for number in 0..100 {
                    let (path, value) = (format!("data/{thread}"), format!("{thread} {number}"));
                    client.write(&path, &value).unwrap();
                    assert_eq!(client.read_string(&path).unwrap(), value);
                }
            });
        }
    });
    drop(client);
    server.join().unwrap();
}

#[test]
fn a_watch_fires_until_it_is_dropped() {
    let (client, server) = pair();
    let watch = client.watch("control").unwrap();
    let (sender, changes) = mpsc::channel();
    let other = client.watch_with("data", move |change| sender.send(change).unwrap()).unwrap();
    assert_eq!(watch.wait().unwrap(), "control");
    assert_eq!(changes.recv().unwrap(), Change::Changed("data".into()));
    assert!(matches!(watch.wait_for(Duration::from_millis(20)), Err(Error::TimedOut)));
    client.write("control/shutdown", "reboot").unwrap();
    assert_eq!(watch.wait().unwrap(), "control/shutdown");
    drop(watch);
    client.write("data/x", "1").unwrap();
    assert_eq!(changes.recv().unwrap(), Change::Changed("data/x".into()));
    // A watch outlives its client, but not the connection.
    drop(client);
    assert_eq!(changes.recv().unwrap(), Change::Disconnected);
    drop(other);
    assert_eq!(server.join().unwrap().watches, [("data".to_owned(), "2".to_owned())]);
}

#[test]
fn a_transaction_is_run_again_and_one_that_is_dropped_changes_nothing() {
    let (client, server) = pair();
    client.write("n", "0").unwrap();
    let mut runs = 0;
    let seen = client.transaction(|transaction| {
        runs += 1;
        let seen = transaction.read_string("n")?;
        if runs < 3 {
            client.write("n", runs.to_string())?;
        }
        transaction.write("n", "committed")?;
        Ok(seen)
    });
    assert_eq!((seen.unwrap(), runs), ("2".to_owned(), 3));
    assert_eq!(client.read_string("n").unwrap(), "committed");
    let gone: xenstore_client::Result<()> = client.transaction(|transaction| {
        transaction.write("n", "never")?;
        Err(Error::NotText)
    });
    assert!(matches!(gone, Err(Error::NotText)));
    assert_eq!(client.read_string("n").unwrap(), "committed");
    let always: xenstore_client::Result<()> = client.transaction(|_| Err(Error::Store(Errno::EAGAIN)));
    assert!(always.unwrap_err().is_conflict());
    drop(client);
    assert!(server.join().unwrap().transactions.is_empty(), "every transaction was ended");
}

#[test]
fn a_lost_connection_ends_every_wait() {
    let (client, server) = pair();
    let watch = client.watch("data").unwrap();
    watch.wait().unwrap();
    client.set_timeout(Duration::from_millis(30));
    assert!(matches!(client.read("mute"), Err(Error::TimedOut)));
    client.write("data", "1").unwrap();
    watch.wait().unwrap();
    client.set_timeout(Duration::from_mins(1));
    assert!(client.is_connected());
    assert!(matches!(client.read("garbage"), Err(Error::Disconnected)), "a stream that cannot be followed");
    assert!(matches!(watch.wait(), Err(Error::Disconnected)));
    assert!(matches!(client.read("data"), Err(Error::Disconnected)));
    assert!(!client.is_connected());
    drop(watch);
    drop(client);
    server.join().unwrap();
}

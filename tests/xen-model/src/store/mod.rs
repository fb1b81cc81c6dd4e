//! xenstored: requests, watches, quotas. What travels over the guest's ring is in `ring`, the tree in `tree`.

mod ring;
mod tree;

use std::collections::{BTreeMap, VecDeque};

pub(crate) use ring::StoreRing;
pub use tree::{Perm, StoreError};

use crate::abi::xs;
use crate::config::Quotas;
use tree::{Change, Transaction, Tree, View};

/// A client of xenstored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    /// Toolstack and backends.
    Dom0,
    /// The guest, over its ring.
    Guest,
}

/// A message to a client: type, request id, transaction id, payload.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) kind: u32,
    pub(crate) req_id: u32,
    pub(crate) tx_id: u32,
    pub(crate) payload: Vec<u8>,
}

#[derive(Debug)]
struct Watch {
    path: String,
    token: Vec<u8>,
    /// Bytes of the home path to cut off again, for a watch on a relative path.
    cut: usize,
}

/// What xenstored keeps for one client.
#[derive(Debug)]
struct Connection {
    domid: u16,
    watches: Vec<Watch>,
    transactions: BTreeMap<u32, Transaction>,
    next_transaction: u32,
    out: VecDeque<Message>,
}

impl Connection {
    fn new(domid: u16) -> Self {
        let (watches, transactions, out) = (Vec::new(), BTreeMap::new(), VecDeque::new());
        Self { domid, watches, transactions, next_transaction: 1, out }
    }
}

/// xenstored.
///
/// The methods are dom0's client: they act at once, as a process of dom0 does over its socket, and the guest's watches
/// fire.
#[derive(Debug)]
pub struct Store {
    tree: Tree,
    dom0: Connection,
    guest: Connection,
    quotas: Quotas,
    conflicts: u64,
}

impl Store {
    pub(crate) fn new(domid: u16, quotas: Quotas) -> Self {
        let (dom0, guest) = (Connection::new(0), Connection::new(domid));
        Self { tree: Tree::new(), dom0, guest, quotas, conflicts: 0 }
    }

    /// The guest's connection begins anew: its watches, transactions and unsent messages are gone.
    pub(crate) fn reset_guest(&mut self, domid: u16) {
        self.guest = Connection::new(domid);
    }

    fn connection(&mut self, client: Client) -> &mut Connection {
        match client {
            Client::Dom0 => &mut self.dom0,
            Client::Guest => &mut self.guest,
        }
    }

    /// The next message for a client.
    pub(crate) fn next_message(&mut self, client: Client) -> Option<Message> {
        self.connection(client).out.pop_front()
    }

    /// Transactions of the guest that ended in a conflict since this was last asked.
    pub(crate) fn take_conflicts(&mut self) -> u64 {
        std::mem::take(&mut self.conflicts)
    }

    /// Handles a request of the guest's; the reply and the events that follow from it are queued. With `busy` a commit
    /// finds that the toolstack was faster.
    pub(crate) fn guest_request(&mut self, request: &Message, busy: bool) {
        let commits = request.kind == xs::TRANSACTION_END && request.payload == b"T\0";
        let result = if busy && commits && self.guest.transactions.remove(&request.tx_id).is_some() {
            self.conflicts += 1;
            Err("EAGAIN")
        } else {
            self.request(Client::Guest, request.kind, request.tx_id, &request.payload)
        };
        let (kind, payload) = match result {
            Ok(payload) => (request.kind, payload),
            Err(error) => (xs::ERROR_REPLY, terminated(error.as_bytes())),
        };
        let reply = Message { kind, req_id: request.req_id, tx_id: request.tx_id, payload };
        self.guest.out.push_back(reply);
        // A new watch fires once, after its acknowledgement.
        if request.kind == xs::WATCH
            && kind == xs::WATCH
            && let Some(watch) = self.guest.watches.last()
        {
            let event = watch_event(watch, &watch.path);
            self.guest.out.push_back(event);
        }
    }

    /// One request of a client; the payload of the answer, or the error's name.
    fn request(&mut self, client: Client, kind: u32, tx_id: u32, payload: &[u8]) -> Result<Vec<u8>, StoreError> {
        let domid = self.connection(client).domid;
        match kind {
            xs::TRANSACTION_START => {
                let limit = self.quotas.transactions;
                let conn = self.connection(client);
                if tx_id != 0 {
                    return Err("EBUSY");
                }
                if domid != 0 && conn.transactions.len() >= limit {
                    return Err("ENOSPC");
                }
                let id = conn.next_transaction;
                conn.next_transaction = id.checked_add(1).unwrap_or(1);
                conn.transactions.insert(id, Transaction::default());
                return Ok(terminated(id.to_string().as_bytes()));
            }
            xs::TRANSACTION_END => {
                let tx = self.connection(client).transactions.remove(&tx_id).ok_or("ENOENT")?;
                match payload {
                    b"T\0" => {
                        let changes = self.tree.commit(tx).inspect_err(|_| self.conflicts += u64::from(domid != 0))?;
                        self.fire(changes);
                    }
                    b"F\0" => {}
                    _ => return Err("EINVAL"),
                }
                return Ok(ok());
            }
            xs::WATCH => return self.add_watch(client, payload),
            xs::UNWATCH => return self.remove_watch(client, payload),
            xs::RESET_WATCHES => {
                let conn = self.connection(client);
                conn.watches.clear();
                conn.transactions.clear();
                return Ok(ok());
            }
            xs::GET_DOMAIN_PATH => {
                let id: u16 = number(first(payload)?)?;
                return Ok(terminated(home(id).as_bytes()));
            }
            xs::IS_DOMAIN_INTRODUCED => {
                let id: u16 = number(first(payload)?)?;
                return Ok(terminated(if id == 0 || id == self.guest.domid { b"T" } else { b"F" }));
            }
            xs::CONTROL | xs::INTRODUCE | xs::RELEASE | xs::RESUME | xs::SET_TARGET if domid != 0 => {
                return Err("EACCES");
            }
            _ => {}
        }
        let mut tx = match tx_id {
            0 => None,
            id => Some(self.connection(client).transactions.remove(&id).ok_or("ENOENT")?),
        };
        let room = self.room(domid);
        let quotas = self.quotas;
        let mut view = View { tree: &mut self.tree, tx: tx.as_mut(), domid, changes: Vec::new() };
        let result = tree_request(&mut view, kind, payload, room, &quotas);
        let changes = view.changes;
        if let Some(tx) = tx {
            self.connection(client).transactions.insert(tx_id, tx);
        }
        self.fire(changes);
        result
    }

    /// Nodes that a domain may still make.
    fn room(&self, domid: u16) -> usize {
        if domid == 0 { usize::MAX } else { self.quotas.nodes.saturating_sub(self.tree.owned_by(domid)) }
    }

    fn add_watch(&mut self, client: Client, payload: &[u8]) -> Result<Vec<u8>, StoreError> {
        let limit = self.quotas.watches;
        let mut parts = payload.split(|b| *b == 0);
        let (Some(given), Some(token), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("EINVAL");
        };
        let conn = self.connection(client);
        let path = if given.first() == Some(&b'@') { text(given)?.to_owned() } else { canonical(given, conn.domid)? };
        let cut = if path.len() > given.len() { path.len() - given.len() } else { 0 };
        if conn.watches.iter().any(|w| w.path == path && w.token == token) {
            return Err("EEXIST");
        }
        if conn.domid != 0 && conn.watches.len() >= limit {
            return Err("E2BIG");
        }
        conn.watches.push(Watch { path, token: token.to_owned(), cut });
        Ok(ok())
    }

    fn remove_watch(&mut self, client: Client, payload: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut parts = payload.split(|b| *b == 0);
        let (Some(given), Some(token), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("EINVAL");
        };
        let conn = self.connection(client);
        let path = if given.first() == Some(&b'@') { text(given)?.to_owned() } else { canonical(given, conn.domid)? };
        let at = conn.watches.iter().position(|w| w.path == path && w.token == token).ok_or("ENOENT")?;
        conn.watches.remove(at);
        Ok(ok())
    }

    /// Tells the watches of everyone who may know.
    fn fire(&mut self, changes: Vec<Change>) {
        for change in changes {
            let seen_by = tree::access_list(&change.perms);
            for conn in [&mut self.dom0, &mut self.guest] {
                if !seen_by(conn.domid) {
                    continue;
                }
                for watch in &conn.watches {
                    let hit =
                        if change.exact { watch.path == change.path } else { is_below(&change.path, &watch.path) };
                    if hit {
                        let event = watch_event(watch, &change.path);
                        conn.out.push_back(event);
                    }
                }
            }
        }
    }

    // Dom0's client.

    fn dom0_request(&mut self, kind: u32, parts: &[&[u8]]) -> Result<Vec<u8>, StoreError> {
        self.request(Client::Dom0, kind, 0, &parts.join(&0))
    }

    /// Reads a node. `None`: it does not exist.
    pub fn read(&mut self, path: &str) -> Option<Vec<u8>> {
        self.dom0_request(xs::READ, &[path.as_bytes(), b""]).ok()
    }

    /// Reads a node as text.
    pub fn read_str(&mut self, path: &str) -> Option<String> {
        String::from_utf8(self.read(path)?).ok()
    }

    /// Reads a node as a number.
    pub fn read_number(&mut self, path: &str) -> Option<u64> {
        self.read_str(path)?.parse().ok()
    }

    /// Writes a node. A path that xenstore does not accept is an error of the caller's.
    pub fn write(&mut self, path: &str, value: impl AsRef<[u8]>) {
        let result = self.dom0_request(xs::WRITE, &[path.as_bytes(), value.as_ref()]);
        assert!(result.is_ok(), "dom0 writes {path}: {result:?}");
    }

    /// Removes a node and all below it, if it is there.
    pub fn remove(&mut self, path: &str) {
        let _gone_already = self.dom0_request(xs::RM, &[path.as_bytes(), b""]);
    }

    /// Removes a node, and the nodes above it that have no children left, as libxl does with a device's directories.
    pub fn remove_with_empty_parents(&mut self, path: &str) {
        self.remove(path);
        let mut above = tree::parent(path);
        while above != "/" && self.directory(above).is_empty() {
            self.remove(above);
            above = tree::parent(above);
        }
    }

    /// The names of a node's children.
    pub fn directory(&mut self, path: &str) -> Vec<String> {
        let Ok(list) = self.dom0_request(xs::DIRECTORY, &[path.as_bytes(), b""]) else { return Vec::new() };
        list.split(|b| *b == 0).filter(|n| !n.is_empty()).map(|n| String::from_utf8_lossy(n).into_owned()).collect()
    }

    /// Sets a node's permissions; it is made if it is not there.
    pub fn set_perms(&mut self, path: &str, perms: &[Perm]) {
        let mut payload = terminated(path.as_bytes());
        for perm in perms {
            payload.extend(terminated(perm.wire().as_bytes()));
        }
        let _exists = self.dom0_request(xs::MKDIR, &[path.as_bytes(), b""]);
        let result = self.request(Client::Dom0, xs::SET_PERMS, 0, &payload);
        assert!(result.is_ok(), "dom0 sets permissions of {path}: {result:?}");
    }

    /// Sets a watch of dom0's; its events come from `next_event`.
    pub(crate) fn watch(&mut self, path: &str, token: &str) {
        if self.dom0_request(xs::WATCH, &[path.as_bytes(), token.as_bytes(), b""]).is_ok() {
            let event = self.dom0.watches.last().map(|w| watch_event(w, &w.path));
            self.dom0.out.extend(event);
        }
    }

    pub(crate) fn unwatch(&mut self, path: &str, token: &str) {
        let _not_set = self.dom0_request(xs::UNWATCH, &[path.as_bytes(), token.as_bytes(), b""]);
    }

    /// The next event of dom0's watches: its token.
    pub(crate) fn next_event(&mut self) -> Option<String> {
        let event = self.next_message(Client::Dom0)?;
        let token = event.payload.split(|b| *b == 0).nth(1)?;
        Some(String::from_utf8_lossy(token).into_owned())
    }

    /// Watches that the guest has set: path and token.
    pub fn guest_watches(&self) -> Vec<(String, Vec<u8>)> {
        self.guest.watches.iter().map(|w| (w.path.clone(), w.token.clone())).collect()
    }

    /// The whole tree as text, one `path = "value"` a line, for logs.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for (path, value) in self.tree.dump() {
            text.extend([path, " = \"", &value.escape_ascii().to_string(), "\"\n"]);
        }
        text
    }
}

/// Requests that work on the tree.
fn tree_request(
    view: &mut View<'_>,
    kind: u32,
    payload: &[u8],
    room: usize,
    quotas: &Quotas,
) -> Result<Vec<u8>, StoreError> {
    let path = |view: &View<'_>| canonical(first(payload)?, view.domid);
    match kind {
        xs::READ => Ok(view.readable(&path(view)?)?.value),
        xs::DIRECTORY => {
            let list = names(&view.readable(&path(view)?)?.children);
            if list.len() > xs::PAYLOAD_MAX { Err("E2BIG") } else { Ok(list) }
        }
        xs::DIRECTORY_PART => {
            let offset: usize = number(payload.split(|b| *b == 0).nth(1).ok_or("EINVAL")?)?;
            let node = view.readable(&path(view)?)?;
            let mut list = names(&node.children);
            let mut answer = terminated(node.generation.to_string().as_bytes());
            // The end of the list is an empty name.
            list.push(0);
            let rest = list.get(offset..).filter(|r| !r.is_empty()).unwrap_or(&[0]);
            let space = xs::PAYLOAD_MAX - answer.len();
            if rest.len() <= space {
                answer.extend_from_slice(rest);
            } else {
                let whole = rest[..space].iter().rposition(|b| *b == 0).map_or(0, |at| at + 1);
                answer.extend_from_slice(&rest[..whole]);
            }
            Ok(answer)
        }
        xs::GET_PERMS => {
            let node = view.readable(&path(view)?)?;
            Ok(node.perms.iter().flat_map(|p| terminated(p.wire().as_bytes())).collect())
        }
        xs::WRITE => {
            let at = payload.iter().position(|b| *b == 0).ok_or("EINVAL")?;
            let value = &payload[at + 1..];
            if view.domid != 0 && value.len() > quotas.value_size {
                return Err("ENOSPC");
            }
            view.write(&path(view)?, Some(value), room)?;
            Ok(ok())
        }
        xs::MKDIR => {
            view.write(&path(view)?, None, room)?;
            Ok(ok())
        }
        xs::RM => {
            view.remove(&path(view)?)?;
            Ok(ok())
        }
        xs::SET_PERMS => {
            let mut perms = Vec::new();
            for part in payload.split(|b| *b == 0).skip(1).filter(|p| !p.is_empty()) {
                perms.push(Perm::parse(text(part)?).ok_or("EINVAL")?);
            }
            if perms.is_empty() {
                return Err("EINVAL");
            }
            if view.domid != 0 && perms.len() > quotas.perms {
                return Err("ENOSPC");
            }
            view.set_perms(&path(view)?, perms)?;
            Ok(ok())
        }
        _ => Err("ENOSYS"),
    }
}

/// The home path of a domain.
pub(crate) fn home(domid: u16) -> String {
    format!("/local/domain/{domid}")
}

/// The payload of an answer that has nothing to tell.
fn ok() -> Vec<u8> {
    b"OK\0".to_vec()
}

fn terminated(bytes: &[u8]) -> Vec<u8> {
    [bytes, &[0]].concat()
}

fn names(children: &[String]) -> Vec<u8> {
    children.iter().flat_map(|name| terminated(name.as_bytes())).collect()
}

fn text(bytes: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(bytes).map_err(|_| "EINVAL")
}

fn number<T: std::str::FromStr>(bytes: &[u8]) -> Result<T, StoreError> {
    text(bytes)?.parse().map_err(|_| "EINVAL")
}

/// The first string of a payload; it has to end with NUL.
fn first(payload: &[u8]) -> Result<&[u8], StoreError> {
    let end = payload.iter().position(|b| *b == 0).ok_or("EINVAL")?;
    Ok(&payload[..end])
}

/// The absolute path that a client means.
fn canonical(given: &[u8], domid: u16) -> Result<String, StoreError> {
    let given = text(given)?;
    let absolute = given.starts_with('/');
    if given.is_empty() || given.len() > if absolute { xs::ABS_PATH_MAX } else { xs::REL_PATH_MAX } {
        return Err("EINVAL");
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-/_@".contains(&b);
    if !given.bytes().all(allowed) || given.contains("//") || (given.len() > 1 && given.ends_with('/')) {
        return Err("EINVAL");
    }
    Ok(if absolute { given.to_owned() } else { format!("{}/{given}", home(domid)) })
}

/// Whether `path` is `top` or below it.
fn is_below(path: &str, top: &str) -> bool {
    top == "/" || path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn watch_event(watch: &Watch, path: &str) -> Message {
    let payload = [&terminated(&path.as_bytes()[watch.cut.min(path.len())..])[..], &terminated(&watch.token)].concat();
    Message { kind: xs::WATCH_EVENT, req_id: 0, tx_id: 0, payload }
}

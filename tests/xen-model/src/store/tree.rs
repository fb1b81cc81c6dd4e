//! The tree of nodes, permissions, and transactions that notice what changed under them.

use std::collections::BTreeMap;

/// An error as xenstored names it on the wire.
pub type StoreError = &'static str;

/// What a domain may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Perm {
    /// The domain.
    pub domid: u16,
    /// May read.
    pub read: bool,
    /// May write.
    pub write: bool,
}

impl Perm {
    /// An entry that allows nothing (as the first entry: the owner, and nothing for others).
    pub const fn none(domid: u16) -> Self {
        Self { domid, read: false, write: false }
    }

    /// An entry that allows reading.
    pub const fn read(domid: u16) -> Self {
        Self { domid, read: true, write: false }
    }

    /// Reads the wire's form: `n0`, `r1`, `w2`, `b3`.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, id) = (text.chars().next()?, text.get(1..)?);
        let domid = id.parse().ok()?;
        let (read, write) = match kind {
            'n' => (false, false),
            'r' => (true, false),
            'w' => (false, true),
            'b' => (true, true),
            _ => return None,
        };
        Some(Self { domid, read, write })
    }

    /// The wire's form.
    pub fn wire(self) -> String {
        let kind = match (self.read, self.write) {
            (false, false) => 'n',
            (true, false) => 'r',
            (false, true) => 'w',
            (true, true) => 'b',
        };
        format!("{kind}{}", self.domid)
    }
}

/// One node.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) value: Vec<u8>,
    /// The first entry names the owner and what everybody else may do.
    pub(super) perms: Vec<Perm>,
    /// Names of children, in the order in which they were made.
    pub(super) children: Vec<String>,
    /// When it last changed.
    pub(super) generation: u64,
}

impl Node {
    pub(super) fn owner(&self) -> u16 {
        self.perms.first().map_or(0, |p| p.domid)
    }

    /// What `domid` may do: read, write.
    pub(super) fn access(&self, domid: u16) -> (bool, bool) {
        if domid == 0 || domid == self.owner() {
            return (true, true);
        }
        let entry = self.perms.iter().skip(1).find(|p| p.domid == domid).or(self.perms.first());
        entry.map_or((false, false), |p| (p.read, p.write))
    }
}

/// A change that watches have to hear of.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) path: String,
    /// Only watches on this very path (a node below one that was removed).
    pub(super) exact: bool,
    /// Who could read the node when it was changed.
    pub(super) perms: Vec<Perm>,
}

/// An open transaction: what it changed, and what it saw.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    overlay: BTreeMap<String, Option<Node>>,
    seen: BTreeMap<String, Option<u64>>,
    changes: Vec<Change>,
}

/// The tree as it is for everyone.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<String, Node>,
    generation: u64,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node { perms: vec![Perm::none(0)], ..Node::default() };
        Self { nodes: BTreeMap::from([("/".to_owned(), root)]), generation: 1 }
    }

    /// Ends a transaction. `Err`: something that it saw is no longer so.
    pub(super) fn commit(&mut self, tx: Transaction) -> Result<Vec<Change>, StoreError> {
        let unchanged =
            tx.seen.iter().all(|(path, generation)| self.nodes.get(path).map(|n| n.generation) == *generation);
        if !unchanged {
            return Err("EAGAIN");
        }
        for (path, node) in tx.overlay {
            self.generation += 1;
            match node {
                Some(node) => self.nodes.insert(path, Node { generation: self.generation, ..node }),
                None => self.nodes.remove(&path),
            };
        }
        Ok(tx.changes)
    }

    /// Nodes that a domain owns.
    pub(super) fn owned_by(&self, domid: u16) -> usize {
        self.nodes.values().filter(|n| n.owner() == domid).count()
    }

    /// All paths with their values, in order.
    pub(super) fn dump(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node.value.as_slice()))
    }
}

/// The tree as one request sees it: bare, or through a transaction.
pub(super) struct View<'a> {
    pub(super) tree: &'a mut Tree,
    pub(super) tx: Option<&'a mut Transaction>,
    pub(super) domid: u16,
    /// Changes made without a transaction.
    pub(super) changes: Vec<Change>,
}

/// The path of the node above.
pub(super) fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

fn child(path: &str, name: &str) -> String {
    if path == "/" { format!("/{name}") } else { format!("{path}/{name}") }
}

impl View<'_> {
    /// A node as this view has it; a transaction remembers having looked.
    pub(super) fn peek(&mut self, path: &str) -> Option<Node> {
        let base = self.tree.nodes.get(path);
        let Some(tx) = &mut self.tx else { return base.cloned() };
        if let Some(changed) = tx.overlay.get(path) {
            return changed.clone();
        }
        // What it saw first counts: a change between two looks is a conflict.
        tx.seen.entry(path.to_owned()).or_insert(base.map(|n| n.generation));
        base.cloned()
    }

    fn put(&mut self, path: &str, node: Option<Node>) {
        if self.tx.is_some() {
            self.peek(path);
        }
        if let Some(tx) = &mut self.tx {
            tx.overlay.insert(path.to_owned(), node);
            return;
        }
        self.tree.generation += 1;
        match node {
            Some(node) => {
                self.tree.nodes.insert(path.to_owned(), Node { generation: self.tree.generation, ..node });
            }
            None => {
                self.tree.nodes.remove(path);
            }
        }
    }

    fn changed(&mut self, path: &str, exact: bool, perms: Vec<Perm>) {
        let change = Change { path: path.to_owned(), exact, perms };
        match &mut self.tx {
            Some(tx) => tx.changes.push(change),
            None => self.changes.push(change),
        }
    }

    /// A node that the domain may read.
    pub(super) fn readable(&mut self, path: &str) -> Result<Node, StoreError> {
        match self.peek(path) {
            Some(node) if node.access(self.domid).0 => Ok(node),
            Some(_) => Err("EACCES"),
            None => Err(self.missing(path, false)),
        }
    }

    /// The error for a node that is not there: `ENOENT` only to those who may know.
    fn missing(&mut self, path: &str, write: bool) -> StoreError {
        let mut above = path;
        while above != "/" {
            above = parent(above);
            if let Some(node) = self.peek(above) {
                let (may_read, may_write) = node.access(self.domid);
                return if if write { may_write } else { may_read } { "ENOENT" } else { "EACCES" };
            }
        }
        "ENOENT"
    }

    /// Writes a node, or makes it (`value` `None`: mkdir, which leaves an existing node as it is).
    pub(super) fn write(&mut self, path: &str, value: Option<&[u8]>, room: usize) -> Result<(), StoreError> {
        if let Some(mut node) = self.peek(path) {
            if !node.access(self.domid).1 {
                return Err("EACCES");
            }
            if let Some(value) = value {
                value.clone_into(&mut node.value);
                let perms = node.perms.clone();
                self.put(path, Some(node));
                self.changed(path, false, perms);
            }
            return Ok(());
        }
        // The nodes that have to be made, lowest first.
        let mut missing = vec![path.to_owned()];
        let mut above = parent(path).to_owned();
        let ancestor = loop {
            match self.peek(&above) {
                Some(node) => break node,
                None => missing.push(above.clone()),
            }
            above = parent(&above).to_owned();
        };
        if !ancestor.access(self.domid).1 {
            return Err("EACCES");
        }
        if missing.len() > room {
            return Err("ENOSPC");
        }
        let mut perms = ancestor.perms;
        if self.domid != 0
            && let Some(owner) = perms.first_mut()
        {
            owner.domid = self.domid;
        }
        for made in missing.iter().rev() {
            let above = parent(made).to_owned();
            let mut node = self.peek(&above).unwrap_or_default();
            let name = made.rsplit('/').next().unwrap_or_default();
            node.children.push(name.to_owned());
            self.put(&above, Some(node));
            let value = if made == path { value.unwrap_or_default().to_owned() } else { Vec::new() };
            self.put(made, Some(Node { value, perms: perms.clone(), ..Node::default() }));
        }
        self.changed(path, false, perms);
        Ok(())
    }

    /// Removes a node and all below it.
    pub(super) fn remove(&mut self, path: &str) -> Result<(), StoreError> {
        if path == "/" {
            return Err("EINVAL");
        }
        let Some(node) = self.peek(path) else {
            // Removing what is not there is fine where the parent is.
            let known = self.peek(parent(path)).is_some_and(|n| n.access(self.domid).1);
            return if known { Ok(()) } else { Err(self.missing(path, true)) };
        };
        if !node.access(self.domid).1 {
            return Err("EACCES");
        }
        let above = parent(path).to_owned();
        if let Some(mut node) = self.peek(&above) {
            node.children.retain(|name| child(&above, name) != path);
            self.put(&above, Some(node));
        }
        self.remove_below(path, &node);
        self.changed(path, false, node.perms);
        Ok(())
    }

    fn remove_below(&mut self, path: &str, node: &Node) {
        for name in &node.children {
            let below = child(path, name);
            if let Some(node) = self.peek(&below) {
                self.remove_below(&below, &node);
                self.changed(&below, true, node.perms);
            }
        }
        self.put(path, None);
    }

    /// Sets a node's permissions. Only the owner may, and only dom0 may give it another owner.
    pub(super) fn set_perms(&mut self, path: &str, perms: Vec<Perm>) -> Result<(), StoreError> {
        let Some(mut node) = self.peek(path) else { return Err(self.missing(path, true)) };
        if self.domid != 0 && node.owner() != self.domid {
            return Err("EACCES");
        }
        if self.domid != 0 && perms.first().map(|p| p.domid) != Some(self.domid) {
            return Err("EPERM");
        }
        let seen_by = node.perms.clone();
        node.perms = perms;
        self.put(path, Some(node));
        self.changed(path, false, seen_by);
        Ok(())
    }
}

/// Tells for any domain whether it may read a node with these permissions.
pub(super) fn access_list(perms: &[Perm]) -> impl Fn(u16) -> bool + use<> {
    let node = Node { perms: perms.to_vec(), ..Node::default() };
    move |domid| node.access(domid).0
}

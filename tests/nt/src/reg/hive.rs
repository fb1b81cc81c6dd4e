//! The registry as a tree in memory: keys, values, links, and what of it would be on disk if the machine died now.
//!
//! Nothing here knows the kernel; [`super`] puts handles and the Zw functions on top.
//!
//! Early in a boot Windows holds the SYSTEM hive in memory only. It becomes writable when the session manager runs,
//! long after boot-start drivers. So a write made before [`Hive::make_writable`] is lost when the boot dies, and a
//! later one is lost if the lazy flush has not come yet: [`Hive::persistent`] tells what survives.
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write as _;

/// Value type: no type.
pub const REG_NONE: u32 = 0;
/// Value type: a NUL-terminated UTF-16 string.
pub const REG_SZ: u32 = 1;
/// Value type: a string with `%variables%`.
pub const REG_EXPAND_SZ: u32 = 2;
/// Value type: bytes.
pub const REG_BINARY: u32 = 3;
/// Value type: a little-endian 32-bit number.
pub const REG_DWORD: u32 = 4;
/// Value type: a symbolic link.
pub const REG_LINK: u32 = 6;
/// Value type: strings, each NUL-terminated, and one NUL more.
pub const REG_MULTI_SZ: u32 = 7;
/// Value type: a little-endian 64-bit number.
pub const REG_QWORD: u32 = 11;

/// The longest name of a key, in UTF-16 units.
/// <https://learn.microsoft.com/windows/win32/sysinfo/registry-element-size-limits>
pub const MAX_KEY_NAME: usize = 255;
/// The longest name of a value, in UTF-16 units. Same page.
pub const MAX_VALUE_NAME: usize = 16383;
/// The time between the first unflushed write and the lazy flush, in 100 ns.
pub const LAZY_FLUSH: u64 = 5 * 10_000_000;
/// Links followed in one look-up before it is taken for a loop.
const MAX_LINKS: u32 = 16;

/// Why the tree refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiveError {
    /// No such key or value.
    NotFound,
    /// The path does not start at the root or holds an empty name.
    BadPath,
    /// The key was deleted while a handle was open.
    KeyDeleted,
    /// The key has subkeys.
    CannotDelete,
    /// A stable key below a volatile one.
    ChildMustBeVolatile,
    /// The index is past the last entry.
    NoMoreEntries,
    /// A name is longer than the registry allows.
    NameTooLong,
}

/// A key of the tree. Stays valid after the key's deletion; every use then says [`HiveError::KeyDeleted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(usize);

/// A value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its name; empty for the default value.
    pub name: String,
    /// `REG_*`.
    pub kind: u32,
    /// Its bytes.
    pub data: Vec<u8>,
}

#[derive(Debug)]
struct Node {
    name: String,
    class: String,
    parent: Option<KeyId>,
    children: Vec<KeyId>,
    values: Vec<Value>,
    volatile: bool,
    deleted: bool,
    link: Option<String>,
    last_write: u64,
}

/// What `ZwQueryKey` tells of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// The last part of its path.
    pub name: String,
    /// The class string given when it was made.
    pub class: String,
    /// Time of the last change.
    pub last_write: u64,
    /// Number of subkeys.
    pub subkeys: usize,
    /// The longest name of a subkey, in UTF-16 units.
    pub max_subkey_name: usize,
    /// The longest class of a subkey, in UTF-16 units.
    pub max_class: usize,
    /// Number of values.
    pub values: usize,
    /// The longest name of a value, in UTF-16 units.
    pub max_value_name: usize,
    /// The longest value, in bytes.
    pub max_value_data: usize,
}

/// The whole registry.
#[derive(Debug)]
pub struct Hive {
    nodes: Vec<Node>,
    root: KeyId,
    writable: bool,
    on_disk: String,
    dirty_since: Option<u64>,
}

fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

/// Whether two names are the same to Windows (case does not count).
pub fn same_name(a: &str, b: &str) -> bool {
    a.chars().flat_map(char::to_uppercase).eq(b.chars().flat_map(char::to_uppercase))
}

fn order(a: &str, b: &str) -> core::cmp::Ordering {
    a.chars().flat_map(char::to_uppercase).cmp(b.chars().flat_map(char::to_uppercase))
}

/// The bytes of a REG_SZ.
pub fn sz(text: &str) -> Vec<u8> {
    text.encode_utf16().chain(Some(0)).flat_map(u16::to_le_bytes).collect()
}

/// The bytes of a REG_MULTI_SZ.
pub fn multi_sz<S: AsRef<str>>(list: &[S]) -> Vec<u8> {
    let mut out = Vec::new();
    for text in list {
        out.extend(sz(text.as_ref()));
    }
    out.extend([0, 0]);
    out
}

fn utf16_of(data: &[u8]) -> Vec<u16> {
    data.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect()
}

/// The text of a REG_SZ, up to its terminator.
pub fn sz_text(data: &[u8]) -> String {
    let text: Vec<u16> = utf16_of(data).into_iter().take_while(|&c| c != 0).collect();
    String::from_utf16_lossy(&text)
}

/// The strings of a REG_MULTI_SZ, up to the empty one.
pub fn multi_sz_list(data: &[u8]) -> Vec<String> {
    utf16_of(data).split(|&c| c == 0).take_while(|s| !s.is_empty()).map(String::from_utf16_lossy).collect()
}

impl Default for Hive {
    fn default() -> Self {
        Self::new()
    }
}

impl Hive {
    /// A registry with its fixed keys: `\Registry\Machine\{SYSTEM,SOFTWARE,HARDWARE}`, `\Registry\User`, and
    /// `CurrentControlSet` as a link to `ControlSet001`.
    pub fn new() -> Self {
        let mut hive =
            Self { nodes: Vec::new(), root: KeyId(0), writable: false, on_disk: String::new(), dirty_since: None };
        hive.nodes.push(Node {
            name: "Registry".to_string(),
            class: String::new(),
            parent: None,
            children: Vec::new(),
            values: Vec::new(),
            volatile: false,
            deleted: false,
            link: None,
            last_write: 0,
        });
        for path in [
            r"\Registry\Machine\SYSTEM\ControlSet001\Control",
            r"\Registry\Machine\SYSTEM\ControlSet001\Enum",
            r"\Registry\Machine\SYSTEM\ControlSet001\Services",
            r"\Registry\Machine\SOFTWARE\Microsoft\Windows NT\CurrentVersion",
            r"\Registry\User\.DEFAULT",
        ] {
            hive.add_path(path, false);
        }
        hive.add_path(r"\Registry\Machine\HARDWARE\DESCRIPTION\System", true);
        hive.add_path(r"\Registry\Machine\HARDWARE\DEVICEMAP", true);
        let system = hive.add_path(r"\Registry\Machine\SYSTEM", false);
        let link = hive.add_child(system, "CurrentControlSet", true);
        hive.nodes[link.0].link = Some(r"\Registry\Machine\SYSTEM\ControlSet001".to_string());
        hive.on_disk = hive.export();
        hive
    }

    fn add_path(&mut self, path: &str, volatile: bool) -> KeyId {
        let mut at = self.root;
        for part in path.split('\\').filter(|p| !p.is_empty()).skip(1) {
            at = match self.child(at, part) {
                Some(id) => id,
                None => self.add_child(at, part, volatile),
            };
        }
        at
    }

    fn add_child(&mut self, parent: KeyId, name: &str, volatile: bool) -> KeyId {
        let id = KeyId(self.nodes.len());
        self.nodes.push(Node {
            name: name.to_string(),
            class: String::new(),
            parent: Some(parent),
            children: Vec::new(),
            values: Vec::new(),
            volatile,
            deleted: false,
            link: None,
            last_write: 0,
        });
        let place = self.nodes[parent.0]
            .children
            .binary_search_by(|&c| order(&self.nodes[c.0].name, name))
            .unwrap_or_else(|place| place);
        self.nodes[parent.0].children.insert(place, id);
        id
    }

    fn child(&self, parent: KeyId, name: &str) -> Option<KeyId> {
        let children = &self.nodes[parent.0].children;
        let place = children.binary_search_by(|&c| order(&self.nodes[c.0].name, name)).ok()?;
        Some(children[place])
    }

    fn node(&self, key: KeyId) -> Result<&Node, HiveError> {
        let node = self.nodes.get(key.0).ok_or(HiveError::NotFound)?;
        if node.deleted { Err(HiveError::KeyDeleted) } else { Ok(node) }
    }

    /// Notes a change at `now`; whatever the lazy flush would have written before it is written first.
    fn touch(&mut self, now: u64) {
        self.settle_disk(now);
        if self.dirty_since.is_none() {
            self.dirty_since = Some(now);
        }
    }

    fn settle_disk(&mut self, now: u64) {
        if self.writable && self.dirty_since.is_some_and(|since| now >= since.saturating_add(LAZY_FLUSH)) {
            self.on_disk = self.export();
            self.dirty_since = None;
        }
    }

    /// Follows the path's parts from `from`, through links.
    fn walk(&self, from: KeyId, path: &str, links: u32) -> Result<KeyId, HiveError> {
        if links > MAX_LINKS {
            return Err(HiveError::BadPath);
        }
        let mut at = from;
        for part in path.split('\\').filter(|p| !p.is_empty()) {
            if let Some(target) = &self.nodes[at.0].link {
                at = self.walk_absolute(target, links + 1)?;
            }
            at = self.child(at, part).ok_or(HiveError::NotFound)?;
        }
        match &self.nodes[at.0].link {
            Some(target) => self.walk_absolute(target, links + 1),
            None => Ok(at),
        }
    }

    fn walk_absolute(&self, path: &str, links: u32) -> Result<KeyId, HiveError> {
        let rest = Self::below_root(path)?;
        self.walk(self.root, rest, links)
    }

    fn below_root(path: &str) -> Result<&str, HiveError> {
        const ROOT: &str = r"\Registry";
        match (path.get(..ROOT.len()), path.get(ROOT.len()..)) {
            (Some(head), Some(rest)) if same_name(head, ROOT) && (rest.is_empty() || rest.starts_with('\\')) => {
                Ok(rest)
            }
            _ => Err(HiveError::BadPath),
        }
    }

    /// Opens `path`: absolute (`\Registry\...`), or below `root`.
    ///
    /// # Errors
    /// The path is not there or not a path, or `root` was deleted.
    pub fn open(&self, root: Option<KeyId>, path: &str) -> Result<KeyId, HiveError> {
        match root {
            Some(key) => {
                self.node(key)?;
                if path.starts_with('\\') { Err(HiveError::BadPath) } else { self.walk(key, path, 0) }
            }
            None => self.walk_absolute(path, 0),
        }
    }

    /// Opens `path` or makes its last part. The flag says whether it was made.
    ///
    /// # Errors
    /// A parent is missing, a name is too long, or a stable key was asked for below a volatile one.
    pub fn create(
        &mut self,
        root: Option<KeyId>,
        path: &str,
        volatile: bool,
        now: u64,
    ) -> Result<(KeyId, bool), HiveError> {
        match self.open(root, path) {
            Ok(key) => return Ok((key, false)),
            Err(HiveError::NotFound) => {}
            Err(error) => return Err(error),
        }
        let path = path.trim_end_matches('\\');
        let (parent, name) = match path.rfind('\\') {
            Some(cut) => (self.open(root, &path[..cut])?, &path[cut + 1..]),
            None => (root.ok_or(HiveError::BadPath)?, path),
        };
        if units(name) > MAX_KEY_NAME {
            return Err(HiveError::NameTooLong);
        }
        if self.node(parent)?.volatile && !volatile {
            return Err(HiveError::ChildMustBeVolatile);
        }
        self.touch(now);
        let key = self.add_child(parent, name, volatile);
        self.nodes[key.0].last_write = now;
        self.nodes[parent.0].last_write = now;
        Ok((key, true))
    }

    /// As [`Self::create`], with every missing parent.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_path(&mut self, path: &str, now: u64) -> Result<KeyId, HiveError> {
        let rest = Self::below_root(path)?;
        let mut at = self.root;
        for part in rest.split('\\').filter(|p| !p.is_empty()) {
            let volatile = self.node(at)?.volatile;
            at = self.create(Some(at), part, volatile, now)?.0;
        }
        Ok(at)
    }

    /// Deletes a key without subkeys.
    ///
    /// # Errors
    /// It has subkeys, or is gone already.
    pub fn delete_key(&mut self, key: KeyId, now: u64) -> Result<(), HiveError> {
        let node = self.node(key)?;
        let Some(parent) = node.parent else { return Err(HiveError::CannotDelete) };
        if !node.children.is_empty() {
            return Err(HiveError::CannotDelete);
        }
        self.touch(now);
        self.nodes[parent.0].children.retain(|&c| c != key);
        self.nodes[parent.0].last_write = now;
        let node = &mut self.nodes[key.0];
        node.deleted = true;
        node.values.clear();
        Ok(())
    }

    /// Deletes a key and all below it.
    ///
    /// # Errors
    /// It is gone already, or is the root.
    pub fn delete_tree(&mut self, key: KeyId, now: u64) -> Result<(), HiveError> {
        for child in self.node(key)?.children.clone() {
            self.delete_tree(child, now)?;
        }
        self.delete_key(key, now)
    }

    /// Sets the class string of a key.
    ///
    /// # Errors
    /// The key is gone.
    pub fn set_class(&mut self, key: KeyId, class: &str) -> Result<(), HiveError> {
        self.node(key)?;
        self.nodes[key.0].class = class.to_string();
        Ok(())
    }

    /// A value.
    ///
    /// # Errors
    /// There is no such value, or the key is gone.
    pub fn value(&self, key: KeyId, name: &str) -> Result<&Value, HiveError> {
        self.node(key)?.values.iter().find(|v| same_name(&v.name, name)).ok_or(HiveError::NotFound)
    }

    /// Sets a value.
    ///
    /// # Errors
    /// The name is too long, or the key is gone.
    pub fn set_value(&mut self, key: KeyId, name: &str, kind: u32, data: Vec<u8>, now: u64) -> Result<(), HiveError> {
        self.node(key)?;
        if units(name) > MAX_VALUE_NAME {
            return Err(HiveError::NameTooLong);
        }
        self.touch(now);
        let node = &mut self.nodes[key.0];
        node.last_write = now;
        match node.values.iter_mut().find(|v| same_name(&v.name, name)) {
            Some(value) => {
                value.kind = kind;
                value.data = data;
            }
            None => node.values.push(Value { name: name.to_string(), kind, data }),
        }
        Ok(())
    }

    /// Deletes a value.
    ///
    /// # Errors
    /// There is no such value, or the key is gone.
    pub fn delete_value(&mut self, key: KeyId, name: &str, now: u64) -> Result<(), HiveError> {
        self.value(key, name)?;
        self.touch(now);
        let node = &mut self.nodes[key.0];
        node.last_write = now;
        node.values.retain(|v| !same_name(&v.name, name));
        Ok(())
    }

    /// The `index`-th value, in the order they were made.
    ///
    /// # Errors
    /// `index` is past the last one, or the key is gone.
    pub fn value_at(&self, key: KeyId, index: usize) -> Result<&Value, HiveError> {
        self.node(key)?.values.get(index).ok_or(HiveError::NoMoreEntries)
    }

    /// The values of a key.
    ///
    /// # Errors
    /// The key is gone.
    pub fn values(&self, key: KeyId) -> Result<&[Value], HiveError> {
        Ok(&self.node(key)?.values)
    }

    /// The `index`-th subkey, in the order of the names.
    ///
    /// # Errors
    /// `index` is past the last one, or the key is gone.
    pub fn subkey_at(&self, key: KeyId, index: usize) -> Result<KeyId, HiveError> {
        self.node(key)?.children.get(index).copied().ok_or(HiveError::NoMoreEntries)
    }

    /// The names of the subkeys, in order.
    ///
    /// # Errors
    /// The key is gone.
    pub fn subkeys(&self, key: KeyId) -> Result<Vec<String>, HiveError> {
        Ok(self.node(key)?.children.iter().map(|c| self.nodes[c.0].name.clone()).collect())
    }

    /// What there is to know of a key.
    ///
    /// # Errors
    /// The key is gone.
    pub fn info(&self, key: KeyId) -> Result<KeyInfo, HiveError> {
        let node = self.node(key)?;
        let children = || node.children.iter().map(|c| &self.nodes[c.0]);
        Ok(KeyInfo {
            name: node.name.clone(),
            class: node.class.clone(),
            last_write: node.last_write,
            subkeys: node.children.len(),
            max_subkey_name: children().map(|c| units(&c.name)).max().unwrap_or(0),
            max_class: children().map(|c| units(&c.class)).max().unwrap_or(0),
            values: node.values.len(),
            max_value_name: node.values.iter().map(|v| units(&v.name)).max().unwrap_or(0),
            max_value_data: node.values.iter().map(|v| v.data.len()).max().unwrap_or(0),
        })
    }

    /// The whole path of a key, `\Registry` first.
    ///
    /// # Errors
    /// The key is gone.
    pub fn path(&self, key: KeyId) -> Result<String, HiveError> {
        let node = self.node(key)?;
        let mut path = match node.parent {
            Some(parent) => self.path(parent)?,
            None => String::new(),
        };
        path.push('\\');
        path.push_str(&node.name);
        Ok(path)
    }

    /// The session manager has made the hive writable: all that was held in memory goes to the disk now.
    pub fn make_writable(&mut self) {
        self.writable = true;
        self.flush();
    }

    /// Whether [`Self::make_writable`] was called.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Writes everything to the disk, if the hive is writable yet (`ZwFlushKey`, an orderly shutdown). Returns whether
    /// it was.
    pub fn flush(&mut self) -> bool {
        if self.writable {
            self.on_disk = self.export();
            self.dirty_since = None;
        }
        self.writable
    }

    /// What is on the disk at `now`: all that a machine that dies now finds at its next boot.
    pub fn persistent(&mut self, now: u64) -> &str {
        self.settle_disk(now);
        &self.on_disk
    }

    /// All stable keys as the text of a `.reg` file (paths with `\Registry` in front, as the kernel names them).
    pub fn export(&self) -> String {
        let mut out = String::from("Windows Registry Editor Version 5.00\n");
        self.export_key(self.root, "", &mut out);
        out
    }

    fn export_key(&self, key: KeyId, parent: &str, out: &mut String) {
        let node = &self.nodes[key.0];
        if node.volatile {
            return;
        }
        let path = if parent.is_empty() { node.name.clone() } else { alloc::format!("{parent}\\{}", node.name) };
        let _ = write!(out, "\n[\\{path}]\n");
        for value in &node.values {
            let name =
                if value.name.is_empty() { "@".to_string() } else { alloc::format!("\"{}\"", quote(&value.name)) };
            let _ = match (value.kind, value.data.as_slice()) {
                (REG_DWORD, &[a, b, c, d]) => {
                    writeln!(out, "{name}=dword:{:08x}", u32::from_le_bytes([a, b, c, d]))
                }
                (REG_SZ, data) if sz(&sz_text(data)) == data && !sz_text(data).contains(['\n', '\r']) => {
                    writeln!(out, "{name}=\"{}\"", quote(&sz_text(data)))
                }
                (kind, data) => {
                    let bytes: Vec<String> = data.iter().map(|b| alloc::format!("{b:02x}")).collect();
                    writeln!(out, "{name}=hex({kind:x}):{}", bytes.join(","))
                }
            };
        }
        for &child in &node.children {
            self.export_key(child, &path, out);
        }
    }

    /// Reads keys and values out of the text of a `.reg` file, as [`Self::export`] writes it; they are on the disk.
    ///
    /// # Errors
    /// The number of the first line that is not understood.
    pub fn import(&mut self, text: &str) -> Result<(), usize> {
        let mut key = None;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            let bad = || number + 1;
            if line.is_empty() || line.starts_with(';') || line.starts_with("Windows Registry Editor") {
                continue;
            }
            if let Some(path) = line.strip_prefix('[') {
                let path = path.strip_suffix(']').ok_or_else(bad)?;
                key = Some(self.create_path(path, 0).map_err(|_| bad())?);
                continue;
            }
            let key = key.ok_or_else(bad)?;
            let (name, rest) = if let Some(rest) = line.strip_prefix("@=") {
                (String::new(), rest)
            } else {
                let (name, rest) = unquote(line).ok_or_else(bad)?;
                (name, rest.strip_prefix('=').ok_or_else(bad)?)
            };
            let (kind, data) = parse_value(rest).ok_or_else(bad)?;
            self.set_value(key, &name, kind, data, 0).map_err(|_| bad())?;
        }
        self.on_disk = self.export();
        self.dirty_since = None;
        Ok(())
    }
}

fn quote(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Splits `"text"rest` and undoes the quoting.
fn unquote(line: &str) -> Option<(String, &str)> {
    let body = line.strip_prefix('"')?;
    let mut out = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => out.push(chars.next()?.1),
            '"' => return Some((out, &body[at + 1..])),
            c => out.push(c),
        }
    }
    None
}

fn parse_value(text: &str) -> Option<(u32, Vec<u8>)> {
    if let Some(number) = text.strip_prefix("dword:") {
        return Some((REG_DWORD, u32::from_str_radix(number, 16).ok()?.to_le_bytes().to_vec()));
    }
    if let Some(rest) = text.strip_prefix("hex") {
        let (kind, bytes) = match rest.strip_prefix('(') {
            Some(rest) => {
                let (kind, bytes) = rest.split_once("):")?;
                (u32::from_str_radix(kind, 16).ok()?, bytes)
            }
            None => (REG_BINARY, rest.strip_prefix(':')?),
        };
        let data = bytes
            .split(',')
            .filter(|b| !b.is_empty())
            .map(|b| u8::from_str_radix(b.trim(), 16).ok())
            .collect::<Option<Vec<u8>>>()?;
        return Some((kind, data));
    }
    let (text, rest) = unquote(text)?;
    rest.is_empty().then(|| (REG_SZ, sz(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: &str = r"\Registry\Machine\System\CurrentControlSet\Services";

    #[test]
    fn names_ignore_case_and_links_are_followed() {
        let mut hive = Hive::new();
        let services = hive.open(None, SERVICES).unwrap();
        let (key, made) = hive.create(Some(services), "xenpci", false, 1).unwrap();
        assert!(made);
        assert_eq!(hive.create(Some(services), "XENPCI", false, 1), Ok((key, false)));
        assert_eq!(hive.open(None, r"\REGISTRY\MACHINE\SYSTEM\controlset001\services\XenPCI"), Ok(key));
        assert_eq!(hive.path(key).unwrap(), r"\Registry\Machine\SYSTEM\ControlSet001\Services\xenpci");
        assert_eq!(hive.open(None, r"\Registryx"), Err(HiveError::BadPath));
        assert_eq!(hive.open(Some(services), r"\xenpci"), Err(HiveError::BadPath));
    }

    #[test]
    fn only_the_last_part_is_made() {
        let mut hive = Hive::new();
        let services = hive.open(None, SERVICES).unwrap();
        assert_eq!(hive.create(Some(services), r"a\b", false, 1), Err(HiveError::NotFound));
    }

    #[test]
    fn a_deleted_key_stays_deleted() {
        let mut hive = Hive::new();
        let key = hive.create_path(r"\Registry\Machine\SYSTEM\a\b", 0).unwrap();
        let parent = hive.open(None, r"\Registry\Machine\SYSTEM\a").unwrap();
        assert_eq!(hive.delete_key(parent, 0), Err(HiveError::CannotDelete));
        hive.delete_key(key, 0).unwrap();
        assert_eq!(hive.value(key, ""), Err(HiveError::KeyDeleted));
        assert_eq!(hive.open(Some(parent), "b"), Err(HiveError::NotFound));
        hive.delete_key(parent, 0).unwrap();
    }

    #[test]
    fn writes_before_the_hive_is_writable_are_lost() {
        let mut hive = Hive::new();
        let services = hive.open(None, SERVICES).unwrap();
        hive.set_value(services, "early", REG_DWORD, 1u32.to_le_bytes().to_vec(), 10).unwrap();
        assert!(!hive.flush());
        assert!(!hive.persistent(u64::MAX).contains("early"));
        hive.make_writable();
        assert!(hive.persistent(0).contains("early"));
    }

    #[test]
    fn the_lazy_flush_takes_its_time() {
        let mut hive = Hive::new();
        hive.make_writable();
        let services = hive.open(None, SERVICES).unwrap();
        hive.set_value(services, "one", REG_SZ, sz("x"), 100).unwrap();
        assert!(!hive.persistent(101).contains("one"));
        hive.set_value(services, "two", REG_SZ, sz("x"), 100 + LAZY_FLUSH).unwrap();
        assert!(hive.persistent(100 + LAZY_FLUSH).contains("one"));
        assert!(!hive.persistent(100 + LAZY_FLUSH).contains("two"));
        hive.flush();
        assert!(hive.persistent(100 + LAZY_FLUSH).contains("two"));
    }

    #[test]
    fn text_comes_back_as_it_went() {
        let mut hive = Hive::new();
        let key = hive.create_path(r"\Registry\Machine\SOFTWARE\a [b]", 0).unwrap();
        hive.set_value(key, "", REG_SZ, sz("de\"fault\\"), 0).unwrap();
        hive.set_value(key, "multi", REG_MULTI_SZ, multi_sz(&["a", "b"]), 0).unwrap();
        hive.set_value(key, "odd", REG_SZ, alloc::vec![1, 2, 3], 0).unwrap();
        hive.set_value(key, "none", REG_NONE, Vec::new(), 0).unwrap();
        hive.set_value(key, "n\"=", REG_DWORD, 7u32.to_le_bytes().to_vec(), 0).unwrap();
        let text = hive.export();
        let mut second = Hive::new();
        second.import(&text).unwrap();
        assert_eq!(second.export(), text);
        assert_eq!(multi_sz_list(&second.value(key, "multi").unwrap().data), ["a", "b"]);
        assert_eq!(second.import("[\\Registry\\x]\nnonsense"), Err(2));
    }

    #[test]
    fn volatile_keys_are_not_exported() {
        let mut hive = Hive::new();
        let hardware = hive.open(None, r"\Registry\Machine\HARDWARE").unwrap();
        assert_eq!(hive.create(Some(hardware), "x", false, 0), Err(HiveError::ChildMustBeVolatile));
        hive.create(Some(hardware), "x", true, 0).unwrap();
        assert!(!hive.export().contains("HARDWARE"));
    }
}

//! For the frontends' own tests: a guest's memory, and a bus with grants that the peer can keep, a store, and a limit of
//! references. What is done to the bus against its rules (a grant ended twice, a reference freed while granted) panics.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    rc::Rc,
};

use xen_abi::shared::SharedMemory;
use xenbus::{
    client::{Bus, Error, Result as BusResult, Transaction},
    interface::LogLevel,
    pages::{Memory, take_references},
};

/// The guest's memory, by frame.
#[derive(Clone, Debug, Default)]
pub struct Ram(Rc<RefCell<HashMap<u64, Vec<u8>>>>);

impl Ram {
    /// Copies bytes out; what was never written is 0.
    pub fn read(&self, mut address: u64, out: &mut [u8]) {
        let ram = self.0.borrow();
        let mut out = out;
        while !out.is_empty() {
            let at = address as usize % 4096;
            let (here, rest) = out.split_at_mut((4096 - at).min(out.len()));
            match ram.get(&(address / 4096)) {
                Some(page) => here.copy_from_slice(&page[at..at + here.len()]),
                None => here.fill(0),
            }
            address += here.len() as u64;
            out = rest;
        }
    }

    /// [`Self::read`] into a new buffer.
    pub fn bytes(&self, address: u64, count: usize) -> Vec<u8> {
        let mut out = vec![0; count];
        self.read(address, &mut out);
        out
    }

    /// Copies bytes in.
    pub fn write(&self, mut address: u64, data: &[u8]) {
        let mut ram = self.0.borrow_mut();
        let mut data = data;
        while !data.is_empty() {
            let at = address as usize % 4096;
            let (here, rest) = data.split_at((4096 - at).min(data.len()));
            ram.entry(address / 4096).or_insert_with(|| vec![0; 4096])[at..at + here.len()].copy_from_slice(here);
            address += here.len() as u64;
            data = rest;
        }
    }
}

/// Some pages of it; frame numbers fall, so that nothing works by being contiguous.
#[derive(Clone, Debug)]
pub struct Pages {
    ram: Ram,
    first: u64,
    count: usize,
    /// How often [`Memory::leak`] was called on this or a clone.
    pub leaked: Rc<Cell<u32>>,
}

impl Pages {
    /// `count` zeroed pages: the frame `first` and those below it.
    pub fn new(ram: &Ram, first: u64, count: usize) -> Self {
        for page in 0..count as u64 {
            ram.write((first - page) * 4096, &[0; 4096]);
        }
        Self { ram: ram.clone(), first, count, leaked: Rc::default() }
    }

    /// The address of a byte of them.
    pub fn address(&self, offset: usize) -> u64 {
        (self.first - (offset / 4096) as u64) * 4096 + (offset % 4096) as u64
    }
}

impl SharedMemory for Pages {
    fn size(&self) -> usize {
        self.count * 4096
    }
    fn load_u32(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.ram.read(self.address(offset), &mut bytes);
        u32::from_le_bytes(bytes)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.ram.write(self.address(offset), &value.to_le_bytes());
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        assert!(offset + out.len() <= self.size());
        let mut at = offset;
        let mut out = out;
        while !out.is_empty() {
            let (here, rest) = out.split_at_mut((4096 - at % 4096).min(out.len()));
            self.ram.read(self.address(at), here);
            at += here.len();
            out = rest;
        }
    }
    fn write(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.size());
        let mut at = offset;
        let mut data = data;
        while !data.is_empty() {
            let (here, rest) = data.split_at((4096 - at % 4096).min(data.len()));
            self.ram.write(self.address(at), here);
            at += here.len();
            data = rest;
        }
    }
}

impl Memory for Pages {
    fn frame(&self, index: usize) -> Option<u64> {
        (index < self.count).then(|| self.first - index as u64)
    }
    fn leak(self) {
        self.leaked.set(self.leaked.get() + 1);
    }
}

/// What the peer may use.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// The frame.
    pub frame: u64,
    /// The peer may not write it.
    pub read_only: bool,
}

/// The bus.
#[derive(Debug)]
pub struct TestBus {
    grants: RefCell<HashMap<u32, Option<Grant>>>,
    /// References whose access the peer does not let go of.
    pub kept: RefCell<Vec<u32>>,
    /// It keeps every one.
    pub keeps_all: Cell<bool>,
    next: Cell<u32>,
    /// How many references there are.
    pub limit: Cell<usize>,
    store: RefCell<HashMap<String, String>>,
    log: RefCell<Vec<String>>,
    /// Grants made since the start.
    pub made: Cell<u64>,
}

impl TestBus {
    /// A bus with an empty store and references without end.
    pub fn new() -> Self {
        Self {
            grants: RefCell::default(),
            kept: RefCell::default(),
            keeps_all: Cell::new(false),
            next: Cell::new(8),
            limit: Cell::new(usize::MAX),
            store: RefCell::default(),
            log: RefCell::default(),
            made: Cell::new(0),
        }
    }

    /// Writes a key of the store.
    pub fn set(&self, path: &str, value: &str) {
        self.store.borrow_mut().insert(path.to_string(), value.to_string());
    }

    /// Reads a key of the store.
    pub fn get(&self, path: &str) -> Option<String> {
        self.store.borrow().get(path).cloned()
    }

    /// The keys of the store, in order.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> = self.store.borrow().keys().cloned().collect();
        keys.sort();
        keys
    }

    /// The page behind a reference that the peer may use.
    ///
    /// # Panics
    /// If the peer may not use it.
    pub fn grant(&self, reference: u32) -> Grant {
        self.grants.borrow().get(&reference).copied().flatten().expect("a reference without access")
    }

    /// References that are given out.
    pub fn out(&self) -> usize {
        self.grants.borrow().len()
    }

    /// References by which the peer may use frames that are in `range`, in order.
    pub fn live(&self, range: std::ops::Range<u64>) -> Vec<u32> {
        let grants = self.grants.borrow();
        let inside = |grant: &Option<Grant>| grant.is_some_and(|grant| range.contains(&grant.frame));
        let mut live: Vec<_> =
            grants.iter().filter(|(_, grant)| inside(grant)).map(|(reference, _)| *reference).collect();
        live.sort_unstable();
        live
    }

    /// Whether the peer may use a frame.
    pub fn is_shared(&self, frame: u64) -> bool {
        self.grants.borrow().values().flatten().any(|grant| grant.frame == frame)
    }

    /// Takes so many references, or as many as there are.
    pub fn references(&self, count: usize) -> Vec<u32> {
        let mut references = vec![0; count];
        let taken = take_references(self, &mut references);
        references.truncate(taken);
        references
    }

    /// Whether a line of the log has this in it.
    pub fn logged(&self, text: &str) -> bool {
        self.log.borrow().iter().any(|line| line.contains(text))
    }

    /// All lines of the log.
    pub fn log_text(&self) -> String {
        self.log.borrow().join("\n")
    }
}

impl Default for TestBus {
    fn default() -> Self {
        Self::new()
    }
}

impl Bus for TestBus {
    fn log(&self, _: LogLevel, text: fmt::Arguments<'_>) {
        self.log.borrow_mut().push(text.to_string());
    }
    fn read(&self, _: Transaction, path: &[u8], buf: &mut [u8]) -> BusResult<usize> {
        let value = self.get(core::str::from_utf8(path).unwrap()).ok_or(Error::NotFound)?;
        let room = buf.get_mut(..value.len()).ok_or(Error::TooSmall)?;
        room.copy_from_slice(value.as_bytes());
        Ok(value.len())
    }
    fn write(&self, _: Transaction, path: &[u8], value: &[u8]) -> BusResult {
        self.set(core::str::from_utf8(path).unwrap(), core::str::from_utf8(value).unwrap());
        Ok(())
    }
    fn remove(&self, _: Transaction, path: &[u8]) -> BusResult {
        let path = core::str::from_utf8(path).unwrap();
        let mut store = self.store.borrow_mut();
        let before = store.len();
        let below = format!("{path}/");
        store.retain(|key, _| key != path && !key.starts_with(&below));
        if store.len() < before { Ok(()) } else { Err(Error::NotFound) }
    }
    fn transaction_start(&self) -> BusResult<Transaction> {
        Ok(Transaction(1))
    }
    fn transaction_end(&self, _: Transaction, _: bool) -> BusResult {
        Ok(())
    }
    fn grant_alloc(&self, references: &mut [u32]) -> BusResult {
        let mut grants = self.grants.borrow_mut();
        if grants.len() + references.len() > self.limit.get() {
            return Err(Error::NoResources);
        }
        for reference in references {
            *reference = self.next.get();
            self.next.set(*reference + 1);
            grants.insert(*reference, None);
        }
        Ok(())
    }
    fn grant_free(&self, references: &[u32]) {
        for reference in references {
            let grant = self.grants.borrow_mut().remove(reference).expect("freed twice");
            assert!(grant.is_none(), "freed while granted");
        }
    }
    fn grant_access(&self, reference: u32, frame: u64, read_only: bool) -> BusResult {
        let before = self.grants.borrow_mut().insert(reference, Some(Grant { frame, read_only }));
        assert!(matches!(before, Some(None)), "granted twice, or not ours");
        self.made.set(self.made.get() + 1);
        Ok(())
    }
    fn grant_end(&self, reference: u32) -> BusResult {
        let mut grants = self.grants.borrow_mut();
        let grant = grants.get_mut(&reference).expect("not ours");
        if grant.is_some() && (self.keeps_all.get() || self.kept.borrow().contains(&reference)) {
            return Err(Error::InUse);
        }
        *grant = None;
        Ok(())
    }
}

//! Who handles which event channel port, over migrations.

use alloc::vec::Vec;

use xen_abi::event::{Port, fifo};

/// A port's handler, and the domain that the port is of.
#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    handler: T,
}

/// Who handles which port.
///
/// A migration gives the guest a new domain, whose ports have nothing to do with the old one's. So ports have a
/// generation: the number of migrations before they were made. Whoever made a port before a migration and comes to
/// register it afterwards is refused.
#[derive(Debug)]
pub struct PortTable<T> {
    generation: u32,
    handlers: Vec<Option<Entry<T>>>,
}

impl<T> Default for PortTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a port did not get its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortError {
    /// There is no memory for a larger table.
    NoMemory,
    /// No such port.
    BadPort,
    /// The port has a handler.
    Taken,
    /// The port is of a domain that is gone.
    Stale,
}

impl<T> PortTable<T> {
    /// An empty table of generation 0.
    pub const fn new() -> Self {
        Self { generation: 0, handlers: Vec::new() }
    }

    /// Gives a port of a generation its handler. A handler that an older generation left at the port is given back: it
    /// is void. Allocates if the port is higher than any before. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// [`PortError`]; the handler is dropped.
    pub fn insert(&mut self, port: Port, generation: u32, handler: T) -> Result<Option<T>, PortError> {
        if port == 0 || port >= fifo::PORTS {
            return Err(PortError::BadPort);
        }
        if is_older(generation, self.generation) {
            return Err(PortError::Stale);
        }
        let index = port as usize;
        if index >= self.handlers.len() {
            let room = (index + 1).next_multiple_of(64);
            self.handlers.try_reserve_exact(room - self.handlers.len()).map_err(|_| PortError::NoMemory)?;
            self.handlers.resize_with(room, || None);
        }
        match self.handlers.get_mut(index) {
            Some(Some(entry)) if !is_older(entry.generation, generation) => Err(PortError::Taken),
            Some(slot) => Ok(slot.replace(Entry { generation, handler }).map(|old| old.handler)),
            None => Err(PortError::BadPort),
        }
    }

    /// Takes a port out that is older than `generation`; `None`: there is no more. From the first call on no such port
    /// gets a handler. IRQL <= DISPATCH_LEVEL.
    pub fn take_older(&mut self, generation: u32) -> Option<T> {
        self.generation = generation;
        let slot = self
            .handlers
            .iter_mut()
            .find(|slot| slot.as_ref().is_some_and(|entry| is_older(entry.generation, generation)))?;
        slot.take().map(|entry| entry.handler)
    }

    /// The port's handler. Any IRQL.
    pub fn get(&self, port: Port) -> Option<&T> {
        self.handlers.get(port as usize)?.as_ref().map(|entry| &entry.handler)
    }

    /// Takes the port's handler out if it is the one that `is` knows. Any IRQL.
    pub fn remove(&mut self, port: Port, is: impl FnOnce(&T) -> bool) -> Option<T> {
        let slot = self.handlers.get_mut(port as usize)?;
        if is(&slot.as_ref()?.handler) { slot.take().map(|entry| entry.handler) } else { None }
    }

    /// All ports that have handlers.
    pub fn iter(&self) -> impl Iterator<Item = (Port, &T)> {
        self.handlers.iter().enumerate().filter_map(|(port, entry)| Some((port as Port, &entry.as_ref()?.handler)))
    }
}

/// Whether generation `a` came before `b`; the numbers may wrap.
fn is_older(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_have_their_ports() {
        let mut table = PortTable::new();
        assert_eq!(table.insert(0, 0, 'x'), Err(PortError::BadPort));
        assert_eq!(table.insert(fifo::PORTS, 0, 'x'), Err(PortError::BadPort));
        assert_eq!(table.insert(100, 0, 'a'), Ok(None));
        assert_eq!(table.insert(100, 0, 'b'), Err(PortError::Taken));
        assert_eq!((table.get(100), table.get(99), table.get(u32::MAX)), (Some(&'a'), None, None));
        assert_eq!(table.iter().collect::<Vec<_>>(), [(100, &'a')]);
        assert_eq!(table.remove(100, |handler| *handler == 'b'), None, "another's");
        assert_eq!((table.remove(100, |_| true), table.remove(100, |_| true)), (Some('a'), None));
    }

    #[test]
    fn no_port_of_the_old_domain_gets_in_after_a_migration() {
        let mut table = PortTable::new();
        assert_eq!(table.insert(5, 0, 'a'), Ok(None));
        assert_eq!(table.insert(6, 0, 'b'), Ok(None));
        // The new domain is there; a port of it is registered before the old ones are forgotten.
        assert_eq!(table.insert(5, 1, 'c'), Ok(Some('a')), "the old handler of that number is void");
        assert_eq!(table.take_older(1), Some('b'));
        assert_eq!(table.take_older(1), None);
        // Somebody made this one before the migration and was slow.
        assert_eq!(table.insert(7, 0, 'd'), Err(PortError::Stale));
        assert_eq!(table.insert(7, 1, 'e'), Ok(None));
        assert_eq!(table.iter().map(|(port, _)| port).collect::<Vec<_>>(), [5, 7]);
    }

    #[test]
    fn generations_may_wrap() {
        let mut table = PortTable::new();
        assert_eq!(table.take_older(u32::MAX), None);
        assert_eq!(table.insert(1, u32::MAX, 'a'), Ok(None));
        assert_eq!(table.take_older(0), Some('a'));
        assert_eq!(table.insert(1, u32::MAX, 'b'), Err(PortError::Stale));
    }
}

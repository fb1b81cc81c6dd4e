//! What drivers hold of the port's: every object by its address, with its owner and the call that made it.

use super::abi::Handle;
use crate::loader;
use crate::sync::IrqLock;
use crate::verifier;
use alloc::collections::BTreeMap;
use alloc::string::String;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// NET_BUFFER_LIST pool.
    ListPool,
    /// NET_BUFFER pool.
    BufferPool,
    /// Memory of NdisAllocateMemoryWithTagPriority.
    Memory,
    /// MDL of NdisAllocateMdl.
    Mdl,
    /// Timer object.
    Timer,
    /// I/O work item.
    WorkItem,
    /// Configuration handle.
    Configuration,
    /// Scatter/gather DMA handle.
    Dma,
    /// Scatter/gather list of a NET_BUFFER.
    SgList,
    /// Shared memory.
    SharedMemory,
    /// Read/write lock.
    RwLock,
}

struct Object {
    kind: Kind,
    owner: usize,
    caller: usize,
}

static OBJECTS: IrqLock<BTreeMap<usize, Object>> = IrqLock::new(BTreeMap::new());

/// Notes a new object. Any IRQL.
pub fn add(kind: Kind, address: usize, owner: Handle) {
    OBJECTS.lock().insert(address, Object { kind, owner: owner as usize, caller: verifier::caller() });
}

/// Whether there is such an object. Any IRQL.
pub fn is(kind: Kind, address: usize) -> bool {
    OBJECTS.lock().get(&address).is_some_and(|object| object.kind == kind)
}

/// Demands that there is such an object. Any IRQL.
pub fn check(kind: Kind, address: usize, call: &'static str) {
    if !is(kind, address) {
        verifier::violation(call, format_args!("{address:#x} is no {kind:?} that is in use"));
    }
}

/// An object goes. Any IRQL.
pub fn remove(kind: Kind, address: usize, call: &'static str) {
    check(kind, address, call);
    OBJECTS.lock().remove(&address);
}

/// What an owner still holds: the first object, and who made it. Any IRQL.
pub fn leak_of(owner: Handle) -> Option<String> {
    let found = {
        let objects = OBJECTS.lock();
        let mut held = objects.iter().filter(|(_, object)| object.owner == owner as usize);
        held.next().map(|(&address, object)| (address, object.kind, object.caller))
    };
    found
        .map(|(address, kind, caller)| alloc::format!("{kind:?} at {address:#x}, made by {}", loader::describe(caller)))
}

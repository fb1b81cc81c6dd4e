//! A request on its way, and the memory that goes with it: the miniport's extension and a scatter/gather list.
//!
//! The memory of requests that are complete is used again, the oldest first and not before [`REST`] others wait: what a
//! miniport writes to it meanwhile is found. What it does not look like any more when it is complete is found, too.

use super::abi::*;
use super::adapter::{Adapter, NON_PAGED_POOL_NX, Place, TAG, Unit};
use super::queue::Bypass;
use super::srb::Srb;
use super::violation;
use crate::ex::{ExAllocatePoolWithTag, ExFreePool, pool};
use crate::io::abi::Irp;
use crate::ke::abi::Event;
use crate::mm::abi::Mdl;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::ffi::c_void;
use core::ptr;

/// What an extension holds while its request is not with the miniport; it is not zeroed for it.
const STALE: u8 = 0xdd;
/// What stands behind an extension.
const FENCE: u8 = 0xfd;
/// Bytes of that.
const FENCE_BYTES: usize = 16;
/// Spare requests that wait before one is used again.
const REST: usize = 16;
/// Elements of the shortest list.
const ELEMENTS: usize = 17;
/// Bytes of a page.
const PAGE: usize = 4096;

/// Who waits for a request.
#[derive(Clone, Copy)]
pub enum Origin {
    /// The class driver, by its IRP.
    Irp(*mut Irp),
    /// A thread of the port driver.
    Event(*mut Event),
    /// The reset that a time-out started.
    Reset(Place),
}

/// A request on its way, or a spare one without a unit.
pub struct Request {
    pub(super) adapter: *const Adapter,
    pub(super) unit: Option<Arc<Unit>>,
    pub(super) srb: Srb,
    pub(super) origin: Origin,
    pub(super) bypass: Bypass,
    pub(super) mdl: *mut Mdl,
    /// The list for its data, null without any.
    pub list: *mut ScatterGatherList,
    pub(super) length: u32,
    pub(super) flags: u32,
    pub(super) seconds: u32,
    pub(super) retries: u32,
    /// The processor that it came to the port driver on.
    pub(super) processor: u32,
    pub(super) memory: Memory,
}

impl Request {
    /// The MDL of its data, null without any.
    pub fn mdl(&self) -> *mut Mdl {
        self.mdl
    }

    /// The IRP, null for a request of the port driver's own.
    pub fn irp(&self) -> *mut Irp {
        match self.origin {
            Origin::Irp(irp) => irp,
            _ => ptr::null_mut(),
        }
    }
}

/// The memory of a request.
#[derive(Default)]
pub struct Memory {
    extension: Block,
    list: Block,
}

/// Nonpaged pool, or none.
struct Block {
    start: *mut u8,
    bytes: usize,
}

impl Default for Block {
    fn default() -> Self {
        Block { start: ptr::null_mut(), bytes: 0 }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if !self.start.is_null() {
            // SAFETY: allocated by `new`.
            unsafe { ExFreePool(self.start.cast()) };
        }
    }
}

impl Block {
    /// None without memory.
    fn new(bytes: usize) -> Option<Block> {
        // SAFETY: a plain allocation.
        let start = unsafe { ExAllocatePoolWithTag(NON_PAGED_POOL_NX, bytes, TAG).cast::<u8>() };
        (!start.is_null()).then_some(Block { start, bytes })
    }

    /// Whether `count` bytes at `at` are all `byte`; they are the block's.
    fn holds(&self, at: usize, count: usize, byte: u8) -> bool {
        // SAFETY: the caller's promise.
        unsafe { pool::are_all(self.start as usize + at, self.start as usize + at + count, byte) }
    }
}

impl Memory {
    /// With an extension of so many bytes. None without memory.
    fn new(bytes: usize) -> Option<Memory> {
        if bytes == 0 {
            return Some(Memory::default());
        }
        let extension = Block::new(bytes + FENCE_BYTES)?;
        // SAFETY: the block's own bytes.
        unsafe {
            extension.start.write_bytes(STALE, bytes);
            extension.start.add(bytes).write_bytes(FENCE, FENCE_BYTES);
        }
        Some(Memory { extension, list: Block::default() })
    }

    fn extension_bytes(&self) -> usize {
        self.extension.bytes.saturating_sub(FENCE_BYTES)
    }

    /// The extension, null without one.
    pub fn extension(&self) -> *mut c_void {
        self.extension.start.cast()
    }

    /// Room for a list of a buffer's pages, where it begins and how many bytes it has. None without memory.
    ///
    /// # Safety
    /// The MDL is the first of a chain that describes the buffer.
    pub unsafe fn list(&mut self, mut mdl: *const Mdl, va: usize, length: u32) -> Option<(*mut c_void, u32)> {
        let mut elements = (va % PAGE + length as usize).div_ceil(PAGE);
        // Each further MDL of a chain may start and end within a page.
        // SAFETY: the caller's promise.
        while let Some(next) = unsafe { (*mdl).next.as_ref() } {
            (mdl, elements) = (next, elements + 1);
        }
        let bytes = size_of::<ScatterGatherList>()
            + elements.max(ELEMENTS).next_power_of_two() * size_of::<ScatterGatherElement>();
        if self.list.bytes < bytes {
            self.list = Block::new(bytes)?;
        }
        Some((self.list.start.cast(), self.list.bytes as u32))
    }

    /// The request is complete, or starts anew: nothing of the miniport's is in its extension any more.
    /// IRQL <= DISPATCH_LEVEL.
    pub(super) fn retire(&self) {
        let (start, bytes) = (self.extension.start as usize, self.extension_bytes());
        if bytes == 0 {
            return;
        }
        if !self.extension.holds(bytes, FENCE_BYTES, FENCE) {
            violation("an SRB extension was overrun", start, bytes);
        }
        pool::check_objects(start, bytes);
        // SAFETY: the block's own bytes, which nobody may use any more.
        unsafe { self.extension.start.write_bytes(STALE, bytes) };
    }
}

/// Requests that are complete.
#[derive(Default)]
pub struct Spares(VecDeque<Box<Request>>);

impl Spares {
    /// The oldest, if there are enough.
    pub fn take(&mut self) -> Option<Box<Request>> {
        if self.0.len() > REST { self.0.pop_front() } else { None }
    }

    /// Adds one that was [`retire`]d.
    pub fn put(&mut self, request: Box<Request>) {
        self.0.push_back(request);
    }
}

// SAFETY: a spare request has no pointers but those of its own memory.
unsafe impl Send for Spares {}

/// Memory for a request with an extension of so many bytes, out of a spare one if there is one. None without memory.
pub fn ready(spare: Option<Box<Request>>, bytes: usize) -> Option<(Option<Box<Request>>, Memory)> {
    let Some(mut spare) = spare else { return Some((None, Memory::new(bytes)?)) };
    let memory = core::mem::take(&mut spare.memory);
    if !memory.extension.holds(0, memory.extension_bytes(), STALE) {
        violation(
            "an SRB extension was written to after its request was complete",
            memory.extension.start as usize,
            memory.extension_bytes(),
        );
    }
    // The size changes where the miniport was started anew.
    if memory.extension_bytes() == bytes {
        return Some((Some(spare), memory));
    }
    Some((Some(spare), Memory::new(bytes)?))
}

/// Makes a request that is complete a spare one. IRQL <= DISPATCH_LEVEL.
pub fn retire(mut request: Box<Request>) -> Box<Request> {
    request.memory.retire();
    request.unit = None;
    request
}

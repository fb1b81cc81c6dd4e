//! Interlocked lists, sequenced lists, lookaside lists, interlocked numbers.

use crate::ex::pool;
use crate::ke::abi::*;
use crate::ke::spinlock;
use crate::platform::platform;
use crate::sync::IrqLock;
use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr::null_mut;

/// `SINGLE_LIST_ENTRY`, `SLIST_ENTRY`.
#[repr(C)]
pub struct SingleEntry {
    /// Next.
    pub next: *mut SingleEntry,
}

/// `SLIST_HEADER` for x64: depth in the low 16 bits, a sequence above them, then the first entry.
#[repr(C, align(16))]
pub struct SlistHeader {
    /// Depth and sequence.
    pub depth: u64,
    /// First entry.
    pub first: *mut SingleEntry,
}

/// `GENERAL_LOOKASIDE`, of which NPAGED_LOOKASIDE_LIST and PAGED_LOOKASIDE_LIST consist.
#[repr(C, align(64))]
pub struct Lookaside {
    /// Free entries.
    pub head: SlistHeader,
    /// Entries that it keeps.
    pub depth: u16,
    /// The most it may keep.
    pub maximum: u16,
    /// Allocations.
    pub allocates: u32,
    /// Of them, from the pool.
    pub misses: u32,
    /// Frees.
    pub frees: u32,
    /// Of them, to the pool.
    pub free_misses: u32,
    /// `POOL_TYPE`.
    pub kind: i32,
    /// Tag.
    pub tag: u32,
    /// Bytes of an entry.
    pub size: u32,
    /// Takes an entry from the pool.
    pub allocate: usize,
    /// Gives one back.
    pub free: usize,
    /// Not used.
    pub entry: ListEntry,
    /// Not used.
    pub last: [u32; 2],
    /// Not used.
    pub future: [u32; 2],
}

const _: () = {
    assert!(size_of::<SlistHeader>() == 0x10 && size_of::<Lookaside>() == 0x80);
    assert!(offset_of!(Lookaside, depth) == 0x10 && offset_of!(Lookaside, kind) == 0x24);
    assert!(offset_of!(Lookaside, tag) == 0x28 && offset_of!(Lookaside, allocate) == 0x30);
    assert!(offset_of!(Lookaside, entry) == 0x40);
};

/// One lock for all sequenced lists.
static SLISTS: IrqLock<()> = IrqLock::new(());

/// Runs `body` with a driver's lock held above every IRQL, as the ExInterlocked functions do: they may be called at any
/// IRQL.
unsafe fn interlocked<R>(lock: *mut usize, body: impl FnOnce() -> R) -> R {
    let platform = platform();
    let enabled = platform.disable_interrupts();
    // SAFETY: the caller gives a KSPIN_LOCK.
    unsafe { spinlock::acquire(lock) };
    let result = body();
    // SAFETY: taken above.
    unsafe { spinlock::release(lock) };
    platform.restore_interrupts(enabled);
    result
}

/// `ExInterlockedInsertHeadList`: the first entry before, or NULL. Any IRQL.
pub unsafe extern "win64" fn ExInterlockedInsertHeadList(
    head: *mut ListEntry,
    entry: *mut ListEntry,
    lock: *mut usize,
) -> *mut ListEntry {
    // SAFETY: the caller's contract.
    unsafe {
        interlocked(lock, || {
            let first = if ListEntry::is_empty(head) { null_mut() } else { (*head).next };
            ListEntry::push_front(head, entry);
            first
        })
    }
}

/// `ExInterlockedInsertTailList`: the last entry before, or NULL. Any IRQL.
pub unsafe extern "win64" fn ExInterlockedInsertTailList(
    head: *mut ListEntry,
    entry: *mut ListEntry,
    lock: *mut usize,
) -> *mut ListEntry {
    // SAFETY: the caller's contract.
    unsafe {
        interlocked(lock, || {
            let last = if ListEntry::is_empty(head) { null_mut() } else { (*head).prev };
            ListEntry::push_back(head, entry);
            last
        })
    }
}

/// `ExInterlockedRemoveHeadList`: NULL if empty. Any IRQL.
pub unsafe extern "win64" fn ExInterlockedRemoveHeadList(head: *mut ListEntry, lock: *mut usize) -> *mut ListEntry {
    // SAFETY: the caller's contract.
    unsafe { interlocked(lock, || ListEntry::pop_front(head)) }
}

/// `ExInterlockedPushEntryList`: the first entry before. Any IRQL.
pub unsafe extern "win64" fn ExInterlockedPushEntryList(
    head: *mut SingleEntry,
    entry: *mut SingleEntry,
    lock: *mut usize,
) -> *mut SingleEntry {
    // SAFETY: the caller's contract.
    unsafe {
        interlocked(lock, || {
            (*entry).next = (*head).next;
            core::mem::replace(&mut (*head).next, entry)
        })
    }
}

/// `ExInterlockedPopEntryList`: NULL if empty. Any IRQL.
pub unsafe extern "win64" fn ExInterlockedPopEntryList(head: *mut SingleEntry, lock: *mut usize) -> *mut SingleEntry {
    // SAFETY: the caller's contract.
    unsafe {
        interlocked(lock, || {
            let first = (*head).next;
            if !first.is_null() {
                (*head).next = (*first).next;
            }
            first
        })
    }
}

/// `ExInterlockedAddUlong`: the value before. Any IRQL.
pub unsafe extern "win64" fn ExInterlockedAddUlong(value: *mut u32, add: u32, lock: *mut usize) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { interlocked(lock, || core::mem::replace(&mut *value, (*value).wrapping_add(add))) }
}

/// `ExInterlockedAddLargeInteger`: the value before. Any IRQL.
pub unsafe extern "win64" fn ExInterlockedAddLargeInteger(value: *mut i64, add: i64, lock: *mut usize) -> i64 {
    // SAFETY: the caller's contract.
    unsafe { interlocked(lock, || core::mem::replace(&mut *value, (*value).wrapping_add(add))) }
}

/// `InitializeSListHead`. Any IRQL.
pub unsafe extern "win64" fn InitializeSListHead(head: *mut SlistHeader) {
    // SAFETY: the caller gives memory for a header.
    unsafe { head.write(SlistHeader { depth: 0, first: null_mut() }) }
}

/// `ExpInterlockedPushEntrySList`: the first entry before. Any IRQL.
pub unsafe extern "win64" fn ExpInterlockedPushEntrySList(
    head: *mut SlistHeader,
    entry: *mut SingleEntry,
) -> *mut SingleEntry {
    let _guard = SLISTS.lock();
    // SAFETY: the caller's contract; the lock is held.
    unsafe {
        let first = (*head).first;
        (*entry).next = first;
        (*head).first = entry;
        (*head).depth = ((*head).depth & !0xffff).wrapping_add(0x1_0000) | (((*head).depth + 1) & 0xffff);
        first
    }
}

/// `ExpInterlockedPopEntrySList`: NULL if empty. Any IRQL.
pub unsafe extern "win64" fn ExpInterlockedPopEntrySList(head: *mut SlistHeader) -> *mut SingleEntry {
    let _guard = SLISTS.lock();
    // SAFETY: the caller's contract; the lock is held.
    unsafe {
        let first = (*head).first;
        if !first.is_null() {
            (*head).first = (*first).next;
            (*head).depth -= 1;
        }
        first
    }
}

/// `ExpInterlockedFlushSList`: the whole chain. Any IRQL.
pub unsafe extern "win64" fn ExpInterlockedFlushSList(head: *mut SlistHeader) -> *mut SingleEntry {
    let _guard = SLISTS.lock();
    // SAFETY: the caller's contract; the lock is held.
    unsafe {
        (*head).depth &= !0xffff;
        core::mem::replace(&mut (*head).first, null_mut())
    }
}

/// `ExQueryDepthSList`. Any IRQL.
pub unsafe extern "win64" fn ExQueryDepthSList(head: *const SlistHeader) -> u16 {
    let _guard = SLISTS.lock();
    // SAFETY: the caller's contract; the lock is held.
    unsafe { (*head).depth as u16 }
}

unsafe extern "win64" fn take(kind: i32, size: usize, tag: u32) -> *mut c_void {
    // SAFETY: an allocation on behalf of the driver that uses the list.
    unsafe { pool::driver::ExAllocatePoolWithTag(kind, size, tag) }
}

unsafe extern "win64" fn give(block: *mut c_void) {
    // SAFETY: the driver gives back an entry of the list.
    unsafe { pool::driver::ExFreePool(block) }
}

unsafe fn init(list: *mut Lookaside, allocate: usize, free: usize, kind: i32, size: usize, tag: u32) {
    // SAFETY: the caller gives memory for a list.
    unsafe {
        list.write(Lookaside {
            head: SlistHeader { depth: 0, first: null_mut() },
            depth: 4,
            maximum: 256,
            allocates: 0,
            misses: 0,
            frees: 0,
            free_misses: 0,
            kind,
            tag,
            size: size.max(size_of::<SingleEntry>()) as u32,
            allocate: if allocate == 0 { take as *const () as usize } else { allocate },
            free: if free == 0 { give as *const () as usize } else { free },
            entry: ListEntry::unlinked(),
            last: [0; 2],
            future: [0; 2],
        });
        ListEntry::init(&raw mut (*list).entry);
    }
}

/// `ExInitializeNPagedLookasideList`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExInitializeNPagedLookasideList(
    list: *mut Lookaside,
    allocate: usize,
    free: usize,
    flags: u32,
    size: usize,
    tag: u32,
    _depth: u16,
) {
    // SAFETY: the caller gives memory for a list.
    unsafe { init(list, allocate, free, (flags & 0x210) as i32, size, tag) }
}

/// `ExInitializePagedLookasideList`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn ExInitializePagedLookasideList(
    list: *mut Lookaside,
    allocate: usize,
    free: usize,
    flags: u32,
    size: usize,
    tag: u32,
    _depth: u16,
) {
    // SAFETY: the caller gives memory for a list.
    unsafe { init(list, allocate, free, (flags & 0x10) as i32 | 1, size, tag) }
}

/// `ExDeleteNPagedLookasideList` and `ExDeletePagedLookasideList`: gives kept entries back.
pub unsafe extern "win64" fn ExDeleteNPagedLookasideList(list: *mut Lookaside) {
    // SAFETY: the caller's contract; the free routine is the one of the initialisation.
    unsafe {
        let free = core::mem::transmute::<usize, unsafe extern "win64" fn(*mut c_void)>((*list).free);
        loop {
            let entry = ExpInterlockedPopEntrySList(&raw mut (*list).head);
            if entry.is_null() {
                return;
            }
            free(entry.cast());
        }
    }
}

/// `ExAllocateFromNPagedLookasideList`, where a driver imports it. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExAllocateFromNPagedLookasideList(list: *mut Lookaside) -> *mut c_void {
    // SAFETY: the caller's contract; the routine is the one of the initialisation.
    unsafe {
        (*list).allocates += 1;
        let entry = ExpInterlockedPopEntrySList(&raw mut (*list).head);
        if !entry.is_null() {
            return entry.cast();
        }
        (*list).misses += 1;
        let allocate =
            core::mem::transmute::<usize, unsafe extern "win64" fn(i32, usize, u32) -> *mut c_void>((*list).allocate);
        allocate((*list).kind, (*list).size as usize, (*list).tag)
    }
}

/// `ExFreeToNPagedLookasideList`, where a driver imports it. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExFreeToNPagedLookasideList(list: *mut Lookaside, entry: *mut c_void) {
    // SAFETY: as above.
    unsafe {
        (*list).frees += 1;
        if ExQueryDepthSList(&raw const (*list).head) < (*list).depth {
            ExpInterlockedPushEntrySList(&raw mut (*list).head, entry.cast());
            return;
        }
        (*list).free_misses += 1;
        let free = core::mem::transmute::<usize, unsafe extern "win64" fn(*mut c_void)>((*list).free);
        free(entry);
    }
}

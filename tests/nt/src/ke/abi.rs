//! Layouts of the kernel core for x64, declared from public documentation and headers.
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/eprocess#kernel-objects>

use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr::null_mut;

/// `KIRQL`.
pub type Kirql = u8;
/// `PASSIVE_LEVEL`.
pub const PASSIVE_LEVEL: Kirql = 0;
/// `APC_LEVEL`.
pub const APC_LEVEL: Kirql = 1;
/// `DISPATCH_LEVEL`.
pub const DISPATCH_LEVEL: Kirql = 2;
/// `CLOCK_LEVEL`.
pub const CLOCK_LEVEL: Kirql = 13;
/// `IPI_LEVEL`.
pub const IPI_LEVEL: Kirql = 14;
/// `HIGH_LEVEL`.
pub const HIGH_LEVEL: Kirql = 15;

/// `LIST_ENTRY`.
#[derive(Debug)]
#[repr(C)]
pub struct ListEntry {
    /// Flink.
    pub next: *mut ListEntry,
    /// Blink.
    pub prev: *mut ListEntry,
}

impl ListEntry {
    /// An entry that is on no list.
    pub const fn unlinked() -> Self {
        Self { next: null_mut(), prev: null_mut() }
    }

    /// `InitializeListHead`.
    ///
    /// # Safety
    /// `head` is valid for writing.
    pub unsafe fn init(head: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { head.write(Self { next: head, prev: head }) }
    }

    /// `IsListEmpty`.
    ///
    /// # Safety
    /// `head` is an initialised head.
    pub unsafe fn is_empty(head: *const Self) -> bool {
        // SAFETY: the caller's promise.
        unsafe { core::ptr::eq((*head).next, head) }
    }

    /// `InsertTailList`.
    ///
    /// # Safety
    /// `head` is an initialised head that the caller may change; `entry` is on no list.
    pub unsafe fn push_back(head: *mut Self, entry: *mut Self) {
        // SAFETY: the caller's promise; neighbours of a list are valid.
        unsafe {
            let last = (*head).prev;
            if (*last).next != head {
                corrupt_list(head);
            }
            entry.write(Self { next: head, prev: last });
            (*last).next = entry;
            (*head).prev = entry;
        }
    }

    /// `InsertHeadList`.
    ///
    /// # Safety
    /// As [`ListEntry::push_back`].
    pub unsafe fn push_front(head: *mut Self, entry: *mut Self) {
        // SAFETY: the caller's promise; neighbours of a list are valid.
        unsafe {
            let first = (*head).next;
            if (*first).prev != head {
                corrupt_list(head);
            }
            entry.write(Self { next: first, prev: head });
            (*first).prev = entry;
            (*head).next = entry;
        }
    }

    /// `RemoveEntryList`, which leaves the entry unlinked. True: the list is empty now.
    ///
    /// # Safety
    /// `entry` is on a list that the caller may change.
    pub unsafe fn remove(entry: *mut Self) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            let (next, prev) = ((*entry).next, (*entry).prev);
            if (*next).prev != entry || (*prev).next != entry {
                corrupt_list(entry);
            }
            (*prev).next = next;
            (*next).prev = prev;
            entry.write(Self::unlinked());
            core::ptr::eq(next, prev)
        }
    }

    /// `RemoveHeadList`: null if empty.
    ///
    /// # Safety
    /// `head` is an initialised head that the caller may change.
    pub unsafe fn pop_front(head: *mut Self) -> *mut Self {
        // SAFETY: the caller's promise.
        unsafe {
            let first = (*head).next;
            if core::ptr::eq(first, head) {
                return null_mut();
            }
            Self::remove(first);
            first
        }
    }
}

/// KERNEL_SECURITY_CHECK_FAILURE with LIST_ENTRY_CORRUPTION, as the checked list functions of Windows do.
#[cold]
fn corrupt_list(entry: *mut ListEntry) -> ! {
    // SAFETY: any IRQL.
    unsafe { super::KeBugCheckEx(0x139, 3, entry as usize, 0, 0) }
}

/// `DISPATCHER_HEADER`.
#[repr(C)]
pub struct DispatcherHeader {
    /// One of the `OBJECT_*` values.
    pub kind: u8,
    /// Flags of the kind.
    pub flags: u8,
    /// Size in units of four bytes.
    pub size: u8,
    /// Timer: on the queue.
    pub inserted: u8,
    /// More than zero: signalled.
    pub signal_state: i32,
    /// Wait blocks.
    pub wait_list: ListEntry,
}

/// NotificationEvent.
pub const OBJECT_NOTIFICATION_EVENT: u8 = 0;
/// SynchronizationEvent.
pub const OBJECT_SYNCHRONIZATION_EVENT: u8 = 1;
/// KMUTANT.
pub const OBJECT_MUTANT: u8 = 2;
/// KQUEUE.
pub const OBJECT_QUEUE: u8 = 4;
/// KSEMAPHORE.
pub const OBJECT_SEMAPHORE: u8 = 5;
/// KTHREAD.
pub const OBJECT_THREAD: u8 = 6;
/// Notification timer.
pub const OBJECT_NOTIFICATION_TIMER: u8 = 8;
/// Synchronization timer.
pub const OBJECT_SYNCHRONIZATION_TIMER: u8 = 9;

/// `KEVENT`.
#[repr(C)]
pub struct Event {
    /// Header.
    pub header: DispatcherHeader,
}

/// `KSEMAPHORE`.
#[repr(C)]
pub struct Semaphore {
    /// Header.
    pub header: DispatcherHeader,
    /// Largest count.
    pub limit: i32,
}

/// `KMUTANT`, also called KMUTEX.
#[repr(C)]
pub struct Mutex {
    /// Header; the state is 1 when free and falls by one an acquisition.
    pub header: DispatcherHeader,
    /// On the owner's list.
    pub owned: ListEntry,
    /// The owner.
    pub owner: *mut super::Thread,
    /// The owner ended without a release.
    pub abandoned: u8,
    /// Kernel APCs are off while owned.
    pub apc_disable: u8,
}

/// `KTIMER`.
#[repr(C)]
pub struct Timer {
    /// Header.
    pub header: DispatcherHeader,
    /// Interrupt time at which it expires, 100 ns.
    pub due: u64,
    /// On the timer queue.
    pub entry: ListEntry,
    /// Queued on expiry.
    pub dpc: *mut Dpc,
    /// Not used.
    pub processor: u32,
    /// Milliseconds, 0: once.
    pub period: u32,
}

/// `KDEFERRED_ROUTINE`.
pub type DeferredRoutine =
    unsafe extern "win64" fn(dpc: *mut Dpc, context: *mut c_void, argument1: *mut c_void, argument2: *mut c_void);

/// `KDPC`.
#[repr(C)]
pub struct Dpc {
    /// 0x13, threaded: 0x18.
    pub kind: u8,
    /// `KDPC_IMPORTANCE`.
    pub importance: u8,
    /// Target processor + 0x500, or 0: where it is queued.
    pub number: u16,
    /// On a queue.
    pub next: *mut Dpc,
    /// Not used.
    pub history: usize,
    /// The routine.
    pub routine: Option<DeferredRoutine>,
    /// Its context.
    pub context: *mut c_void,
    /// First argument of KeInsertQueueDpc.
    pub argument1: *mut c_void,
    /// Second argument of KeInsertQueueDpc.
    pub argument2: *mut c_void,
    /// Not null: queued.
    pub data: *mut c_void,
}

/// `KDEVICE_QUEUE`.
#[repr(C)]
pub struct DeviceQueue {
    /// 0x14.
    pub kind: i16,
    /// Bytes.
    pub size: i16,
    /// Entries.
    pub list: ListEntry,
    /// Protects it.
    pub lock: usize,
    /// Low byte: busy.
    pub busy: usize,
}

/// `KDEVICE_QUEUE_ENTRY`.
#[repr(C)]
pub struct DeviceQueueEntry {
    /// On the queue.
    pub entry: ListEntry,
    /// Order.
    pub key: u32,
    /// On the queue.
    pub inserted: u8,
}

/// `FAST_MUTEX` (and KGUARDED_MUTEX).
#[repr(C)]
pub struct FastMutex {
    /// 1 when free.
    pub count: i32,
    /// The owner.
    pub owner: *mut c_void,
    /// Times it was contended.
    pub contention: u32,
    /// Waiters sleep here.
    pub event: Event,
    /// IRQL before the acquisition.
    pub old_irql: u32,
}

/// `PROCESSOR_NUMBER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessorNumber {
    /// Always 0 here: one group.
    pub group: u16,
    /// Number in the group.
    pub number: u8,
    /// 0.
    pub reserved: u8,
}

/// `GROUP_AFFINITY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GroupAffinity {
    /// One bit a processor.
    pub mask: u64,
    /// Group.
    pub group: u16,
    /// 0.
    pub reserved: [u16; 3],
}

/// `KLOCK_QUEUE_HANDLE`.
#[repr(C)]
pub struct LockQueueHandle {
    /// Next waiter.
    pub next: *mut c_void,
    /// The lock.
    pub lock: *mut usize,
    /// IRQL before.
    pub old_irql: Kirql,
}

/// The part of `KPCR` and `KPRCB` that compiled drivers read through GS.
#[repr(C, align(64))]
pub struct Kpcr {
    /// GdtBase, TssBase, UserRsp.
    pub head: [u64; 3],
    /// Self, gs:[0x18].
    pub own: *mut Kpcr,
    /// CurrentPrcb, gs:[0x20].
    pub current_prcb: *mut c_void,
    /// Not used.
    pub fill1: [u64; 5],
    /// Irql, gs:[0x50].
    pub irql: u64,
    /// Not used.
    pub fill2: [u64; 37],
    /// MxCsr, gs:[0x180].
    pub mxcsr: u32,
    /// LegacyNumber and reserved bytes, gs:[0x184].
    pub number: u32,
    /// CurrentThread, gs:[0x188].
    pub current_thread: *mut super::Thread,
    /// NextThread, gs:[0x190].
    pub next_thread: *mut super::Thread,
    /// IdleThread, gs:[0x198].
    pub idle_thread: *mut super::Thread,
    /// Room up to the end of what is mapped.
    pub fill3: [u64; 460],
}

const _: () = {
    assert!(size_of::<DispatcherHeader>() == 0x18 && offset_of!(DispatcherHeader, wait_list) == 8);
    assert!(size_of::<Event>() == 0x18 && size_of::<Semaphore>() == 0x20 && size_of::<Mutex>() == 0x38);
    assert!(offset_of!(Mutex, owner) == 0x28 && offset_of!(Mutex, abandoned) == 0x30);
    assert!(size_of::<Timer>() == 0x40 && offset_of!(Timer, due) == 0x18 && offset_of!(Timer, dpc) == 0x30);
    assert!(offset_of!(Timer, period) == 0x3c);
    assert!(size_of::<Dpc>() == 0x40 && offset_of!(Dpc, routine) == 0x18 && offset_of!(Dpc, data) == 0x38);
    assert!(size_of::<DeviceQueue>() == 0x28 && offset_of!(DeviceQueue, lock) == 0x18);
    assert!(size_of::<DeviceQueueEntry>() == 0x18);
    assert!(size_of::<FastMutex>() == 0x38 && offset_of!(FastMutex, event) == 0x18);
    assert!(offset_of!(FastMutex, old_irql) == 0x30);
    assert!(size_of::<GroupAffinity>() == 0x10 && size_of::<LockQueueHandle>() == 0x18);
    assert!(offset_of!(Kpcr, own) == 0x18 && offset_of!(Kpcr, irql) == 0x50 && offset_of!(Kpcr, number) == 0x184);
    assert!(offset_of!(Kpcr, current_thread) == 0x188);
};

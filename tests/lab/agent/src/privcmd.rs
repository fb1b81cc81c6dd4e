//! Xen's privcmd device: mapping a guest's pages, and hypercalls of the toolstack.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

use anyhow::{Context, bail};

/// `struct privcmd_mmapbatch_v2` of Linux's xen/privcmd.h.
#[repr(C)]
struct MapBatch {
    count: u32,
    domain: u16,
    address: u64,
    pages: *const u64,
    errors: *mut i32,
}

/// `struct privcmd_hypercall`.
#[repr(C)]
struct Hypercall {
    operation: u64,
    arguments: [u64; 5],
}

/// `struct xen_hvm_param` of Xen's public/hvm/hvm_op.h.
#[derive(Clone, Copy)]
#[repr(C)]
struct HvmParam {
    domain: u16,
    index: u32,
    value: u64,
}

/// `struct xen_domctl` of Xen's public/domctl.h.
#[derive(Clone, Copy)]
#[repr(C)]
struct DomainControl {
    command: u32,
    version: u32,
    domain: u16,
    pad: [u16; 3],
    payload: [u64; 16],
}

/// _IOC(_IOC_NONE, 'P', number, size of the argument).
const fn request<T>(number: libc::c_ulong) -> libc::c_ulong {
    (size_of::<T>() as libc::c_ulong) << 16 | (b'P' as libc::c_ulong) << 8 | number
}

/// `IOCTL_PRIVCMD_HYPERCALL`.
const HYPERCALL: libc::c_ulong = request::<Hypercall>(0);
/// `IOCTL_PRIVCMD_MMAPBATCH_V2`.
const MAP_BATCH: libc::c_ulong = request::<MapBatch>(4);

/// `__HYPERVISOR_hvm_op`.
const HVM_OP: u64 = 34;
/// `HVMOP_get_param`.
const GET_PARAM: u64 = 1;
/// `HVM_PARAM_CALLBACK_IRQ`.
const CALLBACK_IRQ: u32 = 0;
/// `__HYPERVISOR_domctl`, and `XEN_DOMCTL_INTERFACE_VERSION` of Xen 4.17: another Xen refuses it.
const DOMCTL: u64 = 36;
const DOMCTL_VERSION: u32 = 0x15;
/// `XEN_DOMCTL_pausedomain`, `XEN_DOMCTL_unpausedomain`, `XEN_DOMCTL_getdomaininfo`.
const PAUSE: u32 = 3;
const UNPAUSE: u32 = 4;
const GET_INFO: u32 = 5;
/// Where `cpu_time` is in `struct xen_domctl_getdomaininfo`, in words.
const CPU_TIME: usize = 7;

fn open() -> anyhow::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/xen/privcmd").context("cannot open privcmd")
}

/// Pages of a guest, mapped here until this is dropped.
pub struct Mapping {
    base: *mut u8,
    bytes: usize,
    /// Open as long as the mapping is.
    device: File,
}

impl Mapping {
    /// Maps pages in a row.
    pub fn new(domain: u16, first: u64, count: usize) -> anyhow::Result<Self> {
        let device = open()?;
        let bytes = count * 4096;
        // SAFETY: a fresh mapping of the device, which the ioctl then fills.
        let base = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, device.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            bail!("cannot map privcmd: {}", std::io::Error::last_os_error());
        }
        let mapping = Self { base: base.cast(), bytes, device };
        let pages: Vec<u64> = (first..first + count as u64).collect();
        let mut errors = vec![0; count];
        let batch = MapBatch {
            count: count as u32,
            domain,
            address: base as u64,
            pages: pages.as_ptr(),
            errors: errors.as_mut_ptr(),
        };
        // SAFETY: arrays of `count` entries, alive for the call.
        let result = unsafe { libc::ioctl(mapping.device.as_raw_fd(), MAP_BATCH as _, &raw const batch) };
        if result != 0 || errors.iter().any(|&error| error != 0) {
            bail!("cannot map the guest's pages: {}, {errors:?}", std::io::Error::last_os_error());
        }
        Ok(mapping)
    }

    /// The first byte.
    pub fn base(&self) -> *mut u8 {
        self.base
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nothing refers to any more.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

/// Makes a hypercall whose argument is a structure that Xen reads and writes.
fn call<T: Copy>(operation: u64, command: Option<u64>, argument: T) -> anyhow::Result<T> {
    let device = open()?;
    let mut argument = Box::new(argument);
    let place: *mut T = &raw mut *argument;
    // SAFETY: the memory is this function's; Xen reads and writes it, so it must not be paged out meanwhile.
    if unsafe { libc::mlock(place.cast(), size_of::<T>()) } != 0 {
        bail!("cannot lock a page: {}", std::io::Error::last_os_error());
    }
    let mut arguments = [0; 5];
    let place_at = match command {
        Some(command) => {
            arguments[0] = command;
            1
        }
        None => 0,
    };
    arguments[place_at] = place as u64;
    let call = Hypercall { operation, arguments };
    // SAFETY: the call fills the structure, which lives on.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), HYPERCALL as _, &raw const call) };
    if result != 0 {
        bail!("hypercall {operation}: {}", std::io::Error::last_os_error());
    }
    // SAFETY: written by the hypercall, which the compiler cannot see.
    Ok(unsafe { place.read_volatile() })
}

/// `HVM_PARAM_CALLBACK_IRQ` of a domain: what the toolstack asks to learn whether there are PV drivers.
pub fn callback_irq(domain: u16) -> anyhow::Result<u64> {
    let param = HvmParam { domain, index: CALLBACK_IRQ, value: 0 };
    Ok(call(HVM_OP, Some(GET_PARAM), param).context("HVMOP_get_param")?.value)
}

/// Has a domain run no more until [`unpause`]; it is as if no time passed for it.
pub fn pause(domain: u16) -> anyhow::Result<()> {
    domctl(PAUSE, domain).map(drop).context("XEN_DOMCTL_pausedomain")
}

/// Ends [`pause`].
pub fn unpause(domain: u16) -> anyhow::Result<()> {
    domctl(UNPAUSE, domain).map(drop).context("XEN_DOMCTL_unpausedomain")
}

/// Nanoseconds that a domain's processors ran so far.
pub fn cpu_time(domain: u16) -> anyhow::Result<u64> {
    Ok(domctl(GET_INFO, domain).context("XEN_DOMCTL_getdomaininfo")?.payload[CPU_TIME])
}

fn domctl(command: u32, domain: u16) -> anyhow::Result<DomainControl> {
    let control = DomainControl { command, version: DOMCTL_VERSION, domain, pad: [0; 3], payload: [0; 16] };
    call(DOMCTL, None, control)
}

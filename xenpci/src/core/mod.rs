//! What the bus driver does that has nothing to do with Windows.
//!
//! Nothing here waits, locks, or knows an operating system's type. State lives in plain structures with `&mut self`
//! methods, which the Windows half puts behind its own spin locks; what must work without a lock (granting a page,
//! masking an event channel) takes `&self` and is atomic. Allocation is fallible, and none happens per I/O.

// Tests may allocate as they like; the build without them holds the line.
#![cfg_attr(test, allow(clippy::disallowed_macros, clippy::disallowed_methods))]

pub mod control;
pub mod enumerate;
pub mod event;
pub mod grant;
pub mod hypercall;
pub mod ports;
pub mod store;
pub mod suspend;

#[cfg(test)]
mod testing {
    //! Shared memory for the tests.

    use std::ptr::NonNull;

    use xen_abi::PAGE_SIZE;
    use xen_abi::shared::SharedRegion;

    /// A page of zeroes that stays for as long as the test process.
    pub fn page() -> SharedRegion {
        let page: &'static mut [u64] = Box::leak(vec![0_u64; PAGE_SIZE / 8].into_boxed_slice());
        let base = NonNull::from(page).cast();
        // SAFETY: eight-byte aligned, never freed, and the only reference to it is gone.
        unsafe { SharedRegion::new(base, PAGE_SIZE) }
    }
}

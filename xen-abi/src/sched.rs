//! Scheduler operations (`xen/include/public/sched.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `SCHEDOP_yield`: no argument.
pub const YIELD: u32 = 0;
/// `SCHEDOP_block`: no argument; enables upcalls.
pub const BLOCK: u32 = 1;
/// `SCHEDOP_shutdown`: [`Shutdown`]. With [`SUSPEND`] it returns 0 in the new domain, 1 if the suspend was cancelled.
pub const SHUTDOWN: u32 = 2;
/// `SCHEDOP_poll`: [`Poll`].
pub const POLL: u32 = 3;
/// `SCHEDOP_shutdown_code`: [`Shutdown`]; sets the code without shutting down.
pub const SHUTDOWN_CODE: u32 = 5;
/// `SCHEDOP_watchdog`: [`Watchdog`].
pub const WATCHDOG: u32 = 6;

/// `SHUTDOWN_poweroff`.
pub const POWEROFF: u32 = 0;
/// `SHUTDOWN_reboot`.
pub const REBOOT: u32 = 1;
/// `SHUTDOWN_suspend`.
pub const SUSPEND: u32 = 2;
/// `SHUTDOWN_crash`.
pub const CRASH: u32 = 3;
/// `SHUTDOWN_watchdog`.
pub const SHUTDOWN_WATCHDOG: u32 = 4;
/// `SHUTDOWN_soft_reset`.
pub const SOFT_RESET: u32 = 5;

/// `struct sched_shutdown`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Shutdown {
    /// `SHUTDOWN_*`.
    pub reason: u32,
}

/// `struct sched_poll`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Poll {
    /// Address of the list of ports (32-bit each).
    pub ports: u64,
    /// Entries of the list.
    pub port_count: u32,
    /// Padding.
    pub pad: u32,
    /// Absolute system time in ns, 0: none.
    pub timeout: u64,
}

/// `struct sched_watchdog`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Watchdog {
    /// 0: make a new one, whose id is returned.
    pub id: u32,
    /// Seconds, 0: stop it.
    pub timeout: u32,
}

const _: () = {
    assert!(size_of::<Shutdown>() == 4);
    assert!(size_of::<Poll>() == 24);
    assert!(size_of::<Watchdog>() == 8);
};

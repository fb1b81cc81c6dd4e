//! The machine goes off or starts again, by Xen's own call. On Windows the HAL does that last step by ACPI, and the device
//! model makes the same call.

use crate::console::{self, Verdict};
use crate::hypercall;

/// Why a domain shuts down: `SHUTDOWN_poweroff` and `SHUTDOWN_reboot` of Xen's public/sched.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Off.
    PowerOff = 0,
    /// Again.
    Reboot = 1,
}

/// Ends this domain.
pub fn shut_down(reason: Reason) -> ! {
    let result = hypercall::shutdown(reason as u32);
    console::print(format_args!("lab: SCHEDOP_shutdown {reason:?} came back with {result}"));
    console::end(Verdict::Stopped)
}

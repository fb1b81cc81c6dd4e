//! The bench Platform of a Linux process: loads driver images and runs them deterministically.
//!
//! One OS thread carries all virtual processors. Each processor is a context of its own; a seeded scheduler decides at
//! every preemption point which one goes on, so the same seed gives the same run. Guest memory is a memfd: frames are
//! always reachable for the Xen model by an alias, and mapped page by page where drivers see them. What a driver may do
//! in ring 0 alone is trapped (or rewritten at load, where Linux does not trap it) and carried out here.
//!
//! [`BenchConfig::threads`] chooses the other mode: each processor is an OS thread, and all run at once.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("this platform is a Linux process on x86-64");

mod adapter;
mod bench;
mod firmware;
mod frames;
mod host;
mod paged;
mod processor;
mod rewrite;
mod shared;
mod step;
mod tables;
mod threads;
mod touch;
mod trap;
mod watchdog;

pub use bench::{Bench, BenchConfig, Ctx, Outcome, cut_power};
pub use frames::MemoryStats;
pub use step::Steps;
pub use threads::Overlap;
pub use touch::{Touches, Watch};
pub use watchdog::POWER_CUT;

//! The bench Platform of bare metal: an HVM guest kernel that runs the NT personality, and in it the shipped drivers,
//! under a real Xen.
//!
//! QEMU's multiboot loader puts the image at 4 MiB and enters [`boot`] in 32-bit mode with one module: a tar archive of
//! driver packages. From there: [`memory`] (frames, page tables, heap), [`processor`] (descriptor tables, local APIC),
//! [`trap`] (exceptions and interrupts), [`machine`] (what `nt` asks of the platform), [`run`] (what is done with it).
#![no_std]
#![no_main]

extern crate alloc;

mod bench;
mod boot;
mod cases;
mod clock;
mod console;
mod hypercall;
mod interrupts;
mod lock;
mod log;
mod machine;
mod mailbox;
mod memory;
mod network;
mod others;
mod pci;
mod power;
mod processor;
mod run;
mod suspend;
mod trace;
mod trap;
mod world;

use core::panic::PanicInfo;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    x86_64::instructions::interrupts::disable();
    console::print(format_args!("lab: panic: {info}"));
    trap::print_stack(console::frame_pointer());
    console::end(console::Verdict::Panic)
}

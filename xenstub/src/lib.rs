//! xenstub: the driver of frontends that Windows has no use for (frame buffer, keyboard and pointer, console), so that the
//! device manager shows no unknown device. It starts, sleeps and goes as it is told, and does nothing.
#![cfg_attr(windows, no_std)]

#[cfg(windows)]
mod windows;

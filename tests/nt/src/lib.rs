//! An NT personality: what ntoskrnl, hal and storport export, over a Platform.
#![no_std]
extern crate alloc;

//! What `xenpci` offers its children: the versioned interface and the frontend state machine.
#![no_std]

pub mod interface;

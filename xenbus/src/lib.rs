//! What `xenpci` offers its children: the versioned interface ([`interface`]), a safe client of it ([`client`]), and
//! its interface to user mode ([`control`]), what frontends have in common: the state machine by which one connects to its backend ([`frontend`]), shared pages
//! ([`pages`]), paths ([`path`]) and numbers ([`store`]) in the store.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod client;
pub mod control;
pub mod frontend;
pub mod interface;
pub mod pages;
pub mod path;
pub mod store;

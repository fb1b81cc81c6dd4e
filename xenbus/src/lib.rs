//! What `xenpci` offers its children: the versioned interface ([`interface`]), a safe client of it ([`client`]), and
//! the state machine by which a frontend connects to its backend ([`frontend`]).
#![no_std]

#[cfg(test)]
extern crate std;

pub mod client;
pub mod frontend;
pub mod interface;
pub mod path;

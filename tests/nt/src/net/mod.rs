//! The protocol side of the network: what is bound to adapters.
//!
//! `packet` builds NET_BUFFER_LISTs out of frames, cut to MDLs in any way; `client` sends and receives frames with what
//! stands out of band; `stack` is a TCP/IP endpoint (smoltcp) over a client; `checksum` is what the two need of headers,
//! `large` what goes to the adapter for it to take apart, `closing` what smoltcp is spared.

pub mod checksum;
pub mod client;
pub mod closing;
pub mod large;
pub mod packet;
pub mod stack;

pub use client::{Client, Sending};
pub use packet::{Layout, Outgoing, Packet};
pub use stack::{Stack, StackConfig};

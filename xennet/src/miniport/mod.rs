//! Windows' side: an NDIS 6.30 miniport with one adapter for each VIF.
//!
//! # What happens when
//! - **Start.** MiniportInitializeEx fetches the bus's interface, reads the keywords, and waits a few seconds for the
//!   backend. A backend that comes later raises the link then.
//! - **Send.** Each list goes to one queue, by its flow, and its packets into that queue's ring where they lie. What has
//!   no room waits as a list. One notification a batch. Completion comes from the event channel's DPC.
//! - **Receive.** The DPC takes packets out of the ring, judges them (filter, length, VLAN, checksums) and indicates them
//!   in batches. Where pages run short, packets are only lent to Windows. Pages come back by MiniportReturnNetBufferLists.
//! - **Pause.** What the backend has nothing of is completed with PAUSED. The pause is complete when the rest is
//!   answered and every received list is back; a backend that does not answer has its connection closed.
//! - **Offloads** that the backend lacks are done in software (`front/`). Switching coalescing makes a new connection,
//!   because a backend reads that only then; everything else changes at once.
//! - **Suspend.** Freezing stops the hand-out of packets. After a cancelled suspend the rings go on as they were. After a
//!   real one, packets that were not answered are sent again to the new backend in the order of arrival; Windows is not
//!   told that the link was down, unless no backend comes within half a minute. Then addresses are announced, three times.
//! - **A backend that restarts, or breaks the protocol**, has its connection closed in order and made again; meanwhile
//!   the link is down and sends fail.
//! - **Unplug.** A backend that goes to Closing and is not online has Windows asked to eject the device.
//! - **A backend that is gone** is reported to the bus as missing: Windows removes the device by surprise.
//! - **Low power** closes the connection, full power makes it again.

mod adapter;
mod connection;
mod counters;
mod filter;
mod keeper;
mod offload;
mod raw;
mod receive;
mod requests;
mod rings;
mod scale;
mod settings;
mod transmit;

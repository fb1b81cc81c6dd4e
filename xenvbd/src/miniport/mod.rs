//! Windows' side: a physical storport miniport with one adapter for each VBD.
//!
//! # What happens when
//! - **Start.** HwFindAdapter fetches the bus's interface. HwPassiveInitialize sets the watch on the backend's state and
//!   waits until the disk is connected, at most `ConnectTimeout` seconds. Later than that, the disk appears by a bus
//!   scan when it does connect. Until then no logical unit answers.
//! - **I/O.** HwStartIo decodes the command and hands it to the ring under one spin lock. Completion comes from the
//!   event channel's DPC. A full table is answered BUSY, which storport tries again after a completion.
//! - **Time-outs and resets** (HwResetBus, and the SRBs for bus, target and unit): the ring is looked through once more
//!   and the backend notified once more, in case an event was lost. No request is completed by a reset: those with the
//!   backend have pages that the peer may write, and those that wait for a backend are only frozen. The reset itself
//!   succeeds, and its unit attention is raised.
//! - **Suspend.** Freezing stops the hand-out of requests; those in flight are kept. After a cancelled suspend the ring
//!   goes on as it was. After a real one, answers that had arrived are taken, and all the rest is issued again to the
//!   new backend in the order of arrival.
//! - **A backend that restarts** (Closed, then InitWait) is followed the same way. Storport is not paused meanwhile:
//!   requests wait in the ring's table, which holds more than storport's queue depth lets in.
//! - **Unplug.** A backend that goes to Closing and is not online has Windows asked to eject the device; I/O goes on
//!   until Windows removes it. Removal and stop close the connection at PASSIVE_LEVEL, before storport has the IRP.
//! - **A backend that is gone** (its directory vanished) is reported to the bus as missing: Windows removes the device
//!   by surprise. Every request is completed with NO_DEVICE, but for those whose pages the peer still maps.
//! - **A backend that breaks the protocol** is not believed any more: requests fail with HARDWARE ERROR until it
//!   restarts.
//! - **Held requests** are looked at again every second: when the peer lets go, they are completed.
//! - **Crash dump and hibernation files** are refused: the driver has no dump path yet.

mod adapter;
mod connection;
mod raw;
mod settings;

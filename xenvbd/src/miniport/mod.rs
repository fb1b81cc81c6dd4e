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
//! - **A backend that breaks the protocol** (a response that was not asked for, an impossible index, a page that it keeps
//!   after its answer) is not believed any more, and the log says what it wrote. The ring is left alone at once; no request
//!   ends by that. The keeper, a thread of the adapter, closes the connection in order: state Closing, then Closed, each as
//!   soon as the backend follows or after 5 seconds; the event channel is closed, and every grant is ended that the backend
//!   has let go of. The requests wait. Then one policy decides, the same for every kind of failure
//!   ([`xenbus::frontend`]): a rest of 1, 2, 4, 8 seconds, then 60 seconds for the backend to offer itself and connect,
//!   five failures in all. Connected again, what was in flight is issued again in the order of arrival. After the fifth
//!   failure the disk has failed for good: what waits, and whatever comes later, is completed with HARDWARE ERROR, until the
//!   device is unplugged. Ten minutes of service without a failure wipe the slate clean.
//! - **A backend that does not answer** is asked again at each reset. Storport asks for one every ten seconds or so; after
//!   twelve without a single answer the backend is treated like one that broke the protocol. Resets while nothing is with
//!   the backend count for nothing, and the log has the 1st, 2nd, 4th, 8th and so on only.
//! - **Held requests** have a page that the peer still maps: they are neither completed nor issued again. They are looked
//!   at every second; when the peer lets go, they go the way of the others.
//! - **Crash dump and hibernation files** are refused: the driver has no dump path yet.

mod adapter;
mod connection;
mod raw;
mod settings;

//! A disk class driver: what disk.sys and classpnp.sys do between a file system and storport, and what suites use to
//! read, write, flush, unmap and send any command.

pub mod driver;
pub mod info;
pub mod io;
pub mod request;

pub use driver::{Disk, INF, Raw, SERVICE, disks, register};
pub use info::{Info, Sense};
pub use io::{Buffer, Operation, Outcome, Ticket};

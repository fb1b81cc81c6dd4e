//! The measured loads: [`disk`], [`net`]. Who asks and measures is the agent's `bench.rs`; what Linux does beside it is
//! `tests/lab/linux`.

mod disk;
mod net;

use crate::{mailbox, trap};
use alloc::format;
use alloc::string::ToString as _;
use alloc::vec::Vec;
use suites::case::{Ctx, Failure};

/// Interrupts of devices so far.
fn interrupts() -> u64 {
    let (by_message, by_line) = trap::device_interrupts();
    by_message + by_line
}

/// Does what the agent says, for as long as the guest lives: the agent destroys it.
pub fn serve(_ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut report = "ready".to_string();
    loop {
        let (request, _) = mailbox::ask(&format!("bench {report}"), &[]).map_err(Failure)?;
        let words: Vec<&str> = request.split(' ').collect();
        report = match words.split_first() {
            Some((&"disk", rest)) => disk::run(rest).unwrap_or_else(|why| format!("failed {why}")),
            Some((&"net", rest)) => net::run(rest).unwrap_or_else(|why| format!("failed {why}")),
            _ => format!("failed `{request}` is no request"),
        };
    }
}

//! A driver that crashes on purpose, `tests/foreign/fseh.c`: the machine must stop with a report from which each call can be
//! read. What the report has to say stands in `cases.txt`, and the host judges it by the driver's PDB.

use crate::power::{self, Reason};
use crate::world;
use alloc::format;
use nt::io::{file, request};
use suites::case::{Case, Failure, Setup};
use suites::check;

use super::case;

/// `SHUTDOWN_crash` of Xen's public/sched.h.
const CRASH: u32 = 3;
/// The control codes of `foreign.h` and `fseh.c`.
const RUN: u32 = 0x8000_2000;
const BREAK: u32 = 0x8000_2018;

/// The cases.
pub const CASES: &[Case] = &[
    case(
        "lab/crash-fault",
        "A driver of C reads nothing, and no handler takes it: bug check 0x7e, every call by function, file and line",
        |_| Setup::default(),
        |_| crash(0),
    ),
    case(
        "lab/crash-rule",
        "A driver of C waits at DISPATCH_LEVEL: bug check 0xc4, every call by function, file and line",
        |_| Setup::default(),
        |_| crash(1),
    ),
    case(
        "lab/crash-constant",
        "A driver of C writes to its .rdata: bug check 0xbe, no handler asked, every call by function, file and line",
        |_| Setup::default(),
        |_| crash(2),
    ),
    case(
        "lab/crash-data",
        "A driver of C runs its .data: bug check 0xfc, no handler asked, every call by function, file and line",
        |_| Setup::default(),
        |_| crash(3),
    ),
];

/// Sends a request to the driver, as a client that opened its device.
fn control(code: u32, input: &[u8], output: &mut [u8]) -> Result<usize, Failure> {
    // SAFETY: on a system thread at PASSIVE_LEVEL; the file is released at the end.
    let (status, length) = unsafe {
        let opened = match file::open(r"\Device\ForeignSeh", 0x12_0089, 3) {
            Ok(opened) => opened,
            Err(status) => return Err(Failure::from(format!("the driver's device does not open: {status:#x}"))),
        };
        let done = request::control((*opened).device, code, input, output, false);
        nt::ob::ObfDereferenceObject(opened.cast());
        done
    };
    check!(status == 0, "control code {code:#x} fails: {status:#x}");
    Ok(length)
}

/// The driver's own checks, then the crash in the way `how` of `fseh.c`. The agent has the verdict.
fn crash(how: u32) -> Result<(), Failure> {
    let mut result = [0; 12];
    let length = control(RUN, &[], &mut result)?;
    let field = |n: usize| u32::from_le_bytes([result[4 * n], result[4 * n + 1], result[4 * n + 2], result[4 * n + 3]]);
    check!(length == 12 && field(1) == 0, "fseh.c: the check of line {} does not hold", field(2));
    world::await_shutdown(CRASH, &format!(", checks {}", field(0)));
    control(BREAK, &how.to_le_bytes(), &mut [])?;
    // Nobody minded: the agent waits for a crash and is told of this instead.
    power::shut_down(Reason::PowerOff)
}

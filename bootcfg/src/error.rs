//! Why something about the boot entries cannot be done.

use std::fmt;
use std::io;

use crate::store::Id;

/// See the module.
#[derive(Debug)]
pub enum Error {
    /// A program of Windows cannot be run.
    Program(&'static str, io::Error),
    /// `bcdedit` refused: its arguments, and what it said.
    Refused {
        /// The arguments.
        arguments: String,
        /// The last lines of its output.
        said: String,
    },
    /// What `bcdedit` printed is not understood: the line's number from 1, and what was expected there.
    Output(usize, &'static str),
    /// `bcdedit` says that it did something, and it is not so.
    NotDone(&'static str),
    /// BitLocker protects the system drive.
    BitLocker,
    /// Whether BitLocker protects the system drive cannot be found out: the exit code of `manage-bde`.
    BitLockerUnknown(Option<i32>),
    /// There is no boot manager in the store.
    NoManager,
    /// The boot manager has no default entry, or it names one that is not there.
    NoDefault,
    /// The default entry starts another system.
    OtherDefault(Id),
    /// The default entry itself asks for paravirtual devices: nothing would follow a boot that dies but the same again.
    DefaultParavirtual(Id),
    /// `persistbootsequence` is set: the boot manager would not take the sequence out.
    Persistent,
    /// The entry for paravirtual devices is not there.
    NoEntry,
    /// The entry is there, and somebody has changed its options so that it does not ask for paravirtual devices.
    Edited(Id),
    /// The entry's options have letters that `bcdedit` does not print as they are: written back they would be others.
    Letters(Id),
    /// The next boot is somebody else's: Windows Update, recovery, an administrator.
    Taken(Id),
    /// What was to be remembered cannot be written.
    Memory(io::Error),
}

/// What a call comes back with.
pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(name, error) => write!(f, "{name} cannot be run: {error}"),
            Self::Refused { arguments, said } => write!(f, "`bcdedit {arguments}` was refused: {said}"),
            Self::Output(line, expected) => {
                write!(f, "what bcdedit prints is not understood: line {line}, {expected} expected")
            }
            Self::NotDone(what) => write!(f, "bcdedit reports success, but {what}"),
            Self::BitLocker => f.write_str(
                "BitLocker protects the system drive, and would ask for its recovery key after a change of the boot \
                 entry; suspend it (manage-bde -protectors -disable C: -rebootcount 0) and try again",
            ),
            Self::BitLockerUnknown(Some(code)) => {
                write!(
                    f,
                    "whether BitLocker protects the system drive cannot be found out: manage-bde ends with {code}"
                )
            }
            Self::BitLockerUnknown(None) => {
                f.write_str("whether BitLocker protects the system drive cannot be found out: manage-bde was stopped")
            }
            Self::NoManager => f.write_str("there is no boot manager in the boot configuration"),
            Self::NoDefault => {
                f.write_str("the boot manager has no default entry; make one: bcdedit /default {current}")
            }
            Self::OtherDefault(id) => write!(
                f,
                "the default boot entry {id} does not start this Windows, so this Windows would not come back by \
                 itself after a boot that dies; make it the default: bcdedit /default {{current}}"
            ),
            Self::DefaultParavirtual(id) => write!(
                f,
                "the default boot entry {id} has the option GPLPV, so nothing safe would follow a boot that dies; \
                 remove it: bcdedit /set {id} loadoptions NOGPLPV"
            ),
            Self::Persistent => f.write_str(
                "persistbootsequence is set, so the boot manager would not use a boot sequence up; remove it: \
                 bcdedit /deletevalue {bootmgr} persistbootsequence",
            ),
            Self::NoEntry => f.write_str("the boot entry for the paravirtual devices is not there; install again"),
            Self::Edited(id) => {
                write!(f, "the boot entry {id} does not have the option GPLPV any more, or has NOGPLPV")
            }
            Self::Letters(id) => write!(
                f,
                "the load options of the boot entry {id} have letters that bcdedit does not print as they are, so they are \
                 left alone; give it options in plain letters: bcdedit /set {id} loadoptions \"...\""
            ),
            Self::Taken(id) => write!(f, "the next boot is already given to the boot entry {id}"),
            Self::Memory(error) => write!(f, "what was changed cannot be recorded: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Program(_, error) | Self::Memory(error) => Some(error),
            _ => None,
        }
    }
}

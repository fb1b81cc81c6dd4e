//! What backend and frontend say to each other in the store: read once, bounded, and doubted.

use xenbus::{
    client::{Bus, Error, Result, Transaction},
    interface::LogLevel,
    path::Path,
};

use super::ring::{Abilities, INDIRECT_SEGMENTS};
use crate::scsi::Discard;

/// Most pages of a ring.
pub const MAX_RING_PAGES: usize = 16;

/// How a flush is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushBy {
    /// `BLKIF_OP_FLUSH_DISKCACHE`.
    Flush,
    /// An empty `BLKIF_OP_WRITE_BARRIER`, where flush is absent.
    Barrier,
}

/// How the store spells a ring of more than one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// `max-ring-page-order`, `ring-page-order`.
    Order,
    /// `max-ring-pages`, `num-ring-pages`.
    Pages,
}

/// The ring that the backend takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingOffer {
    /// Pages: 1, 2, 4, 8 or 16.
    pub pages: usize,
    /// How to write that.
    pub spelling: Spelling,
}

/// What the backend says of itself when it is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// Bytes of a logical block: a power of two from 512 to 4096.
    pub sector_size: u32,
    /// Bytes of a physical block: at least a logical one.
    pub physical_sector_size: u32,
    /// Read-only.
    pub read_only: bool,
    /// Removable.
    pub removable: bool,
    /// A CD-ROM.
    pub cdrom: bool,
    /// Discard, with its shape.
    pub discard: Option<Discard>,
    /// What the ring has to know.
    pub abilities: Abilities,
}

/// A number in the store; None where there is none, or where it is none (which is logged).
///
/// # Errors
/// The store's, other than that the node is missing.
pub fn number<B: Bus>(bus: &B, directory: &Path, key: &str) -> Result<Option<u64>> {
    let path = directory.join(key).map_err(|_| Error::Protocol)?;
    let mut buf = [0; 32];
    let len = match bus.read(Transaction::NONE, path.as_bytes(), &mut buf) {
        Ok(len) => len,
        Err(Error::NotFound) => return Ok(None),
        Err(Error::TooSmall) => {
            bus.log(LogLevel::Warning, format_args!("{key}: too long for a number, ignored"));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let text = buf.get(..len).unwrap_or(&[]);
    let value = decimal(text);
    if value.is_none() {
        bus.log(LogLevel::Warning, format_args!("{key}: not a number, ignored"));
    }
    Ok(value)
}

/// A decimal number, and nothing else but spaces around it and a NUL behind it.
pub fn decimal(text: &[u8]) -> Option<u64> {
    let text = text.strip_suffix(&[0]).unwrap_or(text).trim_ascii();
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Reads which ring the backend takes, at most `most` pages.
///
/// # Errors
/// The store's.
pub fn ring_offer<B: Bus>(bus: &B, backend: &Path, most: usize) -> Result<RingOffer> {
    let floor = |pages: u64| {
        let pages = usize::try_from(pages).unwrap_or(MAX_RING_PAGES).clamp(1, most.clamp(1, MAX_RING_PAGES));
        1 << pages.ilog2()
    };
    if let Some(order) = number(bus, backend, "max-ring-page-order")? {
        return Ok(RingOffer { pages: floor(1 << order.min(16)), spelling: Spelling::Order });
    }
    let pages = number(bus, backend, "max-ring-pages")?.unwrap_or(1);
    Ok(RingOffer { pages: floor(pages), spelling: Spelling::Pages })
}

/// Text of a decimal number.
struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    fn new(mut value: u64) -> Self {
        let mut digits = [0; 20];
        let mut start = digits.len();
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            start -= 1;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        Self { digits, start }
    }

    fn as_bytes(&self) -> &[u8] {
        self.digits.get(self.start..).unwrap_or(&[])
    }
}

const RING_REFS: [&str; MAX_RING_PAGES] = [
    "ring-ref0",
    "ring-ref1",
    "ring-ref2",
    "ring-ref3",
    "ring-ref4",
    "ring-ref5",
    "ring-ref6",
    "ring-ref7",
    "ring-ref8",
    "ring-ref9",
    "ring-ref10",
    "ring-ref11",
    "ring-ref12",
    "ring-ref13",
    "ring-ref14",
    "ring-ref15",
];

/// Writes ring and event channel below the frontend's directory, in one transaction.
///
/// # Errors
/// The store's.
pub fn publish<B: Bus>(bus: &B, refs: &[u32], spelling: Spelling, port: u32) -> Result {
    xenbus::client::transaction(bus, |open| {
        let write = |key: &str, value: u64| bus.write(open, key.as_bytes(), Decimal::new(value).as_bytes());
        for key in ["ring-page-order", "num-ring-pages", "ring-ref"] {
            match bus.remove(open, key.as_bytes()) {
                Ok(()) | Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        if let [only] = refs {
            write("ring-ref", u64::from(*only))?;
        } else {
            match spelling {
                Spelling::Order => write("ring-page-order", u64::from(refs.len().ilog2()))?,
                Spelling::Pages => write("num-ring-pages", refs.len() as u64)?,
            }
            for (key, reference) in RING_REFS.iter().zip(refs) {
                write(key, u64::from(*reference))?;
            }
        }
        write("event-channel", u64::from(port))?;
        write("feature-persistent", 0)?;
        bus.write(open, b"protocol", xen_abi::blkif::PROTOCOL.as_bytes())
    })
}

/// Writes the frontend's state.
///
/// # Errors
/// The store's.
pub fn write_state<B: Bus>(bus: &B, state: u32) -> Result {
    bus.write(Transaction::NONE, b"state", Decimal::new(u64::from(state)).as_bytes())
}

/// Reads what the backend says of itself. None: without it there is no disk (which is logged).
///
/// # Errors
/// The store's.
pub fn parameters<B: Bus>(bus: &B, backend: &Path, cdrom: bool) -> Result<Option<Parameters>> {
    let flag = |key: &str| -> Result<bool> { Ok(number(bus, backend, key)?.unwrap_or(0) == 1) };
    let info = number(bus, backend, "info")?.unwrap_or(0);
    // VDISK_CDROM, VDISK_REMOVABLE, VDISK_READONLY.
    let cdrom = cdrom || info & 1 != 0;
    let sector_size = match number(bus, backend, "sector-size")?.unwrap_or(512) {
        size @ (512 | 1024 | 2048 | 4096) => size as u32,
        other => {
            bus.log(LogLevel::Error, format_args!("sector-size {other} is none that a disk has; the disk is refused"));
            return Ok(None);
        }
    };
    let sector_size = if cdrom { 2048 } else { sector_size };
    let Some(sectors) = number(bus, backend, "sectors")?.filter(|sectors| *sectors < 1 << 54) else {
        bus.log(LogLevel::Error, format_args!("sectors: missing, or no size that a disk has; the disk is refused"));
        return Ok(None);
    };
    let whole = sectors - sectors % u64::from(sector_size / 512);
    if whole != sectors {
        bus.log(LogLevel::Warning, format_args!("{sectors} sectors are not whole blocks; the last part is left out"));
    }
    let physical = match number(bus, backend, "physical-sector-size")? {
        Some(size) if size.is_power_of_two() && (u64::from(sector_size)..=1 << 20).contains(&size) => size as u32,
        Some(other) => {
            bus.log(LogLevel::Warning, format_args!("physical-sector-size {other} ignored"));
            sector_size
        }
        None => sector_size,
    };
    let mut mode = [0; 8];
    let path = backend.join("mode").map_err(|_| Error::Protocol)?;
    let read_only = match bus.read(Transaction::NONE, path.as_bytes(), &mut mode) {
        Ok(_) => mode[0] == b'r',
        Err(Error::NotFound | Error::TooSmall) => false,
        Err(error) => return Err(error),
    };
    let flush = if flag("feature-flush-cache")? {
        Some(FlushBy::Flush)
    } else if flag("feature-barrier")? {
        Some(FlushBy::Barrier)
    } else {
        None
    };
    let indirect = number(bus, backend, "feature-max-indirect-segments")?.unwrap_or(0);
    let indirect = indirect.min(INDIRECT_SEGMENTS as u64) as u16;
    let read_only = read_only || info & 4 != 0 || cdrom;
    Ok(Some(Parameters {
        sectors: whole,
        sector_size,
        physical_sector_size: physical,
        read_only,
        removable: info & 2 != 0 || cdrom,
        cdrom,
        discard: if flag("feature-discard")? && !read_only { discard(bus, backend, sector_size)? } else { None },
        abilities: Abilities { flush, indirect },
    }))
}

fn discard<B: Bus>(bus: &B, backend: &Path, sector_size: u32) -> Result<Option<Discard>> {
    // Both keys are in bytes.
    let granularity = number(bus, backend, "discard-granularity")?.unwrap_or(0).max(u64::from(sector_size));
    let alignment = number(bus, backend, "discard-alignment")?.unwrap_or(0);
    if granularity > u64::from(u32::MAX) || granularity % 512 != 0 || alignment >= granularity || alignment % 512 != 0 {
        bus.log(
            LogLevel::Warning,
            format_args!("discard of granularity {granularity}, alignment {alignment}: not used"),
        );
        return Ok(None);
    }
    Ok(Some(Discard { granularity: (granularity / 512) as u32, alignment: (alignment / 512) as u32 }))
}

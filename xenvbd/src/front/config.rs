//! What backend and frontend say to each other in the store: read once, bounded, and doubted.

use xenbus::{
    client::{Bus, Error, Result, Transaction},
    interface::LogLevel,
    path::Path,
    store::{Decimal, number},
};

use super::ring::{Abilities, INDIRECT_SEGMENTS};
use crate::scsi::Discard;

/// Most pages of a ring.
pub const MAX_RING_PAGES: usize = 16;

/// Order of pages beyond which a ring's size makes no sense: 256 MiB.
const LARGEST_ORDER: u64 = 16;
/// Bits of `info` that the protocol knows: `VDISK_CDROM`, `VDISK_REMOVABLE`, `VDISK_READONLY`.
const INFO_BITS: u64 = 1 | 2 | 4;

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

/// Reads which ring the backend takes, at most `most` pages.
///
/// # Errors
/// The store's.
pub fn ring_offer<B: Bus>(bus: &B, backend: &Path, most: usize) -> Result<RingOffer> {
    let floor = |pages: u64| {
        let pages = usize::try_from(pages).unwrap_or(MAX_RING_PAGES).clamp(1, most.clamp(1, MAX_RING_PAGES));
        1 << pages.ilog2()
    };
    let absurd = |key: &str, value: u64| bus.log(LogLevel::Warning, format_args!("{key} = {value}: absurd, bounded"));
    if let Some(order) = number(bus, backend, "max-ring-page-order")? {
        if order > LARGEST_ORDER {
            absurd("max-ring-page-order", order);
        }
        return Ok(RingOffer { pages: floor(1 << order.min(LARGEST_ORDER)), spelling: Spelling::Order });
    }
    let pages = number(bus, backend, "max-ring-pages")?.unwrap_or(1);
    if pages == 0 || pages > 1 << LARGEST_ORDER {
        absurd("max-ring-pages", pages);
    }
    Ok(RingOffer { pages: floor(pages), spelling: Spelling::Pages })
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

/// Reads what the backend says of itself. None: without it there is no disk (which is logged).
///
/// # Errors
/// The store's.
pub fn parameters<B: Bus>(bus: &B, backend: &Path, cdrom: bool) -> Result<Option<Parameters>> {
    let flag = |key: &str| -> Result<bool> {
        let value = number(bus, backend, key)?.unwrap_or(0);
        if value > 1 {
            bus.log(LogLevel::Warning, format_args!("{key} = {value}: neither 0 nor 1, taken as 0"));
        }
        Ok(value == 1)
    };
    let info = number(bus, backend, "info")?.unwrap_or(0);
    if info & !INFO_BITS != 0 {
        bus.log(LogLevel::Warning, format_args!("info = {info}: bits that nobody knows, left out"));
    }
    let cdrom = cdrom || info & 1 != 0;
    let sector_size = match number(bus, backend, "sector-size")?.unwrap_or(512) {
        size @ (512 | 1024 | 2048 | 4096) => size as u32,
        other => {
            bus.log(LogLevel::Error, format_args!("sector-size = {other}: none that a disk has, the disk is refused"));
            return Ok(None);
        }
    };
    let sector_size = if cdrom { 2048 } else { sector_size };
    let Some(sectors) = number(bus, backend, "sectors")? else {
        bus.log(LogLevel::Error, format_args!("no sectors: the disk is refused"));
        return Ok(None);
    };
    if sectors >= 1 << 54 {
        bus.log(LogLevel::Error, format_args!("sectors = {sectors}: no size that a disk has, the disk is refused"));
        return Ok(None);
    }
    let whole = sectors - sectors % u64::from(sector_size / 512);
    if whole != sectors {
        bus.log(LogLevel::Warning, format_args!("sectors = {sectors}: no whole blocks, the last part is left out"));
    }
    let physical = match number(bus, backend, "physical-sector-size")? {
        // That of the file or device in which the disc's image lies.
        Some(_) if cdrom => sector_size,
        Some(size) if size.is_power_of_two() && (u64::from(sector_size)..=1 << 20).contains(&size) => size as u32,
        Some(other) => {
            bus.log(LogLevel::Warning, format_args!("physical-sector-size = {other}: ignored"));
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
    if indirect > u64::from(u16::MAX) {
        bus.log(
            LogLevel::Warning,
            format_args!("feature-max-indirect-segments = {indirect}: more than a request can have, bounded"),
        );
    }
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
            format_args!("discard-granularity = {granularity}, discard-alignment = {alignment}: discard is not used"),
        );
        return Ok(None);
    }
    Ok(Some(Discard { granularity: (granularity / 512) as u32, alignment: (alignment / 512) as u32 }))
}

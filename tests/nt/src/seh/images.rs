//! The loaded images and their function tables. Reading takes no lock: a fault can come at any IRQL.

use super::abi::RuntimeFunction;
use alloc::boxed::Box;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// A loaded image, as far as unwinding needs it.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Where it stands.
    pub base: u64,
    /// Bytes that it takes.
    pub size: u64,
    /// The exception directory, relative to the base.
    pub functions: u32,
    /// Its entries.
    pub count: u32,
}

const SLOTS: usize = 128;
static IMAGES: [AtomicPtr<Image>; SLOTS] = [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS];

/// Makes an image known. The loader calls it before any code of the image runs. False: there are too many.
///
/// # Safety
/// The image is mapped and its exception directory valid until [`unregister`].
pub unsafe fn register(image: Image) -> bool {
    let image = Box::into_raw(Box::new(image));
    for slot in &IMAGES {
        if slot.compare_exchange(ptr::null_mut(), image, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return true;
        }
    }
    // SAFETY: made above and not published.
    drop(unsafe { Box::from_raw(image) });
    false
}

/// Forgets the image at `base`. Its entry stays allocated: a reader on another processor may still look at it.
pub fn unregister(base: u64) {
    for slot in &IMAGES {
        let image = slot.load(Ordering::Acquire);
        // SAFETY: published entries are never freed.
        if !image.is_null() && unsafe { (*image).base } == base {
            let _ = slot.compare_exchange(image, ptr::null_mut(), Ordering::AcqRel, Ordering::Acquire);
        }
    }
}

/// The image that `pc` is in. Any IRQL.
pub fn image_at(pc: u64) -> Option<Image> {
    IMAGES
        .iter()
        .map(|slot| slot.load(Ordering::Acquire))
        .filter(|image| !image.is_null())
        // SAFETY: published entries are never freed.
        .map(|image| unsafe { *image })
        .find(|image| pc.wrapping_sub(image.base) < image.size)
}

/// The entry of the function that `pc` is in. `None` in a leaf function or outside of all images. Any IRQL.
pub fn function_at(pc: u64) -> Option<(Image, *const RuntimeFunction)> {
    let image = image_at(pc)?;
    let rva = (pc - image.base) as u32;
    let table = (image.base + u64::from(image.functions)) as *const RuntimeFunction;
    let (mut low, mut high) = (0, image.count as usize);
    while low < high {
        let middle = low.midpoint(high);
        // SAFETY: `register` was promised a valid table.
        let entry = unsafe { table.add(middle).read_unaligned() };
        if rva < entry.begin {
            high = middle;
        } else if rva >= entry.end {
            low = middle + 1;
        } else {
            // SAFETY: as above.
            return Some((image, unsafe { table.add(middle) }));
        }
    }
    None
}

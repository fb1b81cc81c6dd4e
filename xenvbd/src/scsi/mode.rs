//! MODE SENSE (SPC-4 6.11 and 6.12): the caching and control pages.

use super::{Sense, inquiry::Answer, unit::Unit};

const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0A;
const ALL: u8 = 0x3F;

/// What a MODE SENSE asks for.
#[derive(Clone, Copy)]
pub struct Ask {
    /// MODE SENSE(10), with the long header.
    pub ten: bool,
    /// No block descriptor.
    pub no_descriptor: bool,
    /// Page control: 0 current, 1 changeable, 2 default, 3 saved.
    pub control: u8,
    /// Page.
    pub page: u8,
    /// Subpage.
    pub subpage: u8,
}

/// The mode parameters.
///
/// # Errors
/// The sense to fail with: saved values, or a page that is not there.
pub fn sense(unit: &Unit, ask: Ask) -> Result<Answer, Sense> {
    if ask.control == 3 {
        return Err(Sense::SAVING_NOT_SUPPORTED);
    }
    if !matches!((ask.page, ask.subpage), (CACHING | CONTROL, 0) | (ALL, 0 | 0xFF)) {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    let header = if ask.ten { 8 } else { 4 };
    let mut answer = Answer::zeroed(header);
    if !ask.no_descriptor {
        let blocks = u32::try_from(unit.blocks()).unwrap_or(u32::MAX);
        answer.push(&blocks.to_be_bytes());
        // The high byte of this field is reserved; a block is at most 4096 bytes.
        answer.push(&unit.block.to_be_bytes());
    }
    // Nothing can be changed: MODE SELECT is not there.
    let current = ask.control != 1;
    if matches!(ask.page, CACHING | ALL) {
        let mut page = [0; 20];
        page[0] = CACHING;
        page[1] = 18;
        // WCE.
        page[2] = if current && unit.cache { 0x04 } else { 0 };
        answer.push(&page);
    }
    if matches!(ask.page, CONTROL | ALL) {
        let mut page = [0; 12];
        page[0] = CONTROL;
        page[1] = 10;
        // Unrestricted reordering of simple tasks.
        page[3] = if current { 0x10 } else { 0 };
        answer.push(&page);
    }
    // WP, and DPOFUA: a forced write is a write and a flush, so it needs a flush.
    let specific = if unit.read_only { 0x80 } else { 0 } | if unit.cache { 0x10 } else { 0 };
    let descriptor = if ask.no_descriptor { 0 } else { 8 };
    let len = answer.as_bytes().len();
    if ask.ten {
        answer.put(0, &((len - 2) as u16).to_be_bytes());
        answer.put(3, &[specific, 0, 0, 0, descriptor]);
    } else {
        answer.put(0, &[(len - 1) as u8, 0, specific, descriptor]);
    }
    Ok(answer)
}

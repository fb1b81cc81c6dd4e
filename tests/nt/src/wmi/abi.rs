//! Layouts and numbers of WMI requests, from public documentation.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/wmistr/>

use crate::rtl::abi::Guid;
use alloc::vec::Vec;

/// `WMIREG_ACTION_REGISTER`.
pub const REGISTER: u32 = 1;
/// `WMIREG_ACTION_DEREGISTER`.
pub const DEREGISTER: u32 = 2;
/// `WMIREG_ACTION_REREGISTER`.
pub const REREGISTER: u32 = 3;
/// `WMIREG_ACTION_UPDATE_GUIDS`.
pub const UPDATE_GUIDS: u32 = 4;
/// `WMIREG_ACTION_BLOCK_IRPS`.
pub const BLOCK_IRPS: u32 = 5;

/// `IRP_MN_QUERY_ALL_DATA`.
pub const QUERY_ALL_DATA: u8 = 0;
/// `IRP_MN_QUERY_SINGLE_INSTANCE`.
pub const QUERY_SINGLE_INSTANCE: u8 = 1;
/// `IRP_MN_CHANGE_SINGLE_INSTANCE`.
pub const CHANGE_SINGLE_INSTANCE: u8 = 2;
/// `IRP_MN_CHANGE_SINGLE_ITEM`.
pub const CHANGE_SINGLE_ITEM: u8 = 3;
/// `IRP_MN_ENABLE_EVENTS`; disabling them is 5, enabling and disabling collection 6 and 7.
pub const ENABLE_EVENTS: u8 = 4;
/// `IRP_MN_DISABLE_COLLECTION`.
pub const DISABLE_COLLECTION: u8 = 7;
/// `IRP_MN_REGINFO`.
pub const REGINFO: u8 = 8;
/// `IRP_MN_EXECUTE_METHOD`.
pub const EXECUTE_METHOD: u8 = 9;
/// `IRP_MN_REGINFO_EX`.
pub const REGINFO_EX: u8 = 11;

/// Bytes of `WNODE_HEADER`.
pub const HEADER_BYTES: usize = 0x30;
/// Offset of its Guid.
pub const GUID_AT: usize = 0x18;
/// Offset of its Flags.
pub const FLAGS: usize = 0x2c;
/// Offset of SizeNeeded in `WNODE_TOO_SMALL`.
pub const SIZE_NEEDED: usize = 0x30;
/// Bytes of `WNODE_TOO_SMALL`: a multiple of eight, as the header holds a LARGE_INTEGER.
pub const TOO_SMALL_BYTES: usize = 0x38;
/// `WNODE_FLAG_ALL_DATA`.
pub const FLAG_ALL_DATA: u32 = 0x1;
/// `WNODE_FLAG_EVENT_ITEM`.
pub const FLAG_EVENT_ITEM: u32 = 0x8;
/// `WNODE_FLAG_TOO_SMALL`.
pub const FLAG_TOO_SMALL: u32 = 0x20;
/// `WNODE_FLAG_FIXED_INSTANCE_SIZE`.
pub const FLAG_FIXED_INSTANCE_SIZE: u32 = 0x10;

/// Offset of the array of `WMIREGGUID` in `WMIREGINFO`, and the bytes of one.
pub const REG_GUIDS: usize = 0x18;
/// Bytes of a `WMIREGGUID`.
pub const REG_GUID_BYTES: usize = 0x20;
/// `WMIREG_FLAG_INSTANCE_BASENAME`.
pub const REG_BASENAME: u32 = 0x10;
/// `WMIREG_FLAG_INSTANCE_PDO`.
pub const REG_PDO: u32 = 0x20;

/// The ULONG at an offset.
pub fn long(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

/// What a `WMIREGGUID` says.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Its GUID.
    pub guid: Guid,
    /// Its instances.
    pub instances: u32,
    /// The PDO that its instances are named after, which the provider holds a reference to on behalf of WMI; else 0.
    pub pdo: usize,
}

/// The blocks of a chain of `WMIREGINFO`. None where one runs past the answer.
pub fn parse_registration(answer: &[u8]) -> Option<Vec<Block>> {
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        let info = answer.get(at..)?;
        let (bytes, next, count) = (long(info, 0) as usize, long(info, 4) as usize, long(info, 16) as usize);
        if bytes > info.len() || REG_GUIDS + count.checked_mul(REG_GUID_BYTES)? > bytes {
            return None;
        }
        for block in info[REG_GUIDS..].chunks_exact(REG_GUID_BYTES).take(count) {
            // SAFETY: a GUID is 16 plain bytes, read unaligned.
            let guid = unsafe { block.as_ptr().cast::<Guid>().read_unaligned() };
            let by_pdo = long(block, 16) & REG_PDO != 0;
            let pdo = if by_pdo { long(block, 24) as usize | (long(block, 28) as usize) << 32 } else { 0 };
            out.push(Block { guid, instances: long(block, 20), pdo });
        }
        if next == 0 {
            return Some(out);
        }
        at = at.checked_add(next)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_that_lies_about_its_size_is_refused() {
        let mut answer = alloc::vec![0_u8; REG_GUIDS + REG_GUID_BYTES];
        answer[0] = answer.len() as u8;
        answer[16] = 1;
        answer[REG_GUIDS] = 7;
        answer[REG_GUIDS + 20] = 3;
        let blocks = parse_registration(&answer).unwrap();
        assert_eq!((blocks.len(), blocks[0].instances, blocks[0].pdo), (1, 3, 0));
        answer[16] = 2;
        assert!(parse_registration(&answer).is_none());
        answer[16] = 1;
        answer[4] = 0x80;
        assert!(parse_registration(&answer).is_none());
    }
}

//! Sense data: why a command failed, in the words of SPC-4.

/// Sense key, additional sense code and its qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// The sense key.
    pub key: u8,
    /// The additional sense code.
    pub asc: u8,
    /// Its qualifier.
    pub ascq: u8,
}

/// Bytes of fixed-format sense data.
pub const SENSE_LEN: usize = 18;
/// The SCSI status `CHECK CONDITION`.
pub const CHECK_CONDITION: u8 = 0x02;
/// The SCSI status `GOOD`.
pub const GOOD: u8 = 0x00;

macro_rules! senses {
    ($($name:ident = $key:literal, $asc:literal, $ascq:literal, $doc:literal;)*) => {
        impl Sense {
            $(#[doc = $doc] pub const $name: Self = Self { key: $key, asc: $asc, ascq: $ascq };)*
        }
    };
}

senses! {
    NONE = 0x0, 0x00, 0x00, "Nothing to report.";
    NOT_READY = 0x2, 0x04, 0x01, "NOT READY, in process of becoming ready.";
    NO_MEDIUM = 0x2, 0x3A, 0x00, "NOT READY, medium not present.";
    UNRECOVERED_READ = 0x3, 0x11, 0x00, "MEDIUM ERROR, unrecovered read error.";
    WRITE_ERROR = 0x3, 0x0C, 0x00, "MEDIUM ERROR, write error.";
    INTERNAL_FAILURE = 0x4, 0x44, 0x00, "HARDWARE ERROR, internal target failure.";
    INVALID_OPCODE = 0x5, 0x20, 0x00, "ILLEGAL REQUEST, invalid command operation code.";
    LBA_OUT_OF_RANGE = 0x5, 0x21, 0x00, "ILLEGAL REQUEST, logical block address out of range.";
    INVALID_FIELD_IN_CDB = 0x5, 0x24, 0x00, "ILLEGAL REQUEST, invalid field in CDB.";
    INVALID_FIELD_IN_LIST = 0x5, 0x26, 0x00, "ILLEGAL REQUEST, invalid field in parameter list.";
    LIST_LENGTH = 0x5, 0x1A, 0x00, "ILLEGAL REQUEST, parameter list length error.";
    SAVING_NOT_SUPPORTED = 0x5, 0x39, 0x00, "ILLEGAL REQUEST, saving parameters not supported.";
    MEDIUM_CHANGED = 0x6, 0x28, 0x00, "UNIT ATTENTION, not ready to ready change, medium may have changed.";
    CAPACITY_CHANGED = 0x6, 0x2A, 0x09, "UNIT ATTENTION, capacity data has changed.";
    MODE_CHANGED = 0x6, 0x2A, 0x01, "UNIT ATTENTION, mode parameters changed.";
    RESET = 0x6, 0x29, 0x00, "UNIT ATTENTION, power on, reset, or bus device reset occurred.";
    WRITE_PROTECTED = 0x7, 0x27, 0x00, "DATA PROTECT, write protected.";
}

impl Sense {
    /// Fixed-format sense data of a current error.
    pub const fn encode(self) -> [u8; SENSE_LEN] {
        let mut data = [0; SENSE_LEN];
        data[0] = 0x70;
        data[2] = self.key;
        data[7] = (SENSE_LEN - 8) as u8;
        data[12] = self.asc;
        data[13] = self.ascq;
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_format() {
        let data = Sense::WRITE_PROTECTED.encode();
        assert_eq!((data[0], data[2], data[7], data[12], data[13]), (0x70, 7, 10, 0x27, 0));
    }
}

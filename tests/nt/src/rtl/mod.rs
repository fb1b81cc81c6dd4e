//! The run-time library (`Rtl*`) that ntoskrnl exports to drivers.

// The names are those of the exports; the contract of each function is the one its documentation gives it.
#![allow(non_snake_case, clippy::missing_safety_doc)]

pub mod abi;
pub mod misc;
pub mod number;
pub mod string;

crate::exports! {
    /// The run-time library.
    pub static EXPORTS in "ntoskrnl.exe";
    fn RtlInitUnicodeString = string::RtlInitUnicodeString;
    fn RtlInitUnicodeStringEx = string::RtlInitUnicodeStringEx;
    fn RtlInitAnsiString = string::RtlInitAnsiString;
    fn RtlCopyUnicodeString = string::RtlCopyUnicodeString;
    fn RtlCopyString = string::RtlCopyString;
    fn RtlAppendUnicodeStringToString = string::RtlAppendUnicodeStringToString;
    fn RtlAppendUnicodeToString = string::RtlAppendUnicodeToString;
    fn RtlCompareUnicodeString = string::RtlCompareUnicodeString;
    fn RtlEqualUnicodeString = string::RtlEqualUnicodeString;
    fn RtlPrefixUnicodeString = string::RtlPrefixUnicodeString;
    fn RtlCompareString = string::RtlCompareString;
    fn RtlEqualString = string::RtlEqualString;
    fn RtlUpcaseUnicodeChar = string::RtlUpcaseUnicodeChar;
    fn RtlDowncaseUnicodeChar = string::RtlDowncaseUnicodeChar;
    fn RtlUpcaseUnicodeString = string::RtlUpcaseUnicodeString;
    fn RtlDowncaseUnicodeString = string::RtlDowncaseUnicodeString;
    fn RtlxAnsiStringToUnicodeSize = string::RtlxAnsiStringToUnicodeSize;
    fn RtlxUnicodeStringToAnsiSize = string::RtlxUnicodeStringToAnsiSize;
    fn RtlAnsiStringToUnicodeString = string::RtlAnsiStringToUnicodeString;
    fn RtlUnicodeStringToAnsiString = string::RtlUnicodeStringToAnsiString;
    fn RtlMultiByteToUnicodeN = string::RtlMultiByteToUnicodeN;
    fn RtlUnicodeToMultiByteN = string::RtlUnicodeToMultiByteN;
    fn RtlUnicodeToUTF8N = string::RtlUnicodeToUTF8N;
    fn RtlUTF8ToUnicodeN = string::RtlUTF8ToUnicodeN;
    fn RtlCreateUnicodeString = string::RtlCreateUnicodeString;
    fn RtlDuplicateUnicodeString = string::RtlDuplicateUnicodeString;
    fn RtlFreeUnicodeString = string::RtlFreeUnicodeString;
    fn RtlFreeAnsiString = string::RtlFreeAnsiString;
    fn RtlHashUnicodeString = string::RtlHashUnicodeString;
    fn RtlUnicodeStringToInteger = number::RtlUnicodeStringToInteger;
    fn RtlCharToInteger = number::RtlCharToInteger;
    fn RtlIntegerToUnicodeString = number::RtlIntegerToUnicodeString;
    fn RtlInt64ToUnicodeString = number::RtlInt64ToUnicodeString;
    fn RtlStringFromGUID = number::RtlStringFromGUID;
    fn RtlGUIDFromString = number::RtlGUIDFromString;
    fn RtlTimeToTimeFields = number::RtlTimeToTimeFields;
    fn RtlTimeFieldsToTime = number::RtlTimeFieldsToTime;
    fn RtlTimeToSecondsSince1970 = number::RtlTimeToSecondsSince1970;
    fn RtlTimeToSecondsSince1980 = number::RtlTimeToSecondsSince1980;
    fn RtlSecondsSince1970ToTime = number::RtlSecondsSince1970ToTime;
    fn RtlSecondsSince1980ToTime = number::RtlSecondsSince1980ToTime;
    fn RtlRandomEx = number::RtlRandomEx;
    fn RtlUlongByteSwap = number::RtlUlongByteSwap;
    fn RtlUshortByteSwap = number::RtlUshortByteSwap;
    fn RtlUlonglongByteSwap = number::RtlUlonglongByteSwap;
    fn RtlGetVersion = misc::RtlGetVersion;
    fn PsGetVersion = misc::PsGetVersion;
    fn RtlIsNtDdiVersionAvailable = misc::RtlIsNtDdiVersionAvailable;
    fn VerSetConditionMask = misc::VerSetConditionMask;
    fn RtlVerifyVersionInfo = misc::RtlVerifyVersionInfo;
    fn RtlCompareMemory = misc::RtlCompareMemory;
    fn RtlCompareMemoryUlong = misc::RtlCompareMemoryUlong;
    fn RtlCopyMemory = misc::RtlCopyMemory;
    fn RtlMoveMemory = misc::RtlMoveMemory;
    fn RtlZeroMemory = misc::RtlZeroMemory;
    fn RtlFillMemory = misc::RtlFillMemory;
    fn RtlImageNtHeader = misc::RtlImageNtHeader;
    fn RtlImageDirectoryEntryToData = misc::RtlImageDirectoryEntryToData;
    fn RtlInitializeBitMap = misc::RtlInitializeBitMap;
    fn RtlNtStatusToDosError = misc::RtlNtStatusToDosError;
    fn RtlSetBit = misc::RtlSetBit;
    fn RtlClearBit = misc::RtlClearBit;
    fn RtlTestBit = misc::RtlTestBit;
    fn RtlSetBits = misc::RtlSetBits;
    fn RtlClearBits = misc::RtlClearBits;
    fn RtlSetAllBits = misc::RtlSetAllBits;
    fn RtlClearAllBits = misc::RtlClearAllBits;
    fn RtlAreBitsSet = misc::RtlAreBitsSet;
    fn RtlAreBitsClear = misc::RtlAreBitsClear;
    fn RtlNumberOfSetBits = misc::RtlNumberOfSetBits;
    fn RtlNumberOfClearBits = misc::RtlNumberOfClearBits;
    fn RtlFindClearBits = misc::RtlFindClearBits;
    fn RtlFindLongestRunClear = misc::RtlFindLongestRunClear;
    fn RtlFindLeastSignificantBit = misc::RtlFindLeastSignificantBit;
    fn RtlNumberOfSetBitsUlongPtr = misc::RtlNumberOfSetBitsUlongPtr;
    fn RtlFindSetBits = misc::RtlFindSetBits;
    fn RtlFindClearBitsAndSet = misc::RtlFindClearBitsAndSet;
    fn RtlFindSetBitsAndClear = misc::RtlFindSetBitsAndClear;
    fn RtlInitString = string::RtlInitAnsiString;
    fn RtlRandom = number::RtlRandomEx;
    fn RtlCopyMemoryNonTemporal = misc::RtlCopyMemory;
}

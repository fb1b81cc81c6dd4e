//! The C runtime that ntoskrnl exports to drivers.

// The names are those of the exports; the contract of each function is the one its documentation gives it.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::used_underscore_items)]

pub mod convert;
pub mod format;
pub mod mem;
pub mod print;
pub mod secure;
pub mod string;
pub mod unit;

crate::exports! {
    /// The C runtime.
    pub static EXPORTS in "ntoskrnl.exe";
    fn memcpy = mem::memcpy;
    fn memmove = mem::memmove;
    fn memset = mem::memset;
    fn memcmp = mem::memcmp;
    fn memchr = mem::memchr;
    fn strlen = string::strlen;
    fn strnlen = string::strnlen;
    fn strcmp = string::strcmp;
    fn strncmp = string::strncmp;
    fn _stricmp = string::_stricmp;
    fn _strnicmp = string::_strnicmp;
    fn strchr = string::strchr;
    fn strrchr = string::strrchr;
    fn strstr = string::strstr;
    fn strcpy = string::strcpy;
    fn strncpy = string::strncpy;
    fn strcat = string::strcat;
    fn strncat = string::strncat;
    fn strcpy_s = secure::strcpy_s;
    fn strcat_s = secure::strcat_s;
    fn strncpy_s = secure::strncpy_s;
    fn strncat_s = secure::strncat_s;
    fn wcscpy_s = secure::wcscpy_s;
    fn wcscat_s = secure::wcscat_s;
    fn wcsncpy_s = secure::wcsncpy_s;
    fn wcsncat_s = secure::wcsncat_s;
    fn _strlwr = string::_strlwr;
    fn _strupr = string::_strupr;
    fn wcslen = string::wcslen;
    fn wcsnlen = string::wcsnlen;
    fn wcscmp = string::wcscmp;
    fn wcsncmp = string::wcsncmp;
    fn _wcsicmp = string::_wcsicmp;
    fn _wcsnicmp = string::_wcsnicmp;
    fn wcschr = string::wcschr;
    fn wcsrchr = string::wcsrchr;
    fn wcsstr = string::wcsstr;
    fn wcscpy = string::wcscpy;
    fn wcsncpy = string::wcsncpy;
    fn wcscat = string::wcscat;
    fn wcsncat = string::wcsncat;
    fn _wcslwr = string::_wcslwr;
    fn _wcsupr = string::_wcsupr;
    fn atoi = convert::atoi;
    fn atol = convert::atol;
    fn _atoi64 = convert::_atoi64;
    fn _wtoi = convert::_wtoi;
    fn _strtoui64 = convert::_strtoui64;
    fn strtoul = convert::strtoul;
    fn strtol = convert::strtol;
    fn tolower = convert::tolower;
    fn toupper = convert::toupper;
    fn towlower = convert::towlower;
    fn towupper = convert::towupper;
    fn isdigit = convert::isdigit;
    fn isxdigit = convert::isxdigit;
    fn isalpha = convert::isalpha;
    fn isalnum = convert::isalnum;
    fn isspace = convert::isspace;
    fn isupper = convert::isupper;
    fn islower = convert::islower;
    fn isprint = convert::isprint;
    fn _vsnprintf = print::_vsnprintf;
    fn _vsnwprintf = print::_vsnwprintf;
    fn vsprintf = print::vsprintf;
    fn vsprintf_s = print::vsprintf_s;
    fn vswprintf_s = print::vswprintf_s;
    fn _vsnprintf_s = print::_vsnprintf_s;
    fn _vsnwprintf_s = print::_vsnwprintf_s;
    fn sprintf = print::sprintf;
    fn swprintf = print::swprintf;
    fn _snprintf = print::_snprintf;
    fn _snwprintf = print::_snwprintf;
    fn sprintf_s = print::sprintf_s;
    fn swprintf_s = print::swprintf_s;
    fn _snprintf_s = print::_snprintf_s;
    fn _snwprintf_s = print::_snwprintf_s;
}

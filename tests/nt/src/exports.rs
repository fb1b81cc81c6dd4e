//! Tables of what the personality exports, and the shim for exports with a variable number of arguments.

use core::ffi::c_void;

/// What an exported name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A function; drivers get a thunk that checks the call first.
    Function,
    /// A variable; drivers get its address.
    Data,
}

/// One exported name.
#[derive(Debug)]
pub struct Export {
    /// The module that Windows exports it from, in lower case: `ntoskrnl.exe`.
    pub module: &'static str,
    /// The name.
    pub name: &'static str,
    /// Where it is.
    pub addr: *const c_void,
    /// What it is.
    pub kind: Kind,
}

// SAFETY: the address is that of a function or of a static, both of which are for every processor.
unsafe impl Sync for Export {}

/// Declares a table of exports: `exports! { pub static EXPORTS in "ntoskrnl.exe"; fn KeSetEvent; data NtBuildNumber; }`.
/// `fn name = path;` and `data name = path;` name another item than the export. Functions are
/// `unsafe extern "win64" fn`, data are statics.
#[macro_export]
macro_rules! exports {
    ($(#[$doc:meta])* pub static $table:ident in $module:literal; $($kind:ident $name:ident $(= $path:path)?;)*) => {
        $(#[$doc])*
        pub static $table: &[$crate::exports::Export] = &[
            $($crate::exports!(@one $module $kind $name $(= $path)?)),*
        ];
    };
    (@one $module:literal $kind:ident $name:ident) => { $crate::exports!(@one $module $kind $name = $name) };
    (@one $module:literal fn $name:ident = $path:path) => {
        $crate::exports::Export {
            module: $module,
            name: stringify!($name),
            addr: $path as *const () as *const core::ffi::c_void,
            kind: $crate::exports::Kind::Function,
        }
    };
    (@one $module:literal data $name:ident = $path:path) => {
        $crate::exports::Export {
            module: $module,
            name: stringify!($name),
            addr: (&raw const $path).cast(),
            kind: $crate::exports::Kind::Data,
        }
    };
}

/// Declares an export with a variable number of arguments: `variadic! { /// doc
/// pub fn DbgPrint => body; }` where `body` is
/// `unsafe extern "win64" fn(args: *const u64) -> u64` and gets all arguments, the fixed ones first, eight bytes each.
/// (A floating point argument arrives as its bits: callers of variadic functions put it in both kinds of register.)
/// <https://learn.microsoft.com/cpp/build/x64-calling-convention#varargs>
#[macro_export]
macro_rules! variadic {
    ($($(#[$doc:meta])* pub fn $name:ident => $body:path;)*) => {
        $(
            $(#[$doc])*
            #[unsafe(naked)]
            pub unsafe extern "win64" fn $name() -> u64 {
                core::arch::naked_asm!(
                    "mov [rsp + 8], rcx",
                    "mov [rsp + 16], rdx",
                    "mov [rsp + 24], r8",
                    "mov [rsp + 32], r9",
                    "lea rcx, [rsp + 8]",
                    "sub rsp, 0x28",
                    "call {body}",
                    "add rsp, 0x28",
                    "ret",
                    body = sym $body,
                )
            }
        )*
    };
}

/// Every table of the personality.
static TABLES: &[&[Export]] = &[
    crate::ke::EXPORTS,
    crate::ke::HAL_EXPORTS,
    crate::ex::EXPORTS,
    crate::io::EXPORTS,
    crate::pnp::EXPORTS,
    crate::po::EXPORTS,
    crate::ob::EXPORTS,
    crate::reg::EXPORTS,
    crate::hal::EXPORTS,
    crate::mm::EXPORTS,
    crate::rtl::EXPORTS,
    crate::crt::EXPORTS,
    crate::seh::EXPORTS,
    crate::storport::EXPORTS,
    crate::ndis::EXPORTS,
    crate::wmi::EXPORTS,
    crate::wmi::LIBRARY_EXPORTS,
];

/// All exports.
pub fn all() -> impl Iterator<Item = &'static Export> {
    TABLES.iter().flat_map(|table| table.iter())
}

/// Whether two modules stand for each other: hal.dll forwards to ntoskrnl.exe since Windows 10 2004, and older drivers
/// import from either.
fn same_module(asked: &str, has: &str) -> bool {
    let kernel = |name: &str| {
        ["ntoskrnl.exe", "hal.dll", "ntkrnlpa.exe", "ntkrnlmp.exe", "ntoskrnl"]
            .iter()
            .any(|k| k.eq_ignore_ascii_case(name))
    };
    asked.eq_ignore_ascii_case(has) || (kernel(asked) && kernel(has))
}

/// Finds an export.
pub fn lookup(module: &str, name: &str) -> Option<&'static Export> {
    all().find(|export| export.name == name && same_module(module, export.module))
}

/// Whether any export is of this module: otherwise the module is another driver, or unknown.
pub fn is_own_module(module: &str) -> bool {
    all().any(|export| same_module(module, export.module))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// What drivers of others import.
    const WANTED: &str = include_str!("../data/third-party-imports.txt");

    #[test]
    fn what_third_party_drivers_import_is_offered() {
        let wanted: Vec<(&str, &str)> =
            WANTED.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' ')).collect();
        assert!(wanted.len() > 280, "{} names", wanted.len());
        let missing: Vec<_> = wanted.iter().filter(|(module, name)| lookup(module, name).is_none()).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn no_name_is_offered_twice() {
        let mut names: Vec<_> = all().map(|export| (export.module, export.name)).collect();
        names.sort_unstable();
        let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert!(twice.is_empty(), "{twice:?}");
        assert!(lookup("hal.dll", "KeSetEvent").is_some(), "either module of the kernel will do");
        assert!(lookup("storport.sys", "KeSetEvent").is_none());
        assert!(lookup("ntoskrnl.exe", "KeSetEvents").is_none());
    }
}

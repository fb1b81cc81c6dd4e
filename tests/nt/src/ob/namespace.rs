//! The name space: directories, symbolic links, and the objects that have names.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/object-names>. Names ignore case. `\DosDevices` and
//! `\??` are one directory; `\GLOBAL??` is it too.
use super::{Kind, ObfDereferenceObject, ObfReferenceObject, allocate, handle, kind};
use crate::io::text;
use crate::rtl::abi::UnicodeString;
use crate::status::*;
use crate::sync::IrqLock;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use core::ffi::c_void;

/// `OBJECT_ATTRIBUTES`.
#[repr(C)]
pub struct ObjectAttributes {
    /// Bytes of this structure.
    pub length: u32,
    /// Where the name starts, or NULL.
    pub root: *mut c_void,
    /// The name.
    pub name: *const UnicodeString,
    /// OBJ_*.
    pub attributes: u32,
    /// Security descriptor.
    pub security: *mut c_void,
    /// Quality of service.
    pub quality: *mut c_void,
}

const _: () = assert!(size_of::<ObjectAttributes>() == 48);

struct Named {
    object: *mut c_void,
    name: String,
    target: Option<String>,
}

struct Names(BTreeMap<String, Named>);
// SAFETY: objects belong to no processor.
unsafe impl Send for Names {}

static NAMES: IrqLock<Names> = IrqLock::new(Names(BTreeMap::new()));
/// Links followed before it is taken for a loop.
const MAX_LINKS: u32 = 16;

fn fold(path: &str) -> String {
    let mut out = String::new();
    for part in path.split('\\').filter(|p| !p.is_empty()) {
        out.push('\\');
        for c in part.chars().flat_map(char::to_uppercase) {
            out.push(c);
        }
    }
    for alias in ["\\DOSDEVICES", "\\GLOBAL??"] {
        if let Some(rest) = out.strip_prefix(alias)
            && (rest.is_empty() || rest.starts_with('\\'))
        {
            return alloc::format!("\\??{rest}");
        }
    }
    out
}

/// Makes the directories that Windows has from the start. Once, early.
pub fn init() {
    for path in [r"\??", r"\Device", r"\Driver", r"\FileSystem", r"\Callback", r"\KernelObjects", r"\BaseNamedObjects"]
    {
        let object = allocate(Kind::Directory, 8, None);
        assert!(!object.is_null(), "no memory for the root of the name space");
        // SAFETY: just allocated; the name keeps the reference.
        let _ = unsafe { insert(path, object) };
    }
}

/// Gives an object a name. The name holds the caller's reference.
///
/// # Errors
/// The name is taken (the reference stays the caller's), or its directory is missing.
///
/// # Safety
/// `object` is an object and the caller owns a reference to it.
pub unsafe fn insert(path: &str, object: *mut c_void) -> Result<(), NtStatus> {
    insert_named(path, object, None)
}

fn insert_named(path: &str, object: *mut c_void, target: Option<String>) -> Result<(), NtStatus> {
    if !path.starts_with('\\') {
        return Err(STATUS_OBJECT_PATH_SYNTAX_BAD);
    }
    let key = fold(path);
    let parent = key.rfind('\\').map_or("", |cut| &key[..cut]).to_string();
    let mut names = NAMES.lock();
    if !parent.is_empty() && !names.0.contains_key(&parent) {
        return Err(STATUS_OBJECT_PATH_NOT_FOUND);
    }
    if names.0.contains_key(&key) {
        return Err(STATUS_OBJECT_NAME_COLLISION);
    }
    names.0.insert(key, Named { object, name: path.to_string(), target });
    Ok(())
}

use crate::io::status::STATUS_OBJECT_PATH_SYNTAX_BAD;

/// Takes a name away and gives back the reference that it held.
///
/// # Errors
/// There is no such name.
pub fn remove(path: &str) -> Result<(), NtStatus> {
    let named = NAMES.lock().0.remove(&fold(path)).ok_or(STATUS_OBJECT_NAME_NOT_FOUND)?;
    // SAFETY: the name held a reference.
    unsafe { ObfDereferenceObject(named.object) };
    Ok(())
}

/// Takes the name of an object away, if it has one.
pub fn remove_object(object: *mut c_void) {
    let found = NAMES.lock().0.iter().find(|(_, n)| n.object == object).map(|(_, n)| n.name.clone());
    if let Some(name) = found {
        let _ = remove(&name);
    }
}

/// The name of an object, if it has one.
pub fn name_of(object: *mut c_void) -> Option<String> {
    NAMES.lock().0.values().find(|n| n.object == object).map(|n| n.name.clone())
}

/// Looks a path up, through links. Gives the object, referenced, and what of the path is left for it to parse (a file
/// name on a device). With `open_link` a link at the end is not followed.
///
/// # Errors
/// Nothing has that name.
pub fn lookup(path: &str, open_link: bool) -> Result<(*mut c_void, String), NtStatus> {
    if !path.starts_with('\\') {
        return Err(STATUS_OBJECT_PATH_SYNTAX_BAD);
    }
    let mut path = path.to_string();
    for _ in 0..MAX_LINKS {
        let names = NAMES.lock();
        let mut cut = path.len();
        // The longest part of the path that is a name.
        let (named, rest) = loop {
            if let Some(named) = names.0.get(&fold(&path[..cut])) {
                break (named, path[cut..].to_string());
            }
            cut = path[..cut].rfind('\\').filter(|&cut| cut > 0).ok_or(STATUS_OBJECT_NAME_NOT_FOUND)?;
        };
        match &named.target {
            Some(target) if !(open_link && rest.is_empty()) => {
                let next = alloc::format!("{target}{rest}");
                drop(names);
                path = next;
            }
            _ => {
                // SAFETY: the name holds a reference, and the table is locked.
                unsafe {
                    let parses = kind(named.object) == Kind::Device;
                    if !rest.is_empty() && !parses {
                        return Err(STATUS_OBJECT_NAME_NOT_FOUND);
                    }
                    ObfReferenceObject(named.object);
                }
                return Ok((named.object, rest));
            }
        }
    }
    Err(STATUS_OBJECT_PATH_NOT_FOUND)
}

/// Makes a symbolic link.
///
/// # Errors
/// The name is taken, or its directory is missing, or there is no memory.
pub fn create_link(path: &str, target: &str) -> Result<(), NtStatus> {
    let object = allocate(Kind::SymbolicLink, 8, None);
    if object.is_null() {
        return Err(STATUS_INSUFFICIENT_RESOURCES);
    }
    let result = insert_named(path, object, Some(target.to_string()));
    if result.is_err() {
        // SAFETY: just allocated.
        unsafe { ObfDereferenceObject(object) };
    }
    result
}

/// The target of the link at `path`.
pub fn link_target(path: &str) -> Option<String> {
    NAMES.lock().0.get(&fold(path)).and_then(|n| n.target.clone())
}

/// All names, for listings: the path and the kind of object.
pub fn list() -> alloc::vec::Vec<(String, Kind)> {
    // SAFETY: a name holds a reference to its object, and the table is locked.
    NAMES.lock().0.values().map(|n| (n.name.clone(), unsafe { kind(n.object) })).collect()
}

/// The whole path that attributes name: the root's path and the name.
///
/// # Errors
/// The root is not a directory or key that has a name.
///
/// # Safety
/// The attributes are valid.
pub unsafe fn path_of(attributes: *const ObjectAttributes) -> Result<String, NtStatus> {
    // SAFETY: per the contract.
    unsafe {
        if attributes.is_null() || (*attributes).length != size_of::<ObjectAttributes>() as u32 {
            return Err(STATUS_INVALID_PARAMETER);
        }
        let name = text::from_unicode((*attributes).name);
        let root = (*attributes).root;
        if root.is_null() {
            return Ok(name);
        }
        let object = handle::reference(root, None)?;
        let base = name_of(object);
        ObfDereferenceObject(object);
        let base = base.ok_or(STATUS_INVALID_HANDLE)?;
        Ok(alloc::format!("{base}\\{name}"))
    }
}

const OBJ_OPENIF: u32 = 0x80;

/// Makes or opens a directory. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn ZwCreateDirectoryObject(
    result: *mut *mut c_void,
    access: u32,
    attributes: *const ObjectAttributes,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let path = match path_of(attributes) {
            Ok(path) => path,
            Err(status) => return status,
        };
        let object = allocate(Kind::Directory, 8, None);
        if object.is_null() {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
        let object = match insert(&path, object) {
            Ok(()) => {
                ObfReferenceObject(object);
                object
            }
            Err(status) => {
                ObfDereferenceObject(object);
                if status != STATUS_OBJECT_NAME_COLLISION || (*attributes).attributes & OBJ_OPENIF == 0 {
                    return status;
                }
                match lookup(&path, false) {
                    Ok((object, _)) if kind(object) == Kind::Directory => object,
                    Ok((object, _)) => {
                        ObfDereferenceObject(object);
                        return STATUS_OBJECT_TYPE_MISMATCH;
                    }
                    Err(status) => return status,
                }
            }
        };
        *result = handle::insert(object, access);
        STATUS_SUCCESS
    }
}

/// Makes a symbolic link. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn ZwCreateSymbolicLinkObject(
    result: *mut *mut c_void,
    access: u32,
    attributes: *const ObjectAttributes,
    target: *const UnicodeString,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let path = match path_of(attributes) {
            Ok(path) => path,
            Err(status) => return status,
        };
        if let Err(status) = create_link(&path, &text::from_unicode(target)) {
            return status;
        }
        match lookup(&path, true) {
            Ok((object, _)) => {
                *result = handle::insert(object, access);
                STATUS_SUCCESS
            }
            Err(status) => status,
        }
    }
}

/// Opens a symbolic link. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn ZwOpenSymbolicLinkObject(
    result: *mut *mut c_void,
    access: u32,
    attributes: *const ObjectAttributes,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        match path_of(attributes).and_then(|path| lookup(&path, true)) {
            Ok((object, _)) if kind(object) == Kind::SymbolicLink => {
                *result = handle::insert(object, access);
                STATUS_SUCCESS
            }
            Ok((object, _)) => {
                ObfDereferenceObject(object);
                STATUS_OBJECT_TYPE_MISMATCH
            }
            Err(status) => status,
        }
    }
}

/// The target of an open link. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid; `length` may be NULL.
pub unsafe extern "win64" fn ZwQuerySymbolicLinkObject(
    link: *mut c_void,
    target: *mut UnicodeString,
    length: *mut u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let object = match handle::reference(link, Some(Kind::SymbolicLink)) {
            Ok(object) => object,
            Err(status) => return status,
        };
        let found = name_of(object).and_then(|name| link_target(&name));
        ObfDereferenceObject(object);
        let Some(found) = found else { return STATUS_OBJECT_NAME_NOT_FOUND };
        let bytes = 2 * found.encode_utf16().count();
        if !length.is_null() {
            *length = bytes as u32;
        }
        if bytes > usize::from((*target).maximum_length) {
            return STATUS_BUFFER_TOO_SMALL;
        }
        text::copy_utf16(&found, (*target).buffer);
        (*target).length = bytes as u16;
        STATUS_SUCCESS
    }
}

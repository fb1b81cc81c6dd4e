//! Files and folders.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_LOCK_VIOLATION, ERROR_SHARING_VIOLATION};
use windows_sys::Win32::Storage::FileSystem::{MOVEFILE_REPLACE_EXISTING, MOVEFILE_WRITE_THROUGH, MoveFileExW};

use super::{check, wide};

/// How often a file that somebody has open is tried again: virus scanners let go, and so does a program that ends.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);

fn is_held(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(i32::cast_unsigned);
    [ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION, ERROR_ACCESS_DENIED].iter().any(|held| code == Some(*held))
}

fn patiently(path: &str, change: impl Fn() -> io::Result<()>) -> io::Result<()> {
    for _ in 1..TRIES {
        match change() {
            Err(error) if is_held(&error) => std::thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
    change().map_err(|error| {
        let hint = if is_held(&error) { "; another program has it open: end that, then try again" } else { "" };
        io::Error::new(error.kind(), format!("{path}: {error}{hint}"))
    })
}

pub fn read(path: &str) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub fn write(path: &str, content: &[u8]) -> io::Result<()> {
    patiently(path, || {
        let mut file = File::create(path)?;
        file.write_all(content)?;
        file.sync_all()
    })
}

pub fn rename(from: &str, to: &str) -> io::Result<()> {
    let (wide_from, wide_to) = (wide(from), wide(to));
    patiently(to, || {
        // SAFETY: both names end with a NUL and outlive the call.
        check(unsafe {
            MoveFileExW(wide_from.as_ptr(), wide_to.as_ptr(), MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH)
        })
    })
}

pub fn remove(path: &str) -> io::Result<()> {
    patiently(path, || match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    })
}

pub fn make_folder(path: &str) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    }
}

pub fn remove_folder(path: &str) -> io::Result<()> {
    match std::fs::remove_dir(path) {
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::DirectoryNotEmpty].contains(&error.kind()) => Ok(()),
        outcome => outcome,
    }
}

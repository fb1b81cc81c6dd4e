//! Windows as the [`Source`] of a report, and the command.

use std::fmt::Write as _;
use std::io::{self, Error};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bootcfg::process;
use shutdownmon_core::System;
use xenstore_client::{Client, Store};
use xentool::registry::Registry;
use xentool::windows::LocalMachine;

use super::Windows;
use crate::collect::{self, INSTALLS, Question, Source};

/// How long a program of Windows may take to answer: `pnputil` goes through every device.
const LIMIT: Duration = Duration::from_mins(1);

struct Here {
    registry: LocalMachine,
    root: PathBuf,
    client: Result<Client, String>,
}

impl Source for Here {
    fn versions(&self) -> String {
        let facts = Windows::console().facts();
        let [major, minor, build] = facts.version;
        let [all, free] = facts.memory;
        let mut text =
            format!("Xen PV drivers {}\n{} ({major}.{minor}.{build})\n", env!("CARGO_PKG_VERSION"), facts.name);
        let _ = writeln!(text, "memory: {all} KiB, {free} KiB free");
        for driver in ["xenpci", "xenvbd", "xennet", "xenhide", "xenstub"] {
            let file = self.root.join(format!(r"System32\drivers\{driver}.sys"));
            let _ = match std::fs::metadata(&file) {
                Ok(metadata) => writeln!(text, "{}: {} bytes", file.display(), metadata.len()),
                Err(error) => writeln!(text, "{}: {error}", file.display()),
            };
        }
        text
    }

    fn registry(&self) -> &dyn Registry {
        &self.registry
    }

    fn ask(&self, question: &Question) -> io::Result<Vec<u8>> {
        let program = self.root.join("System32").join(question.program);
        let output = process::output(Command::new(program).args(question.arguments), LIMIT)
            .map_err(|error| Error::new(error.kind(), format!("{}: {error}", question.program)))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let words = [output.stdout, output.stderr].concat();
        Err(Error::other(format!("{}: {}", question.program, String::from_utf8_lossy(&words).trim())))
    }

    fn logs(&self) -> Vec<(&'static str, io::Result<Vec<u8>>)> {
        // The profile that is everybody's lies among the users'.
        let public = std::env::var_os("PUBLIC").map(PathBuf::from);
        let profiles =
            public.as_deref().and_then(Path::parent).map_or_else(|| self.root.with_file_name("Users"), Path::to_owned);
        vec![
            ("setup.txt", collect::setup_logs(&std::env::temp_dir(), &self.root, &profiles)),
            (INSTALLS, std::fs::read(self.root.join(r"INF\setupapi.dev.log"))),
            ("dumps.txt", Ok(dumps(&self.root))),
        ]
    }

    fn node(&self, path: &str) -> io::Result<(Vec<u8>, Vec<String>)> {
        let client = self.client.as_ref().map_err(|error| Error::other(error.clone()))?;
        let failed = |error: xenstore_client::Error| Error::other(error.to_string());
        Ok((client.read(path).map_err(failed)?, client.list(path).map_err(failed)?))
    }
}

/// Which memory dumps there are. They hold everything that was in memory, so they are sent by choice alone.
fn dumps(root: &Path) -> Vec<u8> {
    let mut files = vec![root.join("MEMORY.DMP")];
    if let Ok(entries) = std::fs::read_dir(root.join("Minidump")) {
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    let mut text = String::new();
    for file in files {
        if let Ok(metadata) = std::fs::metadata(&file) {
            let at =
                metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or(0, |at| at.as_secs());
            let _ = writeln!(text, "{}: {} bytes, written {at} seconds after 1970", file.display(), metadata.len());
        }
    }
    text.into_bytes()
}

/// Writes the report to `file`, which must not be there yet.
///
/// # Errors
/// The file cannot be made.
pub fn run(file: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let root = std::env::var_os("SystemRoot").context("Windows does not say where it is (SystemRoot)")?;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let file = file.unwrap_or_else(|| format!("xen-pv-report-{seconds}.zip").into());
    let out = std::fs::File::create_new(&file).with_context(|| format!("cannot make {}", file.display()))?;
    let source = Here {
        registry: LocalMachine::system(),
        root: root.into(),
        client: Client::open().map_err(|error| error.to_string()),
    };
    let missing = collect::write(&source, out).inspect_err(|_| {
        // Half a report is none.
        let _ = std::fs::remove_file(&file);
    });
    let missing = missing.with_context(|| format!("cannot write {}", file.display()))?;
    for line in missing {
        println!("not in it: {line}");
    }
    println!("made {}: look through it before you send it", file.display());
    Ok(ExitCode::SUCCESS)
}

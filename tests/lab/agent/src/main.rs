//! The lab's agent in dom0: for each case it makes a guest, carries out what the suite inside asks for through the
//! [`mailbox`], and keeps the evidence.
//!
//! `lab-agent FOLDER OUT`: FOLDER has `guest`, `drivers.tar`, `cases` (one line a case: name, seconds, seed, processors, and
//! `twins` or `serial` for what its guest has beside, `drivers=NAME` for another archive than `drivers`) and perhaps
//! `extra.cfg`, lines for the guest's configuration. OUT gets a folder a case. The host follows the lines `lab-case` (it
//! begins), `lab-note` (what is worth reading beside the result) and `lab-result` on standard output. If FOLDER has `bench`,
//! there are no cases: see [`bench`].

mod bench;
mod dom0;
mod load;
mod mailbox;
mod net;
mod privcmd;
mod requests;
mod serial;
mod serve;
mod service;
mod session;
mod store;
mod twins;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;

use session::Session;

/// A case that is to be run.
pub struct Case {
    /// `group/name`.
    pub name: String,
    /// Until it is killed.
    pub seconds: u64,
    /// Its seed.
    pub seed: u64,
    /// Virtual processors of its guest.
    pub vcpus: u32,
    /// It has emulated twins of its paravirtual devices: see [`twins`].
    pub twins: bool,
    /// Its first serial port is a pty here: see [`serial`].
    pub serial: bool,
    /// The archive of drivers that its guest gets, without `.tar`.
    pub drivers: String,
}

fn read_cases(folder: &Path) -> anyhow::Result<Vec<Case>> {
    let text = fs::read_to_string(folder.join("cases")).context("there is no list of cases")?;
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let [name, seconds, seed, vcpus, ref machine @ ..] = words[..] else {
                anyhow::bail!("this is no case: {line}")
            };
            let drivers = machine.iter().find_map(|word| word.strip_prefix("drivers="));
            let known = |word: &str| ["twins", "serial"].contains(&word) || word.starts_with("drivers=");
            if let Some(word) = machine.iter().find(|word| !known(word)) {
                anyhow::bail!("no guest has `{word}`: {line}");
            }
            Ok(Case {
                name: name.to_owned(),
                seconds: seconds.parse()?,
                seed: seed.parse()?,
                vcpus: vcpus.parse()?,
                twins: machine.contains(&"twins"),
                serial: machine.contains(&"serial"),
                drivers: drivers.unwrap_or("drivers").to_owned(),
            })
        })
        .collect()
}

/// Runs a case in a guest of its own: its verdict, which begins with `passed` or `failed`.
fn run(case: &Case, folder: &Path, evidence: &Path) -> anyhow::Result<String> {
    let mut session = Session::new(folder, evidence, case)?;
    let verdict = session.serve(case.seconds).unwrap_or_else(|error| format!("failed {error:#}"));
    match session.finish() {
        Ok(()) => Ok(verdict),
        Err(error) if verdict.starts_with("passed") => Ok(format!("failed {error:#}, after: {verdict}")),
        Err(error) => Ok(format!("{verdict}; {error:#}")),
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [folder, out] = &arguments[..] else { anyhow::bail!("usage: lab-agent FOLDER OUT") };
    fs::create_dir_all(dom0::DISKS)?;
    if folder.join("bench").exists() {
        return bench::bench(folder, out).inspect_err(|error| println!("lab-bench failed: {error:#}"));
    }
    serve::start()?;
    for case in read_cases(folder)? {
        let start = Instant::now();
        println!("lab-case {}", case.name);
        let evidence = out.join(case.name.replace('/', "-"));
        fs::create_dir_all(&evidence)?;
        let verdict = run(&case, folder, &evidence).unwrap_or_else(|error| format!("failed {error:#}"));
        // One line, whatever the reason holds.
        let verdict = verdict.replace(['\n', '\r'], " ");
        let line = format!("lab-result {} {:.1} {verdict}\n", case.name, start.elapsed().as_secs_f64());
        // In a file too: on the console Xen's lines may fall into it.
        fs::OpenOptions::new().create(true).append(true).open(out.join("results"))?.write_all(line.as_bytes())?;
        print!("{line}");
    }
    Ok(())
}

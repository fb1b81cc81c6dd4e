//! The lab's agent in dom0: for each case it makes a guest, carries out what the suite inside asks for through the
//! [`mailbox`], and keeps the evidence.
//!
//! `lab-agent FOLDER OUT`: FOLDER has `guest`, `drivers.tar`, `cases` (one line a case: name, seconds, seed) and
//! perhaps `extra.cfg`, lines for the guest's configuration. OUT gets a folder a case. One line `lab-result` a case
//! goes to standard output, which the host follows.

mod dom0;
mod mailbox;
mod session;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;

use session::Session;

/// A case that is to be run.
struct Case {
    name: String,
    seconds: u64,
    seed: u64,
}

fn read_cases(folder: &Path) -> anyhow::Result<Vec<Case>> {
    let text = fs::read_to_string(folder.join("cases")).context("there is no list of cases")?;
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let [name, seconds, seed] = words[..] else { anyhow::bail!("a case is no name, seconds, seed: {line}") };
            Ok(Case { name: name.to_owned(), seconds: seconds.parse()?, seed: seed.parse()? })
        })
        .collect()
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [folder, out] = &arguments[..] else { anyhow::bail!("usage: lab-agent FOLDER OUT") };
    fs::create_dir_all("/tmp/lab")?;
    for case in read_cases(folder)? {
        let start = Instant::now();
        println!("lab-case {}", case.name);
        let evidence = out.join(case.name.replace('/', "-"));
        fs::create_dir_all(&evidence)?;
        let verdict = Session::new(folder, &evidence, &case.name, case.seed)
            .and_then(|mut session| {
                let verdict = session.serve(case.seconds);
                session.finish();
                verdict
            })
            .unwrap_or_else(|error| format!("failed {error:#}"));
        // One line, whatever the reason holds.
        let verdict = verdict.replace(['\n', '\r'], " ");
        println!("lab-result {} {:.1} {verdict}", case.name, start.elapsed().as_secs_f64());
    }
    Ok(())
}

//! What the tests share: each machine runs in a process of its own.

#![allow(dead_code, reason = "not every test uses all of it")]

use process::{Bench, BenchConfig, Ctx, Outcome};
use std::path::PathBuf;
use std::process::Command;

const MARK: &str = "PROCESS_TEST_CHILD";

/// Runs `body` in a child process of this test binary, and passes if the child does.
pub fn in_child(name: &str, body: impl FnOnce()) {
    in_child_as(name, "", body);
}

/// As [`in_child`], for tests of several machines: `part` tells them apart. A child does its part and nothing else.
pub fn in_child_as(name: &str, part: &str, body: impl FnOnce()) {
    let mark = format!("{name}#{part}");
    if let Ok(child) = std::env::var(MARK) {
        if child == mark {
            body();
        }
        return;
    }
    let output = Command::new(std::env::current_exe().expect("this binary has a path"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(MARK, mark)
        .output()
        .expect("this binary runs");
    assert!(
        output.status.success(),
        "{name} ended with {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs a machine.
pub fn run<R>(config: BenchConfig, body: impl FnOnce(&Ctx) -> R) -> Outcome<R> {
    Bench::new(config).expect("a good configuration").run(body).expect("the machine is set up")
}

/// The folder of built drivers; says so and gives `None` where they were not built.
pub fn dist() -> Option<PathBuf> {
    let dist = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/dist/x64");
    if dist.join("xenpci/xenpci.sys").is_file() {
        return Some(dist);
    }
    println!("skipped: run `cargo xtask build` first");
    None
}

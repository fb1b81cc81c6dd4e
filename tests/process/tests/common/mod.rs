//! What the tests share: each machine runs in a process of its own.

#![allow(dead_code, reason = "not every test uses all of it")]

use nt::disk::Disk;
use nt::pnp;
use process::{Bench, BenchConfig, Ctx, Outcome};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

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

/// The folder of the foreign drivers' packages; says so and gives `None` where they were not built.
pub fn packages() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/foreign/x64");
    if folder.join("fbus/fbus.sys").is_file() {
        return Some(folder);
    }
    println!("skipped: the drivers of tests/foreign were not built");
    None
}

/// Boots a machine with the foreign drivers for a test of that name.
pub fn boot(name: &str, body: impl FnOnce(&Ctx)) {
    boot_with(name, None, body);
}

/// As [`boot`], on a machine with the test adapter of that PCI device id, if one is given.
pub fn boot_with(name: &str, adapter: Option<u16>, body: impl FnOnce(&Ctx)) {
    let Some(drivers) = packages() else { return };
    let part = adapter.map_or(String::new(), |id| format!("{id:x}"));
    in_child_as(name, &part, || {
        let verbose = std::env::var_os("PROCESS_TEST_VERBOSE").is_some();
        let seed = std::env::var("PROCESS_TEST_SEED").map_or(1, |text| text.parse().expect("a number"));
        let vcpus = 1 + (seed % 4) as u32;
        let outcome = run(
            BenchConfig { drivers, verbose, seed, vcpus, adapter, most_steps: 50_000_000, ..BenchConfig::default() },
            |ctx| {
                let packages = ctx.packages().expect("the folder is readable");
                pnp::boot::boot(pnp::boot::BootConfig { packages, ..Default::default() }).expect("a boot");
                body(ctx);
            },
        );
        if let Outcome::Stopped(stop) = outcome {
            panic!("{}", stop.report);
        }
    });
}

/// The disk of the foreign RAM disk driver.
pub fn disk(ctx: &Ctx) -> Arc<Disk> {
    let found = nt::disk::disks().into_iter().find(|disk| disk.info().serial.contains("FOREIGN1"));
    found.unwrap_or_else(|| panic!("no RAM disk: {:#?}", ctx.log()))
}

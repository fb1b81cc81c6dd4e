//! `cargo xtask build --check-reproducible`: the same source in two folders must give the same bytes, one with crates from
//! the registry, the other with copies of them and no network.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::build::{self, Profile};
use crate::{crates, workspace};

/// Builds copies of the tree in two folders of different depth and compares what came out. The second takes its crates
/// from a folder, as `cargo xtask vendor` makes it.
///
/// # Errors
/// Where a build fails or a file differs.
pub fn check(profile: Profile, only: &[String]) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("xtask-reproducible-").tempdir().context("cannot make a folder")?;
    let copies = ["first", "a/second"].map(|name| folder.path().join(name));
    // Both before the first build, so that an edit meanwhile cannot make the difference.
    for copy in &copies {
        std::fs::create_dir_all(copy)?;
        workspace::copy_tracked(copy).context("copy of the tree")?;
    }
    let crates = copies[1].join("vendor");
    crates::vendor(&copies[1], &crates)?;
    let config = copies[1].join(".cargo/config.toml");
    let text = std::fs::read_to_string(&config).context("cannot read .cargo/config.toml")?;
    std::fs::write(&config, format!("{text}\n{}", crates::replacement(&crates)))
        .context("cannot write .cargo/config.toml")?;
    let mut results = Vec::new();
    for copy in &copies {
        println!("== build in {}", copy.display());
        let packages = build::tree(copy, profile, only)?;
        let mut digests = Vec::new();
        for package in &packages {
            digests.extend(digests_of(package)?);
        }
        results.push(digests);
    }
    let mut differs = Vec::new();
    for (first, second) in results[0].iter().zip(&results[1]) {
        println!("{}  {}", first.1, first.0);
        if first != second {
            println!("{}  {} in the other folder", second.1, second.0);
            differs.push(first.0.as_str());
        }
    }
    if !differs.is_empty() {
        bail!("not reproducible: {}", differs.join(", "));
    }
    println!("reproducible: both builds gave the same bytes");
    Ok(())
}

/// Name and SHA-256 of every file of a package, by name.
fn digests_of(package: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut digests = Vec::new();
    for entry in std::fs::read_dir(package)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut hex = String::new();
        for byte in Sha256::digest(std::fs::read(&path)?) {
            write!(hex, "{byte:02x}")?;
        }
        digests.push((name, hex));
    }
    digests.sort();
    Ok(digests)
}

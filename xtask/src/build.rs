//! `cargo xtask build`: driver packages, each an image, its symbols and its INF, below `target/dist/x64`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, bail};

use crate::overlay::Overlay;
use crate::toolchain::{self, TARGET};
use crate::workspace::{relative, write, write_if_changed};
use crate::{foreign, inf, lint_image, reproducible, workspace};

/// Arguments of `cargo xtask build`.
#[derive(clap::Args)]
pub struct Args {
    /// Build faster, with less optimisation; the same checks
    #[arg(long)]
    dev: bool,
    /// Build twice, in two other folders, once from copies of the crates and without a network, and compare
    #[arg(long)]
    check_reproducible: bool,
    /// Only this driver; may be given more than once
    #[arg(long)]
    driver: Vec<String>,
    /// Build the C drivers of tests/foreign instead, which try the bench, into target/foreign/x64
    #[arg(long, conflicts_with_all = ["dev", "check_reproducible", "driver"])]
    foreign: bool,
}

/// Runs the command.
///
/// # Errors
/// Where a step fails; the error names it.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.foreign {
        foreign::build_all(&foreign::folder())?;
        return Ok(ExitCode::SUCCESS);
    }
    let profile = if args.dev { Profile::Dev } else { Profile::Release };
    if args.check_reproducible {
        reproducible::check(profile, &args.driver)?;
    } else {
        tree(&workspace::root(), profile, &args.driver)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds and checks every driver of this tree, as released.
///
/// # Errors
/// Where a step fails; the error names it.
pub fn all() -> anyhow::Result<()> {
    tree(&workspace::root(), Profile::Release, &[]).map(drop)
}

/// Builds every driver twice, in two folders, and compares the images.
///
/// # Errors
/// Where a build fails or the two differ.
pub fn check_reproducible() -> anyhow::Result<()> {
    reproducible::check(Profile::Release, &[])
}

/// Has clippy look at the drivers as they are for Windows. `None`: their toolchain has no clippy.
///
/// # Errors
/// Where the toolchain is not complete, or clippy finds something.
pub fn lint() -> anyhow::Result<Option<()>> {
    let root = workspace::root();
    let output = root.join("target/kernel");
    let overlay = Overlay::make(&root, &output, Profile::Release.name())?;
    let Some(clippy) = overlay.clippy()? else { return Ok(None) };
    let names = driver_names()?;
    let mut cargo = overlay.cargo();
    toolchain::lint_with(&mut cargo, &clippy);
    cargo
        .args(["check", "--target", TARGET, "--profile", Profile::Release.name(), "--target-dir"])
        .arg(&output)
        .args(names.iter().flat_map(|name| ["--package", name]))
        .current_dir(&root);
    if !cargo.status().context("cannot start cargo")?.success() {
        bail!("clippy finds fault with a driver, see above");
    }
    Ok(Some(()))
}

/// The names of the drivers.
///
/// # Errors
/// Where cargo cannot read the workspace.
pub fn driver_names() -> anyhow::Result<Vec<String>> {
    let (drivers, _) = drivers(&workspace::root(), &[])?;
    Ok(drivers.into_iter().map(|driver| driver.name).collect())
}

/// How much the compiler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build.
    Dev,
    /// What ships.
    Release,
}

impl Profile {
    /// The name that cargo knows it by.
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }

    /// The folder that cargo puts its results into.
    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// A driver of the workspace: a member with `[package.metadata.wdk]`.
struct Driver {
    name: String,
    version: String,
    /// The folder of its Cargo.toml.
    folder: PathBuf,
}

/// Builds the drivers named in `only`, or all where it is empty, of the tree at `root`. Returns the packages' folders.
///
/// # Errors
/// Where a step fails; the error names it.
pub fn tree(root: &Path, profile: Profile, only: &[String]) -> anyhow::Result<Vec<PathBuf>> {
    let start = Instant::now();
    let (drivers, date) = drivers(root, only)?;
    let names: Vec<&str> = drivers.iter().map(|driver| driver.name.as_str()).collect();
    let output = root.join("target/kernel");
    let overlay = if cfg!(windows) { None } else { Some(Overlay::make(root, &output, profile.name())?) };
    let mut cargo = match &overlay {
        None => host_cargo(),
        Some(overlay) => overlay.cargo(),
    };
    cargo
        .args(["build", "--target", TARGET, "--profile", profile.name(), "--target-dir"])
        .arg(&output)
        .args(names.iter().flat_map(|name| ["--package", name]))
        .current_dir(root);
    println!("compile: {} ({})", names.join(", "), profile.name());
    let compiled = cargo.status().context("compile: cannot start cargo")?.success();
    if let Some(overlay) = &overlay {
        overlay.remember(compiled)?;
    }
    if !compiled {
        bail!("compile: cargo failed, see above");
    }

    let built = output.join(TARGET).join(profile.folder());
    let mut packages = Vec::new();
    let mut images = Vec::new();
    for driver in &drivers {
        let name = &driver.name;
        let package = root.join("target/dist/x64").join(name);
        let image = package.join(format!("{name}.sys"));
        copy(&built.join(format!("{name}.dll")), &image).with_context(|| format!("package {name}"))?;
        copy(&built.join(format!("{name}.pdb")), &package.join(format!("{name}.pdb")))
            .with_context(|| format!("package {name}"))?;
        images.push(image);
        let file = driver.folder.join(format!("{name}.inf"));
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("package {name}: cannot read {}", relative(&file)))?;
        let stamped =
            inf::stamp(&text, &date, &driver.version).with_context(|| format!("package {name}: {name}.inf"))?;
        write(&package.join(format!("{name}.inf")), stamped.as_bytes())?;
        packages.push(package);
    }
    lint_image::check(&images, profile)?;
    for package in &packages {
        println!("built {}", relative(package));
    }
    println!("{} drivers in {:.1} s", packages.len(), start.elapsed().as_secs_f64());
    Ok(packages)
}

/// The drivers of the tree, and the date that their INFs carry.
fn drivers(root: &Path, only: &[String]) -> anyhow::Result<(Vec<Driver>, String)> {
    let metadata = workspace::metadata(root)?;
    let date = metadata["metadata"]["inf"]["date"]
        .as_str()
        .context("Cargo.toml: [workspace.metadata.inf] has no `date`")?
        .to_owned();
    let mut drivers = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if package["metadata"]["wdk"].is_object() {
            let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
            let folder = PathBuf::from(text("manifest_path")).parent().map(Path::to_owned).unwrap_or_default();
            drivers.push(Driver { name: text("name"), version: text("version"), folder });
        }
    }
    if let Some(unknown) = only.iter().find(|name| drivers.iter().all(|driver| driver.name != **name)) {
        let known: Vec<&str> = drivers.iter().map(|driver| driver.name.as_str()).collect();
        bail!("no driver `{unknown}`; there are {}", known.join(", "));
    }
    drivers.retain(|driver| only.is_empty() || only.contains(&driver.name));
    drivers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((drivers, date))
}

/// Cargo where the Windows Driver Kit is: nothing is overlaid; link flags come from the genuine wdk-build.
fn host_cargo() -> Command {
    let mut cargo = workspace::cargo();
    cargo.arg("--config").arg(format!("target.{TARGET}.rustflags=['-Ctarget-feature=+crt-static']"));
    cargo
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let content = std::fs::read(from).with_context(|| format!("cannot read {}", relative(from)))?;
    write_if_changed(to, &content)
}

//! On Windows: link flags and libraries from the Windows Driver Kit. Elsewhere `cargo xtask build` lays them over the
//! workspace, and a host build of the portable half needs none.

#[cfg(windows)]
fn main() -> Result<(), wdk_build::ConfigError> {
    wdk_build::configure_wdk_binary_build()
}

#[cfg(not(windows))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}

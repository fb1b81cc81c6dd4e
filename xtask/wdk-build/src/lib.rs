//! Stands in for `wdk-build` 0.6 where there is no Windows Driver Kit: as much of its interface as the build scripts of
//! wdk-sys, wdk, wdk-alloc and wdk-panic use, for WDM drivers on x64.
//!
//! `cargo xtask build` makes the headers (the kit) and names them in `XTASK_KIT_INCLUDE`, a list of folders separated by
//! `:` in search order, and clang's own headers in `XTASK_CLANG_INCLUDE`. Link flags do not come from here: on such a
//! host they stand in the overlay that `cargo xtask build` writes.

use std::borrow::Borrow;
use std::fmt;
use std::path::PathBuf;

/// Parts of the driver kit's interface that wdk-sys can be asked for. Only the base is there in this kit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named by the genuine crate")]
pub enum ApiSubset {
    Base,
    Wdf,
    Gpio,
    Hid,
    ParallelPorts,
    Spb,
    Storage,
    Usb,
}

/// Version of the kernel-mode driver framework; never made here.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named by the genuine crate")]
pub struct KmdfConfig {
    pub kmdf_version_major: u8,
    pub target_kmdf_version_minor: u8,
    pub minimum_kmdf_version_minor: Option<u8>,
}

/// Version of the user-mode driver framework; never made here.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named by the genuine crate")]
pub struct UmdfConfig {
    pub umdf_version_major: u8,
    pub target_umdf_version_minor: u8,
    pub minimum_umdf_version_minor: Option<u8>,
}

/// The driver model that is built for.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named by the genuine crate")]
pub enum DriverConfig {
    Wdm,
    Kmdf(KmdfConfig),
    Umdf(UmdfConfig),
}

/// A file that could not be read or written.
#[derive(Debug)]
pub struct IoError {
    path: PathBuf,
    source: std::io::Error,
}

impl IoError {
    /// The error together with the path it is about.
    pub fn with_path(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self { path: path.into(), source }
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.source)
    }
}

impl std::error::Error for IoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// What can be wrong with a configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// Input or output failed.
    Io(IoError),
    /// `cargo xtask build` sets this environment variable and it is absent.
    NotRunByXtask(&'static str),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::NotRunByXtask(name) => write!(f, "{name} is not set; drivers are built by `cargo xtask build`"),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => error.source(),
            Self::NotRunByXtask(_) => None,
        }
    }
}

impl From<IoError> for ConfigError {
    fn from(error: IoError) -> Self {
        Self::Io(error)
    }
}

/// The one configuration there is here: a WDM driver for x64.
#[derive(Clone, Debug)]
pub struct Config {
    /// The driver model.
    pub driver_config: DriverConfig,
    include: Vec<String>,
}

impl Config {
    fn from_env() -> Result<Self, ConfigError> {
        Ok(Self {
            driver_config: DriverConfig::Wdm,
            include: variable("XTASK_KIT_INCLUDE")?.split(':').map(str::to_owned).collect(),
        })
    }

    /// The headers of a part, in the order in which they are included.
    ///
    /// # Errors
    /// None here; the genuine crate has some.
    pub fn headers(&self, subset: ApiSubset) -> Result<Vec<String>, ConfigError> {
        let names: &[&str] = match subset {
            ApiSubset::Base => &["ntifs.h", "ntddk.h", "ntstrsafe.h"],
            _ => &[],
        };
        Ok(names.iter().map(|&name| name.to_owned()).collect())
    }

    /// A C file that includes the headers of all `subsets`.
    ///
    /// # Errors
    /// Those of [`Self::headers`].
    pub fn bindgen_header_contents(&self, subsets: impl IntoIterator<Item = ApiSubset>) -> Result<String, ConfigError> {
        let mut text = String::new();
        for subset in subsets {
            for header in self.headers(subset)? {
                text += &format!("#include \"{header}\"\n");
            }
        }
        Ok(text)
    }

    /// Rust lines that make the linker look into the libraries of a part.
    #[must_use]
    pub fn bindgen_library_link_raw_lines(&self, subset: ApiSubset) -> Option<String> {
        let names: &[&str] = match subset {
            ApiSubset::Base => &["BufferOverflowFastFailK", "ntoskrnl", "hal", "wmilib"],
            _ => return None,
        };
        let line = |name| {
            format!("#[link(name = \"{name}\", kind = \"static\", modifiers = \"-bundle\")] unsafe extern \"C\" {{}}\n")
        };
        Some(names.iter().map(line).collect())
    }

    /// Folders that headers are searched in.
    ///
    /// # Errors
    /// None here; the genuine crate has some.
    pub fn include_paths(&self) -> Result<impl Iterator<Item = PathBuf> + use<'_>, ConfigError> {
        Ok(self.include.iter().map(PathBuf::from))
    }

    /// Preprocessor definitions: those of the kit's own x64 kernel-mode build.
    pub fn preprocessor_definitions(&self) -> impl Iterator<Item = (String, Option<String>)> {
        ["_WIN64", "_AMD64_", "AMD64", "_KERNEL_MODE"].into_iter().map(|name| (name.to_owned(), None))
    }

    /// The symbol of the framework's function table; a WDM driver has none.
    #[must_use]
    pub fn compute_wdffunctions_symbol_name(&self) -> Option<String> {
        None
    }
}

/// Makes a `bindgen::Builder` for the driver kit's headers.
pub trait BuilderExt: Sized {
    /// The builder with everything set that all parts share.
    ///
    /// # Errors
    /// Where the environment of `cargo xtask build` is absent.
    fn wdk_default(config: impl Borrow<Config> + fmt::Debug) -> Result<Self, ConfigError>;
}

impl BuilderExt for bindgen::Builder {
    fn wdk_default(config: impl Borrow<Config> + fmt::Debug) -> Result<Self, ConfigError> {
        let config: &Config = config.borrow();
        let includes = config.include.iter().map(|folder| format!("-isystem{folder}"));
        let defines = config.preprocessor_definitions().map(|(name, _)| format!("-D{name}"));
        Ok(Self::default()
            .use_core()
            .derive_default(true)
            .generate_cstr(true)
            .detect_include_paths(false)
            // mingw-w64's headers are for the GNU flavour of the target; struct layout is Microsoft's all the same.
            .clang_args(["--target=x86_64-w64-windows-gnu", "-mms-bitfields", "-fms-extensions", "-fno-builtin", "-w"])
            .clang_args(includes)
            .clang_arg(format!("-isystem{}", variable("XTASK_CLANG_INCLUDE")?))
            .clang_args(defines)
            .blocklist_item("ExAllocatePool(WithTag|WithQuotaTag|WithTagPriority)?")
            .opaque_type("_KGDTENTRY64")
            .opaque_type("_KIDTENTRY64")
            .must_use_type("NTSTATUS")
            .must_use_type("HRESULT")
            .default_enum_style(bindgen::EnumVariation::ModuleConsts)
            .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
            .formatter(bindgen::Formatter::Prettyplease)
            .rust_edition(bindgen::RustEdition::Edition2024))
    }
}

/// What the build script of a library over wdk-sys calls: sets the cfg of the driver model.
///
/// # Errors
/// Where the environment of `cargo xtask build` is absent.
pub fn configure_wdk_library_build() -> Result<(), ConfigError> {
    configure_wdk_library_build_and_then(|_| Ok(()))
}

/// [`configure_wdk_library_build`], then `f` with the configuration.
///
/// # Errors
/// Those of [`configure_wdk_library_build`] and of `f`.
pub fn configure_wdk_library_build_and_then<F, E>(mut f: F) -> Result<(), E>
where
    F: FnMut(Config) -> Result<(), E>,
    E: From<ConfigError>,
{
    println!("cargo::rerun-if-env-changed=XTASK_KIT_INCLUDE");
    println!("cargo::rerun-if-env-changed=XTASK_CLANG_INCLUDE");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(driver_model__driver_type, values(\"WDM\", \"KMDF\", \"UMDF\"))");
    println!("cargo::rustc-cfg=driver_model__driver_type=\"WDM\"");
    f(Config::from_env()?)
}

fn variable(name: &'static str) -> Result<String, ConfigError> {
    std::env::var(name).map_err(|_| ConfigError::NotRunByXtask(name))
}

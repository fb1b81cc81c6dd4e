//! `cargo xtask dist`: what an administrator or a distribution takes: driver packages with catalogs and signatures, media,
//! symbols, check sums, a bill of materials. All but the signatures is the same bytes for the same source.

mod catalog;
mod inf;
mod installer;
mod judge;
mod media;
mod outsiders;
mod sbom;
mod sign;
mod wine;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use self::catalog::Member;
use self::inf::Inf;
use self::sign::{Certificate, Signer};
use crate::workspace::{self, relative, write};
use crate::{build, programs};

/// Arguments of `cargo xtask dist`.
#[derive(clap::Args)]
pub struct Args {
    /// A code-signing certificate (PEM) instead of one that is made for tests
    #[arg(long, requires = "key", conflicts_with = "unsigned")]
    certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, requires = "certificate")]
    key: Option<PathBuf>,
    /// The certificates above it (PEM)
    #[arg(long, requires = "certificate")]
    chain: Option<PathBuf>,
    /// The URL of a time-stamp server (RFC 3161)
    #[arg(long, requires = "certificate")]
    timestamp: Option<String>,
    /// No signature; a cabinet for Microsoft's dashboard, which signs
    #[arg(long)]
    unsigned: bool,
    /// Only check INFs, packages and signatures, as the tests do
    #[arg(long)]
    check: bool,
}

/// Runs the command.
///
/// # Errors
/// Where a step fails; the error names it.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    build::all()?;
    let root = workspace::root();
    let built = root.join("target/dist/x64");
    let release = Release::read()?;
    let packages = packages(&built)?;
    if args.check {
        test()?;
        test_installer(&release, &packages)?;
        if let Some(said) = by_signify()? {
            println!("signify: {said}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    check_infs(&packages)?;
    let signer = if args.unsigned {
        Signer::None
    } else if let (Some(certificate), Some(key)) = (&args.certificate, &args.key) {
        Signer::Certificate(Certificate {
            file: certificate.clone(),
            key: key.clone(),
            chain: args.chain.clone(),
            timestamp: args.timestamp.clone(),
        })
    } else {
        Signer::test(&root.join("target/dist/test-certificate"))?
    };
    let out = root.join("target/dist/release");
    if out.exists() {
        std::fs::remove_dir_all(&out).with_context(|| format!("cannot remove {}", out.display()))?;
    }
    let programs = programs::build()?;
    let made = make(&release, &packages, &programs, &signer, &out)?;
    for file in &made {
        println!("made {}", relative(file));
    }
    match &signer {
        Signer::None => println!("unsigned: Windows loads this after Microsoft's dashboard has signed it"),
        Signer::Certificate(_) if args.certificate.is_none() => {
            println!(
                "signed with a test certificate: Windows loads this in test mode alone (bcdedit /set testsigning on)"
            );
        }
        Signer::Certificate(_) => println!("signed"),
    }
    Ok(ExitCode::SUCCESS)
}

/// What `cargo xtask test` wants to know: the INFs are right; unsigned, the same packages make the same bytes twice; signed,
/// every signature holds, and none after a byte was changed.
///
/// # Errors
/// The first that is not so.
pub fn test() -> anyhow::Result<()> {
    let root = workspace::root();
    let release = Release::read()?;
    let packages = packages(&root.join("target/dist/x64"))?;
    check_infs(&packages)?;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let [first, second, signed] = ["first", "second", "signed"].map(|name| folder.path().join(name));
    make(&release, &packages, &[], &Signer::None, &first)?;
    make(&release, &packages, &[], &Signer::None, &second)?;
    let (one, other) = (sums(&first)?, sums(&second)?);
    if one != other {
        bail!("the same packages make different bytes:\n{one}\n{other}");
    }
    println!("unsigned: {} files, the same bytes twice", one.lines().count());
    let signer = Signer::test(&folder.path().join("certificate"))?;
    make(&release, &packages, &[], &signer, &signed)?;
    let authority = signer.to_trust().context("the test certificate has no authority")?.with_extension("pem");
    let held = judge::packages(&signed.join("drivers"), &authority)?;
    if held != 2 * packages.len() {
        bail!("{held} signed files, not an image and a catalog for each of {} packages", packages.len());
    }
    println!("signed: {held} signatures hold, and none of them after a byte was changed");
    Ok(())
}

/// As [`test`], of the programs and the installer: the installer is the same bytes twice, every signature holds, and none after
/// a byte was changed.
///
/// # Errors
/// The first that is not so.
pub fn test_programs() -> anyhow::Result<()> {
    test_installer(&Release::read()?, &packages(&workspace::root().join("target/dist/x64"))?)
}

/// What signify says of the packages; none where it is not there, which is printed.
///
/// # Errors
/// The first signature that does not hold, or holds after a byte was changed.
pub fn by_signify() -> anyhow::Result<Option<String>> {
    let packages = packages(&workspace::root().join("target/dist/x64"))?;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let signer = Signer::test(&folder.path().join("certificate"))?;
    let signed = folder.path().join("signed");
    make(&Release::read()?, &packages, &[], &signer, &signed)?;
    let authority = signer.to_trust().context("the test certificate has no authority")?.with_extension("pem");
    outsiders::signify(&signed.join("drivers"), &authority)
}

/// Programs, installer and packages under Wine: how many parts were left out; each is printed.
///
/// # Errors
/// Wine cannot be had, or what runs under it does not do what it should.
pub fn under_wine() -> anyhow::Result<usize> {
    let root = workspace::root();
    let (release, packages) = (Release::read()?, packages(&root.join("target/dist/x64"))?);
    let programs = programs::build()?;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let signer = Signer::test(&folder.path().join("certificate"))?;
    let out = folder.path().join("signed");
    make(&release, &packages, &programs, &signer, &out)?;
    wine::run(&wine::Made {
        programs: root.join("target/dist/x64-programs"),
        installer: out.join(format!("{}-setup.exe", release.stem())),
        drivers: out.join("drivers"),
    })
}

/// That the installer is the same bytes twice, and that the signatures of programs and installer hold.
fn test_installer(release: &Release, packages: &[PathBuf]) -> anyhow::Result<()> {
    let programs = programs::build()?;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let signed = folder.path().join("signed");
    let signer = Signer::test(&folder.path().join("certificate"))?;
    make(release, packages, &programs, &signer, &signed)?;
    installer::test(&release.version, &signed.join("drivers"), &programs, folder.path())?;
    let authority = signer.to_trust().context("the test certificate has no authority")?.with_extension("pem");
    // Each program, and the installer.
    let held = judge::programs(&signed, &authority)?;
    if held != programs.len() + 1 {
        bail!("{held} signed programs, not {} and the installer", programs.len());
    }
    println!("programs: {held} signatures hold, and none of them after a byte was changed");
    Ok(())
}

/// What the release is called and when it was made.
struct Release {
    version: String,
    date: (u16, u8, u8),
    /// Seconds since 1970, the start of `date`.
    seconds: u64,
}

impl Release {
    fn read() -> anyhow::Result<Self> {
        let metadata = workspace::metadata(&workspace::root())?;
        let date = metadata["metadata"]["inf"]["date"].as_str().context("Cargo.toml has no date for INFs")?;
        let mut parts = date.split('-').map(str::parse::<u16>);
        let (Some(Ok(year)), Some(Ok(month)), Some(Ok(day))) = (parts.next(), parts.next(), parts.next()) else {
            bail!("`{date}` is not a date");
        };
        let named = metadata["packages"].as_array().into_iter().flatten().find(|package| package["name"] == "xenpci");
        let version = named.and_then(|package| package["version"].as_str()).context("xenpci has no version")?;
        let month_of = time::Month::try_from(month as u8).context("the month of the date for INFs")?;
        let calendar = time::Date::from_calendar_date(year.into(), month_of, day as u8).context("the date for INFs")?;
        let seconds = calendar.midnight().assume_utc().unix_timestamp();
        Ok(Self { version: version.into(), date: (year, month as u8, day as u8), seconds: seconds.cast_unsigned() })
    }

    /// The beginning of each file's name.
    fn stem(&self) -> String {
        format!("xen-pv-{}", self.version)
    }
}

/// The folders of the built packages.
fn packages(built: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let names = build::driver_names()?;
    let packages: Vec<PathBuf> = names.iter().map(|name| built.join(name)).collect();
    match packages.iter().find(|package| !package.is_dir()) {
        Some(missing) => bail!("{} is not there", relative(missing)),
        None => Ok(packages),
    }
}

fn name_of(package: &Path) -> String {
    package.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn read_inf(package: &Path) -> anyhow::Result<Inf> {
    let file = package.join(format!("{}.inf", name_of(package)));
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", relative(&file)))?;
    Ok(Inf::read(&text))
}

fn check_infs(packages: &[PathBuf]) -> anyhow::Result<()> {
    let mut wrong = 0;
    for package in packages {
        let name = name_of(package);
        let files: Vec<String> = media::files_below(package)?.iter().map(|file| file.display().to_string()).collect();
        let found = read_inf(package)?.check(&name, &files);
        for line in &found {
            println!("{name}.inf: {line}");
        }
        wrong += found.len();
    }
    if wrong > 0 {
        bail!("{wrong} faults in INFs");
    }
    println!("{} INFs are as they should be", packages.len());
    Ok(())
}

/// Makes everything below `out`; what was made.
fn make(
    release: &Release,
    packages: &[PathBuf],
    programs: &[PathBuf],
    signer: &Signer,
    out: &Path,
) -> anyhow::Result<Vec<PathBuf>> {
    let drivers = out.join("drivers");
    let mut signed = Vec::new();
    for package in packages {
        let name = name_of(package);
        let to = drivers.join(&name);
        let image = format!("{name}.sys");
        let information = format!("{name}.inf");
        for file in [&image, &information] {
            write(&to.join(file), &std::fs::read(package.join(file))?)?;
        }
        // The image first: its digest in the catalog is over what is signed, but for the signature itself.
        signer.sign(&to.join(&image))?;
        let contents = [&image, &information].map(|file| std::fs::read(to.join(file)));
        let [image_bytes, information_bytes] = contents;
        let members = [
            Member { name: &image, content: &image_bytes? },
            Member { name: &information, content: &information_bytes? },
        ];
        let catalog = catalog::write(&members, &read_inf(package)?.hardware_ids(), release.seconds)?;
        let file = to.join(format!("{name}.cat"));
        write(&file, &catalog)?;
        signer.sign(&file)?;
        signed.push(to);
    }
    let stem = release.stem();
    let mut made = signed.clone();
    for program in programs {
        let to = out.join("programs").join(program.file_name().unwrap_or_default());
        write(&to, &std::fs::read(program)?)?;
        signer.sign(&to)?;
        made.push(to);
    }
    let mut add = |file: PathBuf| {
        made.push(file.clone());
        file
    };

    // Windows Setup loads every driver that it finds in a folder of this name.
    // https://learn.microsoft.com/windows-hardware/manufacture/desktop/add-device-drivers-to-windows-during-windows-setup
    let staging = out.join("media");
    for package in &signed {
        for file in media::files_below(package)? {
            let to = staging.join("$WinPEDriver$").join(name_of(package)).join(&file);
            write(&to, &std::fs::read(package.join(&file))?)?;
        }
    }
    for program in programs {
        let name = program.file_name().unwrap_or_default();
        write(&staging.join(name), &std::fs::read(out.join("programs").join(name))?)?;
    }
    // Windows installs nothing that is not signed.
    if !programs.is_empty() && !matches!(signer, Signer::None) {
        let (work, setup) = (out.join("setup"), out.join(format!("{stem}-setup.exe")));
        installer::make(&release.version, &drivers, &out.join("programs"), signer, &work, &add(setup.clone()))?;
        std::fs::remove_dir_all(&work)?;
        write(&staging.join(format!("{stem}-setup.exe")), &std::fs::read(&setup)?)?;
    }
    if let Some(certificate) = signer.to_trust() {
        let bytes = std::fs::read(&certificate)?;
        write(&staging.join("test-authority.cer"), &bytes)?;
        write(&add(out.join("test-authority.cer")), &bytes)?;
    }
    media::iso(&staging, "XENPV", release.seconds, &add(out.join(format!("{stem}.iso"))))?;
    std::fs::remove_dir_all(&staging)?;

    if matches!(signer, Signer::None) {
        let folder = out.join("submission");
        for (package, signed) in packages.iter().zip(&signed) {
            let name = name_of(package);
            for file in media::files_below(signed)?.into_iter().filter(|file| file.extension() != Some("cat".as_ref()))
            {
                write(&folder.join(&name).join(&file), &std::fs::read(signed.join(&file))?)?;
            }
            let symbols = format!("{name}.pdb");
            write(&folder.join(&name).join(&symbols), &std::fs::read(package.join(&symbols))?)?;
        }
        let folders: Vec<PathBuf> = signed.iter().map(|package| folder.join(name_of(package))).collect();
        media::submission(&folders, release.date, &add(out.join(format!("{stem}-submission.cab"))))?;
        std::fs::remove_dir_all(&folder)?;
    }
    media::symbols(packages, &add(out.join(format!("{stem}-symbols.zip"))))?;
    let mut names: Vec<String> = packages.iter().map(|package| name_of(package)).collect();
    if !programs.is_empty() {
        names.extend(programs::package_names().map(str::to_owned));
    }
    let bill = serde_json::to_string_pretty(&sbom::write(&release.version, &names)?)?;
    write(&add(out.join(format!("{stem}.cdx.json"))), bill.as_bytes())?;
    write(&add(out.join("SHA256SUMS")), sums(out)?.as_bytes())?;
    Ok(made)
}

/// Check sums of every file below `folder`, as `sha256sum --check` reads them.
fn sums(folder: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    for file in media::files_below(folder)? {
        for byte in Sha256::digest(std::fs::read(folder.join(&file))?) {
            write!(text, "{byte:02x}")?;
        }
        writeln!(text, "  {}", file.display())?;
    }
    Ok(text)
}

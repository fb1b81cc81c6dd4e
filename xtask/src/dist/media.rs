//! The containers: an ISO image, a cabinet for Microsoft's dashboard, an archive of symbols. Each with the release's time in
//! place of the clock's, so that the same files make the same bytes.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use object::read::pe::PeFile64;
use object::{Object, ReadRef};

use crate::packages::{self, XORRISO};

/// Every file below `folder`, as paths relative to it, sorted.
///
/// # Errors
/// Where a folder cannot be read.
pub fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| format!("cannot read {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap_or(&path).to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// An ISO 9660 image with Joliet names of what is in `folder`.
///
/// # Errors
/// Where xorriso is absent or fails.
pub fn iso(folder: &Path, volume: &str, made: u64, to: &Path) -> anyhow::Result<()> {
    packages::ensure(&[&XORRISO])?;
    let seconds = i64::try_from(made).context("the release's time")?;
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).context("the release's time")?;
    let (date, clock) = (time.date(), time.time());
    let stamp = format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}00",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    );
    let output = Command::new(XORRISO.path())
        .args(["-as", "mkisofs", "-quiet", "-J", "-joliet-long", "-r", "-V", volume])
        .args(["--set_all_file_dates", &stamp, "-o"])
        .arg(to)
        .arg(folder)
        .env("SOURCE_DATE_EPOCH", made.to_string())
        .env("TZ", "UTC")
        .output()
        .context("cannot start xorriso")?;
    if !output.status.success() {
        bail!("xorriso: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A cabinet for Microsoft's dashboard: each driver in a folder of its own, with its symbols, nothing beside them.
/// <https://learn.microsoft.com/windows-hardware/drivers/dashboard/code-signing-attestation>
///
/// # Errors
/// Where a file cannot be read or the cabinet cannot be written.
pub fn submission(packages: &[PathBuf], date: (u16, u8, u8), to: &Path) -> anyhow::Result<()> {
    let month = time::Month::try_from(date.1).context("the release's month")?;
    let date = time::Date::from_calendar_date(date.0.into(), month, date.2).context("the release's date")?;
    let made = time::PrimitiveDateTime::new(date, time::Time::MIDNIGHT);
    let mut builder = cab::CabinetBuilder::new();
    let mut contents = Vec::new();
    let folder = builder.add_folder(cab::CompressionType::MsZip);
    for package in packages {
        let name = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for file in files_below(package)? {
            folder.add_file(format!(r"{name}\{}", file.display())).set_datetime(made);
            contents.push(std::fs::read(package.join(&file))?);
        }
    }
    let out = File::create(to).with_context(|| format!("cannot make {}", to.display()))?;
    let mut writer = builder.build(out).context("cabinet")?;
    for content in contents {
        writer
            .next_file()
            .context("cabinet")?
            .context("the cabinet has fewer files than were added")?
            .write_all(&content)?;
    }
    writer.finish().context("cabinet")?;
    Ok(())
}

/// An archive of symbols as a symbol server lays them out: `name.pdb/<GUID><age>/name.pdb`, and the images by their time
/// stamp and size.
///
/// # Errors
/// Where an image has no symbols or the archive cannot be written.
pub fn symbols(packages: &[PathBuf], to: &Path) -> anyhow::Result<()> {
    let out = File::create(to).with_context(|| format!("cannot make {}", to.display()))?;
    let mut archive = zip::ZipWriter::new(out);
    let options = zip::write::SimpleFileOptions::default().last_modified_time(zip::DateTime::default());
    let mut put = |name: String, file: &Path| -> anyhow::Result<()> {
        let mut content = Vec::new();
        File::open(file).with_context(|| format!("cannot read {}", file.display()))?.read_to_end(&mut content)?;
        archive.start_file(name, options)?;
        Ok(archive.write_all(&content)?)
    };
    for package in packages {
        let name = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let image = package.join(format!("{name}.sys"));
        let content = std::fs::read(&image).with_context(|| format!("cannot read {}", image.display()))?;
        let (symbols, stamp) = keys(&content).with_context(|| format!("{name}.sys"))?;
        put(format!("{name}.pdb/{symbols}/{name}.pdb"), &package.join(format!("{name}.pdb")))?;
        put(format!("{name}.sys/{stamp}/{name}.sys"), &image)?;
    }
    archive.finish()?;
    Ok(())
}

/// The keys of an image's symbols and of the image itself.
/// <https://learn.microsoft.com/windows/win32/debug/using-symsrv>
fn keys(content: &[u8]) -> anyhow::Result<(String, String)> {
    use object::LittleEndian as LE;
    use object::read::pe::{ImageNtHeaders, ImageOptionalHeader};
    let image = PeFile64::parse(content.read_bytes_at(0, content.len() as u64).unwrap_or_default())?;
    let info = image.pdb_info()?.context("no symbols belong to it")?;
    // The first three fields of a GUID are numbers.
    let guid = info.guid();
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut symbols = String::new();
    for place in order {
        write!(symbols, "{:02X}", guid[place])?;
    }
    write!(symbols, "{:X}", info.age())?;
    let headers = image.nt_headers();
    let stamp = headers.file_header().time_date_stamp.get(LE);
    let size = headers.optional_header().size_of_image();
    Ok((symbols, format!("{stamp:08X}{size:x}")))
}

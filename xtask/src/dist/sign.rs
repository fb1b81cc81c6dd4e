//! Signatures: by a certificate that is given, by one that is made for tests, or none.
//!
//! `osslsigncode` signs, since a signature is no place for code of one's own. It signs images inside, and catalogs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::packages::{self, OPENSSL, OSSLSIGNCODE};

/// How files are signed.
pub enum Signer {
    /// Not at all: Microsoft's dashboard does it.
    None,
    /// With this certificate.
    Certificate(Certificate),
}

/// A code-signing certificate.
pub struct Certificate {
    /// The certificate, PEM.
    pub file: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The certificates between it and the root, or the root alone, PEM.
    pub chain: Option<PathBuf>,
    /// The URL of an RFC 3161 time-stamp server.
    pub timestamp: Option<String>,
}

/// The names of a test certificate's files.
const AUTHORITY: &str = "test-authority";
const SIGNER: &str = "test-signer";

impl Signer {
    /// A certificate that nobody trusts until the user imports its authority; made in `folder` unless it is there.
    ///
    /// # Errors
    /// Where openssl fails.
    pub fn test(folder: &Path) -> anyhow::Result<Self> {
        packages::ensure(&[&OPENSSL, &OSSLSIGNCODE])?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file = |name: &str, end: &str| folder.join(format!("{name}.{end}"));
        let (authority, signer) = (file(AUTHORITY, "pem"), file(SIGNER, "pem"));
        if !signer.exists() {
            let request = |name: &str, subject: &str| -> Command {
                let mut command =
                    openssl(&["req", "-new", "-newkey", "rsa:3072", "-sha256", "-noenc", "-days", "3650"]);
                command.args(["-subj", subject, "-keyout"]).arg(file(name, "key"));
                command
            };
            let mut root = request(AUTHORITY, "/CN=Xen PV drivers test authority");
            root.args(["-x509", "-addext", "basicConstraints=critical,CA:TRUE"]);
            root.args(["-addext", "keyUsage=critical,keyCertSign", "-out"]).arg(&authority);
            run(&mut root)?;
            let mut leaf = request(SIGNER, "/CN=Xen PV drivers test signature");
            leaf.args(["-x509", "-CA"]).arg(&authority).arg("-CAkey").arg(file(AUTHORITY, "key"));
            leaf.args([
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-addext",
                "keyUsage=critical,digitalSignature",
            ]);
            leaf.args(["-addext", "extendedKeyUsage=codeSigning", "-out"]).arg(&signer);
            run(&mut leaf)?;
            let mut der = openssl(&["x509", "-outform", "der", "-in"]);
            der.arg(&authority).arg("-out").arg(file(AUTHORITY, "cer"));
            run(&mut der)?;
        }
        let key = file(SIGNER, "key");
        Ok(Self::Certificate(Certificate { file: signer, key, chain: Some(authority), timestamp: None }))
    }

    /// Signs `file` in its place.
    ///
    /// # Errors
    /// Where osslsigncode fails; the file is as it was.
    pub fn sign(&self, file: &Path) -> anyhow::Result<()> {
        let Self::Certificate(given) = self else { return Ok(()) };
        packages::ensure(&[&OSSLSIGNCODE])?;
        let signed = file.with_extension("signed");
        let _ = std::fs::remove_file(&signed);
        let mut command = Command::new(OSSLSIGNCODE.path());
        command.args(["sign", "-h", "sha256", "-certs"]).arg(&given.file).arg("-key").arg(&given.key);
        if let Some(chain) = &given.chain {
            command.arg("-ac").arg(chain);
        }
        if let Some(url) = &given.timestamp {
            command.arg("-ts").arg(url);
        }
        command.arg("-in").arg(file).arg("-out").arg(&signed);
        run(&mut command).with_context(|| format!("signing {}", file.display()))?;
        std::fs::rename(&signed, file).with_context(|| format!("cannot replace {}", file.display()))
    }

    /// The certificate that a user has to trust, as Windows imports it.
    pub fn to_trust(&self) -> Option<PathBuf> {
        match self {
            Self::Certificate(Certificate { chain: Some(chain), .. }) => {
                Some(chain.with_extension("cer")).filter(|file| file.exists())
            }
            _ => None,
        }
    }
}

fn openssl(arguments: &[&str]) -> Command {
    let mut command = Command::new(OPENSSL.path());
    command.args(arguments);
    command
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!("{program}: {}", String::from_utf8_lossy(&text).trim());
    }
    Ok(())
}

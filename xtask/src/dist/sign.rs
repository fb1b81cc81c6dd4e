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

impl Certificate {
    /// The signing program, but for what is signed.
    fn command(&self) -> Command {
        let mut command = Command::new(OSSLSIGNCODE.path());
        command.args(["sign", "-h", "sha256", "-certs"]).arg(&self.file).arg("-key").arg(&self.key);
        if let Some(chain) = &self.chain {
            command.arg("-ac").arg(chain);
        }
        if let Some(url) = &self.timestamp {
            command.arg("-ts").arg(url);
        }
        command
    }
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
        let mut command = given.command();
        command.arg("-in").arg(file).arg("-out").arg(&signed);
        run(&mut command).with_context(|| format!("signing {}", file.display()))?;
        std::fs::rename(&signed, file).with_context(|| format!("cannot replace {}", file.display()))
    }

    /// A script that signs the file named by its argument in its place, for a tool that makes what is to be signed in the
    /// middle of its work. `None`: nothing is signed.
    ///
    /// # Errors
    /// The script cannot be written.
    pub fn script(&self, to: &Path) -> anyhow::Result<Option<PathBuf>> {
        let Self::Certificate(given) = self else { return Ok(None) };
        let command = given.command();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let quoted: Vec<String> =
            words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))).collect();
        let text = format!(
            "#!/bin/sh\nset -e\n{} -in \"$1\" -out \"$1.signed\" >/dev/null\nmv \"$1.signed\" \"$1\"\n",
            quoted.join(" ")
        );
        crate::workspace::write(to, text.as_bytes())?;
        crate::linker::make_executable(to)?;
        Ok(Some(to.to_owned()))
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

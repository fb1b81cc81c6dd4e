//! PowerShell.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use bootcfg::process;

use crate::network::Shell;

/// How long a script may take. A cold start of PowerShell alone takes seconds.
const LIMIT: Duration = Duration::from_secs(90);

/// Windows PowerShell, by its path: a program of the same name elsewhere on the search path is none of it.
pub struct PowerShell;

impl Shell for PowerShell {
    fn run(&self, script: &str) -> anyhow::Result<String> {
        let root = std::env::var_os("SystemRoot").context("Windows does not say where it is (SystemRoot)")?;
        let program = PathBuf::from(root).join(r"System32\WindowsPowerShell\v1.0\powershell.exe");
        let mut command = Command::new(program);
        command.args(["-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-Command", script]);
        let output = process::output(&mut command, LIMIT).context("running PowerShell")?;
        if !output.status.success() {
            bail!("PowerShell: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

//! What cargo starts as the linker of a driver: rustc's arguments with every path of this machine taken out, then the
//! real linker.
//!
//! lld writes its command line, the working folder and the names of all object files into the PDB, and a hash of the PDB
//! into the image. rustc names absolute paths and a temporary folder with a random name. So the linker is started at the
//! top of the tree with paths relative to it, and the temporary folder is reached by a link of a fixed name.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;

/// Arguments of the command behind the script that [`write_script`] makes.
#[derive(clap::Args)]
pub struct Args {
    /// The real linker
    #[arg(long)]
    linker: PathBuf,
    /// The top of the source tree
    #[arg(long)]
    root: PathBuf,
    /// What rustc passes
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the linker.
///
/// # Errors
/// Where it cannot be started.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let plan = Plan::new(&args.root, &args.arguments);
    if let (Some(folder), Some(link)) = (&plan.temporary, &plan.link) {
        let link = args.root.join(link);
        let _ = std::fs::remove_file(&link);
        symlink(folder, &link).with_context(|| format!("cannot make {}", link.display()))?;
    }
    let status = Command::new(&args.linker)
        .args(&plan.arguments)
        .current_dir(&args.root)
        .status()
        .with_context(|| format!("cannot start {}", args.linker.display()))?;
    if let Some(link) = &plan.link {
        // It points nowhere once rustc is done; a stale one is replaced by the next build.
        let _ = std::fs::remove_file(args.root.join(link));
    }
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Writes the script that stands as the linker in cargo's configuration. Its name must be `lld-link`: rustc takes the
/// flavour of the command line from it.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_script(script: &Path, linker: &Path, root: &Path) -> anyhow::Result<()> {
    let xtask = std::env::current_exe().context("cannot tell where xtask is")?;
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let text = format!(
        "#!/bin/sh\nexec {} link --linker {} --root {} -- \"$@\"\n",
        quoted(&xtask),
        quoted(linker),
        quoted(root)
    );
    crate::workspace::write_if_changed(script, text.as_bytes())?;
    make_executable(script)
}

/// The command line as it is passed on.
struct Plan {
    arguments: Vec<String>,
    /// rustc's temporary folder, if it names one.
    temporary: Option<PathBuf>,
    /// The link to it, from the top of the tree.
    link: Option<String>,
}

impl Plan {
    fn new(root: &Path, arguments: &[String]) -> Self {
        let prefix = format!("{}/", root.display());
        let inside = |argument: &str| argument.replacen(&prefix, "", 1);
        let temporary = arguments.iter().find_map(|argument| temporary_folder(argument));
        let out = arguments.iter().find_map(|argument| argument.strip_prefix("/OUT:"));
        let link = temporary.as_ref().and(out).map(|out| format!("{}.link", inside(out)));
        let arguments = arguments
            .iter()
            .map(|argument| match (&temporary, &link) {
                (Some(folder), Some(link)) => inside(&argument.replacen(folder, link, 1)),
                _ => inside(argument),
            })
            .collect();
        Self { arguments, temporary: temporary.map(PathBuf::from), link }
    }
}

/// `/tmp/rustcAbCdEf` of an argument that has a path below it.
fn temporary_folder(argument: &str) -> Option<String> {
    let start = argument.find("/rustc")?;
    let end = start + 1 + argument[start + 1..].find('/')?;
    let name = &argument[start + "/rustc".len()..end];
    let begin = argument.rfind(":/").filter(|&colon| colon < start).map_or(0, |colon| colon + 1);
    let random = name.len() == 6 && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    random.then(|| argument[begin..end].to_owned())
}

#[cfg(unix)]
fn symlink(from: &Path, to: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(from, to)
}

/// Lets a file be started as a program.
///
/// # Errors
/// Its permissions cannot be changed.
#[cfg(unix)]
pub fn make_executable(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Lets a file be started as a program.
///
/// # Errors
/// None: there is nothing to do.
#[cfg(not(unix))]
pub fn make_executable(_: &Path) -> anyhow::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_of_the_machine_is_passed_on() {
        let rustc = ["/DEF:/tmp/rustcAbC123/lib.def", "/tmp/rustcAbC123/symbols.o", "/src/tree/target/x/deps/a.o"];
        let mut arguments: Vec<String> = rustc.iter().map(|&argument| argument.to_owned()).collect();
        arguments.push("/OUT:/src/tree/target/x/deps/xenpci.dll".into());
        let plan = Plan::new(Path::new("/src/tree"), &arguments);
        assert_eq!(plan.temporary.as_deref(), Some(Path::new("/tmp/rustcAbC123")));
        assert_eq!(
            plan.arguments,
            [
                "/DEF:target/x/deps/xenpci.dll.link/lib.def",
                "target/x/deps/xenpci.dll.link/symbols.o",
                "target/x/deps/a.o",
                "/OUT:target/x/deps/xenpci.dll",
            ]
        );
    }

    #[test]
    fn a_temporary_folder_in_the_tree_is_found_too() {
        let arguments = ["/DEF:/src/tree/x/rustcAbC123/lib.def".to_owned(), "/OUT:/src/tree/x/xenpci.dll".to_owned()];
        let plan = Plan::new(Path::new("/src/tree"), &arguments);
        assert_eq!(plan.temporary.as_deref(), Some(Path::new("/src/tree/x/rustcAbC123")));
        assert_eq!(plan.arguments, ["/DEF:x/xenpci.dll.link/lib.def", "/OUT:x/xenpci.dll"]);
    }

    #[test]
    fn the_compiler_s_own_folder_is_not_taken_for_a_temporary_one() {
        assert_eq!(temporary_folder("/LIBPATH:/usr/lib/rustlib/x86_64-pc-windows-msvc/lib"), None);
        assert_eq!(temporary_folder("/usr/src/rustc-1.96.0/library/a.o"), None);
    }
}

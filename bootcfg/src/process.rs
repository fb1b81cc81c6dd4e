//! Other programs, with a limit to their time: Windows' own sometimes wait for a service that does not answer.

use std::io::{self, Read};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// How often is looked whether it has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// Reads a pipe to its end, beside this thread: a full one would hold the program up.
fn read<R: Read + Send + 'static>(pipe: Option<R>) -> Receiver<Vec<u8>> {
    let (sender, content) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read until a failure is what there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        // Nobody waits any more once the time is over.
        let _ = sender.send(bytes);
    });
    content
}

/// Runs a program without input to its end; what it printed. One that takes longer than `limit` is killed.
///
/// # Errors
/// It cannot be started, or it took longer (`TimedOut`).
pub fn output(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let until = Instant::now() + limit;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdout, stderr) = (read(child.stdout.take()), read(child.stderr.take()));
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= until {
            break None;
        }
        std::thread::sleep(PAUSE);
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("it did not end within {} s", limit.as_secs()));
    let Some(status) = status else {
        child.kill()?;
        child.wait()?;
        return Err(late());
    };
    // A program that it left behind may hold its pipes open.
    let rest = |pipe: Receiver<Vec<u8>>| {
        pipe.recv_timeout(until.saturating_duration_since(Instant::now()).max(PAUSE)).map_err(|_| late())
    };
    Ok(Output { status, stdout: rest(stdout)?, stderr: rest(stderr)? })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str, limit_ms: u64) -> io::Result<Output> {
        output(Command::new("sh").args(["-c", script]), Duration::from_millis(limit_ms))
    }

    #[test]
    fn what_it_printed_and_how_it_ended() {
        let done = shell("cat; printf out; printf err >&2; exit 3", 60_000).expect("it runs");
        assert_eq!((done.stdout.as_slice(), done.stderr.as_slice()), (&b"out"[..], &b"err"[..]));
        assert_eq!(done.status.code(), Some(3));
        // More than a pipe holds.
        let much = shell("head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2", 60_000).expect("it runs");
        assert_eq!((much.stdout.len(), much.stderr.len()), (1_000_000, 1_000_000));
        assert!(output(&mut Command::new("/nothing/there"), PAUSE).is_err());
    }

    #[test]
    fn one_that_does_not_end_is_killed() {
        let start = Instant::now();
        for script in ["exec sleep 60", "sleep 60 & printf gone"] {
            let error = shell(script, 300).expect_err("it takes too long");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{script}");
        }
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}

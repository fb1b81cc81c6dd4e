//! A peer that is Linux itself: a TAP interface in a network namespace of its own, with TCP services, pings and iperf3 in it.
//!
//! The namespace belongs to one thread and to what that thread starts, so it is gone with the process.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};
use suites::network::port;
use xen_model::netback::Peer;

use crate::iperf::{self, Reported};

/// The interface's name in its namespace.
const NAME: &str = "vif0";
/// Simulated nanoseconds between two looks at the interface. While the guest idles, a look takes as long in truth, so
/// that the guest's timers do not run away from Linux's.
const LOOK_NS: u64 = 100_000;
/// Seconds after which an iperf3 is ended that does not end.
const IPERF_SECONDS: &str = "60";
/// `TUNSETIFF`, `_IOW('T', 202, int)` (linux/if_tun.h).
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;

/// `struct ifreq` as `TUNSETIFF` reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// The TAP interface as netback's peer.
pub struct Tap {
    file: File,
    outbox: VecDeque<Vec<u8>>,
    looked_ns: u64,
    looked: Instant,
    deadline: u64,
}

/// What a series of Linux's pings came to.
pub struct Pings {
    /// Requests sent.
    pub sent: u32,
    /// Replies.
    pub good: u32,
}

enum Ask {
    Ping { v6: bool, count: u32, answer: Sender<anyhow::Result<Pings>> },
    Iperf { reverse: bool, bytes: u64, answer: Sender<anyhow::Result<Option<Reported>>> },
}

/// The namespace's side.
pub struct Namespace {
    asks: Sender<Ask>,
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("cannot start `ip` (iproute2)")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn open_tap() -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open("/dev/net/tun").context("/dev/net/tun")?;
    let mut request = InterfaceRequest {
        name: [0; libc::IFNAMSIZ],
        flags: (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short,
        rest: [0; 22],
    };
    request.name[..NAME.len()].copy_from_slice(NAME.as_bytes());
    // SAFETY: the descriptor is a tun device; the structure has the size of `struct ifreq` and outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
    ensure!(result == 0, "TUNSETIFF: {}", io::Error::last_os_error());
    Ok(file)
}

/// In a fresh thread: a namespace, an interface in it, listeners.
fn set_up(host_mac: [u8; 6]) -> anyhow::Result<File> {
    // SAFETY: concerns this thread alone.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    ensure!(result == 0, "no network namespace: {}", io::Error::last_os_error());
    let file = open_tap()?;
    let mac = host_mac.map(|byte| format!("{byte:02x}")).join(":");
    ip("link set lo up")?;
    ip(&format!("link set {NAME} address {mac}"))?;
    ip(&format!("addr add 10.77.0.1/24 dev {NAME}"))?;
    // Hosts without IPv6 still serve IPv4.
    let _without_v6 = ip(&format!("addr add fd77:0::1/64 dev {NAME} nodad"));
    ip(&format!("link set {NAME} up"))?;
    for (number, serve) in
        [(port::ECHO, echo as fn(TcpStream) -> io::Result<()>), (port::SINK, sink), (port::SOURCE, source)]
    {
        let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, number)))
            .or_else(|_| TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], number))))
            .with_context(|| format!("port {number}"))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // What a client does with its connection is its own business; the guest's side judges.
                std::thread::spawn(move || serve(stream));
            }
        });
    }
    Ok(file)
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    io::copy(&mut stream.try_clone()?, &mut stream).map(|_| ())
}

fn sink(mut stream: TcpStream) -> io::Result<()> {
    let (mut sha, mut count, mut buf) = (Sha256::new(), 0u64, vec![0; 1 << 16]);
    loop {
        let n = stream.read(&mut buf)?;
        if n == 0 {
            break;
        }
        sha.update(&buf[..n]);
        count += n as u64;
    }
    stream.write_all(&count.to_le_bytes())?;
    stream.write_all(&sha.finalize())
}

fn source(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [[0; 8]; 2];
    for word in &mut request {
        stream.read_exact(word)?;
    }
    let [mut left, seed] = request.map(u64::from_le_bytes);
    let (mut sha, mut offset) = (Sha256::new(), 0);
    let mut buf = vec![0; 1 << 16];
    while left > 0 {
        let n = left.min(buf.len() as u64) as usize;
        xen_model::netback::stream_bytes(seed, offset, &mut buf[..n]);
        sha.update(&buf[..n]);
        stream.write_all(&buf[..n])?;
        offset += n as u64;
        left -= n as u64;
    }
    stream.write_all(&sha.finalize())
}

/// `ping` as iputils have it; its summary line tells.
fn ping(v6: bool, count: u32) -> anyhow::Result<Pings> {
    let target = if v6 { "fd77:0::2" } else { "10.77.0.2" };
    let count_text = count.to_string();
    let output = Command::new("ping")
        .args(["-n", "-q", "-i", "0.2", "-W", "2", "-c", &count_text, target])
        .output()
        .context("no `ping` (iputils-ping) on this host")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let summary = text.lines().find(|line| line.contains("packets transmitted")).context("ping printed no summary")?;
    let numbers: Vec<u32> = summary.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [sent, good, ..] => Ok(Pings { sent, good }),
        _ => bail!("ping printed {summary:?}"),
    }
}

/// `iperf3` against the guest, which serves it. `None`: the host has no iperf3.
fn iperf(reverse: bool, bytes: u64) -> anyhow::Result<Option<Reported>> {
    /// What `timeout` says where there is no such program.
    const NOT_FOUND: i32 = 127;
    let mut command = Command::new("timeout");
    command.args([IPERF_SECONDS, "iperf3", "-J", "-c", "10.77.0.2", "-n", &bytes.to_string()]);
    if reverse {
        command.arg("-R");
    }
    let output = command.output().context("cannot start `timeout`")?;
    if output.status.code() == Some(NOT_FOUND) {
        return Ok(None);
    }
    let report = iperf::read_report(&output.stdout).with_context(|| output.status.to_string())?;
    ensure!(output.status.success(), "iperf3: {}", output.status);
    Ok(Some(report))
}

fn serve(asks: &Receiver<Ask>) {
    for ask in asks {
        match ask {
            // Whoever asked may have given up.
            Ask::Ping { v6, count, answer } => drop(answer.send(ping(v6, count))),
            Ask::Iperf { reverse, bytes, answer } => drop(answer.send(iperf(reverse, bytes))),
        }
    }
}

/// Opens a TAP interface in a namespace of its own.
///
/// # Errors
/// The host cannot: no root, no /dev/net/tun, no `ip`.
pub fn open(host_mac: [u8; 6]) -> anyhow::Result<(Tap, Namespace)> {
    let (done, ready) = mpsc::channel();
    let (asks, asked) = mpsc::channel();
    std::thread::Builder::new().name("namespace".to_owned()).spawn(move || {
        let result = set_up(host_mac);
        let failed = result.is_err();
        if done.send(result).is_ok() && !failed {
            serve(&asked);
        }
    })?;
    let file = ready.recv().context("the namespace's thread is gone")??;
    let tap = Tap { file, outbox: VecDeque::new(), looked_ns: 0, looked: Instant::now(), deadline: 0 };
    Ok((tap, Namespace { asks }))
}

impl Namespace {
    /// Lets Linux ping the guest. The answer comes while the guest runs.
    pub fn ping(&self, v6: bool, count: u32) -> Receiver<anyhow::Result<Pings>> {
        let (answer, receiver) = mpsc::channel();
        // Without the thread the receiver says so.
        drop(self.asks.send(Ask::Ping { v6, count, answer }));
        receiver
    }

    /// Lets Linux's iperf3 send the guest so many bytes, or receive them. The answer comes while the guest serves it;
    /// `None`: the host has no iperf3.
    pub fn iperf(&self, reverse: bool, bytes: u64) -> Receiver<anyhow::Result<Option<Reported>>> {
        let (answer, receiver) = mpsc::channel();
        // As above.
        drop(self.asks.send(Ask::Iperf { reverse, bytes, answer }));
        receiver
    }
}

/// Waits until the descriptor can be read, at most for `time`.
fn wait(fd: RawFd, time: Duration) {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let time = libc::timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
    // SAFETY: one descriptor and a time, both on this stack. A signal ends the wait early, which does no harm.
    unsafe { libc::ppoll(&raw mut poll, 1, &raw const time, std::ptr::null()) };
}

impl Peer for Tap {
    fn receive(&mut self, frame: Vec<u8>) {
        // A full queue loses frames, as a wire does.
        let _lost = (&self.file).write(&frame);
    }

    fn poll(&mut self, now_ns: u64) -> bool {
        if now_ns < self.deadline {
            return false;
        }
        let (simulated, real) = (Duration::from_nanos(now_ns - self.looked_ns), self.looked.elapsed());
        if let Some(ahead) = simulated.checked_sub(real) {
            wait(self.file.as_raw_fd(), ahead.min(Duration::from_millis(2)));
        }
        (self.looked_ns, self.looked, self.deadline) = (now_ns, Instant::now(), now_ns + LOOK_NS);
        let before = self.outbox.len();
        let mut buf = vec![0; 1 << 16];
        while let Ok(n) = (&self.file).read(&mut buf) {
            self.outbox.push_back(buf[..n].to_vec());
        }
        self.outbox.len() > before
    }

    fn transmit(&mut self) -> Option<Vec<u8>> {
        self.outbox.pop_front()
    }

    fn deadline(&self) -> Option<u64> {
        Some(self.deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_answers_an_arp_request() {
        let (mut tap, _namespace) = match open([2, 0x77, 0, 0, 0, 0]) {
            Ok(pair) => pair,
            Err(why) => return println!("skipped: {why:#}"),
        };
        let guest = [0, 0x16, 0x3e, 1, 2, 3];
        let mut request = [&[0xff; 6][..], &guest, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &guest, &[10, 77, 0, 2]].concat();
        request.extend([0, 0, 0, 0, 0, 0, 10, 77, 0, 1]);
        tap.receive(request);
        let mut now = 0;
        let reply = std::iter::from_fn(|| {
            now += LOOK_NS;
            tap.poll(now);
            Some(tap.transmit())
        })
        .take(20_000)
        .flatten()
        .find(|frame| frame[..6] == guest);
        let reply = reply.expect("two simulated seconds are enough for Linux");
        assert_eq!((&reply[6..12], &reply[20..22]), (&[2, 0x77, 0, 0, 0, 0][..], &[0, 2][..]));
    }
}

//! The network loads against dom0's peer (`tests/lab/agent/src/bench/peer.rs`): one stream of TCP, or datagrams of 18 bytes, in
//! or out, as a program does it: `read` and `write` of 128 KiB, `recvmmsg` and `sendmmsg` of 64 datagrams.

use std::ffi::CString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use lab_netload::{Batch, FILLING, PIECE, SINK, SOURCE, is_idle};

use crate::mailbox::Mailbox;

/// Between looks whether the run is over while nothing comes.
const LOOK: Duration = Duration::from_millis(5);

/// What is asked for.
pub struct Shape {
    /// The N of 10.77.N.1, which is dom0.
    pub index: u8,
    /// TCP, or UDP.
    pub tcp: bool,
    /// To dom0, or from it.
    pub out: bool,
}

/// The interface of that address that the driver with this name in sysfs has. An emulated one has a twin of netfront's.
fn find(driver: &str, mac: &str) -> Option<String> {
    let names = fs::read_dir("/sys/class/net").ok()?.flatten();
    names.filter_map(|entry| entry.file_name().into_string().ok()).find(|name| {
        let folder = Path::new("/sys/class/net").join(name);
        let own = fs::read_link(folder.join("device/driver")).is_ok_and(|link| link.ends_with(driver));
        own && fs::read_to_string(folder.join("address")).is_ok_and(|address| address.trim() == mac)
    })
}

/// Gives the interface its address and sets it up.
pub fn up(driver: &str, mac: &str, address: Ipv4Addr) -> anyhow::Result<()> {
    let mut tries = 0;
    let name = loop {
        match find(driver, mac) {
            Some(name) => break name,
            None if tries == 300 => bail!("{driver} has no interface {mac}"),
            None => std::thread::sleep(Duration::from_millis(100)),
        }
        tries += 1;
    };
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let name = CString::new(name)?;
    let request = |code: libc::c_ulong, union: libc::__c_anonymous_ifr_ifru| {
        // SAFETY: all zero is valid.
        let mut of: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in of.ifr_name.iter_mut().zip(name.as_bytes()) {
            *to = from.cast_signed();
        }
        of.ifr_ifru = union;
        // SAFETY: the request is whole and lives through the call.
        if unsafe { libc::ioctl(socket.as_raw_fd(), code as _, &raw const of) } != 0 {
            bail!("{name:?}: request {code:#x}: {}", std::io::Error::last_os_error());
        }
        Ok(())
    };
    let inet = |address: Ipv4Addr| {
        let bits = u32::from(address).to_be_bytes();
        let mut data = [0; 14];
        for (to, from) in data[2..6].iter_mut().zip(bits) {
            *to = from.cast_signed();
        }
        libc::sockaddr { sa_family: libc::AF_INET as u16, sa_data: data }
    };
    request(libc::SIOCSIFADDR, libc::__c_anonymous_ifr_ifru { ifru_addr: inet(address) })?;
    let mask = Ipv4Addr::new(255, 255, 255, 0);
    request(libc::SIOCSIFNETMASK, libc::__c_anonymous_ifr_ifru { ifru_netmask: inet(mask) })?;
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    request(libc::SIOCSIFFLAGS, libc::__c_anonymous_ifr_ifru { ifru_flags: flags })
}

/// Interrupts of the interface that has the address so far. netfront's have the name of its device and the queue, others
/// the interface's name.
fn interrupts(index: u8) -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/interrupts")?;
    let name = name_of(Ipv4Addr::new(10, 77, index, 2))?;
    let device = fs::read_link(format!("/sys/class/net/{name}/device"))?;
    let device = device.file_name().and_then(|name| name.to_str()).unwrap_or_default().replace('-', "");
    // `NUMBER: count of each processor, then words`.
    let own = |line: &str| {
        let last = line.split_ascii_whitespace().last().unwrap_or_default();
        last == name || last.strip_prefix(&device).is_some_and(|rest| rest.starts_with("-q"))
    };
    let of =
        |line: &str| -> u64 { line.split_ascii_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum() };
    Ok(text.lines().filter(|line| own(line)).map(of).sum())
}

/// The interface through which the route to the address's network goes.
fn name_of(address: Ipv4Addr) -> anyhow::Result<String> {
    let network = u32::from_ne_bytes([address.octets()[0], address.octets()[1], address.octets()[2], 0]);
    let text = fs::read_to_string("/proc/net/route")?;
    let line = text
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .find(|words| words.get(1).and_then(|word| u32::from_str_radix(word, 16).ok()) == Some(network));
    Ok((*line.as_ref().and_then(|words| words.first()).with_context(|| format!("no route for {address}"))?).to_owned())
}

/// A connection that is closed is reset: nothing of it is left over for the next run.
fn connect(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the socket is open, the value lives through the call.
    let set = unsafe {
        let (value, bytes) = ((&raw const linger).cast(), size_of::<libc::linger>() as u32);
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, bytes)
    };
    if set != 0 {
        bail!("a socket cannot be set: {}", std::io::Error::last_os_error());
    }
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_write_timeout(Some(LOOK))?;
    Ok(stream)
}

/// Runs it until the agent says that this run is over: `done RUN UNITS ERRORS INTERRUPTS`; units are bytes of TCP, or datagrams.
pub fn run(mailbox: &Mailbox, run: u32, shape: &Shape) -> anyhow::Result<String> {
    let peer = Ipv4Addr::new(10, 77, shape.index, 1);
    let to = SocketAddr::from((peer, if shape.out { SINK } else { SOURCE }));
    let before = interrupts(shape.index)?;
    let mut done = 0_u64;
    mailbox.tell(0);
    if shape.tcp {
        let mut stream = connect(to)?;
        let mut buf = vec![FILLING; PIECE];
        while !mailbox.is_over(run) {
            let moved = if shape.out { stream.write(&buf) } else { stream.read(&mut buf) };
            match moved {
                Ok(0) => bail!("the peer closed the connection"),
                Ok(count) => done += count as u64,
                Err(error) if is_idle(&error) => {}
                Err(error) => return Err(error.into()),
            }
            mailbox.tell(done);
        }
    } else {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(LOOK))?;
        let mut batch = Batch::new();
        while !mailbox.is_over(run) {
            if shape.out {
                done += batch.send(&socket, None)?;
            } else {
                if done == 0 {
                    // Who asks gets datagrams; asked again, should the first be lost.
                    socket.send(b"go")?;
                }
                done += batch.receive(&socket)?;
            }
            mailbox.tell(done);
        }
    }
    Ok(format!("done {run} {done} 0 {}", interrupts(shape.index)? - before))
}

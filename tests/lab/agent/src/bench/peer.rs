//! dom0's end of the measured network loads: takes what comes, or sends as fast as it can, and looks at nothing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Context;
use lab_netload::{Batch, FILLING, PIECE, SINK, SOURCE, sender};

/// Bytes by TCP, or datagrams, since [`begin`].
static RECEIVED: AtomicU64 = AtomicU64::new(0);
/// A measurement runs.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// Bytes by TCP, or datagrams, that came since [`begin`].
pub fn received() -> u64 {
    RECEIVED.load(Ordering::Relaxed)
}

/// A measurement begins.
pub fn begin() {
    RECEIVED.store(0, Ordering::Relaxed);
    RUNNING.store(true, Ordering::Relaxed);
}

/// It ended: nothing more is sent by UDP.
pub fn end() {
    RUNNING.store(false, Ordering::Relaxed);
}

/// Starts the threads, for good.
pub fn start() -> anyhow::Result<()> {
    for (port, body) in [(SINK, sink as fn(TcpStream) -> std::io::Result<()>), (SOURCE, source)] {
        let listener = TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("TCP port {port}"))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A guest that resets the connection has ended its load.
                std::thread::spawn(move || drop(body(stream)));
            }
        });
    }
    let sink = UdpSocket::bind(("0.0.0.0", SINK)).context("UDP port of the sink")?;
    std::thread::spawn(move || {
        let mut batch = Batch::new();
        loop {
            // The socket stays; what one call could not take the next one does.
            RECEIVED.fetch_add(batch.receive(&sink).unwrap_or(0), Ordering::Relaxed);
        }
    });
    let source = UdpSocket::bind(("0.0.0.0", SOURCE)).context("UDP port of the source")?;
    std::thread::spawn(move || {
        let mut batch = Batch::new();
        while let Some(mut to) = sender(&source, true) {
            while RUNNING.load(Ordering::Relaxed) {
                // One who asked in an earlier measurement may have been left over.
                while let Some(newer) = sender(&source, false) {
                    to = newer;
                }
                // What the kernel has no room for is lost, as ever.
                let _ = batch.send(&source, Some(to));
            }
        }
    });
    Ok(())
}

fn sink(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buf = vec![0; PIECE];
    loop {
        match stream.read(&mut buf)? {
            0 => return Ok(()),
            count => RECEIVED.fetch_add(count as u64, Ordering::Relaxed),
        };
    }
}

fn source(mut stream: TcpStream) -> std::io::Result<()> {
    let buf = vec![FILLING; PIECE];
    loop {
        stream.write_all(&buf)?;
    }
}

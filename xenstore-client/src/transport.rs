//! What carries the messages.

use std::io;

/// A stream of bytes to xenstored and one back, used by two threads at once.
pub trait Transport: Send + Sync + 'static {
    /// Waits for the next bytes; how many came, 0 at the end of the stream.
    ///
    /// # Errors
    /// The connection is lost.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Sends one whole message.
    ///
    /// # Errors
    /// It was not sent. [`io::ErrorKind::QuotaExceeded`]: the connection has too much open, and goes on.
    fn send(&self, message: &[u8]) -> io::Result<()>;

    /// Ends the connection: a [`receive`](Self::receive) that waits returns.
    fn shut_down(&self);
}

#[cfg(unix)]
impl Transport for std::os::unix::net::UnixStream {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut stream = self;
        io::Read::read(&mut stream, buffer)
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        let mut stream = self;
        io::Write::write_all(&mut stream, message)
    }

    fn shut_down(&self) {
        // An error means that the other end is gone already.
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

impl Transport for std::net::TcpStream {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut stream = self;
        io::Read::read(&mut stream, buffer)
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        let mut stream = self;
        io::Write::write_all(&mut stream, message)
    }

    fn shut_down(&self) {
        // An error means that the other end is gone already.
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

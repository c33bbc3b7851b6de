//! The connection between a dump and a page server.

use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::time::Duration;

use crate::error::Error;

/// A connection.
pub trait Wire: Read + Write + Send + Debug {
    /// For how long it is waited from now on until something comes, or can be sent.
    ///
    /// # Errors
    /// As the connection's.
    fn wait_for(&mut self, time: Duration) -> io::Result<()>;

    /// Waits until the other side has gone.
    fn await_end(&mut self) {
        let mut byte = [0];
        while let Ok(1..) = self.read(&mut byte) {}
    }
}

/// What is done fails: by the words of who waits, where it waited in vain.
pub(super) fn failed(operation: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| {
        let source = match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                io::Error::new(io::ErrorKind::TimedOut, "the other side does nothing")
            }
            io::ErrorKind::UnexpectedEof => io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the other side has ended the connection",
            ),
            _ => source,
        };
        Error::PageServerLink { operation, source }
    }
}

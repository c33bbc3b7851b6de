//! What is said of an answer that is not understood.

use std::io;

pub(super) fn strange() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message of the kernel is not understood")
}

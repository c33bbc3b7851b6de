//! Descriptor numbers that are taken, so that what is opened gets others.
//!
//! What is opened gets the lowest free number, and to move it to another takes two calls. Who opens
//! thousands of files has all lower numbers taken instead, 253 by one message (`SCM_RIGHTS`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::descriptors::close_all;
use crate::passing::{MOST, receive, send};
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;

/// Numbers that are given back when this goes.
#[derive(Debug, Default)]
pub struct Reserved(Vec<OwnedFd>);

impl Reserved {
    /// Takes all free numbers below `base`.
    ///
    /// # Errors
    /// When the limits do not allow so many.
    pub fn below(base: RawFd) -> io::Result<Self> {
        let any = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        let (one, other) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        let mut reserved = Self::default();
        let mut next = 0;
        while next < base {
            let count = MOST.min((base - next).unsigned_abs() as usize);
            send(&one, b".", &vec![&any; count])?;
            let taken = receive(&other, &mut [0])?;
            // They were the lowest ones: all below the last is taken.
            let Some(last) = taken.last().map(AsRawFd::as_raw_fd) else {
                return Err(io::Error::from_raw_os_error(libc::EMFILE));
            };
            next = last + 1;
            reserved.0.extend(taken);
        }
        // Those by which they were taken have low numbers, too; those that are not low are given back.
        reserved.0.extend([any, one, other]);
        let (low, high): (Vec<_>, Vec<_>) =
            reserved.0.drain(..).partition(|fd| fd.as_raw_fd() < base);
        reserved.0 = low;
        close_all(high);
        Ok(reserved)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        close_all(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_opened_gets_a_number_from_the_base_on_until_they_are_given_back() {
        let base = 700;
        let number = || open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        let before = number().as_raw_fd();
        let reserved = Reserved::below(base).unwrap();
        assert_eq!(number().as_raw_fd(), base);
        drop(reserved);
        assert_eq!(number().as_raw_fd(), before);
    }
}

//! What `TCP_INFO` tells of a connection (`struct tcp_info`, include/uapi/linux/tcp.h), as far as it says whether
//! anything in it has moved.

use std::io;
use std::os::fd::AsFd;

use libc::SOL_TCP;

use crate::sockets::option_bytes;

/// Up to `tcpi_notsent_bytes`, which is there since Linux 4.6.
const BYTES: usize = 148;

/// A connection at one moment. The kernel counts a segment that comes before it does anything with it: what two of
/// these are equal about has not changed between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Info {
    /// Its state.
    pub(super) state: u8,
    /// `TCPI_OPT_*`.
    pub(super) options: u8,
    /// Scale of the peer's window.
    pub(super) sent_scale: u8,
    /// Scale of its own window.
    pub(super) received_scale: u8,
    /// Bytes that were written and not sent; what closes its side counts as one.
    pub(super) unsent: u32,
    /// Segments that were sent and not confirmed, with such as only close its side.
    on_their_way: u32,
    bytes_confirmed: u64,
    bytes_received: u64,
    segments_sent: u32,
    segments_received: u32,
}

impl Info {
    /// # Errors
    /// When it is no TCP socket, or the kernel is too old.
    pub(super) fn read(socket: impl AsFd) -> io::Result<Self> {
        let mut info = [0; BYTES];
        if option_bytes(socket, SOL_TCP, libc::TCP_INFO, &mut info)? < BYTES {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Self::parse(&info))
    }

    fn parse(info: &[u8; BYTES]) -> Self {
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|nth| info[at + nth]));
        let long = |at: usize| u64::from_ne_bytes(std::array::from_fn(|nth| info[at + nth]));
        Self {
            state: info[0],
            options: info[5],
            sent_scale: info[6] & 15,
            received_scale: info[6] >> 4,
            on_their_way: word(24),
            bytes_confirmed: long(120),
            bytes_received: long(128),
            segments_sent: word(136),
            segments_received: word(140),
            unsent: word(144),
        }
    }

    /// Whether all that was written has been sent and confirmed.
    pub(super) const fn has_sent_all(&self) -> bool {
        self.on_their_way == 0 && self.unsent == 0
    }
}

//! Unix sockets of processes that had themselves dumped: each was connected to who dumped it, and waits for an answer.
//! It finds that it has been restored.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use images::messages::{UNIX_CLIENT, UnixSkEntry};
use kernel::sockets;

use super::opening::flagged;
use super::unix_plan::{failed, what};
use super::{Error, socket_options};

/// The answer of CRIU's RPC: of a dump, which succeeded, to who has been restored.
const RESTORED: [u8; 8] = [0x08, 1, 0x10, 1, 0x1a, 2, 0x08, 1];

/// Whether it is such a socket.
pub(super) const fn is_client(entry: &UnixSkEntry) -> bool {
    entry.uflags & UNIX_CLIENT != 0
}

/// Makes one.
pub(super) fn open(entry: &UnixSkEntry) -> Result<OwnedFd, Error> {
    let kind = entry.r#type.cast_signed();
    let (client, other) = sockets::create_pair(kind).map_err(failed("make", entry))?;
    // Bytes are written to a socket of any type alike.
    UnixStream::from(other).write_all(&RESTORED).map_err(failed("answer", entry))?;
    socket_options::all(&client, &entry.opts, None, &what(entry))?;
    socket_options::others(&client, &entry.opts, &what(entry))?;
    flagged(client, entry.flags, &what(entry))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn it_reads_the_answer_and_then_the_end() {
        let kind = libc::SOCK_SEQPACKET.cast_unsigned();
        let entry = UnixSkEntry { r#type: kind, uflags: UNIX_CLIENT, ..UnixSkEntry::default() };
        assert!(is_client(&entry) && !is_client(&UnixSkEntry::default()));
        let client = open(&entry).unwrap();
        let mut said = Vec::new();
        UnixStream::from(client).read_to_end(&mut said).unwrap();
        assert_eq!(said, RESTORED);
    }
}

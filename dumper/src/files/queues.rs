//! What is queued in Unix sockets, read and left there.
//!
//! The kernel shows what lies behind the first message by the peek offset alone, which is the target's own: it
//! is put back.

use std::os::fd::{BorrowedFd, OwnedFd};

use kernel::queues::{Peeked, Sender, has_urgent_byte, peek, peek_at_bytes, peek_at_whole_parts};
use kernel::sockets::{has_error, option, set_option};
use kernel::tty::bytes_waiting;
use libc::{SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET};

use super::problem::{Doing, Problem};

/// Longest message that a queue is read with at first; longer ones are read again.
const MESSAGE: usize = 256 << 10;

/// `SO_PASSPIDFD`.
const SO_PASSPIDFD: i32 = 76;

/// A message that is queued; of a stream, bytes that one call can receive.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    /// The files that travel with it, as descriptors of ours.
    pub(super) files: Vec<OwnedFd>,
    /// The name of its sender, if that has one and it is a datagram.
    pub(super) name: Vec<u8>,
    /// Its sender, if the socket asks for that and the kernel knows.
    pub(super) sender: Option<Sender>,
}

/// What is queued in a socket of a kind (`SOCK_*`) that does not listen.
pub(super) fn read(socket: BorrowedFd<'_>, kind: i32) -> Result<Vec<Message>, Problem> {
    let messages = read_queue(socket, kind)?;
    // A pidfd of who has ended, as it would be after a restore, cannot be made.
    if !messages.is_empty()
        && option(socket, SOL_SOCKET, SO_PASSPIDFD).is_ok_and(|is_set| is_set != 0)
    {
        return Err(Problem::Refused(support::sockets::credentials_wait("SO_PASSPIDFD")));
    }
    Ok(messages)
}

fn read_queue(socket: BorrowedFd<'_>, kind: i32) -> Result<Vec<Message>, Problem> {
    let stream = kind == SOCK_STREAM;
    let waiting = bytes_waiting(socket).doing("get queue of")? as usize;
    if stream && waiting == 0 {
        return Ok(Vec::new());
    }
    // A look would receive it, and the program never hear of it.
    if has_error(socket).doing("look for errors of")? {
        return Err(Problem::Refused(support::sockets::ERROR_WAITS));
    }
    if waiting == 0 {
        // Only datagrams can be queued and be of no bytes.
        if kind != SOCK_DGRAM {
            return Ok(Vec::new());
        }
        let seen = peek_at_bytes(socket, &mut [0]).doing("look into the queue of")?;
        return if seen.is_some() { Err(empty_message()) } else { Ok(Vec::new()) };
    }
    if stream && has_urgent_byte(socket).doing("look for an urgent byte in")? {
        return Err(Problem::Refused(support::sockets::URGENT_BYTE));
    }
    let mut buffer = vec![0; if stream { waiting } else { MESSAGE.max(waiting) }];
    // One look without a peek offset is enough for nearly every queue, and changes nothing.
    let first = peek_at_bytes(socket, &mut buffer).doing("look into the queue of")?;
    let Some(first) = first else { return Ok(Vec::new()) };
    if first.bytes == waiting && (stream || kind == SOCK_SEQPACKET) && !first.has_more {
        buffer.truncate(first.bytes);
        let sender = sender_of(&first)?;
        return Ok(vec![Message { bytes: buffer, sender, ..Message::default() }]);
    }
    Walk { socket, stream }.all(&mut buffer, waiting, kind != SOCK_DGRAM)
}

/// The files that travel with the first message of a socket of a running target, if a look at it changes
/// nothing.
pub(super) fn first_files(socket: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Problem> {
    let offset = option(socket, SOL_SOCKET, libc::SO_PEEK_OFF).doing("get peek offset of")?;
    if offset.cast_signed() >= 0 || has_error(socket).doing("look for errors of")? {
        return Ok(Vec::new());
    }
    let seen = peek(socket, &mut [0]).doing("look into the queue of")?;
    Ok(seen.map_or_else(Vec::new, |seen| seen.descriptors))
}

/// Who sent a message, if the kernel knows.
fn sender_of(seen: &Peeked) -> Result<Option<Sender>, Problem> {
    match seen.sender.filter(|sender| !is_nobody(sender)) {
        Some(sender) if sender.pid <= 0 => Err(Problem::Refused(support::sockets::FOREIGN_SENDER)),
        sender => Ok(sender),
    }
}

/// What the kernel says of a message that it did not note the sender of.
const fn is_nobody(sender: &Sender) -> bool {
    const OVERFLOW: u32 = 65534;
    sender.pid == 0 && sender.uid == OVERFLOW && sender.gid == OVERFLOW
}

/// A way through a queue, message by message.
struct Walk<'a> {
    socket: BorrowedFd<'a>,
    stream: bool,
}

impl Walk<'_> {
    /// The queue; `counted` says that `waiting` is the sum of all its bytes.
    fn all(
        &self,
        buffer: &mut [u8],
        waiting: usize,
        counted: bool,
    ) -> Result<Vec<Message>, Problem> {
        let before = option(self.socket, SOL_SOCKET, libc::SO_PEEK_OFF);
        let before = before.doing("get peek offset of")?;
        self.go_to(0)?;
        let messages = self.messages(buffer, waiting, counted);
        let back = set_option(self.socket, SOL_SOCKET, libc::SO_PEEK_OFF, before);
        back.doing("restore peek offset of")?;
        messages
    }

    fn go_to(&self, offset: usize) -> Result<(), Problem> {
        set_option(self.socket, SOL_SOCKET, libc::SO_PEEK_OFF, offset as u32)
            .doing("set peek offset of")
    }

    fn messages(
        &self,
        buffer: &mut [u8],
        waiting: usize,
        counted: bool,
    ) -> Result<Vec<Message>, Problem> {
        let mut messages = Vec::new();
        let mut total = 0;
        while let Some(seen) = peek(self.socket, buffer).doing("look into the queue of")? {
            // Empty messages do not move the peek offset: they cannot be told apart. The end of a
            // connection, which looks the same, comes after all that waits.
            if seen.bytes == 0 {
                return Err(empty_message());
            }
            if seen.truncated {
                return Err(Problem::Refused(support::sockets::long_message(buffer.len())));
            }
            if seen.has_more {
                return Err(Problem::Refused(support::sockets::MANY_DESCRIPTORS));
            }
            let (count, sender) = (seen.bytes, sender_of(&seen)?);
            let mut bytes = buffer[..count].to_vec();
            if self.stream && !seen.descriptors.is_empty() {
                let plain = self.bytes_before(total, &mut buffer[..count])?;
                let rest = bytes.split_off(plain);
                if plain > 0 {
                    messages.push(Message { bytes, sender, ..Message::default() });
                }
                bytes = rest;
            }
            total += count;
            messages.push(Message { bytes, files: seen.descriptors, name: seen.name, sender });
            if counted && total >= waiting {
                break;
            }
        }
        Ok(messages)
    }

    /// How many bytes from an offset on come before those that descriptors travel with, which are the last
    /// part of the buffer: one call receives them together, but one that asks for fewer bytes receives no
    /// descriptor.
    fn bytes_before(&self, start: usize, buffer: &mut [u8]) -> Result<usize, Problem> {
        let (end, last) = (start + buffer.len(), buffer.len() - 1);
        self.go_to(start)?;
        let before = peek_at_whole_parts(self.socket, &mut buffer[..last]);
        self.go_to(end)?;
        before.doing("look into the queue of")
    }
}

/// The kernel shows an empty message to one look only, so it counts as well how many there are.
pub(super) fn empty_message() -> Problem {
    Problem::Refused(support::sockets::EMPTY_MESSAGE)
}

#[cfg(test)]
#[path = "queues_tests.rs"]
mod tests;

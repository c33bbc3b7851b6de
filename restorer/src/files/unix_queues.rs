//! What is queued in Unix sockets: read from the images, and sent again, with the files that travel with it and
//! in the name of who sent it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use images::checkpoint::{PayloadReader, QueuedPacket};
use images::messages::{PacketSender, PeerCredentials, UnixSkEntry};
use images::{Checkpoint, names};
use kernel::queues::{Sender, send};
use kernel::sockets::Address;

use super::Error;
use super::actors::act;
use super::beside::Part;
use super::images::LONGEST;
use super::keepers::AtHand;
use super::socket_options;
use super::unix_plan::{failed, what};

/// A message that is queued; of a stream, bytes that were sent together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    /// The files that travel with it, by their ids.
    pub(super) files: Vec<u32>,
    /// Who sent it, if it says so.
    pub(super) sender: Option<PacketSender>,
    /// The name of the socket that sent it, if that is not the one which that is connected to.
    pub(super) from: Vec<u8>,
}

/// What is queued in sockets, by file id.
pub(super) type Queues = BTreeMap<u32, Vec<Message>>;

/// What is queued in the sockets of the images.
#[derive(Debug, Default)]
pub(super) struct Queued(pub(super) Queues);

impl Part for Queued {}

/// Reads what is queued in sockets, oldest first.
pub(super) fn load(checkpoint: &Checkpoint) -> Result<Queues, Error> {
    let mut queues = Queues::new();
    let image = names::sk_queues();
    if checkpoint.packets.is_empty() {
        return Ok(queues);
    }
    let mut reader = PayloadReader::open(&checkpoint.images, &image)?;
    for QueuedPacket { entry, payload } in &checkpoint.packets {
        let object = || format!("a message for socket {} of {}", entry.id_for, image.name());
        if entry.length > LONGEST {
            return Err(Error::image(object(), "it is longer than a message can be"));
        }
        if entry.scm.iter().any(|part| part.r#type.cast_signed() != libc::SCM_RIGHTS) {
            return Err(Error::image(object(), "something else than descriptors travels with it"));
        }
        let files: Vec<u32> = entry.scm.iter().flat_map(|part| &part.rights).copied().collect();
        if files.len() > kernel::passing::MOST {
            return Err(Error::image(object(), "more descriptors travel with it than can"));
        }
        let bytes = reader.read(*payload)?;
        let from = entry.from.clone().unwrap_or_default();
        let message = Message { bytes, files, sender: entry.sender, from };
        queues.entry(entry.id_for).or_default().push(message);
    }
    Ok(queues)
}

/// Sends messages to the socket of an entry, to an address or by the connection; `at_hand` gives the files that travel with them.
pub(super) fn deliver<'a>(
    socket: &OwnedFd,
    messages: &[Message],
    entry: &UnixSkEntry,
    address: Option<&Address>,
    at_hand: impl Fn(u32) -> Result<AtHand<'a>, Error>,
) -> Result<(), Error> {
    let to = what(entry);
    let bytes = messages.iter().map(|message| message.bytes.len()).sum();
    socket_options::make_room(socket, bytes, &to)?;
    let stream = entry.r#type.cast_signed() == libc::SOCK_STREAM;
    for message in messages {
        let files = message.files.iter().map(|id| at_hand(*id)).collect::<Result<Vec<_>, _>>()?;
        let mut numbers: Vec<RawFd> = files.iter().map(|file| file.as_fd().as_raw_fd()).collect();
        let mut rest = &message.bytes[..];
        loop {
            let sent = send_as(message.sender, socket, rest, &numbers, address);
            // All of a datagram is sent, or nothing.
            let count = sent.map_err(failed("fill the queue of", entry))?;
            numbers.clear();
            rest = rest.get(count..).unwrap_or_default();
            if rest.is_empty() || !stream {
                break;
            }
        }
    }
    Ok(())
}

/// Sends a message in the name of somebody, if it has one.
fn send_as(
    sender: Option<PacketSender>,
    socket: &OwnedFd,
    bytes: &[u8],
    files: &[RawFd],
    address: Option<&Address>,
) -> io::Result<usize> {
    let Some(PacketSender { pid, uid, gid }) = sender else {
        return send(socket, bytes, files, None, address);
    };
    let named = |number: u32| Some(Sender { pid: number.cast_signed(), uid, gid });
    let send = |number: u32| send(socket, bytes, files, named(number), address);
    match send(pid) {
        // The kernel wants such a process to be there.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
            let who = PeerCredentials { pid, uid, gid, groups: Vec::new() };
            act(Some(&who), || match send(std::process::id())? {
                count if count == bytes.len() => Ok(()),
                _ => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            })?;
            Ok(bytes.len())
        }
        sent => sent,
    }
}

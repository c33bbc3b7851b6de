//! The way to a client: a `SOCK_SEQPACKET` socket on which each packet is one message.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use ids::HostPid;
use kernel::descriptors::{close_range, duplicate_number, place};
use kernel::passing;
use kernel::sockets::{PeerCredentials, peer_credentials};
use nix::sys::socket::{MsgFlags, recv, recvmsg, send};
use prost::Message;

use super::messages::{Request, Response};

/// No request is longer, in bytes.
const LONGEST: usize = 128 << 10;

/// How many bytes of an error an answer has: clients read into buffers of 1 KiB.
const LONGEST_ERROR: usize = 800;

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    /// The socket failed.
    #[error("read a request")]
    Read(#[from] io::Error),
    /// What came is none.
    #[error("read a request: {0}")]
    NotARequest(&'static str),
}

/// The way to a client.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    /// The descriptor that this process was given, which a program that it becomes is to find as well.
    given: Option<RawFd>,
    peer: PeerCredentials,
    /// The directory in which this process began, from which relative paths are meant: it changes to others.
    began_in: PathBuf,
}

impl Connection {
    /// Takes over the descriptor `number` of this process.
    pub(crate) fn adopt(number: RawFd) -> io::Result<Self> {
        let socket = duplicate_number(number)?
            .ok_or_else(|| io::Error::other(format!("descriptor {number} is not open")))?;
        let peer = peer_credentials(&socket)?.ok_or_else(|| {
            io::Error::other(format!("descriptor {number} has nobody at its end"))
        })?;
        let began_in = std::env::current_dir()?;
        Ok(Self { socket, given: Some(number), peer, began_in })
    }

    /// Where relative paths of requests begin.
    pub(crate) fn began_in(&self) -> &Path {
        &self.began_in
    }

    /// Who made the other end.
    pub(crate) const fn peer(&self) -> &PeerCredentials {
        &self.peer
    }

    /// The inode of its socket.
    pub(crate) fn inode(&self) -> Option<u32> {
        let inode = nix::sys::stat::fstat(&self.socket).ok()?.st_ino;
        u32::try_from(inode).ok()
    }

    /// The next request, which stays where it is; `None` when the client has gone.
    pub(crate) fn peek(&self) -> Result<Option<Request>, ConnectionError> {
        self.read(MsgFlags::MSG_PEEK)
    }

    /// The next request; `None` when the client has gone.
    pub(crate) fn next(&mut self) -> Result<Option<Request>, ConnectionError> {
        let request = self.read(MsgFlags::empty());
        self.give_up_number();
        request
    }

    /// This process does not answer any more: another one that has the connection does.
    pub(super) fn leave(&mut self) -> io::Result<()> {
        self.socket = File::open("/dev/null")?.into();
        Ok(())
    }

    /// From now on this process is who answers, and no program that it starts or becomes.
    fn give_up_number(&mut self) {
        let Some(number) = self.given.take() else { return };
        let given_up = match number {
            // What is opened next must not become a standard stream.
            0..=2 => File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .and_then(|null| place(null, number, false)),
            _ => close_range(number, number),
        };
        if let Err(error) = given_up {
            tracing::debug!(%error, "a descriptor of the client's socket stays open");
        }
    }

    fn read(&self, how: MsgFlags) -> Result<Option<Request>, ConnectionError> {
        let from = self.socket.as_raw_fd();
        let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
        let length = again(|| recv(from, &mut [0], look))?;
        let mut bytes = vec![0; length.min(LONGEST)];
        // Descriptors that come with it are not wanted; the kernel closes them.
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let read = again(|| recvmsg::<()>(from, &mut parts, None, how).map(|read| read.bytes))?;
        match (length, read) {
            (0, _) => Ok(None),
            (length, _) if length > LONGEST => {
                Err(ConnectionError::NotARequest("it is longer than 128 KiB"))
            }
            (_, read) => match Request::decode(&bytes[..read]) {
                Ok(request) => Ok(Some(request)),
                Err(_) => Err(ConnectionError::NotARequest("it is no message of the RPC")),
            },
        }
    }

    /// Sends an answer, with a descriptor.
    pub(crate) fn answer(
        &self,
        answer: &Response,
        passed: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let mut answer = answer.clone();
        if let Some(error) = &mut answer.error {
            shorten(error);
        }
        let bytes = answer.encode_to_vec();
        if let Some(passed) = passed {
            return passing::send(&self.socket, &bytes, &[passed]);
        }
        again(|| send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL))?;
        Ok(())
    }

    /// A directory that the client has open, by a path by which it is found from here.
    pub(crate) fn directory(&self, number: i32) -> io::Result<PathBuf> {
        use std::os::unix::fs::MetadataExt;
        let link = self.descriptor(number)?;
        let same = |path: &Path| {
            let of = |path: &Path| {
                let found = std::fs::metadata(path)?;
                Ok::<_, io::Error>((found.is_dir(), found.dev(), found.ino()))
            };
            Ok::<_, io::Error>(of(&link)? == of(path)? && of(path)?.0)
        };
        let path = std::fs::read_link(&link)?;
        match same(&path) {
            Ok(true) => Ok(path),
            _ => {
                let path = path.display();
                Err(io::Error::other(format!("{path} is not that directory here")))
            }
        }
    }

    /// The name of a descriptor of the client's.
    pub(crate) fn descriptor(&self, number: i32) -> io::Result<PathBuf> {
        let peer = self.peer.pid.map(HostPid::get);
        let peer =
            peer.ok_or_else(|| io::Error::other("the client is in another pid namespace"))?;
        Ok(format!("/proc/{peer}/fd/{number}").into())
    }
}

/// Cuts an error short between two characters.
fn shorten(error: &mut String) {
    const MORE: &str = "… (more in the log)";
    if error.len() > LONGEST_ERROR {
        let end = (0..=LONGEST_ERROR - MORE.len()).rev().find(|at| error.is_char_boundary(*at));
        error.truncate(end.unwrap_or(0));
        error.push_str(MORE);
    }
}

/// Makes a call again that a signal has interrupted.
fn again<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(nix::Error::EINTR) => {}
            done => return Ok(done?),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;
    use crate::rpc::messages::Kind;

    fn pair() -> (Connection, OwnedFd) {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .unwrap();
        let peer = peer_credentials(&ours).unwrap().unwrap();
        (Connection { socket: ours, given: None, peer, began_in: "/".into() }, theirs)
    }

    fn put(to: &OwnedFd, bytes: &[u8]) {
        send(to.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
    }

    #[test]
    fn requests_are_read_one_by_one_and_what_is_none_is_said() {
        let (mut connection, client) = pair();
        let version = Request { kind: Kind::Version.into(), ..Request::default() };
        put(&client, &version.encode_to_vec());
        assert_eq!(connection.peek().unwrap(), Some(version.clone()));
        assert_eq!(connection.next().unwrap(), Some(version));
        put(&client, b"\xff\xff\xff garbage");
        assert!(matches!(connection.next(), Err(ConnectionError::NotARequest(_))));
        drop(client);
        assert_eq!(connection.next().unwrap(), None);
    }

    #[test]
    fn long_errors_are_cut_between_characters() {
        for error in ["ä".repeat(1000), "x".repeat(LONGEST_ERROR + 1)] {
            let mut cut = error.clone();
            shorten(&mut cut);
            assert!(cut.len() <= LONGEST_ERROR && cut.ends_with("(more in the log)"));
        }
        let mut short = "disk full".to_owned();
        shorten(&mut short);
        assert_eq!(short, "disk full");
    }

    #[test]
    fn directories_of_the_client_are_found_by_their_descriptors() {
        let (connection, _client) = pair();
        let directory = tempfile::tempdir().unwrap();
        let open = File::open(directory.path()).unwrap();
        let found = connection.directory(open.as_raw_fd()).unwrap();
        assert_eq!(found, directory.path().canonicalize().unwrap());
        std::fs::remove_dir(directory.path()).unwrap();
        assert!(connection.directory(open.as_raw_fd()).is_err());
        assert!(connection.directory(-1).is_err());
    }
}

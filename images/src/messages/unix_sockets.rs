//! A Unix socket.

use prost::Message;

use super::file_body::file_body;
use super::owned::{Id, NOBODY, Owned};

use super::parts::{FileIdentity, FownEntry};
use super::sockets::{FilePermsEntry, SkOptsEntry};

/// `uflags` of a Unix socket outside of the tree, which others are connected to.
pub const UNIX_OUTSIDE: u32 = 1;
/// `uflags` of a Unix socket by which its process had asked to be dumped.
pub const UNIX_CLIENT: u32 = 2;

/// A Unix socket.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct UnixSkEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Inode, which is how other entries refer to it.
    #[prost(uint32, required, tag = "2")]
    pub ino: u32,
    /// `SOCK_*`.
    #[prost(uint32, required, tag = "3")]
    pub r#type: u32,
    /// `SK_*`.
    #[prost(uint32, required, tag = "4")]
    pub state: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "5")]
    pub flags: u32,
    /// How CRIU treats it: 1 its peer is outside, 8 it is inherited.
    #[prost(uint32, required, tag = "6")]
    pub uflags: u32,
    /// Length of the queue of a listening socket.
    #[prost(uint32, required, tag = "7")]
    pub backlog: u32,
    /// `ino` of the other side; 0 if not connected.
    #[prost(uint32, required, tag = "8")]
    pub peer: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "9")]
    pub fown: FownEntry,
    /// Options every socket has.
    #[prost(message, required, tag = "10")]
    pub opts: SkOptsEntry,
    /// As in `sun_path`: a path with its final NUL, or an abstract name that begins with NUL.
    #[prost(bytes = "vec", required, tag = "11")]
    pub name: Vec<u8>,
    /// `SHUTDOWN_*`; absent: none.
    #[prost(uint32, optional, tag = "12")]
    pub shutdown: Option<u32>,
    /// Owner and mode of its file.
    #[prost(message, optional, tag = "13")]
    pub file_perms: Option<FilePermsEntry>,
    /// Directory that a relative name is relative to.
    #[prost(bytes = "vec", optional, tag = "14")]
    pub name_dir: Option<Vec<u8>>,
    /// Its file is gone.
    #[prost(bool, optional, tag = "15")]
    pub deleted: Option<bool>,
    /// Network namespace, as in [`TaskKobjIdsEntry`](super::TaskKobjIdsEntry).
    #[prost(uint32, optional, tag = "16")]
    pub ns_id: Option<u32>,
    /// Mount, or -1 where there is one mount namespace.
    #[prost(sint32, optional, tag = "17", default = "-1")]
    pub mnt_id: Option<i32>,
    /// Extension: which file it is bound to.
    #[prost(message, optional, tag = "1000")]
    pub file: Option<FileIdentity>,
    /// Extension: which directory that file is in.
    #[prost(message, optional, tag = "1001")]
    pub directory: Option<FileIdentity>,
    /// Extension: the file's path as the kernel has it, without the links that there may be in `name`.
    #[prost(bytes = "vec", optional, tag = "1002")]
    pub path: Option<Vec<u8>>,
    /// Extension: who made, connected or listened to what it is connected to; of a listening socket who
    /// made it listen (`SO_PEERCRED`).
    #[prost(message, optional, tag = "1003")]
    pub peer_credentials: Option<PeerCredentials>,
    /// Extension: of one that waits to be accepted, whom the other end will be told of.
    #[prost(message, optional, tag = "1004")]
    pub connector: Option<PeerCredentials>,
}

/// What `SO_PEERCRED` and `SO_PEERGROUPS` tell. An extension.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Message)]
pub struct PeerCredentials {
    /// Process id; 0 if it is not known.
    #[prost(uint32, required, tag = "1")]
    pub pid: u32,
    /// Effective user id.
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    /// Effective group id.
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
    /// Supplementary groups.
    #[prost(uint32, repeated, packed = "false", tag = "4")]
    pub groups: Vec<u32>,
}

file_body! {
    UnixSkEntry { signals in_network }

    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        for inode in self.file_perms.iter_mut().chain(&mut self.opts.inode) {
            inode.each_id(change);
        }
        for who in [&mut self.peer_credentials, &mut self.connector].into_iter().flatten() {
            who.each_id(change);
        }
    }

    fn bound_to(&self) -> Option<(i32, &[u8])> {
        Some((self.mnt_id?, self.path.as_deref()?))
    }
}

impl Owned for PeerCredentials {
    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        change(Id::User, &mut self.uid);
        change(Id::Group, &mut self.gid);
        self.groups.iter_mut().for_each(|group| change(Id::Group, group));
        // Nobody inside can tell them, and nobody can be in them.
        self.groups.retain(|group| *group != NOBODY);
    }
}

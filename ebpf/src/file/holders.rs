//! Who else can change an open file: what the reader needs to know whether nobody but processes that
//! are tracked can.

use aya_ebpf::bindings::seq_file;
use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::offsets::ABSENT;
use stasis_ebpf_common::{Header, HoldersRecord, KIND_HOLDERS};

use super::marks::{PIPE_FS, SOCKET_FS};
use crate::emit;
use crate::read::{field, load, offset};
use crate::track::is_tracked;

const AF_UNIX: u16 = 1;

/// Writes out who else can change a file of process `tgid`, if that is tracked.
#[inline(never)]
pub(super) fn tell(seq: *mut seq_file, tgid: i32, file: u64, magic: u64) {
    if !is_tracked(tgid) {
        return;
    }
    let header = Header { kind: KIND_HOLDERS, bytes: size_of::<HoldersRecord>() as u32 };
    let mut record = HoldersRecord { header, ..HoldersRecord::default() };
    if offset(o::FILE_REFERENCES) != ABSENT {
        // One less than there are; the iterator itself has one.
        record.references = load(file, o::FILE_REFERENCES);
    }
    let inode: u64 = load(file, o::FILE_INODE);
    if magic == PIPE_FS {
        record.writers = load(load(inode, o::INODE_PIPE), o::PIPE_FILES);
    } else if magic == SOCKET_FS {
        record.peer = peer(load(file, o::FILE_PRIVATE));
    } else {
        record.writers = load(inode, o::INODE_WRITERS);
    }
    emit(seq, &record);
}

/// The open file at the other end of a Unix socket.
#[inline(always)]
fn peer(socket: u64) -> u64 {
    let sock: u64 = field(socket, o::SOCKET_SOCK);
    let family: u16 = field(sock, o::SOCK_FAMILY);
    if family != AF_UNIX {
        return 0;
    }
    let other: u64 = field(field(sock, o::UNIX_PEER), o::SOCK_SOCKET);
    field(other, o::SOCKET_FILE)
}

//! Who else can change an open file: what the reader needs to know whether nobody but processes that
//! are tracked can.

use aya_ebpf::bindings::seq_file;
use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::offsets::ABSENT;
use stasis_ebpf_common::track::touched_place;
use stasis_ebpf_common::{Header, HoldersRecord, KIND_HOLDERS};

use super::marks::{PIPE_FS, SOCKET_FS};
use super::print::print;
use crate::emit;
use crate::read::{field, fill, load, offset};

const AF_UNIX: u16 = 1;

/// Writes out who else can change a file that `task` has open.
#[inline(never)]
pub(super) fn tell(seq: *mut seq_file, task: u64, fd: u32, file: u64) {
    let header = Header { kind: KIND_HOLDERS, bytes: size_of::<HoldersRecord>() as u32 };
    let mut record = HoldersRecord { header, fd: fd as i32, file, ..HoldersRecord::default() };
    if offset(o::FILE_REFERENCES) != ABSENT {
        // One less than there are; the iterator itself has one.
        record.references = load(file, o::FILE_REFERENCES);
    }
    let inode: u64 = load(file, o::FILE_INODE);
    let magic: u64 = load(load(inode, o::INODE_SB), o::SUPER_BLOCK_MAGIC);
    if magic == PIPE_FS {
        record.writers = load(load(inode, o::INODE_PIPE), o::PIPE_FILES);
    } else if magic == SOCKET_FS {
        record.peer = peer(load(file, o::FILE_PRIVATE));
    } else {
        record.writers = load(inode, o::INODE_WRITERS);
        record.print = print(file);
    }
    // By number, as an address that the verifier knows is none.
    let mut address = 0u64;
    fill(&mut address, file, o::FILE_INODE);
    record.place = touched_place(address) as u32;
    record.inode = address;
    record.sharers = sharers(task);
    emit(seq, &record);
}

/// How many tasks use the table of descriptors; 0 if this kernel does not tell.
#[inline(always)]
fn sharers(task: u64) -> u32 {
    let sharers: i32 = load(load(task, o::TASK_FILES), o::FILES_COUNT);
    sharers as u32
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

//! The marks of open files: what each covers.
//!
//! A mark is taken field by field while others may change them. That is enough: whoever uses it
//! reads the object after this, and trusts what it read if the mark is the same later. A field
//! that was read here before it changed has another value then.

use core::mem::MaybeUninit;

use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::offsets::ABSENT;

use crate::mark::Mark;
use crate::read::{at, field, fill_from, load, many_at, offset};
use crate::touch::changes;

const S_IFMT: u16 = 0o170_000;
const S_IFIFO: u16 = 0o010_000;
const S_IFCHR: u16 = 0o020_000;
const S_IFBLK: u16 = 0o060_000;
const S_IFSOCK: u16 = 0o140_000;

// include/uapi/linux/magic.h
pub(crate) const ANON_INODE_FS: u64 = 0x0904_1934;
pub(crate) const PIPE_FS: u64 = 0x5049_5045;
pub(crate) const SOCKET_FS: u64 = 0x534F_434B;

/// What the mark of an open file is made of; what it is of is known to the caller.
pub(crate) struct Seen {
    pub(crate) mark: u64,
    /// Of a regular file its bytes, of a pipe how many pages it may hold, of a socket how many
    /// messages wait in it.
    pub(crate) size: u64,
}

const UNKNOWN: Seen = Seen { mark: 0, size: 0 };

/// The mark of an open file, 0 for one that has to be looked at each time: what has an owner to
/// signal, locks, no name, or more to it than is known here.
#[inline(always)]
pub(crate) fn seen(file: u64, inode: u64, mode: u16, magic: u64, owned: bool) -> Seen {
    if magic == ANON_INODE_FS || owned {
        return UNKNOWN;
    }
    match mode & S_IFMT {
        S_IFSOCK if magic == SOCKET_FS => {
            socket(load(file, o::FILE_PRIVATE), changes(file), rights(inode, mode))
        }
        S_IFIFO if magic == PIPE_FS => pipe(inode, changes(file), rights(inode, mode)),
        S_IFIFO => match place(inode, mode) {
            Some(mark) => pipe(inode, changes(file), mark),
            None => UNKNOWN,
        },
        _ => match place(inode, mode) {
            Some(mark) => Seen { mark: mark.finish(), size: load(inode, o::INODE_SIZE) },
            None => UNKNOWN,
        },
    }
}

/// Whether somebody is to be signalled when the file is ready (`F_SETOWN`, `F_SETSIG`). Since Linux
/// 6.12 a file has the structure for it only then.
#[inline(always)]
pub(crate) fn is_owned(file: u64) -> bool {
    if offset(o::OWNER_FILE) != ABSENT {
        let owner: u64 = load(file, o::FILE_OWNER);
        return owner != 0;
    }
    let owner = file + u64::from(offset(o::FILE_OWNER));
    let pid: u64 = field(owner, o::OWNER_PID);
    let signal: i32 = field(owner, o::OWNER_SIGNAL);
    pid != 0 || signal != 0
}

/// What has a name, or had one: its rights, and how many names it has. Which it is and its path are
/// in the record.
#[inline(always)]
fn place(inode: u64, mode: u16) -> Option<Mark> {
    let names: u32 = load(inode, o::INODE_NLINK);
    let device: u32 = load(inode, o::INODE_RDEV);
    let is_device = mode & S_IFMT == S_IFCHR || mode & S_IFMT == S_IFBLK;
    if names == 0 || is_device && !is_stateless(device) || has_locks(inode) {
        return None;
    }
    let mut mark = rights(inode, mode);
    mark.add(u64::from(names));
    mark.add(u64::from(device));
    Some(mark)
}

/// Begins a mark with owner and permissions.
#[inline(always)]
fn rights(inode: u64, mode: u16) -> Mark {
    let (user, group): (u32, u32) = (load(inode, o::INODE_UID), load(inode, o::INODE_GID));
    let mut mark = Mark::new();
    mark.add(u64::from(mode));
    mark.add(u64::from(user) << 32 | u64::from(group));
    mark
}

/// Whether a device is one of those that have no state: null, zero, full, random, urandom.
#[inline(always)]
const fn is_stateless(device: u32) -> bool {
    const MEMORY: u32 = 1;
    const MINORS: u32 = 1 << 3 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9;
    let minor = device & 0xf_ffff;
    device >> 20 == MEMORY && minor < 10 && MINORS >> minor & 1 != 0
}

/// Whether somebody holds a lock or a lease on the file, of whatever kind it is.
#[inline(always)]
pub(super) fn has_locks(inode: u64) -> bool {
    is_locked_by(load(inode, o::INODE_LOCKS))
}

/// Whether a file's lock context (`i_flctx`, 0 for none) has locks or leases.
#[inline(always)]
pub(crate) fn is_locked_by(context: u64) -> bool {
    context != 0 && lists_are_filled(context)
}

#[inline(never)]
fn lists_are_filled(context: u64) -> bool {
    is_filled(context, o::LOCKS_FLOCK)
        || is_filled(context, o::LOCKS_POSIX)
        || is_filled(context, o::LOCKS_LEASE)
}

/// Whether a `list_head` has entries: an empty one points to itself.
#[inline(always)]
fn is_filled(structure: u64, index: usize) -> bool {
    let head = structure + u64::from(offset(index));
    let next: u64 = at(head);
    next != head
}

/// More filled buffers than this are not looked at: as many as a pipe has unless it was told
/// otherwise.
const BUFFERS: u32 = 16;

/// Set, of all buffers, on those that hold bytes of the pipe's own: nobody else can change them.
const CAN_MERGE: u32 = 0x10;

/// Words of a `pipe_buffer` up to its flags: page, offset and length, operations, flags.
const BUFFER_WORDS: usize = 4;

/// A pipe: how far it has been written and read, and what lies between.
///
/// Bytes that have been written stay as they are: each buffer is filled from its start and read
/// from there, and the counts of buffers only ever grow, but for a change of capacity, which starts
/// them anew and is counted, and the time of the last write.
#[inline(always)]
fn pipe(inode: u64, changes: u64, mut mark: Mark) -> Seen {
    let pipe: u64 = load(inode, o::INODE_PIPE);
    if pipe == 0 || offset(o::PIPE_HEAD) == ABSENT || offset(o::INODE_MTIME) == ABSENT {
        return UNKNOWN;
    }
    // The kernel itself writes into one that it notifies by.
    let notifies: u64 = field(pipe, o::PIPE_WATCH_QUEUE);
    if notifies != 0 {
        return UNKNOWN;
    }
    let head: u32 = load(pipe, o::PIPE_HEAD);
    let tail: u32 = load(pipe, o::PIPE_TAIL);
    let capacity: u32 = load(pipe, o::PIPE_MAX_USAGE);
    let slots: u32 = load(pipe, o::PIPE_RING_SIZE);
    mark.add(changes);
    mark.add(u64::from(head) << 32 | u64::from(tail));
    mark.add(u64::from(capacity) << 32 | u64::from(slots));
    mark.add(load(inode, o::INODE_MTIME));
    let nanoseconds: u32 = load(inode, o::INODE_MTIME_NSEC);
    mark.add(u64::from(nanoseconds));
    let filled = head.wrapping_sub(tail);
    if filled > BUFFERS {
        return UNKNOWN;
    }
    let buffers: u64 = field(pipe, o::PIPE_BUFFERS);
    for nth in 0..BUFFERS {
        if nth >= filled {
            break;
        }
        let slot = tail.wrapping_add(nth) & slots.wrapping_sub(1);
        let buffer: [u64; BUFFER_WORDS] =
            many_at(buffers + u64::from(slot) * u64::from(offset(o::BUFFER_BYTES)));
        if buffer[3] as u32 & CAN_MERGE == 0 {
            return UNKNOWN;
        }
        mark.add(buffer[0]);
        mark.add(buffer[1]);
    }
    Seen { mark: mark.finish(), size: u64::from(capacity) }
}

/// Words of a socket that are read at a time, and how often at most.
const CHUNK: usize = 32;
const CHUNKS: u64 = 16;
const CHUNK_BYTES: u64 = CHUNK as u64 * 8;

/// Of a socket's first words those that are no matter of its own: its places in tables, where its
/// neighbours come and go, and the number that socket diagnosis gives it when it first asks.
const NOT_ITS_OWN: [(usize, u32); 5] = [
    (o::SOCK_COOKIE, 0),
    (o::SOCK_NODE, 0),
    (o::SOCK_NODE, 8),
    (o::SOCK_BIND_NODE, 0),
    (o::SOCK_BIND_NODE, 8),
];

/// A socket: all that its protocol keeps of it, options, state, queues and peer, and whether the
/// peer has been accepted.
///
/// What waits in it is there by address and number only, and the kernel gives a new message the
/// memory of the last one that was read. Messages of Unix sockets are read again whenever any
/// wait. Others have no mark while anything waits: equal ones say that nothing did either time.
#[inline(always)]
fn socket(socket: u64, changes: u64, mut mark: Mark) -> Seen {
    mark.add(changes);
    mark.add_field::<1>(socket, o::SOCKET_STATE);
    let sock: u64 = field(socket, o::SOCKET_SOCK);
    let (protocol, family) = add_first_chunk(&mut mark, sock);
    let bytes: u32 = field(protocol, o::PROTOCOL_BYTES);
    let bytes = u64::from(bytes);
    if bytes < CHUNK_BYTES || bytes > CHUNKS * CHUNK_BYTES {
        return UNKNOWN;
    }
    for chunk in 1..CHUNKS {
        let start = chunk * CHUNK_BYTES;
        if start >= bytes {
            break;
        }
        // The last chunk ends where the socket does: what lies behind is none of its own.
        let last = bytes - CHUNK_BYTES;
        add_chunk(&mut mark, sock + if start > last { last } else { start });
    }
    const AF_UNIX: u16 = 1;
    if family == AF_UNIX {
        let peer: u64 = field(sock, o::UNIX_PEER);
        if peer != 0 {
            mark.add(field(peer, o::SOCK_SOCKET));
        }
    }
    const AF_NETLINK: u16 = 16;
    if family == AF_NETLINK && !add_groups(&mut mark, sock) {
        return UNKNOWN;
    }
    let waiting: u32 = field(sock, o::SOCK_RECEIVE_QUEUE_LENGTH);
    if family != AF_UNIX && (waiting != 0 || has_received(sock)) {
        return UNKNOWN;
    }
    Seen { mark: mark.finish(), size: u64::from(waiting) }
}

/// Words of the groups that a netlink socket is a member of, that are looked at at most.
const GROUP_WORDS: u64 = 8;

/// Adds the groups of a netlink socket, which are no part of it: a bind(2) changes them and no more. Returns
/// false where there may be more of them than are looked at.
#[inline(never)]
fn add_groups(mark: &mut Mark, sock: u64) -> bool {
    if offset(o::NETLINK_GROUPS) == ABSENT || offset(o::NETLINK_GROUP_COUNT) == ABSENT {
        return false;
    }
    let groups: u64 = field(sock, o::NETLINK_GROUPS);
    let count: u32 = field(sock, o::NETLINK_GROUP_COUNT);
    if groups == 0 {
        return true;
    }
    for word in 0..GROUP_WORDS {
        if word * 64 >= u64::from(count) {
            break;
        }
        mark.add(at(groups + word * 8));
    }
    u64::from(count) <= GROUP_WORDS * 64
}

/// Whether anything waits in a socket, in whichever queue its protocol keeps it: messages are
/// accounted for until they are read, and connections counted until they are accepted.
#[inline(always)]
fn has_received(sock: u64) -> bool {
    let bytes: i32 = field(sock, o::SOCK_RECEIVED_BYTES);
    let connections: u32 = field(sock, o::SOCK_CONNECTIONS);
    bytes != 0 || connections != 0
}

// Functions of their own, with a stack frame of their own.

/// Also returns the protocol and the family that the chunk names.
#[inline(never)]
fn add_first_chunk(mark: &mut Mark, sock: u64) -> (u64, u16) {
    let mut words = MaybeUninit::<[u64; CHUNK]>::uninit();
    let words = read_words(&mut words, sock);
    for (index, behind) in NOT_ITS_OWN {
        words[word_of(offset(index) + behind)] = 0;
    }
    mark.add_all(words);
    let family = offset(o::SOCK_FAMILY);
    let family = words[word_of(family)] >> (family % 8 * 8);
    (words[word_of(offset(o::SOCK_PROTOCOL))], family as u16)
}

#[inline(always)]
const fn word_of(offset: u32) -> usize {
    offset as usize / 8 % CHUNK
}

#[inline(never)]
fn add_chunk(mark: &mut Mark, address: u64) {
    let mut words = MaybeUninit::<[u64; CHUNK]>::uninit();
    mark.add_all(read_words(&mut words, address));
}

/// Reads into memory that needs no clearing first, which would cost more than the reading.
#[inline(always)]
fn read_words(place: &mut MaybeUninit<[u64; CHUNK]>, address: u64) -> &mut [u64; CHUNK] {
    fill_from(place, address);
    // SAFETY: the helper has written all of it: zeros if the address was bad.
    unsafe { place.assume_init_mut() }
}

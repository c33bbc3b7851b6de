//! `iter/task_file`: open files, in two programs: one shows all, the other what its reader asks for.

mod asked;
mod holders;
mod marks;
mod print;
mod terminals;

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::bpf_d_path;
use stasis_ebpf_common::asked::{ALWAYS, FILES, HOLDERS, NEVER};
use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::offsets::ABSENT;
use stasis_ebpf_common::{FileRecord, Header, KIND_FILE, NAME_BYTES, beside};

use crate::read::{at, field, load, offset, zero};
use crate::{Meta, Name, emit, fitting};
pub(crate) use marks::{ANON_INODE_FS, PIPE_FS, SOCKET_FS, is_locked_by};
use marks::{has_locks, is_owned, seen};
pub(crate) use terminals::controlling;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFCHR: u32 = 0o020_000;

#[repr(C)]
pub(crate) struct FileContext {
    pub(crate) meta: *mut Meta,
    pub(crate) task: *mut c_void,
    pub(crate) fd: u32,
    pub(crate) file: *mut c_void,
}

#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
extern "C" fn task_file(context: *mut FileContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (task, file) = unsafe { ((*context).task as u64, (*context).file) };
    if task != 0 && !file.is_null() {
        show(context, task, file);
    }
    0
}

#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
extern "C" fn task_file_some(context: *mut FileContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (meta, task, fd, file) =
        unsafe { ((*context).meta, (*context).task as u64, (*context).fd, (*context).file) };
    if task == 0 || file.is_null() {
        return 0;
    }
    let asked = asked::asked();
    match asked::wanted(&asked, fd) {
        NEVER => return 0,
        ALWAYS => {}
        // As the reader knows it.
        print if print == print::print(file as u64) => return 0,
        _ => {}
    }
    if asked.what & FILES != 0 {
        show(context, task, file);
    }
    if asked.what & HOLDERS != 0 {
        // SAFETY: as above.
        let seq = unsafe { (*meta).seq };
        holders::tell(seq, task, fd, file as u64);
    }
    0
}

#[inline(always)]
fn show(context: *mut FileContext, task: u64, file: *mut c_void) {
    // SAFETY: the context that the kernel passed.
    let (meta, fd) = unsafe { ((*context).meta, (*context).fd) };
    // SAFETY: as above.
    let seq = unsafe { (*meta).seq };
    let inode: u64 = load(file as u64, o::FILE_INODE);
    let mode: u16 = load(inode, o::INODE_MODE);
    let magic: u64 = load(load(inode, o::INODE_SB), o::SUPER_BLOCK_MAGIC);
    let mut place = MaybeUninit::uninit();
    let record: &mut FileRecord = zero(&mut place);
    record.mode = u32::from(mode);
    record.magic = magic;
    record.beside = look(file as u64, inode, record);
    describe(task, fd, file as u64, inode, record);
    // The kernel makes up the names of pipes and sockets when it is asked, out of their numbers:
    // so can the reader, at less cost.
    if magic == PIPE_FS || magic == SOCKET_FS {
        emit(seq, record);
    } else {
        emit_with_path(seq, file, record);
    }
    if record.mode & S_IFMT == S_IFCHR {
        terminals::tell(seq, fd, file as u64);
    }
}

// Each piece is a function of its own, with a stack frame of its own.

/// Returns whether somebody is to be signalled. (Of a function that returns nothing the compiler may
/// leave an address where the verifier looks for a result.)
#[inline(never)]
fn look(file: u64, inode: u64, record: &mut FileRecord) -> u16 {
    let owned = is_owned(file);
    let seen = seen(file, inode, record.mode as u16, record.magic, owned);
    record.mark = seen.mark;
    record.size = seen.size;
    u16::from(owned) * beside::OWNER
}

/// Emits the record with the file's path, or without a path that is too long for it: then it
/// returns false.
#[inline(never)]
fn emit_with_path(seq: *mut seq_file, file: *mut c_void, record: &mut FileRecord) -> bool {
    let mut name = Name::new();
    let name_bytes = path(file, &mut name);
    record.name_bytes = name_bytes;
    record.header.bytes += name_bytes;
    emit(seq, record);
    name.emit(seq, name_bytes);
    name_bytes != 0
}

/// The path of a file as a reader of /proc sees it: its length with the zero byte, 0 if it does not
/// fit.
///
/// `file` must come unchanged from the context or from a field read of it, so that the verifier
/// knows it for a `struct file`.
#[inline(always)]
pub(crate) fn path(file: *mut c_void, name: &mut Name) -> u32 {
    // SAFETY: the verifier checks that this is the `f_path` of a `struct file`; the buffer's length
    // is its own.
    let length = unsafe {
        let path = file.cast::<u8>().add(offset(o::FILE_PATH) as usize);
        bpf_d_path(path.cast(), name.start().cast(), NAME_BYTES as u32)
    };
    fitting(length)
}

#[inline(never)]
fn describe(task: u64, fd: u32, file: u64, inode: u64, record: &mut FileRecord) {
    record.header = Header { kind: KIND_FILE, bytes: size_of::<FileRecord>() as u32 };
    record.fd = fd as i32;
    record.close_on_exec = close_on_exec(task, fd) as u16;
    record.file = file;
    record.position = load(file, o::FILE_POS);
    record.inode = load(inode, o::INODE_INO);
    record.flags = load(file, o::FILE_FLAGS);
    record.device = load(load(inode, o::INODE_SB), o::SUPER_BLOCK_DEV);
    if has_locks(inode) {
        record.beside |= beside::LOCKS;
    }
    if record.mode & S_IFMT == S_IFREG && is_linkable(inode) {
        record.beside |= beside::LINKABLE;
    }
    if record.magic == SOCKET_FS && is_uncorked(file) {
        record.beside |= beside::UNCORKED;
    }
}

/// Whether it is a UDP, ping or raw socket in which no datagram waits for its end.
#[inline(always)]
fn is_uncorked(file: u64) -> bool {
    const AF_INET: u16 = 2;
    const AF_INET6: u16 = 10;
    const DATAGRAMS: u16 = 2;
    const RAW: u16 = 3;
    const ICMP: u16 = 1;
    const ICMP_OF_IPV6: u16 = 58;
    const UDP: u16 = 17;
    const UDP_LITE: u16 = 136;
    let socket: u64 = field(file, o::FILE_PRIVATE);
    let sock: u64 = field(socket, o::SOCKET_SOCK);
    let family: u16 = field(sock, o::SOCK_FAMILY);
    let kind: u16 = field(sock, o::SOCK_TYPE);
    let protocol: u16 = field(sock, o::SOCK_PROTOCOL_NUMBER);
    if family != AF_INET && family != AF_INET6 {
        return false;
    }
    if kind == DATAGRAMS && (protocol == UDP || protocol == UDP_LITE) {
        let pending: i32 = field(sock, o::UDP_PENDING);
        return offset(o::UDP_PENDING) != ABSENT && pending == 0;
    }
    // These have no mark of it, and no other use for the queue.
    if kind == RAW || kind == DATAGRAMS && (protocol == ICMP || protocol == ICMP_OF_IPV6) {
        let parts: u32 = field(sock, o::SOCK_WRITE_QUEUE_LENGTH);
        return offset(o::SOCK_WRITE_QUEUE_LENGTH) != ABSENT && parts == 0;
    }
    false
}

/// Whether a file without a name may be given one, which only its inode's state tells: the flags of the open
/// file do not have `O_EXCL`, and stay as they are when it is given a name and loses that.
#[inline(always)]
fn is_linkable(inode: u64) -> bool {
    /// `I_LINKABLE` as it was up to Linux 6.17, where it is in no enumeration.
    const BEFORE: u32 = 1 << 10;
    let names: u32 = load(inode, o::INODE_NLINK);
    if names != 0 {
        return false;
    }
    let flag = offset(o::INODE_STATE_LINKABLE);
    let state: u32 = field(inode, o::INODE_STATE);
    state & if flag == ABSENT { BEFORE } else { flag } != 0
}

/// 1 if the descriptor's bit is set in the table's bitmap.
#[inline(always)]
fn close_on_exec(task: u64, fd: u32) -> u32 {
    let table: u64 = load(load(task, o::TASK_FILES), o::FILES_FDT);
    let bits: u64 = load(table, o::FDTABLE_CLOSE_ON_EXEC);
    if bits == 0 {
        return 0;
    }
    let word: u64 = at(bits + u64::from(fd / 64) * 8);
    ((word >> (fd % 64)) & 1) as u32
}

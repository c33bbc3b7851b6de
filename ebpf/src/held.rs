//! `iter/task_file` and `iter/task_vma`: who holds what has no name, for readers who look for it in all
//! processes. What has a name, which is nearly all, is passed over at once.

use core::ffi::c_void;

use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::offsets::ABSENT;
use stasis_ebpf_common::{Header, HeldRecord, KIND_HELD, peculiar};

use crate::file::{ANON_INODE_FS, FileContext, PIPE_FS, SOCKET_FS};
use crate::read::{field, fill, load, many_in_field, offset};
use crate::vma::VmaContext;
use crate::{emit, numbers};

const S_IFMT: u16 = 0o170_000;
const S_IFIFO: u16 = 0o010_000;
const S_IFREG: u16 = 0o100_000;

#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
extern "C" fn task_file_held(context: *mut FileContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (meta, task, fd, file) =
        unsafe { ((*context).meta, (*context).task as u64, (*context).fd, (*context).file as u64) };
    if task == 0 || file == 0 {
        return 0;
    }
    let inode: u64 = load(file, o::FILE_INODE);
    let magic: u64 = load(load(inode, o::INODE_SB), o::SUPER_BLOCK_MAGIC);
    let mode: u16 = load(inode, o::INODE_MODE);
    let names: u32 = load(inode, o::INODE_NLINK);
    let is_nameless = magic == PIPE_FS
        || magic == SOCKET_FS
        || magic == ANON_INODE_FS
        || mode & S_IFMT == S_IFIFO
        || mode & S_IFMT == S_IFREG && names == 0;
    let has_failed = mode & S_IFMT == S_IFREG && has_failed(file, inode);
    if !is_nameless && !has_failed {
        return 0;
    }
    // Read anew: what the verifier has learned of them by now it would go through the rest for, case by case.
    let magic: u64 = load(load(inode, o::INODE_SB), o::SUPER_BLOCK_MAGIC);
    let mode: u16 = load(inode, o::INODE_MODE);
    let mut record = describe(file, magic, mode);
    if has_failed {
        record.peculiar |= peculiar::WRITE_ERROR;
        record.named = u16::from(!is_nameless);
    }
    record.file = file;
    record.tgid = numbers::of_process(load(task, o::TASK_SIGNAL));
    record.fd = fd as i32;
    // SAFETY: as above.
    emit(unsafe { (*meta).seq }, &record);
    0
}

#[unsafe(link_section = "iter/task_vma")]
#[unsafe(no_mangle)]
extern "C" fn task_vma_held(context: *mut VmaContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (meta, task, vma) = unsafe { ((*context).meta, (*context).task as u64, (*context).vma) };
    if task == 0 || vma.is_null() {
        return 0;
    }
    let file: u64 = load(vma as u64, o::VMA_FILE);
    if file == 0 {
        return 0;
    }
    let inode: u64 = load(file, o::FILE_INODE);
    let mode: u16 = load(inode, o::INODE_MODE);
    let names: u32 = load(inode, o::INODE_NLINK);
    let magic: u64 = load(load(inode, o::INODE_SB), o::SUPER_BLOCK_MAGIC);
    // The rings of a packet socket are mapped from the socket, those of an io_uring from that.
    if magic != SOCKET_FS && magic != ANON_INODE_FS && (mode & S_IFMT != S_IFREG || names != 0) {
        return 0;
    }
    let mut record = describe(file, magic, mode);
    record.tgid = numbers::of_process(load(task, o::TASK_SIGNAL));
    record.fd = -1;
    record.start = field(vma as u64, o::VMA_START);
    // As a number, to be compared with others.
    fill(&mut record.file, vma as u64, o::VMA_FILE);
    let mut program = 0_u64;
    fill(&mut program, load(task, o::TASK_MM), o::MM_EXE_FILE);
    record.program = u32::from(program == record.file);
    if offset(o::FILE_REFERENCES) != ABSENT {
        // One less than there are, as the kernel keeps it; no iterator has this one.
        record.references += 1;
    }
    // SAFETY: as above.
    emit(unsafe { (*meta).seq }, &record);
    0
}

/// Whether a write to a file has failed since it was opened to be written, or since fsync(2) told of the
/// last error: the word that counts errors is another one than the file has noted.
#[inline(always)]
fn has_failed(file: u64, inode: u64) -> bool {
    const ACCESS: u32 = 3;
    const ERROR: u32 = 4095;
    let flags: u32 = load(file, o::FILE_FLAGS);
    let noted: u32 = field(file, o::FILE_WRITE_ERROR);
    let now: u32 = field(load(inode, o::INODE_MAPPING), o::MAPPING_WRITE_ERROR);
    flags & ACCESS != 0 && now != noted && now & ERROR != 0
}

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// What a socket does not tell itself: what can be set again, and what cannot.
#[inline(always)]
fn of_socket(record: &mut HeldRecord, file: u64) {
    let socket: u64 = field(file, o::FILE_PRIVATE);
    let sock: u64 = field(socket, o::SOCKET_SOCK);
    let family: u16 = field(sock, o::SOCK_FAMILY);
    if family != AF_INET && family != AF_INET6 {
        return;
    }
    record.polled = field(sock, o::SOCK_POLL_BUDGET);
    if family == AF_INET6 {
        let of_ipv6: u64 = field(sock, o::INET_IPV6);
        record.packet = field(of_ipv6, o::IPV6_FRAGMENT_SIZE);
        // struct in6_pktinfo
        let source: [u32; 5] = many_in_field(of_ipv6, o::IPV6_SOURCE);
        record.source = field(of_ipv6, o::IPV6_SOURCE);
        record.source_interface = source[4];
    }
    let address: u32 = field(sock, o::INET_MULTICAST_ADDRESS);
    // In a TCP connection that was accepted the kernel notes there by which interface it came.
    if !is_tcp(sock) && address == 0 {
        record.multicast_interface = field(sock, o::INET_MULTICAST_INDEX);
    }
    error(record, sock);
    record.peculiar = peculiarities(sock, family);
}

/// Whether the kernel has a `tcp_sock` of it: a raw socket may be of the same protocol.
#[inline(always)]
fn is_tcp(sock: u64) -> bool {
    const STREAM: u16 = 1;
    const TCP: u16 = 6;
    let kind: u16 = field(sock, o::SOCK_TYPE);
    let protocol: u16 = field(sock, o::SOCK_PROTOCOL_NUMBER);
    kind == STREAM && protocol == TCP
}

/// How a connection has ended, as far as nobody has been told yet.
#[inline(always)]
fn error(record: &mut HeldRecord, sock: u64) {
    /// Bit of `SOCK_DONE`.
    const DONE: u64 = 1 << 1;
    let queued: u32 = field(sock, o::SOCK_ERRORS_QUEUED);
    if !is_tcp(sock) || queued != 0 || offset(o::SOCK_ERRORS_QUEUED) == ABSENT {
        return;
    }
    let number: i32 = field(sock, o::SOCK_ERROR);
    let flags: u64 = field(sock, o::SOCK_FLAGS);
    record.error = number as u16;
    record.ended = u16::from(number != 0 && flags & DONE != 0);
}

/// What of a socket's settings cannot be set again.
#[inline(never)]
fn peculiarities(sock: u64, family: u16) -> u32 {
    let is_tcp = is_tcp(sock);
    let mut found = 0;
    let group: u64 = field(sock, o::SOCK_REUSEPORT);
    let program: u64 = field(group, o::REUSEPORT_PROGRAM);
    if program != 0 {
        found |= peculiar::REUSEPORT_PROGRAM;
    }
    let policies: [u64; 2] = many_in_field(sock, o::SOCK_POLICY);
    if policies[0] | policies[1] != 0 {
        found |= peculiar::IPSEC_POLICY;
    }
    if family == AF_INET6 {
        let of_ipv6: u64 = field(sock, o::INET_IPV6);
        let anycast: u64 = field(of_ipv6, o::IPV6_ANYCAST);
        if anycast != 0 {
            found |= peculiar::ANYCAST;
        }
        let labels: [u64; 2] =
            [field(sock, o::INET_FLOW_LABELS), field(of_ipv6, o::IPV6_FLOW_LABELS)];
        if labels[0] | labels[1] != 0 {
            found |= peculiar::FLOW_LABELS;
        }
    }
    if is_tcp {
        let md5: u64 = field(sock, o::TCP_MD5);
        let ao: u64 = field(sock, o::TCP_AO);
        if md5 | ao != 0 {
            found |= peculiar::SIGNED_TCP;
        }
    }
    found
}

/// All but who holds it.
#[inline(always)]
fn describe(file: u64, magic: u64, mode: u16) -> HeldRecord {
    let inode: u64 = load(file, o::FILE_INODE);
    let mut record = HeldRecord {
        header: Header { kind: KIND_HELD, bytes: size_of::<HeldRecord>() as u32 },
        magic,
        mode: u32::from(mode),
        flags: load(file, o::FILE_FLAGS),
        inode_references: load(inode, o::INODE_REFERENCES),
        ..HeldRecord::default()
    };
    if offset(o::FILE_REFERENCES) != ABSENT {
        record.references = load(file, o::FILE_REFERENCES);
    }
    fill(&mut record.inode, file, o::FILE_INODE);
    if magic == SOCKET_FS {
        of_socket(&mut record, file);
    } else if mode & S_IFMT == S_IFIFO {
        record.count = load(load(inode, o::INODE_PIPE), o::PIPE_FILES);
    } else if magic == ANON_INODE_FS {
        let context: u64 = field(file, o::FILE_PRIVATE);
        record.context_references = field(context, o::EVENTFD_REFERENCES);
        record.count = field(context, o::MAP_REFERENCES);
    } else if mode & S_IFMT == S_IFREG {
        record.count = load(inode, o::INODE_WRITERS);
        record.writable_mappings = load(load(inode, o::INODE_MAPPING), o::MAPPING_WRITABLE);
        let dentry: u64 = load(file, o::FILE_DENTRY);
        record.name_references = field(dentry, o::DENTRY_REFERENCES);
    }
    record
}

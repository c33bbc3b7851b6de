//! The open files of a process, out of the iterator's records.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU64;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use ebpf_common::{FileRecord, KIND_FILE};

use super::records::{device, file_flags, records, with_name};
use super::source::What;
use super::{BpfError, fallback};
use crate::{FileMark, OpenFile};

// include/uapi/linux/magic.h
const PIPE_FS: u64 = 0x5049_5045;
const SOCKET_FS: u64 = 0x534F_434B;

/// File systems whose files are as large as the kernel's inode says, with nobody else to ask: ext4,
/// xfs, tmpfs, ramfs, f2fs, btrfs, bcachefs, proc, sysfs, devpts.
const EXACT_SIZES: [u64; 10] = [
    0xef53,
    0x5846_5342,
    0x0102_1994,
    0x8584_58f6,
    0xf2f5_2010,
    0x9123_683e,
    0xca45_1a4e,
    0x9fa0,
    0x6265_6572,
    0x1cd1,
];

/// The files in the output of an iterator that visited process `pid`; `tid` is a thread of it that
/// has the descriptors. `watched` says that changes of settings are stamped: a socket's mark is worth
/// nothing without. Descriptions have their addresses, until all processes are known.
pub(super) fn decode(
    output: &[u8],
    pid: i32,
    tid: i32,
    watched: bool,
) -> Result<Vec<OpenFile>, BpfError> {
    let bad = || BpfError::Record { what: What::Files.text(), pid };
    let mut files: Vec<OpenFile> = Vec::with_capacity(output.len() / size_of::<FileRecord>());
    for record in records(output) {
        let (KIND_FILE, bytes) = record.ok_or_else(bad)? else { continue };
        let (record, target) = with_name::<FileRecord>(bytes).ok_or_else(bad)?;
        // A thread with a table of its own follows.
        if files.last().is_some_and(|last| last.fd >= record.fd) {
            break;
        }
        let target = match record.magic {
            PIPE_FS => numbered("pipe:[", record.inode),
            SOCKET_FS => numbered("socket:[", record.inode),
            _ if record.name_bytes == 0 => {
                let Some(text) = fallback::link(pid, tid, &format!("fd/{}", record.fd))? else {
                    continue;
                };
                text
            }
            _ => target,
        };
        let (mut device, mut inode) = (device(record.device), record.inode);
        if fallback::OWN_NUMBERS.contains(&record.magic) {
            let Some(stat) = fallback::stat(pid, tid, record.fd)? else { continue };
            (device, inode) = (stat.device, stat.inode);
        }
        files.push(OpenFile {
            fd: record.fd,
            close_on_exec: record.close_on_exec != 0,
            description: record.file,
            position: record.position,
            flags: file_flags(&record),
            mode: mode(&record, &target),
            device,
            inode,
            target,
            mark: mark(&record).filter(|_| watched || record.magic != SOCKET_FS),
        });
    }
    Ok(files)
}

fn mark(record: &FileRecord) -> Option<FileMark> {
    let nameless = matches!(record.magic, PIPE_FS | SOCKET_FS);
    let is_fifo = record.mode & libc::S_IFMT == libc::S_IFIFO;
    let exact = nameless || is_fifo || EXACT_SIZES.contains(&record.magic);
    Some(FileMark { print: NonZeroU64::new(record.mark)?, size: exact.then_some(record.size) })
}

/// The name that the kernel makes of a number: `pipe:[7]`.
fn numbered(start: &str, mut number: u64) -> OsString {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    let mut name = Vec::with_capacity(start.len() + digits.len() - first + 1);
    name.extend_from_slice(start.as_bytes());
    name.extend_from_slice(&digits[first..]);
    name.push(b']');
    OsString::from_vec(name)
}

/// Type and permissions as `stat` gives them: without type for what has no place in any tree
/// (`anon_inode_getattr` in the kernel).
fn mode(record: &FileRecord, target: &OsStr) -> u32 {
    if target.as_bytes().starts_with(b"anon_inode:") {
        record.mode & !libc::S_IFMT
    } else {
        record.mode
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_numbers() {
        assert_eq!(numbered("pipe:[", 0), "pipe:[0]");
        assert_eq!(numbered("socket:[", 10_709), "socket:[10709]");
        assert_eq!(numbered("", u64::MAX), format!("{}]", u64::MAX).as_str());
    }
}

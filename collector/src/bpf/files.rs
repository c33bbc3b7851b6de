//! The open files of a process, out of the iterator's records.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use ebpf_common::{FileRecord, KIND_FILE, beside};
use ids::HostPid;
use kernel::bpf::IterTarget;
use zerocopy::FromBytes;

use super::change_detection::Wanted;
use super::programs::What;
use super::records::{OWN, PIPE_FS, SOCKET_FS, device, file_flags, records};
use super::{BpfError, fallback, terminals};
use crate::{FileMark, OpenFile};

/// proc, sysfs, devpts.
const OF_THE_KERNEL: [u64; 3] = [0x9fa0, 0x6265_6572, 0x1cd1];

/// Whether files are as large as the kernel's inode says, with nobody else to ask.
fn has_exact_sizes(magic: u64) -> bool {
    OWN.contains(&magic) || OF_THE_KERNEL.contains(&magic)
}

/// What the records of a process are decoded with.
pub(super) struct Decoding {
    pub(super) pid: HostPid,
    /// A thread of the process that has the descriptors.
    pub(super) tid: HostPid,
    /// Changes of settings are counted: a socket's or a pipe's mark is worth nothing without.
    pub(super) watched: bool,
}

/// The files of a process.
pub(super) struct Decoded {
    /// Descriptions have their addresses, until all processes are known.
    pub(super) files: Vec<OpenFile>,
    /// Those of them that have been read.
    pub(super) read: Vec<ReadFile>,
    /// The descriptors are those of before.
    pub(super) same_descriptors: bool,
}

impl Decoded {
    /// Has files that need not have been read in any case go on to be called as before: others that
    /// hold them may not have been read.
    pub(super) fn keep_names(&mut self, wanted: &Wanted) {
        for read in &mut self.read {
            let fd = self.files.get(read.index).map(|file| file.fd);
            let is_wanted = fd.is_some_and(|fd| wanted.always.binary_search(&fd).is_ok());
            read.keeps_name = !is_wanted && read.before != 0;
        }
    }
}

/// A file that has been read.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadFile {
    /// Which of the process's.
    pub(super) index: usize,
    /// What its description was called before.
    pub(super) before: u64,
    /// That is what it is called still, whatever else holds it.
    pub(super) keeps_name: bool,
    /// All else is as before.
    pub(super) same: bool,
}

impl Decoding {
    /// The files in the output of an iterator.
    ///
    /// What it returns is made of `earlier`, the files of before, as far as the descriptors are the
    /// same: a frozen target does not wait for memory, nor for its first touch.
    pub(super) fn decode(
        &self,
        output: &[u8],
        mut files: Vec<OpenFile>,
    ) -> Result<Decoded, BpfError> {
        // How many there are by now, and the first ones of before that are not among them.
        let mut count = 0;
        let mut rest = Vec::new().into_iter().peekable();
        let (mut read, mut same_descriptors) = (Vec::with_capacity(files.len()), true);
        for record in self.records(output) {
            let (record, name) = record?;
            // A thread with a table of its own follows.
            if count > 0 && files[count - 1].fd >= record.fd {
                break;
            }
            if files.get(count).is_some_and(|file| file.fd != record.fd) {
                rest = files.split_off(count).into_iter().peekable();
            }
            while rest.next_if(|file: &OpenFile| file.fd < record.fd).is_some() {
                same_descriptors = false;
            }
            let mut behind = None;
            let before = match files.get_mut(count) {
                Some(file) => Some(file),
                None => {
                    behind = rest.next_if(|file| file.fd == record.fd);
                    behind.as_mut()
                }
            };
            same_descriptors &= before.is_some();
            let Some((file, same)) = self.file(count, &record, name, before)? else {
                rest = files.split_off(count).into_iter().peekable();
                same_descriptors = false;
                continue;
            };
            drop(behind);
            read.push(same);
            match files.get_mut(count) {
                Some(place) => *place = file,
                None => files.push(file),
            }
            count += 1;
        }
        same_descriptors &= rest.next().is_none() && files.len() == count;
        files.truncate(count);
        terminals::add(output, self.pid, &mut files)?;
        Ok(Decoded { files, read, same_descriptors })
    }

    /// The files of before, with those of descriptors that have been asked for as they are in the
    /// output of an iterator. If it has not just those, the files of before.
    pub(super) fn decode_some(
        &self,
        output: &[u8],
        mut files: Vec<OpenFile>,
        wanted: &Wanted,
    ) -> Result<Result<Decoded, Vec<OpenFile>>, BpfError> {
        let mut read: Vec<ReadFile> = Vec::with_capacity(wanted.always.len());
        let mut missing = wanted.always.iter().peekable();
        for record in self.records(output) {
            let (record, name) = record?;
            if read.last().is_some_and(|last| files[last.index].fd >= record.fd) {
                break;
            }
            let index = files.binary_search_by_key(&record.fd, |file| file.fd);
            let is_wanted = missing.next_if_eq(&&record.fd).is_some()
                || wanted.unless.binary_search_by_key(&record.fd, |(fd, _)| *fd).is_ok();
            let (true, Ok(index)) = (is_wanted, index) else { return Ok(Err(files)) };
            let before = files.get_mut(index);
            let Some((file, same)) = self.file(index, &record, name, before)? else {
                return Ok(Err(files));
            };
            files[index] = file;
            read.push(same);
        }
        if missing.peek().is_some() {
            return Ok(Err(files));
        }
        terminals::add(output, self.pid, &mut files)?;
        let mut decoded = Decoded { files, read, same_descriptors: true };
        decoded.keep_names(wanted);
        Ok(Ok(decoded))
    }

    fn records<'a>(
        &self,
        output: &'a [u8],
    ) -> impl Iterator<Item = Result<(FileRecord, &'a [u8]), BpfError>> {
        let of = IterTarget::Process(self.pid);
        let bad = move || BpfError::Record { what: What::Files.text(), of };
        records(output).filter_map(move |record| match record {
            None => Some(Err(bad())),
            Some((KIND_FILE, bytes)) => {
                Some(FileRecord::read_from_prefix(bytes).map_err(|_| bad()))
            }
            Some(_) => None,
        })
    }

    /// One file; `None` if it has gone. `before` is what it was.
    fn file(
        &self,
        index: usize,
        record: &FileRecord,
        name: &[u8],
        before: Option<&mut OpenFile>,
    ) -> Result<Option<(OpenFile, ReadFile)>, BpfError> {
        let mut digits = [0; 32];
        let name = match record.magic {
            PIPE_FS => numbered(&mut digits, b"pipe:[", record.inode),
            SOCKET_FS => numbered(&mut digits, b"socket:[", record.inode),
            _ => name.strip_suffix(&[0]).unwrap_or(name),
        };
        let by_link;
        let name = if name.is_empty() {
            let link = format!("fd/{}", record.fd);
            tracing::debug!(
                pid = %self.pid,
                "the path of descriptor {} is too long for its record: /proc is asked",
                record.fd
            );
            let Some(text) = fallback::link(self.pid, self.tid, &link)? else { return Ok(None) };
            by_link = text;
            by_link.as_bytes()
        } else {
            name
        };
        let (mut device, mut inode) = (device(record.device), record.inode);
        if fallback::OWN_NUMBERS.contains(&record.magic) {
            let stat = fallback::stat(self.pid, self.tid, record.fd)?;
            let Some(stat) = stat else { return Ok(None) };
            (device, inode) = (stat.device, stat.inode);
        }
        let mut file = OpenFile {
            fd: record.fd,
            close_on_exec: record.close_on_exec != 0,
            description: record.file,
            position: record.position,
            flags: file_flags(record),
            mode: mode(record, name),
            device,
            inode,
            target: OsString::new(),
            owned: Some(record.beside & beside::OWNER != 0),
            locked: Some(record.beside & beside::LOCKS != 0),
            linkable: Some(record.beside & beside::LINKABLE != 0),
            uncorked: record.beside & beside::UNCORKED != 0,
            terminal: None,
            mark: mark(record).filter(|_| self.watched || !has_settings(record)),
        };
        let mut read = ReadFile { index, before: 0, keeps_name: false, same: false };
        match before {
            Some(before) if before.target.as_bytes() == name => {
                read.before = before.description;
                read.same = is_like(&file, before);
                file.target = std::mem::take(&mut before.target);
            }
            _ => file.target = OsString::from_vec(name.to_vec()),
        }
        Ok(Some((file, read)))
    }
}

/// Whether nothing is different but, perhaps, the target and what the description is called.
fn is_like(one: &OpenFile, other: &OpenFile) -> bool {
    one.fd == other.fd
        && one.close_on_exec == other.close_on_exec
        && one.position == other.position
        && one.flags == other.flags
        && one.mode == other.mode
        && (one.device, one.inode) == (other.device, other.inode)
        && one.owned == other.owned
        && one.locked == other.locked
        && one.linkable == other.linkable
        && one.uncorked == other.uncorked
        && one.mark == other.mark
}

/// Whether a file has settings that can be changed and changed back.
const fn has_settings(record: &FileRecord) -> bool {
    matches!(record.magic, PIPE_FS | SOCKET_FS) || is_fifo(record)
}

const fn is_fifo(record: &FileRecord) -> bool {
    record.mode & libc::S_IFMT == libc::S_IFIFO
}

fn mark(record: &FileRecord) -> Option<FileMark> {
    let nameless = matches!(record.magic, PIPE_FS | SOCKET_FS);
    let exact = nameless || is_fifo(record) || has_exact_sizes(record.magic);
    Some(FileMark { print: NonZeroU64::new(record.mark)?, size: exact.then_some(record.size) })
}

/// The name that the kernel makes of a number: `pipe:[7]`. `start` is 8 bytes at most.
fn numbered<'a>(place: &'a mut [u8; 32], start: &[u8], mut number: u64) -> &'a [u8] {
    let mut first = place.len() - 1;
    place[first] = b']';
    loop {
        first -= 1;
        place[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    let begin = first - start.len();
    place[begin..first].copy_from_slice(start);
    &place[begin..]
}

/// Type and permissions as `stat` gives them: without type for what has no place in any tree
/// (`anon_inode_getattr` in the kernel).
fn mode(record: &FileRecord, target: &[u8]) -> u32 {
    if target.starts_with(b"anon_inode:") { record.mode & !libc::S_IFMT } else { record.mode }
}

/// A hash of addresses: they are no adversary's, and there are many.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AddressHash(u64);

impl std::hash::Hasher for AddressHash {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // What distinguishes addresses is in the middle; a table takes the lowest bits and the
        // highest.
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    const ONE: HostPid = HostPid::new(1).expect("a number");
    const DECODING: Decoding = Decoding { pid: ONE, tid: ONE, watched: true };

    fn record(fd: i32, name: &str, output: &mut Vec<u8>) {
        let mut record = FileRecord { fd, inode: 7, position: 9, ..FileRecord::default() };
        let (start, rest) = name.split_once(":[").unwrap_or((name, ""));
        let named = rest.is_empty();
        record.magic = if start == "pipe" { PIPE_FS } else { 0 };
        let bytes = if named { [name.as_bytes(), &[0]].concat() } else { Vec::new() };
        record.header.kind = KIND_FILE;
        record.header.bytes = (size_of::<FileRecord>() + bytes.len()) as u32;
        record.name_bytes = bytes.len() as u32;
        output.extend(record.as_bytes());
        output.extend(bytes);
    }

    fn decoded(names: &[(i32, &str)], earlier: Vec<OpenFile>) -> Vec<OpenFile> {
        let mut output = Vec::new();
        names.iter().for_each(|(fd, name)| record(*fd, name, &mut output));
        DECODING.decode(&output, earlier).unwrap().files
    }

    /// What one of several holders is read of for another reason is still the others'.
    #[test]
    fn names_are_kept_of_what_need_not_be_read() {
        let names = [(0, "/a"), (3, "/b"), (5, "/c")];
        let mut output = Vec::new();
        names.iter().for_each(|(fd, name)| record(*fd, name, &mut output));
        let mut before = decoded(&names, Vec::new());
        before.iter_mut().for_each(|file| file.description = 70 + file.fd as u64);
        let wanted = Wanted { always: vec![3], unless: vec![(5, 9)] };
        let mut whole = DECODING.decode(&output, before).unwrap();
        whole.keep_names(&wanted);
        let kept: Vec<_> = whole.read.iter().map(|read| (read.before, read.keeps_name)).collect();
        assert_eq!(kept, [(70, true), (73, false), (75, true)]);
        let mut some = Vec::new();
        names[1..].iter().for_each(|(fd, name)| record(*fd, name, &mut some));
        let some = DECODING.decode_some(&some, whole.files, &wanted).unwrap().unwrap();
        assert_eq!(some.read.iter().map(|read| read.index).collect::<Vec<_>>(), [1, 2]);
        assert!(!some.read[0].keeps_name);
    }

    /// Whatever was there before, it comes out as if nothing had been.
    #[test]
    fn files_of_before_make_no_difference() {
        let lists: [&[(i32, &str)]; 7] = [
            &[],
            &[(0, "/a"), (3, "pipe:[7]"), (5, "/b")],
            &[(0, "/a"), (5, "/b")],
            &[(3, "/a"), (5, "/c"), (6, "/d")],
            &[(0, "/a"), (1, "/x"), (3, "/pipe"), (5, "/b"), (9, "/e")],
            &[(5, "/b")],
            &[(0, "pipe:[7]"), (3, "pipe:[7]")],
        ];
        for after in lists {
            let expected = decoded(after, Vec::new());
            let names: Vec<_> =
                after.iter().map(|(fd, name)| (*fd, OsString::from(name))).collect();
            let found: Vec<_> =
                expected.iter().map(|file| (file.fd, file.target.clone())).collect();
            assert_eq!(found, names);
            for before in lists {
                assert_eq!(decoded(after, decoded(before, Vec::new())), expected);
            }
        }
    }

    #[test]
    fn names_of_numbers() {
        let mut place = [0; 32];
        assert_eq!(numbered(&mut place, b"pipe:[", 0), b"pipe:[0]");
        assert_eq!(numbered(&mut place, b"socket:[", 10_709), b"socket:[10709]");
        let longest = format!("socket:[{}]", u64::MAX);
        assert_eq!(numbered(&mut place, b"socket:[", u64::MAX), longest.as_bytes());
    }
}

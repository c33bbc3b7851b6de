//! What was found of open files while the target ran, and still holds when it is frozen.
//!
//! The order makes it right. First an inventory is taken, with the files' marks; then the files are
//! read; the frozen inventory has their marks again. A file that changed after it was read, or
//! while it was, has another mark by then, and is read again. What changes all the time and does
//! not make a file another (its position, size, flags, rights) is no part of a mark: it is taken
//! from the frozen inventory.
//!
//! So the frozen moment costs a comparison for each file that is as it was, and a look at each that
//! is not. Without marks (no eBPF) each is looked at.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::num::NonZeroU64;
use std::ops::Range;

use collector::{FileMark, OpenFile};
use ids::HostPid;
use images::messages::{FdinfoEntry, FileEntry, PipeDataEntry};

use super::neighbours::Neighbours;

/// Flags that a file may gain and lose without being another one.
pub(super) const STATUS: u32 = libc::O_NONBLOCK.cast_unsigned();

/// What was found while the target ran.
#[derive(Debug, Default)]
pub(super) struct FileCache {
    /// The entries of all of them.
    pub(super) files: Vec<FileEntry>,
    /// By the lowest process that holds them, and there by rising descriptor.
    pub(super) found: BTreeMap<HostPid, Vec<CachedFile>>,
    /// The descriptors of each process.
    pub(super) tables: Tables,
    pub(super) contents: Contents,
    /// The sockets that the tree holds, by inode.
    pub(super) sockets: HashSet<u32>,
    /// The sockets that were on their way in messages, by inode.
    pub(super) in_flight: HashSet<u32>,
    /// Sockets outside of the tree that its own are connected to, by inode: type (`SOCK_*`) and name.
    pub(super) outside: BTreeMap<u32, (i32, Vec<u8>)>,
    /// The mappings of each process by which files are mapped first, with the mark of its mappings.
    pub(super) mapped: HashMap<HostPid, (NonZeroU64, Vec<usize>)>,
    /// The process whose files are being compared, its files, and how far it has come.
    at: (Option<HostPid>, Vec<CachedFile>, usize),
    /// The last number that was given to an entry.
    pub(super) last_id: u32,
    /// Room for the entries that are made of a target that stands still.
    pub(super) room: Vec<FileEntry>,
}

/// One open file description.
#[derive(Debug)]
pub(super) struct CachedFile {
    pub(super) fd: i32,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) target: OsString,
    pub(super) mark: FileMark,
    pub(super) id: u32,
    pub(super) r#type: u32,
    /// Its entries, itself and what it refers to, with what the inventory said of it.
    pub(super) keeping: Keeping,
    /// Whether an inventory tells all that there is to tell of it, as long as its mark is the same.
    pub(super) is_steady: bool,
    /// The socket that it is connected to, by inode; 0 for none.
    pub(super) peer: u32,
}

impl CachedFile {
    fn is(&self, file: &OpenFile, mark: FileMark) -> bool {
        self.mark.print == mark.print
            && self.inode == file.inode
            && self.device == file.device
            && (self.keeping.flags ^ file.flags) & !STATUS == 0
            && self.target == file.target
    }

    pub(super) const fn fd(&self) -> i32 {
        self.fd
    }

    /// Device and inode.
    pub(super) const fn file(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    pub(super) const fn is_of(&self, r#type: u32) -> bool {
        self.r#type == r#type
    }

    pub(super) const fn is_steady(&self) -> bool {
        self.is_steady
    }

    pub(super) const fn keeping(&self) -> &Keeping {
        &self.keeping
    }
}

/// A file whose entries of before are written, with what the frozen inventory says.
#[derive(Clone, Debug)]
pub(super) struct Keeping {
    pub(super) entries: Range<usize>,
    pub(super) flags: u32,
    pub(super) mode: u32,
    pub(super) position: u64,
    /// `None` to leave the size that is there.
    pub(super) size: Option<u64>,
}

impl Keeping {
    pub(super) fn new(file: &OpenFile, entries: Range<usize>, size: Option<u64>) -> Self {
        let (flags, mode, position) = (file.flags, file.mode, file.position);
        Self { entries, flags, mode, position, size }
    }
}

impl FileCache {
    /// Makes room for as many entries as have to be made again of `made` when the target stands still: memory that is touched for the
    /// first time, and moved when there is more, takes longer than the rest of an entry.
    pub(super) fn make_room(&mut self, made: usize) {
        /// More take longer to touch than is gained.
        const MOST: usize = 1 << 16;
        let kept = self.found.values().flatten().map(|found| found.keeping.entries.len());
        let anew = made.saturating_sub(kept.sum());
        let room = (anew + anew / 8 + 16).min(MOST);
        self.room.resize_with(room, FileEntry::default);
        self.room.clear();
    }

    /// The file of process `pid`, if it is as it was. Files are asked for by rising descriptors, one
    /// process after the other.
    pub(super) fn find(
        &mut self,
        pid: HostPid,
        file: &OpenFile,
        mark: FileMark,
    ) -> Option<&CachedFile> {
        if self.at.0 != Some(pid) {
            self.at = (Some(pid), self.found.remove(&pid).unwrap_or_default(), 0);
        }
        let (_, found, next) = &mut self.at;
        while found.get(*next).is_some_and(|found| found.fd < file.fd) {
            *next += 1;
        }
        found.get(*next).filter(|found| found.fd == file.fd && found.is(file, mark))
    }

    /// The contents of a pipe or fifo, if they are as they were; they are asked for once, and given at
    /// most then.
    pub(super) fn take_contents(&mut self, file: &OpenFile) -> Option<(PipeDataEntry, Vec<u8>)> {
        let (print, entry, bytes) = self.contents.remove(&(file.device, file.inode))?;
        (file.mark?.print == print).then_some((entry, bytes))
    }

    /// Keeps the contents of a pipe or fifo.
    pub(super) fn put_contents(&mut self, file: &OpenFile, entry: PipeDataEntry, bytes: Vec<u8>) {
        if let Some(mark) = file.mark {
            self.contents.insert((file.device, file.inode), (mark.print, entry, bytes));
        }
    }

    /// The file of process `pid` that was found last.
    pub(super) fn last_file(&self, pid: HostPid) -> Option<&CachedFile> {
        self.found.get(&pid)?.last()
    }

    /// Descriptors of Unix sockets of a process whose other ends the tree does not hold.
    pub(super) fn without_peer(
        &self,
        pid: HostPid,
        neighbours: &Neighbours,
    ) -> impl Iterator<Item = i32> {
        let found = self.found.get(&pid).map(Vec::as_slice).unwrap_or_default();
        let is_alone = |found: &&CachedFile| found.peer != 0 && !neighbours.holds(found.peer);
        found.iter().filter(is_alone).map(|found| found.fd)
    }

    /// All that was found of process `pid`, when there is no more to be compared.
    pub(super) fn rest_of(&mut self, pid: HostPid) -> Vec<CachedFile> {
        let (at, found, _) = &mut self.at;
        if *at == Some(pid) {
            std::mem::take(found)
        } else {
            self.found.remove(&pid).unwrap_or_default()
        }
    }
}

/// The descriptors of a process as they were found.
#[derive(Debug, Default)]
pub(super) struct Before {
    pub(super) entries: Vec<FdinfoEntry>,
    /// Those at which a look is taken in any case, by rising number.
    pub(super) looks: Vec<i32>,
}

/// What the plan found of the files of a process. All of it still holds, but for the descriptors in `but`.
#[derive(Debug)]
pub(super) struct Unchanged {
    pub(super) found: Vec<CachedFile>,
    /// By rising number.
    pub(super) but: Vec<i32>,
}

/// Contents of pipes and fifos, by device and inode, with the marks that they had before.
pub(super) type Contents = HashMap<(u64, u64), (NonZeroU64, PipeDataEntry, Vec<u8>)>;

impl Unchanged {
    pub(super) fn files(&self) -> impl Iterator<Item = &CachedFile> {
        self.found.iter().filter(|found| self.but.binary_search(&found.fd()).is_err())
    }
}

/// The tables as they were found, by process.
pub(super) type Tables = BTreeMap<HostPid, Before>;

impl CachedFile {
    /// Whether this is an end that reads, of a file of this type.
    pub(super) fn reads(&self, r#type: u32) -> bool {
        self.is_of(r#type) && self.keeping().flags.cast_signed() & libc::O_ACCMODE != libc::O_WRONLY
    }
}

#[cfg(test)]
#[path = "file_cache_tests.rs"]
mod tests;

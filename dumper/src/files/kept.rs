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
use images::messages::{FileEntry, PipeDataEntry};

use super::neighbours::Neighbours;
use super::problem::Problem;
use super::standing::{Contents, Tables};
use super::survey::Survey;
use super::table;

/// Flags that a file may gain and lose without being another one.
pub(super) const STATUS: u32 = libc::O_NONBLOCK.cast_unsigned();

/// What was found while the target ran.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The entries of all of them.
    pub(super) files: Vec<FileEntry>,
    /// By the lowest process that holds them, and there by rising descriptor.
    found: BTreeMap<i32, Vec<Found>>,
    /// The descriptors of each process.
    pub(super) tables: Tables,
    pub(super) contents: Contents,
    /// The sockets that the tree holds, by inode.
    pub(super) sockets: HashSet<u32>,
    /// The mappings of each process by which files are mapped first, with the mark of its mappings.
    pub(super) mapped: HashMap<i32, (NonZeroU64, Vec<usize>)>,
    /// The process whose files are being compared, its files, and how far it has come.
    at: (i32, Vec<Found>, usize),
    /// The last number that was given to an entry.
    pub(super) last_id: u32,
}

/// One open file description.
#[derive(Debug)]
pub(super) struct Found {
    fd: i32,
    device: u64,
    inode: u64,
    target: OsString,
    mark: FileMark,
    id: u32,
    r#type: u32,
    /// Its entries, itself and what it refers to, with what the inventory said of it.
    keeping: Keeping,
    /// Whether an inventory tells all that there is to tell of it, as long as its mark is the same.
    is_steady: bool,
    /// The other end of a Unix socket, by inode; 0 for none.
    peer: u32,
}

impl Found {
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
    fn new(file: &OpenFile, entries: Range<usize>, size: Option<u64>) -> Self {
        let (flags, mode, position) = (file.flags, file.mode, file.position);
        Self { entries, flags, mode, position, size }
    }

    /// Brings an entry up to date.
    pub(super) fn update(&self, entry: &mut FileEntry) {
        if let Some(kind) = table::of_type(entry.r#type) {
            kind.update(entry, self);
        }
    }
}

impl Kept {
    /// The file of process `pid`, if it is as it was. Files are asked for by rising descriptors, one
    /// process after the other.
    fn find(&mut self, pid: i32, file: &OpenFile, mark: FileMark) -> Option<&Found> {
        if self.at.0 != pid {
            self.at = (pid, self.found.remove(&pid).unwrap_or_default(), 0);
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
    pub(super) fn last_found(&self, pid: i32) -> Option<&Found> {
        self.found.get(&pid)?.last()
    }

    /// Descriptors of Unix sockets of a process whose other ends the tree does not hold.
    pub(super) fn without_peer(
        &self,
        pid: i32,
        neighbours: &Neighbours,
    ) -> impl Iterator<Item = i32> {
        let found = self.found.get(&pid).map(Vec::as_slice).unwrap_or_default();
        let is_alone = |found: &&Found| found.peer != 0 && !neighbours.holds(found.peer);
        found.iter().filter(is_alone).map(|found| found.fd)
    }

    /// All that was found of process `pid`, when there is no more to be compared.
    pub(super) fn rest_of(&mut self, pid: i32) -> Vec<Found> {
        let (at, found, _) = &mut self.at;
        if *at == pid { std::mem::take(found) } else { self.found.remove(&pid).unwrap_or_default() }
    }
}

impl Survey<'_> {
    /// Notes what has been found of a file since there were `before` entries, to be used if it does not
    /// change.
    pub(super) fn keep(&mut self, pid: i32, file: &OpenFile, id: u32, before: usize) {
        let Some(mark) = file.mark else { return };
        let entries = before..self.out.files.len();
        let Some(own) = self.out.files[entries.clone()].iter().find(|entry| entry.id == id) else {
            return;
        };
        let kind = table::of_type(own.r#type);
        self.kept.found.entry(pid).or_default().push(Found {
            fd: file.fd,
            device: file.device,
            inode: file.inode,
            target: file.target.clone(),
            mark,
            id,
            r#type: own.r#type,
            keeping: Keeping::new(file, entries, mark.size),
            is_steady: kind.is_some_and(|kind| kind.is_steady(own, mark.size)),
            peer: own.usk.as_ref().map_or(0, |socket| socket.peer),
        });
    }

    /// The id and type of a file that is as it was when it was read; `None` for one that has to be
    /// read now.
    pub(super) fn kept(
        &mut self,
        pid: i32,
        file: &OpenFile,
    ) -> Result<Option<(u32, u32)>, Problem> {
        let Some(mark) = file.mark else { return Ok(None) };
        let Some(found) = self.kept.find(pid, file, mark) else { return Ok(None) };
        let (id, r#type, entries) = (found.id, found.r#type, found.keeping.entries.clone());
        let Some(kind) = table::of_type(r#type) else { return Ok(None) };
        let mut keeping = Keeping::new(file, entries, mark.size);
        if !kind.holds(self, pid, file, &mut keeping)? {
            return Ok(None);
        }
        self.out.keeping.push(keeping);
        Ok(Some((id, r#type)))
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;

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
use images::messages::{FileEntry, PipeDataEntry, SK_LISTEN, fd_type};

use super::Captured;
use super::memory::with_socket;
use super::problem::Problem;
use super::standing::{Contents, Tables};
use super::survey::Survey;
use super::unix_sockets::{self, Neighbours};

/// Flags that a file may gain and lose without being another one.
const STATUS: u32 = libc::O_NONBLOCK.cast_unsigned();

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
    unix: Option<Unix>,
}

/// What of a Unix socket is looked at again.
#[derive(Clone, Copy, Debug)]
struct Unix {
    kind: i32,
    state: u32,
    peer: u32,
    bound: bool,
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

    /// Of a Unix socket: whether it is bound to a path.
    pub(super) fn is_bound(&self) -> bool {
        self.unix.is_none_or(|unix| unix.bound)
    }

    /// What the mark said of its size.
    pub(super) const fn size(&self) -> Option<u64> {
        self.mark.size
    }

    pub(super) const fn keeping(&self) -> &Keeping {
        &self.keeping
    }
}

/// A file whose entries of before are written, with what the frozen inventory says.
#[derive(Clone, Debug)]
pub(super) struct Keeping {
    pub(super) entries: Range<usize>,
    flags: u32,
    mode: u32,
    position: u64,
    /// `None` to leave the size that is there.
    size: Option<u64>,
}

impl Keeping {
    fn new(file: &OpenFile, entries: Range<usize>, r#type: u32, size: Option<u64>) -> Self {
        Self {
            entries,
            flags: file.flags,
            mode: file.mode,
            position: file.position,
            size: if r#type == fd_type::REG { size } else { None },
        }
    }

    pub(super) const fn flags(&self) -> u32 {
        self.flags
    }

    /// Brings an entry up to date.
    pub(super) fn update(&self, entry: &mut FileEntry) {
        let flags = self.flags;
        if let Some(reg) = &mut entry.reg {
            reg.flags =
                if reg.flags & STATUS == flags & STATUS { reg.flags } else { reg.flags ^ STATUS };
            reg.pos = self.position;
            reg.mode = Some(self.mode);
            reg.size = reg.size.map(|size| self.size.unwrap_or(size));
        }
        let others = [
            entry.pipe.as_mut().map(|pipe| &mut pipe.flags),
            entry.usk.as_mut().map(|socket| &mut socket.flags),
            entry.isk.as_mut().map(|socket| &mut socket.flags),
        ];
        others.into_iter().flatten().for_each(|place| *place = flags);
    }
}

/// How much a look had found.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    files: usize,
    others: usize,
    pipes: usize,
    fifos: usize,
}

impl Captured {
    pub(super) fn extent(&self) -> Extent {
        Extent {
            files: self.files.len(),
            others: self.remaps.len() + self.ghosts.len() + self.ttys.len() + self.queues.len(),
            pipes: self.pipes.len(),
            fifos: self.fifos.len(),
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
        let is_alone = |unix: Unix| unix.peer != 0 && !neighbours.holds(unix.peer);
        found.iter().filter(move |found| found.unix.is_some_and(is_alone)).map(|found| found.fd)
    }

    /// All that was found of process `pid`, when there is no more to be compared.
    pub(super) fn rest_of(&mut self, pid: i32) -> Vec<Found> {
        let (at, found, _) = &mut self.at;
        if *at == pid { std::mem::take(found) } else { self.found.remove(&pid).unwrap_or_default() }
    }
}

impl Survey<'_> {
    /// Notes what has been found of a file, since `before`, to be used if it does not change.
    pub(super) fn keep(&mut self, pid: i32, file: &OpenFile, id: u32, before: Extent) {
        let after = self.out.extent();
        let Some(mark) = file.mark else { return };
        let contents =
            self.out.pipes.drain(before.pipes..).chain(self.out.fifos.drain(before.fifos..));
        for (entry, bytes) in contents {
            self.kept.contents.insert((file.device, file.inode), (mark.print, entry, bytes));
        }
        // Those have numbers of their own that are given in the frozen moment.
        if before.others != after.others {
            return;
        }
        let entries = before.files..after.files;
        let Some(own) = self.out.files[entries.clone()].iter().find(|entry| entry.id == id) else {
            return;
        };
        let unix = own.usk.as_ref().map(|socket| Unix {
            kind: socket.r#type.cast_signed(),
            state: socket.state,
            peer: socket.peer,
            bound: unix_sockets::is_path(&socket.name),
        });
        let r#type = own.r#type;
        self.kept.found.entry(pid).or_default().push(Found {
            fd: file.fd,
            device: file.device,
            inode: file.inode,
            target: file.target.clone(),
            mark,
            id,
            r#type,
            keeping: Keeping::new(file, entries, r#type, mark.size),
            unix,
        });
    }

    /// Forgets what was found since `before`.
    pub(super) fn forget(&mut self, before: Extent) {
        self.out.files.truncate(before.files);
        self.out.pipes.truncate(before.pipes);
        self.out.fifos.truncate(before.fifos);
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
        let (id, r#type, entries, unix) =
            (found.id, found.r#type, found.keeping.entries.clone(), found.unix);
        let size = if r#type == fd_type::REG && mark.size.is_none() {
            Some(self.find(pid, file)?.stat()?.st_size.cast_unsigned())
        } else {
            mark.size
        };
        match r#type {
            fd_type::PIPE => {
                let contents = self.contents(pid, file)?;
                self.out.pipes.extend(contents);
            }
            fd_type::FIFO => {
                let contents = self.contents(pid, file)?;
                self.out.fifos.extend(contents);
            }
            fd_type::UNIXSK => {
                let Some(unix) = unix else { return Ok(None) };
                if !self.unix_as_it_was(pid, file, unix, mark, &entries)? {
                    return Ok(None);
                }
            }
            _ => {}
        }
        self.out.keeping.push(Keeping::new(file, entries, r#type, size));
        Ok(Some((id, r#type)))
    }

    /// Whether what surrounds a Unix socket, that has not changed itself, is as it was; what is
    /// queued in it, and where the file is that it is bound to, is found anew.
    fn unix_as_it_was(
        &mut self,
        pid: i32,
        file: &OpenFile,
        unix: Unix,
        mark: FileMark,
        entries: &Range<usize>,
    ) -> Result<bool, Problem> {
        if unix.peer != 0 && !self.neighbours.holds(unix.peer) {
            return Ok(false);
        }
        let waiting = mark.size != Some(0);
        if unix.state == SK_LISTEN && waiting {
            return Ok(false);
        }
        if unix.bound
            && let Some(entry) =
                self.kept.files[entries.clone()].iter_mut().find_map(|f| f.usk.as_mut())
        {
            with_socket(self.memory, pid, file, |socket| unix_sockets::locate(socket, entry))?;
        }
        if waiting {
            let id = self.kept.files[entries.start].id;
            if unix.kind == libc::SOCK_DGRAM {
                self.neighbours.load_one(file.inode as u32)?;
            }
            self.unix_queue(pid, file, id, unix.kind, unix.state)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;

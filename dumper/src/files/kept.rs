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

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::num::NonZeroU64;
use std::ops::Range;

use collector::{FileMark, OpenFile};
use images::messages::{FileEntry, PipeDataEntry, SK_LISTEN, SkPacketEntry, fd_type};
use kernel::pagemap::PAGE_SIZE;

use super::Captured;
use super::memory::with_socket;
use super::problem::Problem;
use super::survey::Survey;
use super::unix_sockets;

/// Flags that a file may gain and lose without being another one.
const STATUS: u32 = libc::O_NONBLOCK.cast_unsigned();

/// What was found while the target ran.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The entries of all of them.
    pub(super) files: Vec<FileEntry>,
    /// By the lowest process that holds them, and there by rising descriptor.
    found: BTreeMap<i32, Vec<Found>>,
    /// Contents of pipes and fifos, by device and inode, with the marks that they had before.
    contents: HashMap<(u64, u64), (NonZeroU64, Vec<u8>)>,
    /// The mappings of each process by which files are mapped first, with the mark of its mappings.
    pub(super) mapped: HashMap<i32, (NonZeroU64, Vec<usize>)>,
    /// The process whose files are being compared, its files, and how far it has come.
    at: (i32, Vec<Found>, usize),
    /// The last number that was given to an entry.
    pub(super) last_id: u32,
}

/// One open file description.
#[derive(Debug)]
struct Found {
    fd: i32,
    flags: u32,
    device: u64,
    inode: u64,
    target: OsString,
    print: NonZeroU64,
    id: u32,
    r#type: u32,
    /// Its entries: itself and what it refers to.
    entries: Range<usize>,
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
        self.print == mark.print
            && self.inode == file.inode
            && self.device == file.device
            && (self.flags ^ file.flags) & !STATUS == 0
            && self.target == file.target
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

    /// The contents of a pipe or fifo, if they are as they were; they are given once.
    pub(super) fn take_contents(&mut self, file: &OpenFile) -> Option<(PipeDataEntry, Vec<u8>)> {
        let mark = file.mark?;
        let pages = mark.size?;
        let (print, _) = self.contents.get(&(file.device, file.inode))?;
        if *print != mark.print {
            return None;
        }
        let (_, bytes) = self.contents.remove(&(file.device, file.inode))?;
        let entry = PipeDataEntry {
            pipe_id: file.inode as u32,
            bytes: bytes.len() as u32,
            size: u32::try_from(pages * PAGE_SIZE).ok(),
        };
        Some((entry, bytes))
    }
}

impl Survey<'_> {
    /// Notes what has been found of a file, since `before`, to be used if it does not change.
    pub(super) fn keep(&mut self, pid: i32, file: &OpenFile, id: u32, before: Extent) {
        let after = self.out.extent();
        let Some(mark) = file.mark else { return };
        let contents =
            self.out.pipes.drain(before.pipes..).chain(self.out.fifos.drain(before.fifos..));
        for (_, bytes) in contents {
            self.kept.contents.insert((file.device, file.inode), (mark.print, bytes));
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
        self.kept.found.entry(pid).or_default().push(Found {
            fd: file.fd,
            flags: file.flags,
            device: file.device,
            inode: file.inode,
            target: file.target.clone(),
            print: mark.print,
            id,
            r#type: own.r#type,
            entries,
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
            (found.id, found.r#type, found.entries.clone(), found.unix);
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
        self.out.keeping.push(Keeping {
            entries,
            flags: file.flags,
            mode: file.mode,
            position: file.position,
            size: if r#type == fd_type::REG { size } else { None },
        });
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
            let id_for = self.kept.files[entries.start].id;
            let queue = with_socket(self.memory, pid, file, |socket| {
                unix_sockets::queue(socket, unix.kind, unix.state)
            })?;
            self.out.queues.extend(queue.into_iter().map(|message| {
                let length = message.len() as u32;
                (SkPacketEntry { id_for, length, scm: Vec::new() }, message)
            }));
        }
        Ok(true)
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;

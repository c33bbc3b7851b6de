//! What the images say of files, in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use ids::ImagePid;
use images::messages::{FdinfoEntry, FileEntry, RegFileEntry};

use super::beside::{Beside, Part};
use super::ghosts::GhostImage;
use super::leases::Leases;
use crate::places::Sought;
use crate::run::Run;

/// Most bytes that a pipe or a message may hold: a pipe's largest size by default.
pub(super) const LONGEST: u32 = 64 << 20;

/// Memory that files hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileMemory {
    /// What is in it, by the id of the shared memory (`pagemap-shmem-ID.img`).
    pub(crate) runs: Arc<BTreeMap<u64, Vec<Run>>>,
    /// The files that the runs refer to.
    pub(crate) stores: Arc<[File]>,
}

impl Part for FileMemory {}

/// How a file that has lost its name is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remap {
    /// It is made: the number of a ghost.
    Ghost(u32),
    /// The dump has given it another name: it is the path of this file.
    Link(u32),
}

impl Remap {
    /// The ghost that it is, if it is one.
    pub(super) const fn ghost(self) -> Option<u32> {
        match self {
            Self::Ghost(id) => Some(id),
            Self::Link(_) => None,
        }
    }
}

/// All that the images say of files.
#[derive(Debug, Default)]
pub struct FileImages {
    /// Entries of `files.img` by id.
    pub files: BTreeMap<u32, Box<FileEntry>>,
    /// Entries of `fdinfo-ID.img` by the id of the descriptor table.
    pub tables: BTreeMap<u32, Vec<FdinfoEntry>>,
    /// What kinds of file have in images of their own.
    pub(super) beside: Beside,
    /// How each file that has lost its name is found.
    pub(super) remaps: BTreeMap<u32, Remap>,
    pub(super) ghosts: BTreeMap<u32, GhostImage>,
    /// Processes that have ended, and whose files of `/proc` are open: a restore makes them for a moment.
    pub(super) dead: BTreeSet<ImagePid>,
    /// The files that are on their way to each file, by ids.
    pub(super) sent: BTreeMap<u32, BTreeSet<u32>>,
    /// What takes the place of files that the caller hands over, by their ids.
    pub(super) inherited: BTreeMap<u32, Arc<OwnedFd>>,
    /// The processes that will be there.
    pub(super) pids: BTreeSet<ImagePid>,
}

impl FileImages {
    /// Processes that have ended, and are to be there while files of `/proc` about them are opened.
    pub(crate) fn dead(&self) -> impl Iterator<Item = ImagePid> + '_ {
        self.dead.iter().copied()
    }

    /// Leases on open files.
    pub(crate) fn leases(&mut self) -> &mut Leases {
        self.beside.of()
    }

    /// The mounts and paths that these files are looked for by, and those of the directories of files that have lost their names, and of
    /// sockets.
    pub(crate) fn on_mounts(&self) -> Vec<Sought> {
        let path = |name: &[u8]| PathBuf::from(OsStr::from_bytes(name));
        let is_seen = |mount: &i32| *mount >= 0;
        let of_file = |entry: &RegFileEntry| {
            let (path, mount) = (path(&entry.name), entry.mnt_id.filter(is_seen)?);
            Some(match self.remaps.contains_key(&entry.id) {
                false => Sought { mount, path, is_to_write: false },
                true => Sought { mount, path: path.parent()?.to_owned(), is_to_write: true },
            })
        };
        let of_socket = |mount: i32, file: &[u8]| {
            let path = path(file).parent()?.to_owned();
            Some(Sought { mount, path, is_to_write: false }).filter(|_| is_seen(&mount))
        };
        let files = self.files.values().filter_map(|file| file.reg.as_ref());
        let bound = self.files.values().filter_map(|file| file.body()?.bound_to());
        let bound = bound.filter_map(|(mount, file)| of_socket(mount, file));
        files.filter_map(of_file).chain(bound).collect()
    }

    /// Pages of memory that files hold, which will be put back.
    pub(crate) fn pages(&self) -> u64 {
        let runs = self.beside.get::<FileMemory>().map(|memory| &memory.runs);
        let runs = runs.into_iter().flat_map(|runs| runs.values().flatten());
        runs.filter(|run| run.stored().is_some()).map(|run| run.pages).sum()
    }

    /// The ids of files that descriptors refer to, or that are on their way to those.
    pub(super) fn wanted(&self) -> BTreeSet<u32> {
        self.with_sent(self.tables.values().flatten().map(|entry| entry.id))
    }

    /// These files, with all that are on their way to them.
    pub(crate) fn with_sent(&self, ids: impl Iterator<Item = u32>) -> BTreeSet<u32> {
        let mut found: BTreeSet<u32> = ids.collect();
        if self.sent.is_empty() {
            return found;
        }
        let mut new: Vec<u32> = found.iter().copied().collect();
        while let Some(id) = new.pop() {
            let sent = self.sent.get(&id).into_iter().flatten();
            new.extend(sent.copied().filter(|id| found.insert(*id)));
        }
        found
    }
}

//! Opens what is found by its path: files, directories, devices, fifos, programs, and ghosts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use images::messages::{FileEntry, RegFileEntry};
use nix::fcntl::OFlag;
use nix::unistd::{Whence, lseek};

use super::approve::{Approved, Approver, Purpose};
use super::changed;
use super::content::{self, Needs, Validation};
use super::ghosts::{GhostImage, Made, Name};
use super::images::Remap;
use super::ipc::IpcNamespaces;
use super::links::{self, LeftLinks};
use super::makers::Makers;
use super::networks::Networks;
use super::reopen::{self, flags, shown};
use super::{Error, OpenContext, Refused};

/// Opens files by the paths of the images.
#[derive(Debug)]
pub(super) struct Opener {
    pub(super) approver: Approver,
    root: Option<PathBuf>,
    validation: Validation,
    any_permissions: bool,
    /// Where sockets are made.
    pub(super) networks: Networks,
    pub(super) makers: Arc<Makers>,
    /// Where message queues are.
    pub(super) ipc: IpcNamespaces,
    /// What has been found of the contents of files, by id.
    checked: BTreeMap<u32, Needs>,
    images: BTreeMap<u32, GhostImage>,
    remaps: BTreeMap<u32, Remap>,
    /// The names that stand in for lost ones, by their ids.
    links: BTreeMap<u32, RegFileEntry>,
    /// The ghosts that were made without a name, with the flags by which they were.
    unnamed: BTreeMap<u32, OFlag>,
    /// All names that each ghost had.
    names: BTreeMap<u32, BTreeSet<Name>>,
    /// The ghosts that have been made.
    made: BTreeMap<u32, Made>,
    /// The ghosts by the device and inode that they had.
    inodes: BTreeMap<(u32, u64), u32>,
    /// Files that are still to be opened, by the ghosts that nothing else wants.
    unopened: BTreeMap<u32, BTreeSet<u32>>,
}

impl Opener {
    /// `watches` if any of the files watches others.
    pub(super) fn new(
        context: &OpenContext,
        images: BTreeMap<u32, GhostImage>,
        remaps: BTreeMap<u32, Remap>,
        files: &BTreeMap<u32, Box<FileEntry>>,
        watches: bool,
    ) -> Result<Self, Error> {
        let roots = Arc::clone(&context.roots);
        let approver =
            Approver::new(context.root.as_deref(), roots, context.holders.clone(), context.trust)?;
        let (checked, made) = Default::default();
        let links = remaps.values().filter_map(|remap| match remap {
            Remap::Ghost(_) => None,
            Remap::Link(id) => Some((*id, files.get(id)?.reg.clone()?)),
        });
        let links = links.collect();
        let all = files;
        let files = all.values().filter_map(|file| file.reg.as_ref());
        let mut names: BTreeMap<u32, BTreeSet<Name>> = BTreeMap::new();
        for file in files.clone() {
            if let Some(ghost) = remaps.get(&file.id).and_then(|remap| remap.ghost()) {
                names.entry(ghost).or_default().insert(name_of(file));
            }
        }
        let unnamed = files
            .filter(|file| file.unnamed())
            .filter_map(|file| Some((remaps.get(&file.id)?.ghost()?, reopen::unnamed(file.flags))));
        let unnamed = unnamed.collect();
        let inodes = images.iter().filter_map(|(id, image)| Some((image.inode()?, *id))).collect();
        let unopened = match watches {
            // A watch may be on any inode.
            true => BTreeMap::new(),
            false => of_descriptors_alone(all, &remaps, &context.lasting),
        };
        let (root, validation) = (context.root.clone(), context.validation);
        let (networks, ipc) = (context.networks.clone(), context.ipc.clone());
        Ok(Self {
            approver,
            root,
            validation,
            any_permissions: context.any_permissions,
            networks,
            makers: Arc::clone(&context.makers),
            ipc,
            checked,
            images,
            remaps,
            links,
            unnamed,
            names,
            made,
            inodes,
            unopened,
        })
    }

    /// Notes that a file of a descriptor has been opened. The handle on a ghost goes with the last of its files: a tree may
    /// have nearly as many deleted files open as the limit allows.
    pub(super) fn opened(&mut self, file: u32) {
        let Some(ghost) = self.remaps.get(&file).and_then(|remap| remap.ghost()) else { return };
        let Some(unopened) = self.unopened.get_mut(&ghost) else { return };
        unopened.remove(&file);
        if unopened.is_empty() {
            self.made.remove(&ghost);
        }
    }

    /// Opens the file of an entry with its own flags and position.
    pub(super) fn open(&mut self, entry: &RegFileEntry) -> Result<OwnedFd, Error> {
        let approved = self.approve(entry, Purpose::Access(entry.flags))?;
        let fd = match self.first(entry) {
            Some(first) => first,
            None => self.open_again(entry, &approved, entry.flags)?,
        };
        let handle = entry.flags & libc::O_PATH.cast_unsigned() != 0;
        if !handle && entry.pos != 0 && entry.pos != u64::MAX {
            lseek(&fd, entry.pos.cast_signed(), Whence::SeekSet)
                .map_err(|errno| Error::kernel(format!("seek in {}", shown(entry)), errno))?;
        }
        Ok(fd)
    }

    /// The open file description by which a file was made that had no name from the beginning.
    fn first(&mut self, entry: &RegFileEntry) -> Option<OwnedFd> {
        let ghost = self.remaps.get(&entry.id).filter(|_| entry.unnamed())?.ghost()?;
        self.made.get_mut(&ghost)?.first.take()
    }

    /// The file of an entry: one that the tasks may have, and that is what it was.
    pub(super) fn approve(
        &mut self,
        entry: &RegFileEntry,
        purpose: Purpose,
    ) -> Result<Approved, Error> {
        let approved = match self.remaps.get(&entry.id) {
            Some(Remap::Link(id)) => {
                let missing = || Error::image(shown(entry), "its link is not in the images");
                let link = self.links.get(id).ok_or_else(missing)?;
                links::approve(&self.approver, entry, link, purpose)?
            }
            Some(&Remap::Ghost(ghost)) => {
                let made = self.ghost(ghost, entry)?.try_clone();
                let failed = |source| {
                    let operation = format!("copy a handle on {}", shown(entry));
                    Error::Kernel { operation, source }
                };
                Approved::own(made.map_err(failed)?, entry)?
            }
            None => self.approver.approve(entry, purpose)?,
        };
        let (mode, size) = (approved.attributes.mode, approved.attributes.size);
        let path = changed::locate(&entry.name, self.root.as_deref());
        match changed::compare(entry, &path, (mode, size), self.any_permissions) {
            None => Ok(approved),
            Some(changed) => Err(Error::Refused(vec![Refused::new(entry.id, changed)])),
        }
    }

    /// Opens what has been approved.
    pub(super) fn open_again(
        &self,
        entry: &RegFileEntry,
        approved: &Approved,
        with: u32,
    ) -> Result<OwnedFd, Error> {
        let mut with = flags(with);
        if self.remaps.contains_key(&entry.id) {
            // It has no name to be opened by.
            with.remove(OFlag::O_NOFOLLOW);
        }
        approved
            .open(&self.approver, with)
            .map_err(|source| Error::Kernel { operation: format!("open {}", shown(entry)), source })
    }

    /// A descriptor for a program, or to map a file from.
    pub(super) fn open_contents(
        &mut self,
        entry: &RegFileEntry,
        purpose: Purpose,
        with: u32,
        needs: Needs,
    ) -> Result<OwnedFd, Error> {
        let approved = self.approve(entry, purpose)?;
        let known = self.checked.get(&entry.id);
        let ghost = self.remaps.get(&entry.id).is_some_and(|remap| remap.ghost().is_some());
        if self.validation == Validation::Contents
            && !ghost
            && known.is_none_or(|&known| known < needs)
        {
            content::check(entry, &approved, needs)?;
            self.checked.insert(entry.id, needs);
        }
        self.open_again(entry, &approved, with)
    }

    /// The error that stopped the opening of `files`, with all that has changed of them.
    pub(super) fn with_all_changed<'a>(
        &self,
        error: Error,
        files: impl Iterator<Item = &'a RegFileEntry>,
    ) -> Error {
        let named = files.filter(|entry| !self.remaps.contains_key(&entry.id));
        // In a namespace that is gone when this has failed nobody can change anything.
        let named = named.filter(|entry| !self.approver.is_inside(entry.mnt_id));
        let mut found = changed::all(named, self.root.as_deref(), self.any_permissions);
        match error {
            error if found.is_empty() => error,
            Error::Refused(others) => {
                let others =
                    others.into_iter().filter(|it| !found.iter().any(|one| one.found == it.found));
                let others: Vec<_> = others.collect();
                found.extend(others);
                Error::Refused(found)
            }
            _ => Error::Refused(found),
        }
    }

    /// Whether it is a file that has a name and is opened without any effect.
    pub(super) fn is_plain(&self, entry: &RegFileEntry) -> bool {
        !self.remaps.contains_key(&entry.id) && changed::is_plain(entry)
    }

    fn ghost(&mut self, id: u32, entry: &RegFileEntry) -> Result<&OwnedFd, Error> {
        if !self.made.contains_key(&id) {
            let missing = || Error::image(shown(entry), "its ghost is not in the images");
            let image = self.images.remove(&id).ok_or_else(missing)?;
            let unnamed = self.unnamed.get(&id).copied();
            let names = self.names.remove(&id).unwrap_or_default();
            let made = image.make(&self.approver, &name_of(entry), &names, unnamed);
            let made = made.map_err(|error| error.of(entry.id))?;
            self.made.insert(id, made);
        }
        let made = self.made.get(&id);
        let made = made.map(|made| made.others.get(&name_of(entry)).unwrap_or(&made.handle));
        made.ok_or_else(|| Error::image(shown(entry), "its ghost was not made"))
    }

    /// A handle on the deleted file that had this device, as the kernel packs it, and inode, if it has been made.
    pub(super) fn made_of(&self, device: u32, inode: u64) -> Option<&OwnedFd> {
        Some(&self.made.get(self.inodes.get(&(device, inode))?)?.handle)
    }

    /// The names that stand in for lost ones, to be removed when the tree is there.
    pub(super) fn into_links(self) -> LeftLinks {
        LeftLinks::new(self.approver, self.remaps, self.links, self.root)
    }

    /// Moves the handles on what has been made out of the way of the tasks.
    pub(super) fn keep(&mut self, keep: super::keep::Keep) -> io::Result<()> {
        for (id, made) in std::mem::take(&mut self.made) {
            // Whose description the other is has been opened by now.
            let others = made.others.into_iter();
            let others = others.map(|(name, handle)| Ok((name, keep.keep(handle)?)));
            let others = others.collect::<io::Result<_>>()?;
            self.made.insert(id, Made { handle: keep.keep(made.handle)?, others, first: None });
        }
        Ok(())
    }
}

/// The ghosts that nothing but descriptors wants, with the ids of their files; `lasting` are the files that something else wants.
fn of_descriptors_alone(
    files: &BTreeMap<u32, Box<FileEntry>>,
    remaps: &BTreeMap<u32, Remap>,
    lasting: &BTreeSet<u32>,
) -> BTreeMap<u32, BTreeSet<u32>> {
    let mut found: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    let ghosts = remaps.iter().filter_map(|(id, remap)| Some((*id, remap.ghost()?)));
    for (id, ghost) in ghosts.clone() {
        found.entry(ghost).or_default().insert(id);
    }
    let is_plain = |id: &u32| files.get(id).is_some_and(|file| file.reg.is_some());
    for (_, ghost) in ghosts.filter(|(id, _)| lasting.contains(id) || !is_plain(id)) {
        found.remove(&ghost);
    }
    found
}

/// The mount and the path of a file.
fn name_of(entry: &RegFileEntry) -> Name {
    (entry.mnt_id, entry.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_ghost_is_kept_as_long_as_something_wants_it() {
        let plain = || FileEntry { reg: Some(RegFileEntry::default()), ..FileEntry::default() };
        let mut files: BTreeMap<u32, Box<FileEntry>> =
            (1..=5).map(|id| (id, Box::new(plain()))).collect();
        files.insert(6, Box::default());
        let remaps = [(1, 10), (2, 10), (3, 20), (4, 30), (5, 40), (6, 40)];
        let remaps = remaps.map(|(id, ghost)| (id, Remap::Ghost(ghost))).into();
        let found = of_descriptors_alone(&files, &remaps, &[3].into());
        assert_eq!(found, [(10, [1, 2].into()), (30, [4].into())].into());
    }

    fn opener(root: Option<PathBuf>) -> Opener {
        let context = OpenContext { root, ..OpenContext::default() };
        Opener::new(&context, BTreeMap::new(), BTreeMap::new(), &BTreeMap::new(), false).unwrap()
    }

    #[test]
    fn nothing_is_made_or_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut entry = RegFileEntry {
            name: path.as_os_str().as_bytes().to_vec(),
            flags: (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC).cast_unsigned(),
            pos: 3,
            ..RegFileEntry::default()
        };
        assert!(opener(None).open(&entry).is_err());
        assert!(!path.exists());
        std::fs::write(&path, "content").unwrap();
        let fd = opener(None).open(&entry).unwrap();
        assert_eq!(lseek(&fd, 0, Whence::SeekCur).unwrap(), 3);
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
        let rooted = RegFileEntry { name: b"/file".to_vec(), ..entry.clone() };
        opener(Some(dir.path().to_owned())).open(&rooted).unwrap();
        entry.size = Some(8);
        assert!(opener(None).open(&entry).unwrap_err().to_string().contains("it has 7 bytes"));
    }

    #[test]
    fn a_flag_that_forbids_links_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let flags = (libc::O_RDONLY | libc::O_NOFOLLOW).cast_unsigned();
        let name = path.as_os_str().as_bytes().to_vec();
        let entry = RegFileEntry { name, flags, ..RegFileEntry::default() };
        let fd = opener(None).open(&entry).unwrap();
        let now = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFL).unwrap();
        let both = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        assert_eq!(now & both, libc::O_NOFOLLOW);
        for flags in [flags, flags | libc::O_PATH.cast_unsigned()] {
            let root = RegFileEntry { name: b"/".to_vec(), flags, ..RegFileEntry::default() };
            let fd = opener(Some(dir.path().to_owned())).open(&root).unwrap();
            let now = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
            assert_eq!(now, dir.path());
        }
    }
}

//! memfds: files of memory that nobody else has a name for, whose contents come with them. And shared anonymous memory
//! that is also a file: the kernel keeps such memory in a file on the same device, which `/proc/PID/map_files` lets one open and
//! map privately. In the images that is a memfd called `/dev/zero`, as CRIU has it.
//!
//! An inode may be open several times and mapped, in one task or in more: it is read once, as a
//! segment of shared memory, and each open file description refers to it.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use collector::{OpenFile, Process};
use ids::HostPid;
use images::messages::{
    FileEntry, FileTimesEntry, FownEntry, MemfdFileEntry, MemfdInodeEntry, fd_type, vma_status,
};
use images::{ImageWriter, MappingKind, names};
use kernel::descriptors::seals;
use kernel::shared_memory;
use nix::sys::stat::fstat;

use super::Captured;
use super::beside::Part;
use super::file_kind::FileKind;
use super::held_memfd::{HeldMemfd, HeldMemfds};
use super::open_memory::NAMELESS;
use super::owners;
use super::problem::{Doing, Problem};
use super::survey::Survey;
use crate::segment::{Key, Segment};

/// What the link text and the name of a mapping begin with.
const PREFIX: &[u8] = b"/memfd:";
const DELETED: &[u8] = b" (deleted)";

/// How the kernel calls a mapping of shared anonymous memory that has been given a name.
const GIVEN_A_NAME: &[u8] = b"[anon_shmem:";
/// What the images call it.
const IN_IMAGES: &[u8] = b"/dev/zero";

/// A memfd.
#[derive(Debug)]
pub(super) struct Memfd;

/// The memfds of a tree, by device and inode.
#[derive(Debug, Default)]
struct Inodes(BTreeMap<(u64, u64), Inode>);

#[derive(Debug)]
struct Inode {
    entry: MemfdInodeEntry,
    /// What is in it, of a tree that stands still.
    contents: Option<Segment>,
}

impl Part for Inodes {
    fn take_memory(&mut self) -> BTreeMap<Key, Segment> {
        let inodes = self.0.iter_mut();
        inodes
            .filter_map(|(key, inode)| Some((Key::File(key.0, key.1), inode.contents.take()?)))
            .collect()
    }
}

impl FileKind for Memfd {
    fn types(&self) -> &'static [u32] {
        &[fd_type::MEMFD]
    }

    fn is(&self, file: &OpenFile) -> bool {
        file.mode & libc::S_IFMT == libc::S_IFREG
            && (name(&file.target).is_some() || file.target == NAMELESS)
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let pid = process.pid;
        if file.flags & libc::O_PATH.cast_unsigned() != 0 {
            return Err(Problem::Refused(support::files::MEMFD_HANDLE));
        }
        let key = (file.device, file.inode);
        if !survey.held.beside.of::<HeldMemfds>().0.contains_key(&key) {
            let fd = survey.held.borrow(pid, file.fd)?;
            // A file of that name that was deleted from the root directory.
            let is_nameless = file.target == NAMELESS;
            if is_nameless && !is_the_kernels(&fd)? || seals(&fd).is_err() {
                return survey.path_file(pid, file, entry);
            }
            survey.hold_memfd(key, &fd)?;
        }
        // One that is on its way in a message.
        let is_open = file.target != NAMELESS || survey.memory.contains(&key);
        if !is_open && survey.maps_memory(key) {
            return Err(Problem::Refused(support::files::MEMORY_BEHIND_A_DESCRIPTOR));
        }
        let fown = survey.owner(pid, file)?;
        let inode_id = survey.memfd(pid, key, name(&file.target))?;
        let memfd =
            MemfdFileEntry { id: entry.id, flags: file.flags, pos: file.position, fown, inode_id };
        Ok(FileEntry { r#type: fd_type::MEMFD, memfd: Some(memfd), ..entry })
    }

    fn is_mapped(&self, inode: u64, called: &OsStr) -> bool {
        inode != 0
            && (name(called).is_some()
                || called == NAMELESS
                || called.as_bytes().starts_with(GIVEN_A_NAME))
    }

    fn mapping_status(&self) -> u32 {
        vma_status::MEMFD
    }

    /// Nobody can change one that is sealed.
    fn is_the_same_twice(&self, open: &dyn Fn() -> io::Result<File>) -> bool {
        let all = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        let seals = open().and_then(|file| seals(&file));
        seals.is_ok_and(|seals| seals.cast_signed() & all == all)
    }

    fn capture_mapped(
        &self,
        survey: &mut Survey<'_>,
        pid: HostPid,
        link: &str,
        called: &OsStr,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let file = File::open(format!("/proc/{pid}/{link}")).doing("open")?.into();
        // A file of that name that was deleted from the root directory.
        if seals(&file).is_err() {
            return Err(Problem::Refused(support::files::NAMED_LIKE_A_MEMFD));
        }
        let stat = fstat(&file).doing("stat")?;
        let key = (stat.st_dev, stat.st_ino);
        if !survey.held.beside.of::<HeldMemfds>().0.contains_key(&key) {
            survey.hold_memfd(key, &file)?;
        }
        let inode_id = survey.memfd(pid, key, name(called))?;
        let memfd = MemfdFileEntry {
            id: entry.id,
            flags: libc::O_RDWR.cast_unsigned(),
            pos: 0,
            fown: FownEntry { ..owners::nobody() },
            inode_id,
        };
        Ok(FileEntry { r#type: fd_type::MEMFD, memfd: Some(memfd), ..entry })
    }

    fn encode(&self, captured: &Captured, writer: &ImageWriter) -> Result<(), images::Error> {
        let Some(Inodes(inodes)) = captured.beside.get() else { return Ok(()) };
        let inodes = inodes.values();
        let mut entries: Vec<_> = inodes.map(|inode| inode.entry.clone()).collect();
        entries.iter_mut().for_each(|entry| captured.ids.enter(entry));
        writer.write_all(&names::memfd(), &entries)
    }
}

/// The number of an inode, or one that none of the others has. The kernel numbers them with 64 bits; those
/// of shared memory are in the same row.
fn number(inode: u64, others: impl Iterator<Item = u64>) -> u32 {
    u32::try_from(inode).unwrap_or_else(|_| {
        let taken: HashSet<u64> = others.collect();
        let mut free = (1..=u32::MAX).rev().filter(|number| !taken.contains(&u64::from(*number)));
        free.next().unwrap_or(u32::MAX)
    })
}

/// Whether a file is on the device on which the kernel keeps memfds and shared anonymous memory.
fn is_the_kernels(fd: &OwnedFd) -> Result<bool, Problem> {
    let device = shared_memory::device().doing("compare the device of")?;
    Ok(fstat(fd).doing("stat")?.st_dev == device)
}

/// The name that a memfd was given, by its link text or the name of its mapping.
fn name(target: &OsStr) -> Option<&[u8]> {
    target.as_bytes().strip_prefix(PREFIX)?.strip_suffix(DELETED)
}

impl Survey<'_> {
    /// Whether a process has shared anonymous memory mapped that this is.
    fn maps_memory(&self, key: (u64, u64)) -> bool {
        let mut mappings = self.inventory.processes.values().flat_map(|process| &process.mappings);
        mappings.any(|mapping| {
            (mapping.device, mapping.inode) == key && mapping.kind == MappingKind::SharedAnonymous
        })
    }

    /// Opens a memfd, and keeps it for the frozen moment; `fd` is one of its open files.
    fn hold_memfd(&mut self, key: (u64, u64), fd: &OwnedFd) -> Result<(), Problem> {
        let held = HeldMemfd::new(fd)?;
        // The target runs: the number may be another file's by now.
        if held.key != key {
            return Err(Problem::Gone);
        }
        self.held.beside.of::<HeldMemfds>().0.insert(key, held);
        Ok(())
    }

    /// The number of a memfd that is held, which is looked at when it is met first. It has a name, if it is
    /// not shared anonymous memory.
    fn memfd(
        &mut self,
        pid: HostPid,
        key: (u64, u64),
        name: Option<&[u8]>,
    ) -> Result<u32, Problem> {
        if let Some(known) = self.out.beside.of::<Inodes>().0.get(&key) {
            return Ok(known.entry.shmid);
        }
        let memfds = &mut self.held.beside.of::<HeldMemfds>().0;
        let held = memfds.get_mut(&key).ok_or(Problem::Gone)?;
        let stat = fstat(&held.file).doing("stat")?;
        let seals = seals(&held.file).doing("get the seals of")?;
        held.look(&stat)?;
        let HeldMemfd { huge, flags, .. } = *held;
        let attributes = held.attributes.clone();
        let like_none = if huge.is_some() { b"/anon_hugepage" } else { IN_IMAGES };
        if name == Some(like_none) {
            return Err(Problem::Refused(support::files::MEMFD_NAME));
        }
        let bytes = stat.st_size.cast_unsigned();
        let number = self.memfd_number(key);
        let contents = match self.frozen {
            true => self.held.beside.of::<HeldMemfds>().0.remove(&key).map(|held| Segment {
                file: held.file,
                pid,
                bytes,
                mapped: bytes,
                number: number.into(),
            }),
            false => None,
        };
        let entry = MemfdInodeEntry {
            name: name.unwrap_or(IN_IMAGES).to_vec(),
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: bytes,
            shmid: number,
            seals,
            inode_id: number.into(),
            hugetlb_flag: huge,
            mode: Some(stat.st_mode),
            attributes,
            times: Some(FileTimesEntry {
                accessed: stat.st_atime,
                accessed_nanoseconds: stat.st_atime_nsec as u32,
                changed: stat.st_mtime,
                changed_nanoseconds: stat.st_mtime_nsec as u32,
            }),
            // Pages that are only set aside are content there.
            blocks: u64::try_from(stat.st_blocks).ok().filter(|_| huge.is_none()),
            flags,
        };
        self.out.beside.of::<Inodes>().0.insert(key, Inode { entry, contents });
        Ok(number)
    }

    /// The number of a memfd in the images, which have 32 bits for it: that of its inode, where it fits.
    fn memfd_number(&mut self, key: (u64, u64)) -> u32 {
        let mappings = self.inventory.processes.values().flat_map(|process| &process.mappings);
        let mapped = mappings.map(|mapping| mapping.inode);
        let known = &self.out.beside.of::<Inodes>().0;
        let taken = mapped.chain(known.values().map(|inode| inode.entry.inode_id));
        number(key.1, taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_those_of_the_images_become_others() {
        assert_eq!(number(7, [7].into_iter()), 7);
        let far = (1 << 32) + 7;
        assert_eq!(number(far, [7, far].into_iter()), u32::MAX);
        assert_eq!(number(far, [u64::from(u32::MAX), 7].into_iter()), u32::MAX - 1);
    }

    #[test]
    fn names() {
        assert_eq!(name("/memfd:a b (deleted)".as_ref()), Some(&b"a b"[..]));
        assert_eq!(name("/memfd: (deleted)".as_ref()), Some(&b""[..]));
        assert_eq!(name("/memfd:a (deleted) (deleted)".as_ref()), Some(&b"a (deleted)"[..]));
        assert_eq!(name("/tmp/memfd:a (deleted)".as_ref()), None);
        assert_eq!(name("/memfd:a".as_ref()), None);
    }
}

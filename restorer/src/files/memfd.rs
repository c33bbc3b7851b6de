//! memfds: made and filled once for each inode, and opened again for each open file description. One that is called
//! `/dev/zero` is the file behind shared anonymous memory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use images::messages::{FileEntry, MemfdFileEntry, MemfdInodeEntry, fd_type};
use images::{Checkpoint, PAGE_SIZE};
use kernel::attributes::FileFlags;
use kernel::descriptors::add_seals;
use kernel::huge_pages::{HUGE_MASK, HUGE_SHIFT};
use kernel::shared_memory::SharedMemory;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod, fstat, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, SysconfVar, Uid, Whence, fchown, lseek, sysconf};
use support::Refusal;

use super::beside::{Beside, Part};
use super::content::Needs;
use super::file_kind::{FileKind, missing};
use super::images::{FileImages, FileMemory};
use super::keep::Keep;
use super::opener::Opener;
use super::opening::{Opening, flagged};
use super::reopen::reopen;
use super::user::User;
use super::{Error, OpenFiles};
use crate::run::Run;

const O_ACCMODE: u32 = libc::O_ACCMODE.cast_unsigned();
const O_RDWR: u32 = libc::O_RDWR.cast_unsigned();
/// `MFD_HUGETLB` and the size of the pages.
const HUGE_FLAGS: u32 = libc::MFD_HUGETLB | HUGE_MASK << HUGE_SHIFT;

/// Bytes that are copied at once.
const AT_ONCE: u64 = 1 << 20;

/// A memfd.
#[derive(Debug)]
pub(super) struct Memfd;

/// The memfds of the images, which are made when they are asked for.
#[derive(Debug, Default)]
struct Inodes {
    /// By the number that open files refer to.
    inodes: BTreeMap<u64, MemfdInodeEntry>,
    memory: FileMemory,
    made: BTreeMap<u32, Made>,
}

/// A memfd that has been made.
#[derive(Debug)]
struct Made {
    /// By which it is opened again.
    handle: OwnedFd,
    /// The description that came with it, until an open file is that. The kernel does not count it among
    /// those who write: while there is another one the memfd cannot be executed.
    first: Option<OwnedFd>,
    /// The same description again, and the seals that it gets when all is mapped.
    unsealed: Option<(OwnedFd, u32)>,
}

/// Memfds that are sealed when all that the images say is mapped.
#[derive(Debug)]
pub(crate) struct Unsealed(Vec<(OwnedFd, u32)>);

impl Unsealed {
    /// Seals them.
    pub(crate) fn seal(self) -> Result<(), Error> {
        let failed = |source| Error::Kernel { operation: "seal a memfd".to_owned(), source };
        self.0.iter().try_for_each(|(memfd, seals)| add_seals(memfd, *seals)).map_err(failed)
    }
}

impl OpenFiles {
    /// The memfds that are to be sealed when all is mapped.
    pub(crate) fn take_unsealed(&mut self) -> Unsealed {
        let made = self.beside.of::<Inodes>().made.values_mut();
        Unsealed(made.filter_map(|made| made.unsealed.take()).collect())
    }
}

/// The seals that wait until all is mapped: against writing by what is mapped later, which spares what is
/// mapped already, and the one against more seals.
fn late_seals(inode: &MemfdInodeEntry) -> u32 {
    const FUTURE_WRITE: u32 = libc::F_SEAL_FUTURE_WRITE.cast_unsigned();
    match inode.seals & FUTURE_WRITE {
        FUTURE_WRITE if !is_memory(inode) => {
            inode.seals & (FUTURE_WRITE | libc::F_SEAL_SEAL.cast_unsigned())
        }
        _ => 0,
    }
}

impl FileKind for Memfd {
    fn r#type(&self) -> u32 {
        fd_type::MEMFD
    }

    fn load(&self, checkpoint: &Checkpoint, beside: &mut Beside) -> Result<(), Error> {
        let memory = beside.of::<FileMemory>().clone();
        let inodes = checkpoint.memfds.clone();
        *beside.of::<Inodes>() = Inodes { inodes, memory, made: BTreeMap::new() };
        Ok(())
    }

    fn check(&self, file: &FileEntry, images: &FileImages) -> Result<(), Error> {
        let inode = u64::from(entry(file)?.inode_id);
        let inodes = images.beside.get::<Inodes>().map(|memfds| &memfds.inodes);
        let inode = inodes.and_then(|inodes| inodes.get(&inode)).ok_or_else(|| missing(file))?;
        let refused = |refusal: Refusal| {
            Err(Error::refused(file.id, refusal, format!("memfd {}", shown(inode))))
        };
        let huge = inode.hugetlb_flag.unwrap_or(0);
        if huge & !HUGE_FLAGS != 0 {
            return Err(Error::image(shown(inode), format!("flags of huge pages {huge:#x}")));
        }
        if !is_memory(inode)
            && !never_runs(inode)
            && std::fs::read(NO_PROGRAMS).is_ok_and(|level| level.starts_with(b"2"))
        {
            return refused(support::images::NO_PROGRAMS);
        }
        if inode.blocks.is_some_and(|blocks| blocks > most_blocks()) {
            return refused(support::images::MEMFD_TOO_LARGE);
        }
        Ok(())
    }

    fn beyond(&self, _file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        None
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        for file in files {
            let entry = entry(file)?;
            let made = opening.beside.of::<Inodes>().made(entry)?;
            let first = match entry.flags & O_ACCMODE {
                O_RDWR => made.first.take(),
                _ => None,
            };
            let fd = match first {
                Some(first) => first,
                None => made.open(entry, entry.flags)?,
            };
            let what = format!("memfd of file {}", entry.id);
            if entry.pos != 0 {
                lseek(&fd, entry.pos.cast_signed(), Whence::SeekSet)
                    .map_err(|errno| Error::kernel(format!("seek in {what}"), errno))?;
            }
            opening.add(entry.id, flagged(fd, entry.flags, &what)?)?;
        }
        Ok(())
    }

    fn map(
        &self,
        _opener: &mut Opener,
        beside: &mut Beside,
        file: &FileEntry,
        with: u32,
        _needs: Needs,
    ) -> Result<OwnedFd, Error> {
        let entry = entry(file)?;
        beside.of::<Inodes>().made(entry)?.open(entry, with)
    }
}

fn entry(file: &FileEntry) -> Result<&MemfdFileEntry, Error> {
    file.memfd.as_ref().ok_or_else(|| missing(file))
}

/// Which of them may become programs (`vm.memfd_noexec`, of the pid namespace).
const NO_PROGRAMS: &str = "/proc/sys/vm/memfd_noexec";

const F_SEAL_EXEC: u32 = 0x20;

/// Whether nobody can make it a program, as one that was made with `MFD_NOEXEC_SEAL`.
fn never_runs(inode: &MemfdInodeEntry) -> bool {
    inode.seals & F_SEAL_EXEC != 0 && inode.mode.is_some_and(|mode| mode & 0o111 == 0)
}

/// Whether it is shared anonymous memory.
fn is_memory(inode: &MemfdInodeEntry) -> bool {
    inode.hugetlb_flag.is_none() && inode.name == b"/dev/zero"
}

/// Shared anonymous memory of a size, as a file.
fn memory(size: u64) -> io::Result<OwnedFd> {
    let bytes = size.max(1).checked_next_multiple_of(PAGE_SIZE);
    let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
    let memory = SharedMemory::new(bytes.ok_or(io::ErrorKind::OutOfMemory)?, 0)?;
    Ok(memory.into_file()?.into())
}

/// Blocks of 512 bytes that the whole memory of the machine has.
fn most_blocks() -> u64 {
    let pages = sysconf(SysconfVar::_PHYS_PAGES).ok().flatten();
    pages.map_or(u64::MAX, |pages| pages.cast_unsigned().saturating_mul(PAGE_SIZE / 512))
}

fn shown(inode: &MemfdInodeEntry) -> String {
    format!("{} ({})", inode.inode_id, String::from_utf8_lossy(&inode.name))
}

impl Inodes {
    /// The memfd of `entry`, which is made when it is asked for first.
    fn made(&mut self, entry: &MemfdFileEntry) -> Result<&mut Made, Error> {
        let id = entry.inode_id;
        match self.made.entry(id) {
            Entry::Occupied(made) => Ok(made.into_mut()),
            Entry::Vacant(place) => {
                let inode = self.inodes.get(&id.into()).ok_or_else(|| {
                    Error::image(format!("file {}", entry.id), "its memfd is not in the images")
                })?;
                let first = make(inode, &self.memory)?;
                let handle = reopen(&first, libc::O_PATH.cast_unsigned()).map_err(|errno| {
                    Error::kernel(format!("keep memfd {}", shown(inode)), errno)
                })?;
                let unsealed = match late_seals(inode) {
                    0 => None,
                    seals => {
                        let again = first.try_clone().map_err(|source| Error::Kernel {
                            operation: format!("keep memfd {} to be sealed", shown(inode)),
                            source,
                        })?;
                        Some((again, seals))
                    }
                };
                Ok(place.insert(Made { handle, first: Some(first), unsealed }))
            }
        }
    }
}

impl Part for Inodes {
    fn keep(&mut self, keep: Keep) -> io::Result<()> {
        for made in self.made.values_mut() {
            let handle = made.handle.try_clone()?;
            made.handle = keep.keep(handle)?;
            if let Some((memfd, seals)) = made.unsealed.take() {
                made.unsealed = Some((keep.keep(memfd)?, seals));
            }
            // Nobody else will ask for it.
            made.first = None;
        }
        Ok(())
    }
}

impl Made {
    /// A new open file description.
    fn open(&self, entry: &MemfdFileEntry, with: u32) -> Result<OwnedFd, Error> {
        reopen(&self.handle, with)
            .map_err(|errno| Error::kernel(format!("open memfd {} again", entry.inode_id), errno))
    }
}

/// An empty memfd.
fn memfd(entry: &MemfdInodeEntry, what: &str) -> Result<OwnedFd, Error> {
    let name = CString::new(entry.name.clone())
        .map_err(|_| Error::image(what, "its name has a zero in it"))?;
    let huge = MFdFlags::from_bits_retain(entry.hugetlb_flag.unwrap_or(0));
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | huge;
    // The rights that it had decide whether it is a program. Older kernels do not ask.
    let may_run = MFdFlags::from_bits_retain(match never_runs(entry) {
        true => libc::MFD_NOEXEC_SEAL,
        false => libc::MFD_EXEC,
    });
    let fd = match memfd_create(&*name, flags | may_run) {
        Err(Errno::EINVAL) => memfd_create(&*name, flags),
        made => made,
    };
    fd.map_err(|errno| Error::kernel(format!("make {what}"), errno))
}

fn make(entry: &MemfdInodeEntry, contents: &FileMemory) -> Result<OwnedFd, Error> {
    let what = format!("memfd {}", shown(entry));
    let failed = |doing: &str| {
        let operation = format!("{doing} {what}");
        move |errno| Error::kernel(operation, errno)
    };
    let fd = match is_memory(entry) {
        true => memory(entry.size)
            .map_err(|source| Error::Kernel { operation: format!("make {what}"), source })?,
        false => memfd(entry, &what)?,
    };
    let size = i64::try_from(entry.size).map_err(|_| Error::image(&what, "it is too large"))?;
    nix::unistd::ftruncate(&fd, size).map_err(failed("set the size of"))?;
    let file = File::from(fd);
    let mut runs = contents.runs.get(&entry.shmid.into()).into_iter().flatten();
    let filled = match entry.hugetlb_flag {
        Some(_) => fill_mapped(&file, runs, entry.size, &contents.stores),
        None => runs.try_for_each(|run| fill(&file, run, entry.size, &contents.stores)),
    };
    filled.map_err(|source| Error::Kernel { operation: format!("fill {what}"), source })?;
    if let Some(blocks) = entry.blocks {
        reserve(&file, entry.size, blocks).map_err(failed("reserve the memory of"))?;
    }
    let stat = fstat(&file).map_err(failed("stat"))?;
    let (uid, gid) = (entry.uid, entry.gid);
    if (stat.st_uid, stat.st_gid) != (uid, gid) {
        fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(failed("set the owner of"))?;
    }
    if let Some(mode) = entry.mode {
        fchmod(file.as_fd(), Mode::from_bits_truncate(mode)).map_err(failed("set the mode of"))?;
    }
    for attribute in &entry.attributes {
        kernel::attributes::set(&file, &attribute.name, &attribute.value).map_err(|source| {
            let name = String::from_utf8_lossy(&attribute.name);
            Error::Kernel { operation: format!("set attribute {name} of {what}"), source }
        })?;
    }
    if let Some(flags) = entry.flags {
        kernel::attributes::set_file_flags(&file, FileFlags::from_bits_truncate(flags)).map_err(
            |source| Error::Kernel { operation: format!("set the flags of {what}"), source },
        )?;
    }
    if let Some(times) = entry.times {
        let time = |seconds, nanoseconds: u32| TimeSpec::new(seconds, nanoseconds.into());
        let accessed = time(times.accessed, times.accessed_nanoseconds);
        let changed = time(times.changed, times.changed_nanoseconds);
        futimens(&file, &accessed, &changed).map_err(failed("set the times of"))?;
    }
    // The memory's file can be given no other seals than the one that it has.
    let seals = entry.seals & !late_seals(entry);
    if seals != 0 && !is_memory(entry) {
        add_seals(&file, seals)
            .map_err(|source| Error::Kernel { operation: format!("seal {what}"), source })?;
    }
    Ok(file.into())
}

/// Reserves memory (fallocate(2)) until the file has its blocks: in its holes, from the beginning, and then
/// behind its end. (Where it had them cannot be told: they read as holes.)
fn reserve(file: &File, size: u64, blocks: u64) -> nix::Result<()> {
    let missing = || -> nix::Result<u64> {
        let now = fstat(file)?.st_blocks.cast_unsigned();
        Ok(blocks.saturating_sub(now).saturating_mul(512))
    };
    let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (mut at, end) = (0, size.next_multiple_of(PAGE_SIZE).cast_signed());
    let mut left = missing()?.cast_signed();
    while left > 0 && at < end {
        let hole = lseek(file, at, Whence::SeekHole)?.min(end);
        let data = match lseek(file, hole, Whence::SeekData) {
            Err(Errno::ENXIO) => end,
            data => data?.min(end),
        };
        let bytes = left.min(data - hole);
        if bytes > 0 {
            fallocate(file, keep, hole, bytes)?;
            left -= bytes;
        }
        at = data.max(hole + 1);
    }
    let left = missing()?.cast_signed();
    if left > 0 {
        fallocate(file, keep, end, left)?;
    }
    lseek(file, 0, Whence::SeekSet)?;
    Ok(())
}

/// Copies runs into huge pages, of which the kernel lets no file be written.
fn fill_mapped<'a>(
    file: &File,
    runs: impl Iterator<Item = &'a Run>,
    size: u64,
    stores: &[File],
) -> io::Result<()> {
    let mut mapped = None;
    for run in runs {
        let Some((store, from)) = run.stored() else { continue };
        let store = stores.get(store).ok_or(io::ErrorKind::NotFound)?;
        let memory = match &mut mapped {
            Some(memory) => memory,
            none => none.insert(SharedMemory::of(file, size as usize)?),
        };
        memory.fill(run.start, run.bytes(), store, from)?;
    }
    Ok(())
}

/// Copies a run, as far as it is not beyond the end.
fn fill(file: &File, run: &Run, size: u64, stores: &[File]) -> io::Result<()> {
    let Some((store, from)) = run.stored() else { return Ok(()) };
    let store = stores.get(store).ok_or(io::ErrorKind::NotFound)?;
    let bytes = run.end().min(size).saturating_sub(run.start);
    let mut buffer = vec![0; bytes.min(AT_ONCE) as usize];
    let mut done = 0;
    while done < bytes {
        let part = &mut buffer[..(bytes - done).min(AT_ONCE) as usize];
        store.read_exact_at(part, from + done)?;
        file.write_all_at(part, run.start + done)?;
        done += part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::run::RunSource;
    use images::messages::{AttributeEntry, FileTimesEntry};

    #[test]
    fn contents_rights_and_seals() {
        let mut store = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut store, &[7; 2 * PAGE_SIZE as usize]).unwrap();
        let seals = (libc::F_SEAL_SHRINK | libc::F_SEAL_WRITE).cast_unsigned();
        let (size, mode) = (5 * PAGE_SIZE + 100, Some(libc::S_IFREG | 0o640));
        let name = b"a name".to_vec();
        let stat = nix::sys::stat::stat("/proc/self").unwrap();
        let (uid, gid) = (stat.st_uid, stat.st_gid);
        let entry =
            MemfdInodeEntry { name, size, mode, seals, uid, gid, ..MemfdInodeEntry::default() };
        let run = |start, pages, offset| Run { start, pages, source: RunSource::Stored(0, offset) };
        let runs = vec![run(PAGE_SIZE, 1, 0), run(5 * PAGE_SIZE, 1, PAGE_SIZE)];
        let attribute = AttributeEntry { name: b"user.is".to_vec(), value: b"carried".to_vec() };
        let times = FileTimesEntry {
            accessed: -5,
            accessed_nanoseconds: 999_999_999,
            changed: 2,
            changed_nanoseconds: 3,
        };
        let entry = MemfdInodeEntry {
            shmid: 8,
            attributes: vec![attribute],
            times: Some(times),
            blocks: Some(64),
            flags: Some(FileFlags::NO_DUMP.bits()),
            ..entry
        };
        let memory =
            FileMemory { runs: BTreeMap::from([(8, runs)]).into(), stores: [store].into() };
        let mut memfds =
            Inodes { inodes: BTreeMap::from([(3, entry)]), memory, made: BTreeMap::new() };
        let wanted = MemfdFileEntry { inode_id: 3, ..MemfdFileEntry::default() };
        let made = memfds.made(&wanted).unwrap();
        let file = File::from(made.open(&wanted, libc::O_RDONLY.cast_unsigned()).unwrap());
        let stat = fstat(&file).unwrap();
        assert_eq!((stat.st_blocks, stat.st_mtime, stat.st_mtime_nsec), (64, 2, 3));
        assert_eq!((stat.st_atime, stat.st_atime_nsec), (-5, 999_999_999));
        let user = kernel::attributes::list(&file).unwrap();
        assert_eq!(user, [(b"user.is".to_vec(), b"carried".to_vec())]);
        assert_eq!(kernel::attributes::file_flags(&file).unwrap(), FileFlags::NO_DUMP);
        assert_eq!((stat.st_size.cast_unsigned(), Some(stat.st_mode)), (size, mode));
        assert_eq!(kernel::descriptors::seals(&file).unwrap(), seals);
        let mut bytes = vec![1; size as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let sum: usize = bytes.iter().map(|&byte| usize::from(byte)).sum();
        assert_eq!(sum, 7 * (PAGE_SIZE as usize + 100));
        let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert_eq!(link.to_str().unwrap(), "/memfd:a name (deleted)");
    }
}

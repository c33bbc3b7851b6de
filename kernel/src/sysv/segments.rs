//! Shared memory segments.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use ids::HostPid;

use super::{Kind, Owner, done, is_gone, make_with_id};
use crate::huge_pages::HUGE_SHIFT;
use crate::procfs::{self, Dir, Namespaces};

/// In [`Owner::mode`]: it goes when nobody has it attached any more (`shmctl(IPC_RMID)`).
pub const REMOVED: u32 = 0o1000;
/// In [`Owner::mode`]: it stays in memory (`shmctl(SHM_LOCK)`).
pub const LOCKED: u32 = 0o2000;

/// Finds a segment by its place in the table, and not by its id.
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const CAP_IPC_LOCK: u64 = 1 << 14;

/// What the kernel says of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its id.
    pub id: i32,
    /// Whose it is.
    pub owner: Owner,
    /// Its size.
    pub bytes: u64,
    /// How many mappings there are of it.
    pub attached: u64,
    /// The process that made it, in the pid namespace of the caller; 0 if it is not there.
    pub creator: i32,
}

impl Segment {
    fn of(id: i32, stat: &libc::shmid_ds) -> Self {
        Self {
            id,
            owner: Owner::from(&stat.shm_perm),
            bytes: stat.shm_segsz as u64,
            attached: stat.shm_nattch,
            creator: stat.shm_cpid,
        }
    }

    /// Asks for the one with this id.
    ///
    /// # Errors
    /// If there is none, or it is another's (`CAP_IPC_OWNER`).
    pub fn read(id: i32) -> io::Result<Self> {
        control(id, libc::IPC_STAT).map(|(_, stat)| Self::of(id, &stat))
    }

    /// All of the namespace.
    ///
    /// # Errors
    /// If one of them is another's (`CAP_IPC_OWNER`).
    pub fn all() -> io::Result<Vec<Self>> {
        let (last, _) = control(0, SHM_INFO)?;
        let mut found = Vec::new();
        for place in 0..=last {
            match control(place, SHM_STAT) {
                Ok((id, stat)) => found.push(Self::of(id, &stat)),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Makes one with this id, key, size and permissions, by a maker with these ids; whether that id was to
    /// be had. `huge` is [`Segment::huge_flags`] or 0.
    ///
    /// # Errors
    /// If there is one with that key, the limits leave no room, or the rights are missing (`CAP_CHECKPOINT_RESTORE`).
    pub fn make(id: i32, owner: &Owner, bytes: u64, huge: i32) -> io::Result<bool> {
        let size = usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        let flags = owner.permissions().cast_signed() | libc::IPC_CREAT | libc::IPC_EXCL | huge;
        // Not everybody may take huge pages.
        let capabilities = if huge == 0 { 0 } else { CAP_IPC_LOCK };
        // SAFETY: takes integers.
        let get = |key| done(unsafe { libc::shmget(key, size, flags) });
        make_with_id(Kind::Segment, id, (owner, capabilities), get, remove)
    }

    /// The flags of one in huge pages of two to the power of `shift` bytes.
    #[must_use]
    pub const fn huge_flags(shift: u32) -> i32 {
        libc::SHM_HUGETLB | (shift << HUGE_SHIFT).cast_signed()
    }

    /// If it is in huge pages, of which size, two to the power of that.
    ///
    /// # Errors
    /// As [`Attached::file`].
    pub fn huge_page_shift(&self) -> io::Result<Option<u32>> {
        let file = Attached::attach(self, false)?.file(false)?;
        crate::huge_pages::shift_of_device(std::os::unix::fs::MetadataExt::dev(&file.metadata()?))
    }
}

/// Processes that have attached the segment with this id, of the IPC namespace with the kernel's number `namespace`, as
/// far as they are to be seen; each with the place of one attachment.
///
/// # Errors
/// If there is no /proc.
pub fn attached_to(id: i32, namespace: u64) -> Result<Vec<(HostPid, u64)>, procfs::Error> {
    let mut found = Vec::new();
    let mut text = Vec::new();
    for pid in procfs::processes()? {
        let Ok(dir) = Dir::open(pid) else { continue };
        if dir.read("maps", &mut text).is_err() || !text.windows(5).any(|five| five == b"/SYSV") {
            continue;
        }
        let is_it = |map: &procfs::Map<'_>| {
            map.inode == u64::from(id.unsigned_abs()) && map.raw_name.starts_with(b"/SYSV")
        };
        let place = procfs::maps(&text).flatten().find(is_it).map(|map| map.start);
        let is_there = || {
            let names = Namespaces::read(&dir);
            names.is_ok_and(|names| names.0.get("ipc") == Some(&namespace))
        };
        found.extend(place.filter(|_| is_there()).map(|place| (pid, place)));
    }
    Ok(found)
}

/// Gives a segment its owner and permissions.
///
/// # Errors
/// If it has gone or is another's (`CAP_SYS_ADMIN`).
pub fn set_owner(id: i32, owner: &Owner) -> io::Result<()> {
    let (_, mut stat) = control(id, libc::IPC_STAT)?;
    (stat.shm_perm.uid, stat.shm_perm.gid) = (owner.uid, owner.gid);
    stat.shm_perm.mode = owner.permissions() as libc::c_ushort;
    // SAFETY: `stat` is what the kernel has just filled in.
    done(unsafe { libc::shmctl(id, libc::IPC_SET, &raw mut stat) }).map(drop)
}

/// Removes a segment, when nobody has it attached any more.
///
/// # Errors
/// As [`set_owner`].
pub fn remove(id: i32) -> io::Result<()> {
    control(id, libc::IPC_RMID).map(drop)
}

/// Keeps a segment in memory.
///
/// # Errors
/// If there is not memory enough, or it is another's (`CAP_IPC_LOCK`).
pub fn lock(id: i32) -> io::Result<()> {
    control(id, libc::SHM_LOCK).map(drop)
}

fn control(id: i32, command: i32) -> io::Result<(i32, libc::shmid_ds)> {
    // SAFETY: of integers all zeros are a value.
    let mut stat: libc::shmid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the commands of this module write at most a `shmid_ds`.
    let answer = done(unsafe { libc::shmctl(id, command, &raw mut stat) })?;
    Ok((answer, stat))
}

/// A segment that is attached to this process. Processes that it makes have it, too.
#[derive(Debug)]
pub struct Attached {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is a range of addresses of the process, and of no thread.
unsafe impl Send for Attached {}

impl Attached {
    /// Attaches a segment to read, and to write if it `writes`: all of its pages, the last huge one too.
    ///
    /// # Errors
    /// If it has gone, or is another's (`CAP_IPC_OWNER`).
    pub fn attach(segment: &Segment, writes: bool) -> io::Result<Self> {
        let flags = if writes { 0 } else { libc::SHM_RDONLY };
        // SAFETY: at a place that the kernel chooses.
        let start = unsafe { libc::shmat(segment.id, std::ptr::null(), flags) };
        if start.addr() == usize::MAX {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        // Detached again if the rest fails.
        let mut attached = Self { start, bytes: 0 };
        let text = std::fs::read("/proc/self/maps")?;
        let own = procfs::maps(&text).flatten().find(|map| map.start == start.addr().get() as u64);
        let own = own.ok_or(io::ErrorKind::NotFound)?;
        attached.bytes = (own.end - own.start) as usize;
        Ok(attached)
    }

    /// Fills `bytes` at `at` from a file.
    ///
    /// # Errors
    /// When the range is outside, or the file cannot be read or ends early.
    pub fn fill(&mut self, at: u64, bytes: u64, from: &File, offset: u64) -> io::Result<()> {
        let end = at.checked_add(bytes).filter(|end| *end <= self.bytes as u64);
        if end.is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (mut at, mut offset, end) = (at as usize, offset, (at + bytes) as usize);
        while at < end {
            let from = from.as_raw_fd();
            let position = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            // SAFETY: the range is inside the mapping. Other processes may write to it as well, so it is no slice.
            let read = unsafe {
                libc::pread(from, self.start.as_ptr().add(at).cast(), end - at, position)
            };
            match usize::try_from(read) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    at += read;
                    offset += read as u64;
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes all of it zeros.
    ///
    /// # Errors
    /// Without CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN).
    pub fn clear(&mut self) -> io::Result<()> {
        use nix::fcntl::{FallocateFlags, fallocate};
        let all = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let bytes = i64::try_from(self.bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(fallocate(self.file(true)?, all, 0, bytes)?)
    }

    /// The memory as a file.
    ///
    /// # Errors
    /// As [`Attached::clear`].
    pub fn file(&self, write: bool) -> io::Result<File> {
        let start = self.start.as_ptr() as usize;
        let path = format!("/proc/self/map_files/{start:x}-{:x}", start + self.bytes);
        OpenOptions::new().read(true).write(write).open(path)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: it was attached there, and no borrow of it outlives `self`.
        unsafe { libc::shmdt(self.start.as_ptr().cast()) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Needs root.
    #[test]
    fn a_segment_comes_back_by_its_id() {
        let owner = Owner { uid: 7, gid: 8, cuid: 9, cgid: 10, mode: 0o640, key: 0 };
        // A free id: that of one that is gone.
        // SAFETY: takes integers.
        let id = done(unsafe { libc::shmget(libc::IPC_PRIVATE, 5000, 0o600) }).unwrap();
        remove(id).unwrap();
        assert!(is_gone(&Segment::read(id).unwrap_err()));
        assert!(Segment::make(id, &owner, 5000, 0).unwrap());
        // It is not to be had twice.
        assert!(!Segment::make(id, &owner, 5000, 0).unwrap());
        set_owner(id, &owner).unwrap();
        let found = Segment::read(id).unwrap();
        assert_eq!((found.owner, found.bytes, found.attached), (owner, 5000, 0));
        assert!(Segment::all().unwrap().contains(&found));

        let mut attached = Attached::attach(&found, true).unwrap();
        remove(id).unwrap();
        assert_eq!(Segment::read(id).unwrap().owner.mode & REMOVED, REMOVED);
        let mut source = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut source, &[3; 4096]).unwrap();
        attached.fill(4096, 4096, &source, 0).unwrap();
        assert!(attached.fill(8192, 1, &source, 0).is_err());
        let mut bytes = Vec::new();
        attached.file(false).unwrap().take(5000).read_to_end(&mut bytes).unwrap();
        assert!(bytes[..4096].iter().all(|byte| *byte == 0) && bytes[4096] == 3);
        attached.clear().unwrap();
        drop(attached);
        assert!(is_gone(&Segment::read(id).unwrap_err()));
    }
}

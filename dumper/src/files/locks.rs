//! File locks and leases, of files of every kind.
//!
//! A lock belongs to a process (POSIX) or to an open file description (flock, OFD, leases), and the kernel
//! shows it in `/proc/PID/fdinfo` of every descriptor that leads to it. So each descriptor is asked, unless the inventory says
//! that nobody has a lock on its file; the same lock, met again, is the same entry. Where it stands in the
//! images is free for locks of descriptions: the process that took it is preferred, as it is in CRIU's, since the
//! kernel names it as the holder. Who waits for a lock need not be looked for: a stop ends every wait, and the call is made again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use collector::{OpenFile, Process};
use ids::{HostPid, ImagePid};
use images::messages::{FileLockEntry, LEASE_BREAKING, lock_kind};
use images::{Error, ImageWriter, names};
use kernel::procfs::{Lock, LockKind};
use support::Refusal;
use support::files::{DELETED_LEASE, LOCKED, OTHER_LOCK};

use super::Captured;
use super::beside::Part;
use super::problem::{Problem, unexpected};
use super::survey::Survey;

/// The locks of a tree.
#[derive(Debug, Default)]
pub(super) struct Locks(BTreeMap<Key, Holder>);

/// What makes a lock one and the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    description: u64,
    /// The process, of a lock that is a process's.
    process: Option<HostPid>,
    lock: Lock,
}

/// The descriptor by which a lock stands in the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    pid: HostPid,
    /// What the images call it.
    image: Option<ImagePid>,
    fd: i32,
}

impl Part for Locks {}

impl Locks {
    /// Notes a lock that has been met at a descriptor.
    fn note(&mut self, description: u64, holder: Holder, lock: Lock) {
        let process = (lock.kind == LockKind::Posix).then_some(holder.pid);
        match self.0.entry(Key { description, process, lock }) {
            Entry::Vacant(entry) => drop(entry.insert(holder)),
            Entry::Occupied(mut entry) => {
                if Some(holder.pid) == lock.pid && Some(entry.get().pid) != lock.pid {
                    entry.insert(holder);
                }
            }
        }
    }

    /// Writes them.
    pub(super) fn encode(captured: &Captured, writer: &ImageWriter) -> Result<(), Error> {
        let Some(Self(locks)) = captured.beside.get() else { return Ok(()) };
        let entries: Vec<_> =
            locks.iter().filter_map(|(key, holder)| entry(&key.lock, *holder)).collect();
        writer.write_all(&names::file_locks(), &entries)
    }
}

/// A lock as the images have it; `None` of one that they cannot have.
fn entry(lock: &Lock, holder: Holder) -> Option<FileLockEntry> {
    let kind = match lock.kind {
        LockKind::Posix => lock_kind::POSIX,
        LockKind::OpenFileDescription => lock_kind::OFD,
        LockKind::Flock => lock_kind::FLOCK,
        LockKind::Lease => lock_kind::LEASE,
        LockKind::Delegation | LockKind::Other => return None,
    };
    let access = match (lock.read, lock.write) {
        (true, false) => libc::F_RDLCK,
        (false, true) => libc::F_WRLCK,
        _ => libc::F_UNLCK,
    };
    let start = i64::try_from(lock.start).ok()?;
    let len = match lock.end {
        None => 0,
        Some(end) => i64::try_from(end).ok()?.checked_sub(start)?.checked_add(1)?,
    };
    let breaking = if lock.breaking { LEASE_BREAKING } else { 0 };
    Some(FileLockEntry {
        flag: kind,
        r#type: access.cast_unsigned() | breaking,
        pid: holder.image?.get(),
        fd: holder.fd,
        start,
        len,
    })
}

/// Why a lock is not carried, if it is not.
fn refusal(lock: &Lock, file: &OpenFile, is_asked_for: bool) -> Option<Refusal> {
    let is_deleted = file.target.as_encoded_bytes().ends_with(b" (deleted)");
    match lock.kind {
        _ if !is_asked_for => Some(LOCKED),
        LockKind::Delegation | LockKind::Other => Some(OTHER_LOCK),
        LockKind::Flock if lock.mandatory => Some(OTHER_LOCK),
        // Of one that is being broken it is not told what it was.
        LockKind::Lease if is_deleted && (lock.write || lock.breaking) => Some(DELETED_LEASE),
        _ => None,
    }
}

impl Survey<'_> {
    /// Notes the locks that are held through a descriptor.
    pub(super) fn locks(&mut self, process: &Process, file: &OpenFile) -> Result<(), Problem> {
        let holder =
            Holder { pid: process.pid, image: self.numbers.image(process.pid), fd: file.fd };
        for lock in self.fdinfo(process.pid, file)?.locks {
            if let Some(refusal) = refusal(&lock, file, self.context.file_locks) {
                return Err(Problem::Refused(refusal));
            }
            entry(&lock, holder).ok_or_else(|| unexpected("a file with locks"))?;
            self.out.beside.of::<Locks>().note(file.description, holder, lock);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(pid: i32, fd: i32) -> Holder {
        Holder { pid: HostPid::new(pid).unwrap(), image: ImagePid::new(pid), fd }
    }

    fn lock(kind: LockKind, holder: i32) -> Lock {
        Lock {
            kind,
            write: true,
            read: false,
            mandatory: false,
            breaking: false,
            pid: HostPid::new(holder),
            device: 1,
            inode: 7,
            start: 10,
            end: Some(19),
        }
    }

    #[test]
    fn a_lock_of_a_description_is_one_and_its_takers() {
        let mut locks = Locks::default();
        let flock = lock(LockKind::Flock, 11);
        for (pid, fd) in [(10, 3), (10, 4), (11, 5), (12, 6)] {
            locks.note(77, held(pid, fd), flock);
        }
        assert_eq!(locks.0.values().collect::<Vec<_>>(), [&held(11, 5)]);
    }

    #[test]
    fn a_lock_of_a_process_is_each_ones_own() {
        let mut locks = Locks::default();
        for (pid, fd) in [(10, 3), (10, 4), (11, 3)] {
            locks.note(77, held(pid, fd), lock(LockKind::Posix, pid));
        }
        let expected = [&held(10, 3), &held(11, 3)];
        assert_eq!(locks.0.values().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn ranges_and_leases_as_the_images_have_them() {
        let holder = held(10, 3);
        let range = entry(&lock(LockKind::OpenFileDescription, -1), holder).unwrap();
        assert_eq!((range.flag, range.r#type, range.start, range.len), (4, 1, 10, 10));
        let all = Lock { start: 0, end: None, ..lock(LockKind::Posix, 10) };
        assert_eq!(entry(&all, holder).unwrap().len, 0);
        let lease = Lock { write: false, breaking: true, ..lock(LockKind::Lease, 10) };
        assert_eq!(entry(&lease, holder).unwrap().r#type, 2 | LEASE_BREAKING);
        let beyond = Lock { end: Some(u64::MAX), ..lock(LockKind::Posix, 10) };
        assert_eq!(entry(&beyond, holder), None);
        let whole = Lock { start: 0, end: Some(i64::MAX as u64), ..lock(LockKind::Posix, 10) };
        assert_eq!(entry(&whole, holder), None);
    }
}

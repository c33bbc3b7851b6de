//! File locks and leases: what the images say of them, and what stands in their way.
//!
//! Each is taken by the task that holds it in the images, through its own descriptor, when and where it stays:
//!
//! - locks when everything else is done ([`crate::finish`]), since a process loses its POSIX locks on a file as
//!   soon as it closes any descriptor of that file, as the restore does;
//! - a lock that nothing but a mapping keeps before that, by the descriptor that the file is mapped by (`kept_locks.rs`):
//!   the task has it from its birth;
//! - leases when its descriptors are in place (`files/leases.rs`): before the owner of the file is set, which a
//!   lease would change, and before credentials are given away, which a lease asks for.
//!
//! None is waited for. Whoever has one by now is named, and the tree does not come to life.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use ids::{HostPid, ImagePid};
use images::messages::{FileLockEntry, LEASE_BREAKING, lock_kind};
use kernel::procfs::{Dir, FdInfo, Lock, LockKind, ProcFile, Stat, processes};
use support::Refusal;
use support::host::{InTheWay, lock_taken};

/// Locks by the process that takes them, in the order of the images.
#[derive(Debug, Default)]
pub(crate) struct Locks(BTreeMap<ImagePid, Vec<FileLockEntry>>);

impl Locks {
    pub(crate) fn add(&mut self, pid: ImagePid, lock: FileLockEntry) {
        self.0.entry(pid).or_default().push(lock);
    }

    /// Those that a process takes.
    pub(crate) fn of(&self, pid: ImagePid) -> &[FileLockEntry] {
        self.0.get(&pid).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether the kernel knows such a lock.
pub(crate) fn is_possible(entry: &FileLockEntry) -> bool {
    let access = entry.r#type.cast_signed();
    let has_access = access == libc::F_RDLCK || access == libc::F_WRLCK;
    match entry.flag {
        lock_kind::POSIX | lock_kind::OFD => {
            let is_range =
                entry.start >= 0 && entry.len >= 0 && entry.start.checked_add(entry.len).is_some();
            has_access && is_range
        }
        lock_kind::FLOCK => has_access,
        lock_kind::LEASE => {
            let target = entry.r#type & !LEASE_BREAKING;
            let is_broken = entry.r#type & LEASE_BREAKING != 0;
            // Nobody is kept from opening the file who has to wait until it may be written.
            has_access || is_broken && matches!(target.cast_signed(), libc::F_RDLCK | libc::F_UNLCK)
        }
        _ => false,
    }
}

/// What a lock is called.
pub(crate) fn name(entry: &FileLockEntry) -> String {
    let is_write = entry.r#type.cast_signed() == libc::F_WRLCK;
    let access = if is_write { "write" } else { "read" };
    let range = || match entry.len {
        0 => format!("from byte {}", entry.start),
        bytes => format!("of bytes {} to {}", entry.start, entry.start.saturating_add(bytes - 1)),
    };
    match entry.flag {
        lock_kind::POSIX => format!("{access} lock {}", range()),
        lock_kind::OFD => format!("{access} lock of the open file {}", range()),
        lock_kind::FLOCK if is_write => "exclusive flock".to_owned(),
        lock_kind::FLOCK => "shared flock".to_owned(),
        _ => format!("{access} lease"),
    }
}

/// Why a lock or lease could not be had: who has what stands in its way of the file that `process` has open as
/// `fd`.
pub(crate) fn in_the_way(entry: &FileLockEntry, process: HostPid, fd: RawFd) -> Refusal {
    let is_lease = entry.flag == lock_kind::LEASE;
    let conflicts = |info: &FdInfo| {
        // An open file stands in the way of a lease.
        is_lease && info.flags & libc::O_PATH.cast_unsigned() == 0
            || info.locks.iter().any(|lock| is_conflict(entry, lock))
    };
    let what = if is_lease { InTheWay::OpenFile } else { InTheWay::Lock };
    lock_taken(
        what,
        holder(process, fd, conflicts).as_ref().map(|(other, name)| (*other, name.as_str())),
    )
}

/// Whether a lock that another holds keeps this one from being taken.
fn is_conflict(wanted: &FileLockEntry, held: &Lock) -> bool {
    let is_flock = wanted.flag == lock_kind::FLOCK;
    let same_kind = match held.kind {
        LockKind::Flock => is_flock,
        LockKind::Posix | LockKind::OpenFileDescription => !is_flock,
        _ => false,
    };
    let one_writes = held.write || wanted.r#type.cast_signed() == libc::F_WRLCK;
    let start = wanted.start.cast_unsigned();
    let end = match wanted.len {
        0 => u64::MAX,
        bytes => start.saturating_add(bytes.cast_unsigned() - 1),
    };
    let overlaps = held.start <= end && held.end.is_none_or(|last| start <= last);
    same_kind && one_writes && (is_flock || overlaps)
}

/// The first process that has the file open by another open file description which stands in the way, as `conflicts` says of its
/// `fdinfo`; with the name of its program.
fn holder(
    process: HostPid,
    fd: RawFd,
    conflicts: impl Fn(&FdInfo) -> bool,
) -> Option<(HostPid, String)> {
    let wanted = Dir::open(process).and_then(|dir| dir.stat_behind(&format!("fd/{fd}"))).ok()?;
    let is_it = |dir: &Dir, other: HostPid, number: i32| {
        let stat = dir.stat_behind(&format!("fd/{number}"));
        let is_same =
            stat.is_ok_and(|stat| (stat.device, stat.inode) == (wanted.device, wanted.inode));
        is_same
            && kernel::kcmp::files((process, fd), (other, number))
                .is_ok_and(std::cmp::Ordering::is_ne)
            && FdInfo::read(dir, number).is_ok_and(|info| conflicts(&info))
    };
    processes().ok()?.into_iter().find_map(|other| {
        let dir = Dir::open(other).ok()?;
        let numbers = dir.descriptors().ok()?;
        numbers.into_iter().find(|number| is_it(&dir, other, *number))?;
        Some((other, Stat::read(&dir).ok()?.comm.to_string_lossy().into_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(flag: u32, r#type: i32, start: i64, len: i64) -> FileLockEntry {
        FileLockEntry { flag, r#type: r#type.cast_unsigned(), pid: 1, fd: 3, start, len }
    }

    fn held(kind: LockKind, write: bool, start: u64, end: Option<u64>) -> Lock {
        let (mandatory, breaking) = (false, false);
        let (read, pid, device, inode) = (!write, HostPid::new(7), 1, 2);
        Lock { kind, write, read, mandatory, breaking, pid, device, inode, start, end }
    }

    #[test]
    fn what_cannot_be_a_lock() {
        for (flag, kind, start, len, possible) in [
            (lock_kind::POSIX, libc::F_WRLCK, 0, 0, true),
            (lock_kind::OFD, libc::F_RDLCK, 5, i64::MAX - 5, true),
            (lock_kind::POSIX, libc::F_RDLCK, 6, i64::MAX - 5, false),
            (lock_kind::POSIX, libc::F_UNLCK, 0, 0, false),
            (lock_kind::POSIX, libc::F_RDLCK, -1, 0, false),
            (lock_kind::FLOCK, libc::F_WRLCK, 0, 0, true),
            (lock_kind::FLOCK, 32 | 64, 0, 0, false),
            (lock_kind::LEASE, libc::F_WRLCK, 0, 0, true),
            (lock_kind::LEASE, libc::F_UNLCK, 0, 0, false),
            (lock_kind::LEASE, libc::F_UNLCK | 4, 0, 0, true),
            (lock_kind::LEASE, libc::F_WRLCK | 4, 0, 0, false),
            (3, libc::F_WRLCK, 0, 0, false),
        ] {
            assert_eq!(is_possible(&entry(flag, kind, start, len)), possible, "{flag} {kind}");
        }
    }

    #[test]
    fn what_stands_in_the_way() {
        let wanted = entry(lock_kind::POSIX, libc::F_RDLCK, 10, 10);
        let posix = LockKind::Posix;
        assert!(is_conflict(&wanted, &held(posix, true, 0, None)));
        assert!(is_conflict(&wanted, &held(LockKind::OpenFileDescription, true, 19, Some(30))));
        assert!(!is_conflict(&wanted, &held(posix, true, 20, Some(30))), "behind it");
        assert!(!is_conflict(&wanted, &held(posix, true, 0, Some(9))), "before it");
        assert!(!is_conflict(&wanted, &held(posix, false, 0, None)), "both read");
        assert!(!is_conflict(&wanted, &held(LockKind::Flock, true, 0, None)), "of another kind");
        let flock = entry(lock_kind::FLOCK, libc::F_WRLCK, 0, 0);
        assert!(is_conflict(&flock, &held(LockKind::Flock, false, 0, None)));
    }
}

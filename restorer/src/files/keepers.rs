//! Open files that no process of the restore can have all at once.
//!
//! A process has as many descriptors as its limit allows, and a table that was filled to its limit
//! leaves none for the restore itself. So where the files and what the restore needs are more than
//! the limit allows, they are opened in batches, and *keepers*, copies of the coordinator that do
//! nothing, keep each batch; a task fetches (pidfd_getfd(2)) what its table has. The last numbers
//! below the limit are the restore's own until the task has its new address space; what belongs
//! there, the *late* ones, its restorer fetches at its very end. They are in one keeper, so that
//! one descriptor leads to all of them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use ids::HostPid;
use images::messages::FdinfoEntry;
use kernel::pidfd::PidFd;
use kernel::process::{Fork, exit_now, fork_as_any, let_be_traced, send_signal, wait_status};
use nix::sys::signal::Signal;

use super::Error;

/// Where a file is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// Index of the keeper.
    keeper: usize,
    /// Its number there.
    number: RawFd,
}

/// A file at hand: one of ours, or one fetched for the moment.
#[derive(Debug)]
pub(super) enum AtHand<'a> {
    Ours(BorrowedFd<'a>),
    Fetched(OwnedFd),
}

impl AtHand<'_> {
    /// Closes what was fetched for the moment, unless it came to be at the place it was fetched
    /// for.
    pub(super) fn settle(self, number: RawFd) {
        if let Self::Fetched(fd) = self
            && fd.as_raw_fd() == number
        {
            // It is the task's own from here on.
            std::mem::forget(fd);
        }
    }
}

impl AsFd for AtHand<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Ours(fd) => *fd,
            Self::Fetched(fd) => fd.as_fd(),
        }
    }
}

/// A descriptor that a task's restorer fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Late {
    /// The number that it has in the task.
    pub(crate) number: RawFd,
    /// The number in the keeper of the late ones.
    pub(crate) from: RawFd,
    /// Whether it closes at an exec.
    pub(crate) close_on_exec: bool,
}

/// Whether a descriptor has one of the numbers that are the restore's own.
pub(super) fn is_late(entry: &FdinfoEntry, base: RawFd) -> bool {
    entry.fd.cast_signed() >= base
}

/// The keepers; they end when this is dropped by who made them.
#[derive(Debug)]
pub(crate) struct Keepers {
    owner: u32,
    /// Free numbers, for their pids.
    numbers: Vec<HostPid>,
    processes: Vec<PidFd>,
    /// The files that they keep, by id.
    spots: BTreeMap<u32, Spot>,
    /// The late ones: their numbers in the last of the keepers.
    late: BTreeMap<u32, RawFd>,
}

impl Keepers {
    pub(super) fn new(numbers: Vec<HostPid>) -> Self {
        let owner = std::process::id();
        let (processes, spots, late) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { owner, numbers, processes, spots, late }
    }

    /// Makes one, which has all that we have open now. Its descriptor is at or above `base`.
    fn make(&mut self, base: RawFd) -> Result<usize, Error> {
        let failed = |source| Error::Kernel {
            operation: "create a process to keep open files".to_owned(),
            source,
        };
        let numbers = std::iter::from_fn(|| self.numbers.pop());
        match fork_as_any(numbers).map_err(failed)? {
            Some((_, Fork::Child)) => hold(self.owner),
            Some((number, Fork::Parent)) => {
                let process = PidFd::open(number).and_then(|process| process.moved_from(base));
                self.processes.push(process.map_err(failed)?);
                Ok(self.processes.len() - 1)
            }
            None => Err(failed(std::io::Error::from_raw_os_error(libc::EAGAIN))),
        }
    }

    /// Hands all of `files` over to a new keeper.
    pub(super) fn take(
        &mut self,
        files: &mut BTreeMap<u32, OwnedFd>,
        base: RawFd,
    ) -> Result<(), Error> {
        if files.is_empty() {
            return Ok(());
        }
        let keeper = self.make(base)?;
        for (id, fd) in std::mem::take(files) {
            self.spots.insert(id, Spot { keeper, number: fd.as_raw_fd() });
        }
        Ok(())
    }

    /// Puts the files `ids` together into one more keeper.
    pub(super) fn take_late(
        &mut self,
        ids: impl Iterator<Item = u32>,
        base: RawFd,
    ) -> Result<(), Error> {
        let mut fetched = BTreeMap::new();
        for id in ids {
            if let Entry::Vacant(entry) = fetched.entry(id) {
                entry.insert(self.fetch(id)?);
            }
        }
        if !fetched.is_empty() {
            self.make(base)?;
        }
        self.late = fetched.iter().map(|(&id, fd)| (id, fd.as_raw_fd())).collect();
        Ok(())
    }

    /// A descriptor of ours for a file that is kept.
    pub(super) fn fetch(&self, id: u32) -> Result<OwnedFd, Error> {
        let missing = || Error::image(format!("file {id}"), "it was not opened");
        let Spot { keeper, number } = *self.spots.get(&id).ok_or_else(missing)?;
        let process = self.processes.get(keeper).ok_or_else(missing)?;
        process.get(number).map_err(|source| Error::Kernel {
            operation: format!("fetch file {id} from process {}", process.pid()),
            source,
        })
    }

    /// The number of a late file in its keeper.
    pub(super) fn late(&self, id: u32) -> Option<RawFd> {
        self.late.get(&id).copied()
    }

    /// Makes `number` of our table lead to the keeper of the late ones.
    pub(super) fn place(&self, number: RawFd) -> Result<(), Error> {
        let Some(process) = self.processes.last() else { return Ok(()) };
        kernel::descriptors::place(process.as_fd(), number, true).map_err(|source| Error::Kernel {
            operation: format!("keep the way to process {}", process.pid()),
            source,
        })
    }
}

/// What a keeper does: it waits until it is killed. The kernel kills it when its maker ends (`PR_SET_PDEATHSIG`).
fn hold(maker: u32) -> ! {
    let bound = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    if bound.is_err() || nix::unistd::getppid().as_raw().cast_unsigned() != maker {
        exit_now(1);
    }
    let_be_traced();
    if kernel::process::set_signal_mask(u64::MAX).is_err() {
        exit_now(1);
    }
    loop {
        nix::unistd::pause();
    }
}

impl Drop for Keepers {
    fn drop(&mut self) {
        // Copies of us have copies of this.
        if std::process::id() != self.owner {
            return;
        }
        for process in &self.processes {
            // It may have been ended by others, and is waited for all the same.
            let pid = process.pid();
            drop(send_signal(pid, libc::SIGKILL));
            drop(wait_status(pid));
        }
    }
}

/// What the limit of open files leaves, where it does not allow all at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// The first of the restore's own numbers.
    pub(super) base: RawFd,
    /// Files in one batch.
    pub(super) batch: usize,
}

impl Room {
    /// With `work` numbers below `limit` for the restore's own, and `taken` descriptors that we
    /// have open already.
    pub(super) fn new(limit: u64, work: usize, taken: usize) -> Option<Self> {
        let limit = usize::try_from(limit).ok()?.min(RawFd::MAX as usize);
        let base = limit.checked_sub(work)?;
        // Some are open for a moment only.
        const PASSING: usize = 16;
        let batch = base.checked_sub(taken + PASSING).filter(|batch| *batch > 0)?;
        Some(Self { base: RawFd::try_from(base).ok()?, batch })
    }
}

/// How many descriptors we have.
pub(super) fn open_now() -> Result<usize, Error> {
    let listed = nix::dir::Dir::open(
        "/proc/self/fd",
        nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    );
    let mut listed =
        listed.map_err(|errno| Error::kernel("list our descriptors".to_owned(), errno))?;
    Ok(listed.iter().count())
}

/// Does `work` while `number` refers to `file`, and then to what it was again.
pub(super) fn for_a_moment<T>(
    file: impl AsFd,
    number: RawFd,
    work: impl FnOnce() -> std::io::Result<T>,
) -> std::io::Result<T> {
    let was = kernel::descriptors::duplicate_number(number)?;
    kernel::descriptors::place(file, number, true)?;
    let done = work();
    match was {
        Some(was) => kernel::descriptors::place(was, number, true)?,
        None => kernel::descriptors::close_range(number, number)?,
    }
    done
}

/// A number for the way to the keeper of the late ones: none that the table has, and of the
/// restore's own one that is not in use.
pub(super) fn slot(table: &std::collections::BTreeSet<RawFd>, base: RawFd, limit: RawFd) -> RawFd {
    let free = |number: &RawFd| !table.contains(number);
    // Its own are counted up from the base.
    (0..base).find(free).or_else(|| (base..limit).rev().find(free)).unwrap_or(limit - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn files_are_kept_and_fetched_and_their_keepers_end() {
        // Far from where numbers are given out; another test may take some.
        let numbers = (1..30_000)
            .rev()
            .filter_map(HostPid::new)
            .filter(|id| !kernel::process::exists(*id))
            .take(20);
        let mut keepers = Keepers::new(numbers.collect());
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut files = BTreeMap::from([(7, read), (8, write)]);
        keepers.take(&mut files, 100).unwrap();
        assert!(files.is_empty());
        let mut write = std::fs::File::from(keepers.fetch(8).unwrap());
        write.write_all(b"kept").unwrap();
        keepers.take_late([7].into_iter(), 100).unwrap();
        let from = keepers.late(7).unwrap();
        let mut read = std::fs::File::from(keepers.processes.last().unwrap().get(from).unwrap());
        let mut four = [0; 4];
        read.read_exact(&mut four).unwrap();
        assert_eq!(&four, b"kept");
        assert!(keepers.fetch(9).is_err());
        let pids: Vec<_> = keepers.processes.iter().map(PidFd::pid).collect();
        drop(keepers);
        assert!(pids.iter().all(|pid| !kernel::process::exists(*pid)));
    }

    #[test]
    fn a_slot_is_nobody_elses() {
        let table = (0..90).collect();
        assert_eq!(slot(&table, 50, 100), 99);
        assert_eq!(slot(&(0..40).chain(41..100).collect(), 50, 100), 40);
        assert_eq!(slot(&(0..100).filter(|n| *n != 93).collect(), 50, 100), 93);
    }

    #[test]
    fn room_below_a_limit() {
        assert_eq!(Room::new(1000, 100, 10), Some(Room { base: 900, batch: 874 }));
        assert_eq!(Room::new(100, 100, 10), None);
    }
}

//! The programs, as they are used.

use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ids::HostPid;
use kernel::procfs::{Dir, Namespaces};

use super::BpfError;
use super::object::{self, Objects};
use super::offsets::Layout;
use super::pins::Lock;
use super::programs::ITERATORS;
use super::tracks::{Counting, Counts, Tracers, Watch};
use kernel::btf::VMLINUX;

/// The programs, in the kernel.
#[derive(Debug)]
pub struct Loaded {
    objects: Objects,
    /// Where they are pinned.
    folder: Option<Arc<OwnedFd>>,
    /// Whether tracks may be kept by these.
    keeps: Keeps,
}

/// Who keeps tracks.
#[derive(Debug)]
enum Keeps {
    /// Whoever takes this, for others to find if there is a lock.
    Here(Option<Lock>),
    /// Another process, or one who has taken it.
    Elsewhere,
}

/// The initial namespaces' ids are fixed (include/uapi/linux/nsfs.h).
const INITIAL: [(&str, u64); 2] = [("pid", 0xEFFF_FFFC), ("time", 0xEFFF_FFFA)];

fn own_namespaces() -> Result<Namespaces, BpfError> {
    let pid = HostPid::own();
    let own = Dir::open(pid).and_then(|dir| Namespaces::read(&dir));
    own.map_err(|source| BpfError::Proc { pid, source })
}

/// Whether a process with these namespaces is in the initial one of a kind.
fn is_initial(own: &Namespaces, kind: &str) -> bool {
    let initial = INITIAL.iter().find(|(name, _)| *name == kind).map(|(_, id)| id);
    own.0.get(kind).is_none_or(|id| Some(id) == initial)
}

/// What /proc adds to the times at which tasks began, in nanoseconds. The programs give them as of the machine's boot,
/// and /proc by the clock of its reader's time namespace. (Numbers of tasks are those of the reader's pid namespace.)
///
/// # Errors
/// If that is not known: the kernel tells the clocks of a process's children, which may be others.
pub(super) fn boot_shift() -> Result<i64, BpfError> {
    let own = own_namespaces()?;
    if is_initial(&own, "time") {
        return Ok(0);
    }
    if own.0.get("time") != own.0.get("time_for_children") {
        return Err(BpfError::OtherClocks);
    }
    let shifts = kernel::clocks::own_offsets().map_err(BpfError::Clocks)?;
    i64::try_from(shifts.boottime).map_err(|_| BpfError::OtherClocks)
}

impl Loaded {
    /// Loads the programs for this process alone.
    ///
    /// # Errors
    /// If this kernel's structures are not as needed, or it refuses the programs.
    pub fn load() -> Result<Self, BpfError> {
        Self::load_for(None)
    }

    /// Like [`Loaded::load`], with room for so many tracked processes.
    ///
    /// # Errors
    /// As [`Loaded::load`].
    pub fn load_for(tracked: Option<NonZeroU32>) -> Result<Self, BpfError> {
        boot_shift()?;
        Self::load_by(&Layout::resolve(VMLINUX)?, tracked)
    }

    /// Loads the programs into a kernel of which is known what they need.
    pub(super) fn load_by(layout: &Layout, tracked: Option<NonZeroU32>) -> Result<Self, BpfError> {
        let objects = object::load(layout, tracked)?;
        Ok(Self { objects, folder: None, keeps: Keeps::Here(None) })
    }

    /// Takes programs that are pinned in a folder.
    pub(super) fn pinned(objects: Objects, folder: OwnedFd) -> Self {
        Self { objects, folder: Some(Arc::new(folder)), keeps: Keeps::Elsewhere }
    }

    /// Makes it known where they have been pinned.
    pub(super) fn pinned_in(&mut self, folder: OwnedFd) {
        self.folder = Some(Arc::new(folder));
        self.keeps = Keeps::Elsewhere;
    }

    /// Has tracks kept by these, for others to find.
    pub(super) fn keep(&mut self, lock: Lock) {
        self.keeps = Keeps::Here(Some(lock));
    }

    pub(super) const fn is_pinned(&self) -> bool {
        self.folder.is_some()
    }

    pub(super) const fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The iterators.
    pub(super) fn iterator(&self, which: usize) -> BorrowedFd<'_> {
        self.objects.iterators[which.min(ITERATORS - 1)].as_fd()
    }

    /// What counts; not there on every processor, and nothing is counted for a process in another pid or time namespace
    /// than the machine's: counts go by the machine's numbers and clock, as nobody reads them while they are made.
    pub(super) fn counting(&self) -> Option<Counting<'_>> {
        let own = own_namespaces().ok()?;
        if INITIAL.iter().any(|(kind, _)| !is_initial(&own, kind)) {
            return None;
        }
        let objects = self.objects.counting.as_ref()?;
        Some(Counting { objects, folder: self.folder.as_ref() })
    }

    /// What tracks are kept by; `None` if another process keeps them, and when asked again.
    pub(crate) fn tracing(&mut self) -> Option<(Tracers, Counts)> {
        let Keeps::Here(lock) = std::mem::replace(&mut self.keeps, Keeps::Elsewhere) else {
            return None;
        };
        let tracers = self.counting()?.tracers(lock);
        tracers.inspect_err(|error| tracing::warn!(%error, "processes cannot be tracked")).ok()
    }

    /// Has changes counted, for as long as what it returns is kept. `None` where that is not to be
    /// had.
    pub(super) fn watch(&self) -> Option<Watch> {
        let watch = self.counting()?.watch();
        watch.inspect_err(|error| tracing::debug!(%error, "nothing is counted")).ok()
    }

    /// Makes use of what is counted for tracks; `None` when nothing is.
    pub(super) fn follow(&self) -> Option<Watch> {
        self.counting()?.follow()
    }
}

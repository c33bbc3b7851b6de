//! A memfd as this process holds it from the plan to the frozen moment, with what a change of shows in its times.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use images::messages::AttributeEntry;
use kernel::huge_pages::HUGE_SHIFT;
use nix::sys::stat::{FileStat, fstat};
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use super::beside::Part;
use super::paths::{attributes, file_flags};
use super::problem::{Doing, Problem};

/// A memfd that this process has opened for itself: what is in it is read of a frozen target.
#[derive(Debug)]
pub(super) struct HeldMemfd {
    /// Its own, as looking for holes moves the position.
    pub(super) file: File,
    /// Its device and inode.
    pub(super) key: (u64, u64),
    /// When anything but its contents was changed last.
    changed: (i64, i64),
    /// That was long before it was looked at, by the steps of a file system's clock: a change since shows.
    is_settled: bool,
    /// If it is in huge pages, the flags of `memfd_create` that it was made with for that.
    pub(super) huge: Option<u32>,
    pub(super) attributes: Vec<AttributeEntry>,
    pub(super) flags: Option<u32>,
}

/// All that are held, by device and inode.
#[derive(Debug, Default)]
pub(super) struct HeldMemfds(pub(super) HashMap<(u64, u64), HeldMemfd>);

impl Part for HeldMemfds {}

impl HeldMemfds {
    /// Bytes that there are in all of them, about.
    pub(super) fn bytes(&self) -> u64 {
        /// The unit of `st_blocks`.
        const BLOCK: u64 = 512;
        let stats = self.0.values().filter_map(|held| fstat(&held.file).ok());
        stats.map(|stat| stat.st_blocks.cast_unsigned() * BLOCK).sum()
    }
}

impl HeldMemfd {
    /// Opens the file behind a descriptor again, and looks at what a change of shows in its times.
    pub(super) fn new(fd: &OwnedFd) -> Result<Self, Problem> {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        // As it keeps its time of access, if it is one's own to say so.
        let unseen = File::options().read(true).custom_flags(libc::O_NOATIME).open(&path);
        let file = unseen.or_else(|_| File::open(path)).doing("open again")?;
        let stat = fstat(&file).doing("stat")?;
        let (key, huge) = ((stat.st_dev, stat.st_ino), huge_pages(&file)?);
        let (attributes, flags) = (Vec::new(), None);
        let mut new =
            Self { file, key, changed: (0, 0), is_settled: false, huge, attributes, flags };
        new.look(&stat)?;
        Ok(new)
    }

    /// Looks again, unless nothing has changed since; `stat` is what it is now.
    pub(super) fn look(&mut self, stat: &FileStat) -> Result<(), Problem> {
        /// A file system's clock goes in steps of at most 10 ms.
        const SETTLED: TimeSpec = TimeSpec::new(0, 50_000_000);
        let changed = (stat.st_ctime, stat.st_ctime_nsec);
        if self.is_settled && self.changed == changed {
            return Ok(());
        }
        let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).doing("tell the time for")?;
        self.changed = changed;
        self.is_settled = TimeSpec::new(changed.0, changed.1) + SETTLED < now;
        self.attributes = attributes(&self.file)?;
        self.flags = file_flags(&self.file)?;
        Ok(())
    }
}

/// If a memfd is in huge pages, the flags of `memfd_create` that it was made with for that.
fn huge_pages(fd: &File) -> Result<Option<u32>, Problem> {
    let system = fstatfs(fd).doing("find the file system of")?;
    let size = u64::try_from(system.block_size()).unwrap_or(0);
    let is_huge = system.filesystem_type() == HUGETLBFS_MAGIC && size.is_power_of_two();
    Ok(is_huge.then(|| libc::MFD_HUGETLB | size.trailing_zeros() << HUGE_SHIFT))
}

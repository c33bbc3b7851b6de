//! What a kind of open file knows of itself. The kinds are listed in [`super::table`].

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs::File;
use std::io;

use collector::{Mapping, OpenFile, Process};
use ids::HostPid;
use images::messages::FileEntry;
use images::{Error, ImageWriter};

use super::Captured;
use super::file_cache::Keeping;
use super::problem::Problem;
use super::survey::Survey;

/// One kind of open file.
///
/// A look at a tree asks [`is`](Self::is) of the kinds in the order of their table, and then
/// [`capture`](Self::capture) of the first that says yes: once while the target runs, to find out what
/// cannot be carried and to learn what will still hold, and once when it stands still. The rest is for
/// kinds of which more is known.
pub(super) trait FileKind: Debug + Sync {
    /// The types (`fd_type`) that its entries have.
    fn types(&self) -> &'static [u32];

    /// Whether an open file is of this kind, by what the inventory says. Makes no system call.
    fn is(&self, _file: &OpenFile) -> bool {
        false
    }

    /// Whether character devices with this number (`st_rdev`) are of this kind.
    fn is_device(&self, _device: u64) -> bool {
        false
    }

    /// The address families (`AF_*`) whose sockets are of this kind.
    fn families(&self) -> &'static [i32] {
        &[]
    }

    /// The entry of an open file; `entry` has its id. What it keeps beside `files.img` goes into
    /// `survey.out`.
    ///
    /// # Errors
    /// [`Problem::Refused`] for one that cannot be carried.
    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem>;

    /// Whether it can be sent in a message before the processes of the tree are there (`SCM_RIGHTS`).
    fn can_be_sent(&self) -> bool {
        true
    }

    /// Whether a file that is mapped, or run as a program, is of this kind, other than one that is found by
    /// its path. `name` is that of the mapping, or the link text.
    fn is_mapped(&self, _inode: u64, _name: &OsStr) -> bool {
        false
    }

    /// What the entry of such a mapping says of it (`vma_status`).
    fn mapping_status(&self) -> u32 {
        0
    }

    /// Whether two files are as good as one, so that somebody outside of the tree may hold it as well; `open` opens it.
    fn is_the_same_twice(&self, _open: &dyn Fn() -> io::Result<File>) -> bool {
        false
    }

    /// Whether the kernel may write into memory for such a file behind the back of the page tables.
    fn writes_memory(&self) -> bool {
        false
    }

    /// The entry of a file that a process maps or runs and that [`is_mapped`](Self::is_mapped); `link` in
    /// its folder of /proc leads to it.
    ///
    /// # Errors
    /// As [`capture`](Self::capture).
    fn capture_mapped(
        &self,
        _survey: &mut Survey<'_>,
        _pid: HostPid,
        _link: &str,
        _name: &OsStr,
        _entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        Err(Problem::Refused(support::files::NOT_MAPPABLE))
    }

    /// The id of the open file that such a mapping is one of, where a file cannot be opened by its mappings.
    fn mapped_as(
        &self,
        _survey: &mut Survey<'_>,
        _mapping: &Mapping,
    ) -> Option<Result<u32, Problem>> {
        None
    }

    /// Of a file whose mark is that of the plan: whether its entry of then holds. What a mark does not
    /// cover is read here. A kind whose marks are not known to cover anything says no.
    ///
    /// # Errors
    /// As [`capture`](Self::capture).
    fn holds(
        &self,
        _survey: &mut Survey<'_>,
        _pid: HostPid,
        _file: &OpenFile,
        _keeping: &mut Keeping,
    ) -> Result<bool, Problem> {
        Ok(false)
    }

    /// Whether an inventory tells all that there is to tell of a file whose mark is that of the plan, so
    /// that [`holds`](Self::holds) need not be asked. `size` is what the mark says of its size.
    fn is_steady(&self, _entry: &FileEntry, _size: Option<u64>) -> bool {
        false
    }

    /// Brings an entry of the plan up to date with the frozen inventory.
    fn update(&self, _entry: &mut FileEntry, _keeping: &Keeping) {}

    /// Is called when a look has come to its end: what can only be told of a file when all are known is
    /// told then.
    fn complete(&self, _survey: &mut Survey<'_>) {}

    /// The inode of the socket that one is connected to, if it is one of its own kind.
    fn peer(&self, _entry: &FileEntry) -> Option<u32> {
        None
    }

    /// Whether an entry is written when those of all kinds are, as another has to come before it
    /// ([`in_order`](Self::in_order)).
    fn comes_last(&self, _entry: &FileEntry) -> bool {
        false
    }

    /// The order in which such entries are written.
    fn in_order(&self, entries: Vec<FileEntry>) -> Vec<FileEntry> {
        entries
    }

    /// The entries of an entry that is two in the images: its path, and itself.
    fn in_two(&self, _entry: &FileEntry) -> Option<[FileEntry; 2]> {
        None
    }

    /// Writes the images that the files of this kind have beside `files.img`.
    ///
    /// # Errors
    /// When they cannot be written.
    fn encode(&self, _captured: &Captured, _writer: &ImageWriter) -> Result<(), Error> {
        Ok(())
    }
}

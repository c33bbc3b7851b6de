//! userfaultfds. One serves the memory of the process that has made it: so each task makes its own, when its descriptors are in place,
//! and its restorer asks for features and registers memory when all is there.

use std::os::fd::OwnedFd;

use images::messages::{FdinfoEntry, FileEntry, UserfaultFileEntry, fd_type};
use kernel::descriptors::place;
use kernel::userfaultfd::create_as;
use nix::sys::prctl;
use support::Refusal;
use support::userfaults::{OF_USER, of_features};

use super::beside::Part;
use super::file_kind::{FileKind, missing};
use super::images::FileImages;
use super::opening::Opening;
use super::user::User;
use super::{Error, InstallTask, OpenFiles};

/// A userfaultfd.
#[derive(Debug)]
pub(super) struct Userfault;

const CLOSE_ON_EXEC: u32 = libc::FD_CLOEXEC.cast_unsigned();
/// `UFFDIO_REGISTER_MODE_MISSING`.
const MISSING: u64 = 1;

impl FileKind for Userfault {
    fn r#type(&self) -> u32 {
        fd_type::USERFAULT
    }

    fn check(&self, file: &FileEntry, _images: &FileImages) -> Result<(), Error> {
        let entry = entry(file)?;
        if let Some(refusal) = entry.features.and_then(of_features) {
            return Err(Error::refused(file.id, refusal, what(entry)));
        }
        let page = arch::memory::PAGE_SIZE;
        let is_possible = |start: u64, bytes: u64| {
            start.is_multiple_of(page)
                && bytes.is_multiple_of(page)
                && bytes > 0
                && start.checked_add(bytes).is_some_and(|end| end <= arch::memory::END_OF_SPACE)
        };
        let is_right =
            entry.served.iter().all(|it| is_possible(it.start, it.bytes) && it.modes == MISSING);
        if !is_right || !entry.served.is_empty() && entry.features.is_none() {
            return Err(Error::image(what(entry), "it can serve no such memory"));
        }
        Ok(())
    }

    fn beyond(&self, file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        Some((OF_USER, format!("userfaultfd of file {}", file.id)))
    }

    /// Something else is there for the time being: should it stay there, no restorer would take it for one. And there are no huge pages
    /// from here on, which would fill what is to stay missing: the tasks inherit that, and each restorer says in the end what its
    /// program has said of them.
    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        opening.beside.of::<NoHugePages>().begin()?;
        for file in files {
            let operation = || format!("keep a place for {}", what_of(file));
            let place = std::fs::File::open("/dev/null")
                .map_err(|source| Error::Kernel { operation: operation(), source })?;
            opening.add(file.id, OwnedFd::from(place))?;
        }
        Ok(())
    }

    fn is_owned_first(&self) -> bool {
        true
    }

    fn own(
        &self,
        files: &OpenFiles,
        _entry: &FdinfoEntry,
        file: &FileEntry,
        task: &InstallTask,
    ) -> Result<(), Error> {
        let entry = entry(file)?;
        let failed = |source| Error::Kernel { operation: format!("make {}", what(entry)), source };
        let made = create_as(entry.flags, entry.user_mode_only()).map_err(failed)?;
        for descriptor in files.table(task.files_id).iter().filter(|it| it.id == file.id) {
            let closes = descriptor.flags & CLOSE_ON_EXEC != 0;
            place(&made, descriptor.fd.cast_signed(), closes).map_err(failed)?;
        }
        Ok(())
    }
}

/// That this process has no huge pages, until it is dropped.
#[derive(Debug, Default)]
struct NoHugePages {
    begun: bool,
}

impl Part for NoHugePages {}

impl NoHugePages {
    fn begin(&mut self) -> Result<(), Error> {
        let failed = |errno| Error::kernel("do without huge pages", errno);
        if !prctl::get_thp_disable().map_err(failed)? {
            prctl::set_thp_disable(true).map_err(failed)?;
            self.begun = true;
        }
        Ok(())
    }
}

impl Drop for NoHugePages {
    fn drop(&mut self) {
        if self.begun
            && let Err(errno) = prctl::set_thp_disable(false)
        {
            tracing::debug!(%errno, "there are no huge pages for this process any more");
        }
    }
}

fn entry(file: &FileEntry) -> Result<&UserfaultFileEntry, Error> {
    file.userfault.as_deref().ok_or_else(|| missing(file))
}

fn what(entry: &UserfaultFileEntry) -> String {
    format!("userfaultfd {}", entry.id)
}

fn what_of(file: &FileEntry) -> String {
    format!("userfaultfd {}", file.id)
}

/// What a userfaultfd of a process is to be asked for and to serve.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    /// A descriptor of the process.
    pub(crate) fd: i32,
    pub(crate) entry: UserfaultFileEntry,
}

impl OpenFiles {
    /// The userfaultfds in a table of descriptors that are in use.
    pub(crate) fn serving(&self, files_id: u32) -> Vec<Serving> {
        let mut seen = std::collections::BTreeSet::new();
        let serving = self.table(files_id).iter().filter_map(|descriptor| {
            let entry = self.files.get(&descriptor.id)?.userfault.as_deref()?;
            let is_new = entry.features.is_some() && seen.insert(entry.id);
            let fd = descriptor.fd.cast_signed();
            is_new.then(|| Serving { fd, entry: entry.clone() })
        });
        serving.collect()
    }

    fn table(&self, files_id: u32) -> &[FdinfoEntry] {
        self.tables.get(&files_id).map_or(&[][..], |table| table)
    }
}

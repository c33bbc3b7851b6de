//! epoll: made empty, and filled in the first task that has it and all that it watches.

use std::os::fd::OwnedFd;

use images::messages::{EventpollFileEntry, EventpollTfdEntry, FdinfoEntry, FileEntry, fd_type};
use kernel::descriptors::{self, set_epoll_polling};
use nix::sys::epoll::{Epoll as Instance, EpollCreateFlags};

use support::Refusal;

use super::file_kind::{FileKind, missing};
use super::keepers::is_late;
use super::keepers::{AtHand, for_a_moment};
use super::opening::{Opening, flagged};
use super::user::User;
use super::{Error, InstallTask, OpenFiles};

/// An epoll instance.
#[derive(Debug)]
pub(super) struct Epoll;

impl FileKind for Epoll {
    fn r#type(&self) -> u32 {
        fd_type::EVENTPOLL
    }

    fn beyond(&self, _file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        None
    }

    /// Files are watched by their numbers.
    fn owned_with(&self, file: &FileEntry) -> Vec<u32> {
        file.epfd.iter().flat_map(|epoll| &epoll.tfd).map(|watched| watched.tfd).collect()
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        for file in files {
            let entry = file.epfd.as_ref().ok_or_else(|| missing(file))?;
            opening.add(file.id, make(entry)?)?;
        }
        Ok(())
    }

    fn own(
        &self,
        files: &OpenFiles,
        _entry: &FdinfoEntry,
        file: &FileEntry,
        task: &InstallTask,
    ) -> Result<(), Error> {
        files.watch(file, task)
    }
}

fn make(entry: &EventpollFileEntry) -> Result<OwnedFd, Error> {
    let what = format!("epoll {}", entry.id);
    let epoll = Instance::new(EpollCreateFlags::EPOLL_CLOEXEC)
        .map_err(|errno| Error::kernel(format!("make {what}"), errno))?;
    if let Some(polling) = &entry.polling {
        let parameters = polling.as_slice().try_into();
        let parameters = parameters.map_err(|_| Error::image(&what, "its parameters are none"))?;
        set_epoll_polling(&epoll.0, parameters).map_err(|source| Error::Kernel {
            operation: format!("set parameters of {what}"),
            source,
        })?;
    }
    flagged(epoll.0, entry.flags, &what)
}

impl OpenFiles {
    /// Has an epoll watch a number; one that is the restore's own still is the task's for that time.
    fn watch_number(
        &self,
        epoll: &AtHand<'_>,
        number: i32,
        watched: &EventpollTfdEntry,
        table: &[FdinfoEntry],
        task: &InstallTask,
    ) -> std::io::Result<()> {
        let watch = || descriptors::watch(epoll, number, watched.events, watched.data);
        let late = |entry: &&FdinfoEntry| entry.fd == watched.tfd && is_late(entry, self.base);
        let Some(entry) = table.iter().find(late) else { return watch() };
        let file = self.opened(entry.id, task).map_err(std::io::Error::other)?;
        for_a_moment(&file, number, watch)
    }

    fn watch(&self, file: &FileEntry, task: &InstallTask) -> Result<(), Error> {
        let Some(entry) = &file.epfd else { return Ok(()) };
        let table = self.tables.get(&task.files_id).map_or(&[][..], |table| table);
        let epoll = self.opened(file.id, task)?;
        for watched in &entry.tfd {
            let number = watched.tfd.cast_signed();
            match self.watch_number(&epoll, number, watched, table, task) {
                Ok(()) => {}
                // Two processes may share one table: the other one was here first.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    let operation = format!(
                        "watch descriptor {number} by epoll {} of process {}",
                        file.id, task.pid
                    );
                    return Err(Error::Kernel { operation, source });
                }
            }
        }
        Ok(())
    }
}

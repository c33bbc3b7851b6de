//! epoll: what each instance watches, by descriptors that its holder has.
//!
//! An entry is the kernel's reference to a file, remembered with the number that the file had
//! when it was added. The number may have been closed since, or mean something else; the images
//! know only numbers. So each entry is written with a number that, in the task that will set the
//! entry up, is that file: the one it was added by, or another for the same file.

use std::collections::HashMap;

use collector::{OpenFile, Process};
use ids::HostPid;
use images::messages::{EventpollFileEntry, EventpollTfdEntry, FileEntry, fd_type};
use kernel::descriptors::{EpollSlot, epoll_polling, is_epoll_target};
use kernel::procfs::{Detail, EpollEntry};

use super::file_kind::FileKind;
use super::problem::{Doing, Problem};
use super::survey::Survey;
use kernel::mounts::kernel_device;

/// An epoll instance.
#[derive(Debug)]
pub(super) struct Epoll;

impl FileKind for Epoll {
    fn types(&self) -> &'static [u32] {
        &[fd_type::EVENTPOLL]
    }

    fn is(&self, file: &OpenFile) -> bool {
        file.target == "anon_inode:[eventpoll]"
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let fown = survey.owner(process.pid, file)?;
        let info = survey.fdinfo(process.pid, file)?;
        let watched = match &info.detail {
            Detail::Epoll(entries) => &entries[..],
            _ => &[],
        };
        // The numbers count in the frozen moment only: what is watched changes all the time.
        let tfd = if survey.frozen {
            // One on its way is filled by who receives it.
            let receiver = survey.receiver.and_then(|pid| survey.inventory.processes.get(&pid));
            let by = receiver.unwrap_or(process);
            entries((process.pid, file.fd), watched, (by.pid, &by.files))?
        } else {
            Vec::new()
        };
        let epoll = survey.held.borrow(process.pid, file.fd)?;
        let polling = epoll_polling(&epoll).doing("get parameters of")?;
        let polling = polling.map(|parameters| parameters.to_vec());
        let (id, flags) = (entry.id, file.flags);
        let epfd = EventpollFileEntry { id, flags, fown, tfd, polling };
        Ok(FileEntry { r#type: fd_type::EVENTPOLL, epfd: Some(epfd), ..entry })
    }
}

/// The entries of the epoll that a process has as a descriptor, found among the open files of one.
fn entries(
    (pid, epoll): (HostPid, i32),
    watched: &[EpollEntry],
    among: (HostPid, &[OpenFile]),
) -> Result<Vec<EventpollTfdEntry>, Problem> {
    let mut seen: HashMap<i32, u32> = HashMap::new();
    let mut written: HashMap<i32, i32> = HashMap::new();
    watched
        .iter()
        .map(|entry| {
            let count = seen.entry(entry.fd).or_default();
            let slot = EpollSlot { epoll, added_as: entry.fd, nth: *count };
            *count += 1;
            let fd = holder(pid, slot, entry, among)?;
            if let Some(other) = written.insert(fd, entry.fd) {
                return Err(twice(fd, if other == fd { entry.fd } else { other }));
            }
            Ok(EventpollTfdEntry {
                // CRIU writes 0 here, too.
                id: 0,
                tfd: fd.cast_unsigned(),
                events: entry.events,
                data: entry.data,
                dev: Some(kernel_device(entry.device)),
                inode: Some(entry.inode),
                pos: Some(entry.position),
            })
        })
        .collect()
}

/// A number that is free by now would have to be the file's again for a moment.
fn twice(fd: i32, closed: i32) -> Problem {
    Problem::Refused(support::files::watched_twice(fd, closed))
}

/// A descriptor of a process that is the file of the entry, in an epoll of process `pid`.
fn holder(
    pid: HostPid,
    slot: EpollSlot,
    entry: &EpollEntry,
    (by, files): (HostPid, &[OpenFile]),
) -> Result<i32, Problem> {
    for file in candidates(entry, files) {
        if is_epoll_target(by, file.fd, pid, slot).doing("compare watched files of")? {
            return Ok(file.fd);
        }
    }
    Err(Problem::Refused(support::files::watched_elsewhere(entry.fd)))
}

/// The files that can be the one of the entry: the number it was added by first, then all others
/// with its inode.
fn candidates<'a>(
    entry: &'a EpollEntry,
    files: &'a [OpenFile],
) -> impl Iterator<Item = &'a OpenFile> {
    let same = move |file: &&OpenFile| file.inode == entry.inode && file.device == entry.device;
    let first = files.iter().filter(move |file| file.fd == entry.fd);
    let others = files.iter().filter(move |file| file.fd != entry.fd).filter(same);
    first.chain(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(fd: i32, inode: u64) -> OpenFile {
        OpenFile {
            fd,
            close_on_exec: false,
            description: 0,
            position: 0,
            flags: 0,
            mode: 0,
            device: 9,
            inode,
            target: "socket:[1]".into(),
            owned: None,
            locked: None,
            linkable: None,
            uncorked: false,
            terminal: None,
            mark: None,
        }
    }

    #[test]
    fn the_number_it_was_added_by_is_asked_first() {
        let files = [file(3, 7), file(4, 8), file(5, 7)];
        let entry = EpollEntry { fd: 5, events: 1, data: 0, position: 0, inode: 7, device: 9 };
        let order: Vec<i32> = candidates(&entry, &files).map(|file| file.fd).collect();
        assert_eq!(order, [5, 3]);
        let closed = EpollEntry { fd: 9, ..entry };
        let order: Vec<i32> = candidates(&closed, &files).map(|file| file.fd).collect();
        assert_eq!(order, [3, 5]);
    }
}

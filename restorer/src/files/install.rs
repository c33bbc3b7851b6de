//! What is done in a task: its descriptors, and what belongs to a task and no file.

use std::os::fd::{AsFd, BorrowedFd};

use images::messages::{EventpollTfdEntry, FdinfoEntry, FileEntry, FownEntry, fd_type};
use kernel::descriptors::{self, Owner, close_range, place};

use super::images::owner_and_flags;
use super::keepers::{AtHand, for_a_moment};
use super::open::is_late;
use super::{Error, InstallTask, OpenFiles};

const O_ASYNC: u32 = libc::O_ASYNC.cast_unsigned();
const CLOSE_ON_EXEC: u32 = libc::FD_CLOEXEC.cast_unsigned();

impl OpenFiles {
    pub(super) fn install_in(&self, task: &InstallTask) -> Result<(), Error> {
        let of_task = |doing: String| {
            let operation = format!("{doing} of process {}", task.pid);
            move |source| Error::Kernel { operation, source }
        };
        let Some(table) = self.tables.get(&task.files_id) else {
            let object = format!("descriptor table {}", task.files_id);
            return Err(Error::image(object, "it is not in the images"));
        };
        if self.base > 0 {
            close_range(0, self.base - 1).map_err(of_task("clear descriptors".to_owned()))?;
        }
        for entry in table.iter().filter(|entry| !is_late(entry, self.base)) {
            let file = self.opened(entry.id)?;
            let number = entry.fd.cast_signed();
            place(&file, number, entry.flags & CLOSE_ON_EXEC != 0)
                .map_err(of_task(format!("put in place descriptor {number}")))?;
            file.settle(number);
        }
        let mut seen = std::collections::BTreeSet::new();
        for entry in table {
            if seen.insert(entry.id) && self.holders.get(&entry.id) == Some(&task.files_id) {
                self.own(entry, task)?;
            }
        }
        self.foreground(table, task)?;
        match self.late(task.files_id) {
            (late, _) if late.is_empty() => Ok(()),
            (_, slot) => self.kept.place(slot),
        }
    }

    fn opened(&self, id: u32) -> Result<AtHand<'_>, Error> {
        match self.opened.get(&id) {
            Some(file) => Ok(AtHand::Ours(file.as_fd())),
            None => self.kept.fetch(id).map(AtHand::Fetched),
        }
    }

    /// What is done once for a file: its owner, and the entries of an epoll.
    fn own(&self, entry: &FdinfoEntry, task: &InstallTask) -> Result<(), Error> {
        let Some(file) = self.files.get(&entry.id) else { return Ok(()) };
        if let Some((owner, flags)) = owner_and_flags(file) {
            let what = format!("descriptor {} of process {}", entry.fd, task.pid);
            set_owner(self.opened(entry.id)?.as_fd(), owner, flags, &what)?;
        }
        self.watch(file, task)
    }

    /// Has an epoll watch a number; one that is the restore's own still is the task's for that time.
    fn watch_number(
        &self,
        epoll: &AtHand<'_>,
        number: i32,
        watched: &EventpollTfdEntry,
        table: &[FdinfoEntry],
    ) -> std::io::Result<()> {
        let watch = || descriptors::watch(epoll, number, watched.events, watched.data);
        let late = |entry: &&FdinfoEntry| entry.fd == watched.tfd && is_late(entry, self.base);
        let Some(entry) = table.iter().find(late) else { return watch() };
        let file = self.opened(entry.id).map_err(std::io::Error::other)?;
        for_a_moment(&file, number, watch)
    }

    fn watch(&self, file: &FileEntry, task: &InstallTask) -> Result<(), Error> {
        let Some(entry) = &file.epfd else { return Ok(()) };
        let table = self.tables.get(&task.files_id).map_or(&[][..], |table| table);
        let epoll = self.opened(file.id)?;
        for watched in &entry.tfd {
            let number = watched.tfd.cast_signed();
            match self.watch_number(&epoll, number, watched, table) {
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

    /// The job that was in the foreground of its terminal is so again.
    fn foreground(&self, table: &[FdinfoEntry], task: &InstallTask) -> Result<(), Error> {
        let terminals = table.iter().filter(|entry| entry.r#type == fd_type::TTY);
        for entry in terminals {
            let tty = self.files.get(&entry.id).and_then(|file| file.tty.as_ref());
            let info = tty.and_then(|tty| self.terminals.get(&tty.tty_info_id));
            if info.is_some_and(|info| info.pgrp == task.pid.cast_unsigned()) {
                let fd = self.opened(entry.id)?;
                // A terminal that does not control this session has no foreground of ours.
                match kernel::tty::set_foreground(fd, task.pid) {
                    Err(error) if error.raw_os_error() != Some(libc::ENOTTY) => {
                        return Err(Error::Kernel {
                            operation: format!(
                                "put process group {} in the foreground of its terminal",
                                task.pid
                            ),
                            source: error,
                        });
                    }
                    _ => return Ok(()),
                }
            }
        }
        Ok(())
    }
}

/// Whom the file signals, and whether it does at all.
fn set_owner(fd: BorrowedFd<'_>, owner: &FownEntry, flags: u32, what: &str) -> Result<(), Error> {
    if flags & libc::O_PATH.cast_unsigned() != 0 {
        return Ok(());
    }
    let failed = |doing: &str| {
        let operation = format!("{doing} of {what}");
        |source| Error::Kernel { operation, source }
    };
    if owner.signum != 0 {
        descriptors::set_signal(fd, owner.signum.cast_signed()).map_err(failed("set signal"))?;
    }
    if owner.pid != 0 {
        let who = Owner { kind: owner.pid_type.cast_signed(), pid: owner.pid.cast_signed() };
        // The kernel remembers who set it, and checks that when it sends the signal.
        as_user(owner.uid, owner.euid, || descriptors::set_owner(fd, who))
            .map_err(failed("set owner"))?;
    }
    if flags & O_ASYNC != 0 {
        descriptors::set_status_flags(fd, flags).map_err(failed("set flags"))?;
    }
    Ok(())
}

/// Does something as another user, and comes back.
fn as_user(uid: u32, euid: u32, work: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
    use nix::unistd::{Uid, getresuid, setresuid};
    let now = getresuid()?;
    if (now.real.as_raw(), now.effective.as_raw()) == (uid, euid) {
        return work();
    }
    setresuid(Uid::from_raw(uid), Uid::from_raw(euid), now.saved)?;
    let done = work();
    setresuid(now.real, now.effective, now.saved)?;
    done
}

//! What is done in a task: its descriptors, and what belongs to a task and no file.

use std::os::fd::{AsFd, BorrowedFd};

use ids::ImagePid;
use images::messages::{FdinfoEntry, FileEntry, FownEntry};
use kernel::descriptors::{self, Owner, close_range, place};

use super::file_kind::NO_DESCRIPTOR;
use super::keepers::AtHand;
use super::keepers::is_late;
use super::table::of_type;
use super::{Error, InstallTask, OpenFiles};
use crate::pids::Pids;

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
            let file = self.opened(entry.id, task)?;
            let number = entry.fd.cast_signed();
            place(&file, number, entry.flags & CLOSE_ON_EXEC != 0)
                .map_err(of_task(format!("put in place descriptor {number}")))?;
            file.settle(number);
        }
        let is_first =
            |file: &FileEntry| of_type(file.r#type).is_some_and(|kind| kind.is_owned_first());
        let is_owned = |id: u32| self.holders.get(&id) == Some(&task.files_id);
        self.each(task, |entry, file| match is_first(file) && is_owned(entry.id) {
            true => self.own(entry, file, task),
            false => Ok(()),
        })?;
        self.each(task, |entry, file| {
            if !is_first(file) && is_owned(entry.id) {
                self.own(entry, file, task)?;
            }
            match of_type(file.r#type) {
                Some(kind) => kind.in_task(self, entry, file, task),
                None => Ok(()),
            }
        })?;
        for id in self.sent.iter().filter(|id| self.holders.get(id) == Some(&task.files_id)) {
            if let Some(file) = self.files.get(id) {
                let (id, r#type) = (*id, file.r#type);
                let entry = FdinfoEntry { id, r#type, fd: NO_DESCRIPTOR, ..FdinfoEntry::default() };
                self.own(&entry, file, task)?;
            }
        }
        match self.late(task.files_id) {
            (late, _) if late.is_empty() => Ok(()),
            (_, slot) => self.kept.place(slot),
        }
    }

    /// Does something with each open file of a task, by one of its descriptors.
    pub(super) fn each(
        &self,
        task: &InstallTask,
        mut work: impl FnMut(&FdinfoEntry, &FileEntry) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut seen = std::collections::BTreeSet::new();
        for entry in self.tables.get(&task.files_id).into_iter().flatten() {
            if let Some(file) = self.files.get(&entry.id).filter(|_| seen.insert(entry.id)) {
                work(entry, file)?;
            }
        }
        Ok(())
    }

    /// An open file of the images.
    pub(super) fn opened(&self, id: u32, task: &InstallTask) -> Result<AtHand<'_>, Error> {
        if let Some(file) = self.opened.get(&id) {
            return Ok(AtHand::Ours(file.as_fd()));
        }
        let Some(window) = self.later.get(&id) else {
            return self.kept.fetch(id).map(AtHand::Fetched);
        };
        window.look().map(AtHand::Fetched).map_err(|source| Error::Kernel {
            operation: format!("fetch file {id} for process {}", task.pid),
            source,
        })
    }

    /// In the process that holds the tree, when all of it is there: opens what needs that. The tasks fetch
    /// it from there.
    ///
    /// # Errors
    /// Names the file and what went wrong with it.
    pub(crate) fn open_later(&self, pids: &Pids) -> Result<(), Error> {
        for (id, window) in &self.later {
            let Some(file) = self.files.get(id) else { continue };
            let Some(kind) = of_type(file.r#type) else { continue };
            let opened = kind
                .open_later(self, file, pids)
                .map_err(|error| error.named(self.opener.approver.holders()))?;
            window
                .show(&opened)
                .map_err(|source| Error::Kernel { operation: format!("keep file {id}"), source })?;
        }
        Ok(())
    }

    /// What is done once for a file: its lease, its owner, and what its kind has to do.
    fn own(&self, entry: &FdinfoEntry, file: &FileEntry, task: &InstallTask) -> Result<(), Error> {
        self.lease(entry, task)?;
        // Of some the file of their path has it.
        let of_path = || self.files.get(&file.body()?.path()?)?.owner();
        if let Some((owner, flags)) = file.owner().or_else(of_path) {
            let what = match entry.fd {
                NO_DESCRIPTOR => format!("file {} on its way to process {}", entry.id, task.pid),
                fd => format!("descriptor {fd} of process {}", task.pid),
            };
            let pid = ImagePid::try_from(owner.pid).ok();
            let local = pid.and_then(|pid| self.levels.local(task.pid, pid));
            if local.is_none() && pid.is_some() {
                return Err(Error::image(what, "its owner is outside of the pid namespace"));
            }
            set_owner(self.opened(entry.id, task)?.as_fd(), (owner, local), flags, &what)?;
        }
        match of_type(file.r#type) {
            Some(kind) => kind.own(self, entry, file, task),
            None => Ok(()),
        }
    }
}

/// Whom the file signals, and whether it does at all.
fn set_owner(
    fd: BorrowedFd<'_>,
    (owner, pid): (&FownEntry, Option<ImagePid>),
    flags: u32,
    what: &str,
) -> Result<(), Error> {
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
        let who = Owner { kind: owner.pid_type.cast_signed(), pid };
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
    kernel::credentials::keeping_dumpable(|| {
        setresuid(Uid::from_raw(uid), Uid::from_raw(euid), now.saved)?;
        let done = work();
        setresuid(now.real, now.effective, now.saved)?;
        done
    })
}

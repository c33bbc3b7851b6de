//! Files of `/proc` about processes: opened when the processes are there. What is about a descriptor of a process
//! (`fdinfo/N`) is opened by that process, when it has its descriptors.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use ids::HostPid;
use images::messages::{FdinfoEntry, FileEntry, RegFileEntry};
use kernel::descriptors::place;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek};
use support::files::process_behind;

use super::approve::Purpose;
use super::images::FileImages;
use super::reopen::{flags, reopen, shown};
use super::{Error, InstallTask, OpenFiles};

/// Whether a file is of `/proc/PID`.
pub(super) fn is_of_process(entry: &RegFileEntry) -> bool {
    process_behind(&entry.name).is_some()
}

/// The process of which a file is the directory, or one right below that.
pub(super) fn process_of_directory(entry: &RegFileEntry) -> Option<HostPid> {
    let parts = entry.name.split(|byte| *byte == b'/').count();
    process_behind(&entry.name).filter(|_| parts == 3 || parts == 4)
}

/// A handle on such a directory, and not on what a link there leads to.
pub(super) fn open_directory(entry: &RegFileEntry) -> Result<OwnedFd, Error> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::open(std::ffi::OsStr::from_bytes(&entry.name), flags, Mode::empty())
        .map_err(|errno| Error::kernel(format!("open {}", shown(entry)), errno))
}

fn is_of_descriptor(entry: &RegFileEntry) -> bool {
    let parts: Vec<&[u8]> = entry.name.split(|byte| *byte == b'/').skip(3).collect();
    is_of_process(entry) && matches!(parts.as_slice(), [b"fdinfo", _])
}

/// A file about a descriptor of a process is held by that process alone.
pub(super) fn check(file: &FileEntry, images: &FileImages) -> Result<(), Error> {
    let Some(entry) = file.reg.as_ref().filter(|entry| is_of_descriptor(entry)) else {
        return Ok(());
    };
    let has = |table: &&Vec<FdinfoEntry>| table.iter().any(|held| held.id == file.id);
    match images.tables.values().filter(has).count() {
        0 | 1 => Ok(()),
        _ => Err(Error::refused(entry.id, support::files::NOT_THERE_YET, shown(entry))),
    }
}

impl OpenFiles {
    /// Opens a file of `/proc`, in the process that holds the tree.
    pub(super) fn open_of_process(&self, entry: &RegFileEntry) -> Result<OwnedFd, Error> {
        if is_of_descriptor(entry) {
            return self.stand_in(entry);
        }
        self.open_now(entry)
    }

    fn stand_in(&self, entry: &RegFileEntry) -> Result<OwnedFd, Error> {
        let opened = std::fs::File::open("/dev/null");
        opened.map(OwnedFd::from).map_err(|source| Error::Kernel {
            operation: format!("open something for {}", shown(entry)),
            source,
        })
    }

    fn open_now(&self, entry: &RegFileEntry) -> Result<OwnedFd, Error> {
        let approved = self.opener.approver.approve(entry, Purpose::Access(entry.flags))?;
        let opened = reopen(&approved.handle, entry.flags)
            .map_err(|errno| Error::kernel(format!("open {}", shown(entry)), errno))?;
        seek(&opened, entry)?;
        Ok(opened)
    }

    /// In a process: opens what is about one of its descriptors.
    pub(super) fn own_of_process(
        &self,
        entry: &RegFileEntry,
        task: &InstallTask,
    ) -> Result<(), Error> {
        if !is_of_descriptor(entry) {
            return Ok(());
        }
        // Its own, which it may look at; where other paths lead is not looked for from here.
        let number = entry.name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let number = std::str::from_utf8(number).ok().and_then(|number| number.parse::<u32>().ok());
        let own = process_behind(&entry.name).is_some_and(|about| about.get() == task.pid.get());
        let (Some(number), true) = (number, own) else {
            return Err(Error::refused(entry.id, support::files::NOT_THERE_YET, shown(entry)));
        };
        let path = format!("/proc/self/fdinfo/{number}");
        let opened = nix::fcntl::open(&*path, flags(entry.flags), Mode::empty())
            .map_err(|errno| Error::kernel(format!("open {}", shown(entry)), errno))?;
        seek(&opened, entry)?;
        let table = self.tables.get(&task.files_id).into_iter().flatten();
        for held in table.filter(|held| held.id == entry.id) {
            let closes = held.flags & libc::FD_CLOEXEC.cast_unsigned() != 0;
            place(&opened, held.fd.cast_signed(), closes).map_err(|source| Error::Kernel {
                operation: format!("put in place descriptor {} of process {}", held.fd, task.pid),
                source,
            })?;
        }
        Ok(())
    }
}

fn seek(opened: &OwnedFd, entry: &RegFileEntry) -> Result<(), Error> {
    let handle = entry.flags & libc::O_PATH.cast_unsigned() != 0;
    if !handle && entry.pos != 0 && entry.pos != u64::MAX {
        lseek(opened, entry.pos.cast_signed(), Whence::SeekSet)
            .map_err(|errno| Error::kernel(format!("seek in {}", shown(entry)), errno))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_a_descriptor() {
        let entry = |name: &[u8]| RegFileEntry { name: name.to_vec(), ..RegFileEntry::default() };
        assert!(is_of_descriptor(&entry(b"/proc/7/fdinfo/4")));
        assert!(!is_of_descriptor(&entry(b"/proc/7/fdinfo")));
        assert!(!is_of_descriptor(&entry(b"/proc/7/stat")));
        assert!(is_of_process(&entry(b"/proc/7/stat")) && is_of_process(&entry(b"/proc/7")));
        assert!(!is_of_process(&entry(b"/proc/stat")));
        let directory = |name| process_of_directory(&entry(name)).map(HostPid::get);
        assert_eq!((directory(b"/proc/7/fdinfo"), directory(b"/proc/7")), (Some(7), Some(7)));
        assert_eq!((directory(b"/proc/7/root/etc"), directory(b"/proc/self/fdinfo")), (None, None));
    }
}

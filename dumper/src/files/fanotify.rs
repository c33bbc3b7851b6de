//! fanotify: its marks are in `/proc/PID/fdinfo`: on files, without names, on mounts and on file systems. Events that
//! nobody has read are lost, which a dump says.

use std::os::unix::ffi::OsStrExt;

use collector::{OpenFile, Process};
use ids::HostPid;
use images::messages::{
    FanotifyFileEntry, FanotifyInodeMarkEntry, FanotifyMarkEntry, FanotifyMountMarkEntry,
    FileEntry, fd_type,
};
use kernel::fanotify::PERMISSION;
use kernel::procfs::{Detail, FanotifyMark, Mount};

use super::file_kind::FileKind;
use super::problem::{Doing, Problem, unexpected};
use super::survey::Survey;
use super::watched::{Inode, Target};
use crate::mounts::View;
use kernel::mounts::kernel_device;

/// A fanotify group.
#[derive(Debug)]
pub(super) struct Fanotify;

impl FileKind for Fanotify {
    fn types(&self) -> &'static [u32] {
        &[fd_type::FANOTIFY]
    }

    fn is(&self, file: &OpenFile) -> bool {
        file.target == "anon_inode:[fanotify]"
    }

    fn can_be_sent(&self) -> bool {
        false
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let fown = survey.owner(process.pid, file)?;
        let detail = survey.fdinfo(process.pid, file)?.detail;
        let Detail::Fanotify { flags: faflags, event_flags, marks } = detail else {
            return Err(unexpected("a fanotify group"));
        };
        if marks.iter().any(|mark| mark.mask & PERMISSION != 0) {
            return Err(Problem::Refused(support::files::FANOTIFY_PERMISSION));
        }
        let inodes: Vec<Inode> = marks.iter().filter_map(inode).collect();
        let view = survey.context.views.of(process.pid);
        let targets = survey.watched_targets(process.pid, &inodes)?;
        let mut targets = targets.into_iter();
        let mark = marks.iter().map(|mark| match mark.inode {
            Some(inode) => {
                let target = targets.next().ok_or_else(|| unexpected("a fanotify group"))?;
                of_inode(entry.id, mark, inode, target)
            }
            None => survey.of_mount(entry.id, mark, view),
        });
        let mark = mark.collect::<Result<_, _>>()?;
        survey.warn_of_events(process.pid, file)?;
        let (id, flags) = (entry.id, file.flags);
        let ffy = FanotifyFileEntry { id, flags, fown, faflags, evflags: event_flags, mark };
        Ok(FileEntry { r#type: fd_type::FANOTIFY, ffy: Some(ffy), ..entry })
    }
}

/// Types of marks in the images; CRIU does not know the last.
const INODE: u32 = 1;
const MOUNT: u32 = 2;
const FILE_SYSTEM: u32 = 3;

fn inode(mark: &FanotifyMark) -> Option<Inode> {
    Some(Inode {
        number: mark.inode?,
        device: mark.device?,
        handle_type: mark.handle_type,
        handle: mark.handle.clone(),
    })
}

fn entry(id: u32, r#type: u32, mark: &FanotifyMark) -> Result<FanotifyMarkEntry, Problem> {
    let events = |events: u64| u32::try_from(events).map_err(|_| unexpected("a fanotify group"));
    Ok(FanotifyMarkEntry {
        id,
        r#type,
        mflags: mark.flags,
        mask: events(mark.mask)?,
        ignored_mask: events(mark.ignored)?,
        ..FanotifyMarkEntry::default()
    })
}

fn of_inode(
    id: u32,
    mark: &FanotifyMark,
    i_ino: u64,
    target: Target,
) -> Result<FanotifyMarkEntry, Problem> {
    Ok(FanotifyMarkEntry {
        s_dev: target.device,
        ie: Some(FanotifyInodeMarkEntry { i_ino, f_handle: target.handle }),
        identity: target.identity,
        mode: target.mode,
        ..entry(id, INODE, mark)?
    })
}

impl Survey<'_> {
    /// The entry of a mark on a mount, or on the file system of one.
    fn of_mount(
        &mut self,
        id: u32,
        mark: &FanotifyMark,
        view: Option<&View>,
    ) -> Result<FanotifyMarkEntry, Problem> {
        let is_it = |mount: &&Mount| match mark.mount {
            Some(id) => mount.id == id,
            None => Some(mount.device) == mark.device,
        };
        let found = match view {
            // A restore finds it by its place, so it must be seen there.
            Some(view) => {
                let mut all = view.mounts.0.iter().filter(is_it);
                all.find(|mount| view.root_of(mount).is_some())
            }
            None => self.held.watched.mounts()?.0.iter().find(is_it),
        };
        let Some(mount) = found else {
            return Err(Problem::Refused(support::files::MOUNT_ELSEWHERE));
        };
        // As CRIU has it: from the root.
        let path = mount.mount_point.as_bytes();
        let path = path.strip_prefix(b"/").filter(|path| !path.is_empty()).unwrap_or(b".");
        let (mnt_id, s_dev) = (mount.id.cast_unsigned(), kernel_device(mount.device));
        let me = FanotifyMountMarkEntry { mnt_id, path: Some(path.to_vec()) };
        let r#type = if mark.mount.is_some() { MOUNT } else { FILE_SYSTEM };
        Ok(FanotifyMarkEntry { s_dev, me: Some(me), ..entry(id, r#type, mark)? })
    }

    fn warn_of_events(&mut self, pid: HostPid, file: &OpenFile) -> Result<(), Problem> {
        let group = self.held.borrow(pid, file.fd)?;
        let waiting = kernel::tty::bytes_waiting(&group).doing("look for events in")?;
        if waiting > 0 && self.frozen {
            self.out.warnings.push(format!(
                "process {pid}: descriptor {} (fanotify group): events wait in it ({waiting} bytes), which cannot \
                 be carried: after a restore they are lost",
                file.fd
            ));
        }
        Ok(())
    }
}

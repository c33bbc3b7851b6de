//! inotify: what it watches is in `/proc/PID/fdinfo`, without names. Events that nobody has read cannot be put
//! into a queue again: a restore tells of them as the kernel tells of lost ones (`IN_Q_OVERFLOW`).

use collector::{OpenFile, Process};
use ids::HostPid;
use images::messages::{FileEntry, InotifyFileEntry, InotifyWdEntry, fd_type};
use kernel::procfs::{Detail, InotifyWatch};

use super::file_kind::FileKind;
use super::problem::{Doing, Problem, unexpected};
use super::survey::Survey;
use super::watched::{Inode, Target};

/// An inotify instance.
#[derive(Debug)]
pub(super) struct Inotify;

impl FileKind for Inotify {
    fn types(&self) -> &'static [u32] {
        &[fd_type::INOTIFY]
    }

    fn is(&self, file: &OpenFile) -> bool {
        file.target == "anon_inode:inotify"
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
        let watches = match survey.fdinfo(process.pid, file)?.detail {
            Detail::Inotify(watches) => watches,
            Detail::None => Vec::new(),
            _ => return Err(unexpected("an inotify instance")),
        };
        let inodes: Vec<Inode> = watches.iter().map(inode).collect();
        let targets = survey.watched_targets(process.pid, &inodes)?;
        let (id, flags) = (entry.id, file.flags);
        let wd = watches.iter().zip(targets).map(|(watch, target)| watched(id, watch, target));
        let wd = wd.collect();
        let waiting = survey.events_wait(process.pid, file)?;
        let ify = InotifyFileEntry { id, flags, fown, wd, events_lost: waiting.then_some(true) };
        Ok(FileEntry { r#type: fd_type::INOTIFY, ify: Some(ify), ..entry })
    }
}

impl Survey<'_> {
    /// Whether events wait in an instance, which a restore cannot put there again: of a frozen target the dump
    /// says so.
    fn events_wait(&mut self, pid: HostPid, file: &OpenFile) -> Result<bool, Problem> {
        let instance = self.held.borrow(pid, file.fd)?;
        let waiting = kernel::tty::bytes_waiting(&instance).doing("look for events in")?;
        if waiting > 0 && self.frozen {
            self.out.warnings.push(format!(
                "process {pid}: descriptor {} (inotify instance): events wait in it ({waiting} bytes), which \
                 cannot be carried: a restore tells its reader of their loss (IN_Q_OVERFLOW)",
                file.fd
            ));
        }
        Ok(waiting > 0)
    }
}

fn inode(watch: &InotifyWatch) -> Inode {
    Inode {
        number: watch.inode,
        device: watch.device,
        handle_type: watch.handle_type,
        handle: watch.handle.clone(),
    }
}

fn watched(id: u32, watch: &InotifyWatch, target: Target) -> InotifyWdEntry {
    InotifyWdEntry {
        id,
        i_ino: watch.inode,
        mask: watch.mask,
        ignored_mask: 0,
        s_dev: target.device,
        wd: watch.wd.cast_unsigned(),
        f_handle: target.handle,
        identity: target.identity,
        mode: target.mode,
    }
}

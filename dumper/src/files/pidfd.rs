//! pidfds: a process of the tree, or one that has ended and been waited for.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use collector::{OpenFile, Process};
use images::messages::{FileEntry, PidfdEntry, fd_type};
use kernel::pidfd::exit_status;
use kernel::procfs::Detail;

use super::file_kind::FileKind;
use super::problem::{Problem, unexpected};
use super::survey::Survey;

/// `PIDFD_THREAD`: the pidfd stands for a thread and not for its process.
const THREAD: u32 = libc::O_EXCL.cast_unsigned();

/// A pidfd.
#[derive(Debug)]
pub(super) struct Pidfd;

impl FileKind for Pidfd {
    fn types(&self) -> &'static [u32] {
        &[fd_type::PIDFD]
    }

    fn is(&self, file: &OpenFile) -> bool {
        // The second is that of kernels before 6.9, where they are no file system of their own.
        file.target.as_bytes().starts_with(b"pidfd:[") || file.target == "anon_inode:[pidfd]"
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let fown = survey.owner(process.pid, file)?;
        let Detail::Pidfd { pid: target, .. } = survey.fdinfo(process.pid, file)?.detail else {
            return Err(unexpected("a pidfd"));
        };
        let exit_status = match target {
            -1 => exit_status(survey.memory.borrow(process.pid, file.fd)?.as_fd()),
            _ => None,
        };
        if target != -1 && !is_inside(survey, target, file.flags) {
            return Err(outside(target));
        }
        let pidfd = PidfdEntry {
            id: entry.id,
            ino: file.inode as u32,
            // Without the access mode, which every pidfd has, as CRIU hands them to pidfd_open.
            flags: file.flags & !libc::O_RDWR.cast_unsigned(),
            nspid: target,
            fown,
            exit_status,
        };
        Ok(FileEntry { r#type: fd_type::PIDFD, pidfd: Some(pidfd), ..entry })
    }
}

/// Whether a process, or a thread, is of the tree.
fn is_inside(survey: &Survey<'_>, target: i32, flags: u32) -> bool {
    let processes = &survey.inventory.processes;
    match flags & THREAD != 0 {
        true => processes.values().any(|process| process.threads.contains_key(&target)),
        false => processes.contains_key(&target),
    }
}

fn outside(target: i32) -> Problem {
    match target {
        // It has none in this pid namespace.
        0 => Problem::refused(
            "it stands for a process in another pid namespace",
            "close it before the dump",
        ),
        _ => Problem::refused(
            format!("it stands for process {target}, which is outside the tree"),
            "close it before the dump, or dump a tree that holds both",
        ),
    }
}

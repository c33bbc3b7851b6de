//! pidfds: a process of the tree, or one that has ended and been waited for.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use collector::{OpenFile, Process};
use ids::HostPid;
use images::messages::{FileEntry, PidfdEntry, fd_type};
use kernel::pidfd::exit_status;
use kernel::procfs::{Detail, Dir, PidfdTarget};

use super::file_kind::FileKind;
use super::problem::{Problem, unexpected};
use super::survey::Survey;

/// What the images have instead of the number of a process that has been waited for.
const ENDED: i32 = -1;

/// A pidfd.
#[derive(Debug)]
pub(super) struct Pidfd;

impl FileKind for Pidfd {
    fn types(&self) -> &'static [u32] {
        &[fd_type::PIDFD]
    }

    fn can_be_sent(&self) -> bool {
        false
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
        let Detail::Pidfd(target) = survey.fdinfo(process.pid, file)?.detail else {
            return Err(unexpected("a pidfd"));
        };
        let exit_status = match target {
            PidfdTarget::Ended => exit_status(survey.held.borrow(process.pid, file.fd)?.as_fd()),
            _ => None,
        };
        let processes = &survey.inventory.processes;
        let nspid = match target {
            PidfdTarget::Ended => ENDED,
            PidfdTarget::Elsewhere => {
                return Err(Problem::Refused(support::files::PIDFD_ELSEWHERE));
            }
            PidfdTarget::Task(pid) if processes.contains_key(&pid) => {
                survey.numbers.message(Some(pid)).cast_signed()
            }
            PidfdTarget::Task(target) => {
                return Err(match thread_of(processes.values(), target) {
                    Some(pid) => of_thread(pid, target),
                    None if survey.is_newer(target) || is_gone(target) => Problem::Gone,
                    None => Problem::Refused(support::files::pidfd_outside(target)),
                });
            }
        };
        let pidfd = PidfdEntry {
            id: entry.id,
            ino: file.inode as u32,
            // Without the access mode, which every pidfd has, as CRIU hands them to pidfd_open.
            flags: file.flags & !libc::O_RDWR.cast_unsigned(),
            nspid,
            fown,
            exit_status,
        };
        Ok(FileEntry { r#type: fd_type::PIDFD, pidfd: Some(pidfd), ..entry })
    }
}

/// The process of the tree that has this thread.
fn thread_of<'a>(processes: impl Iterator<Item = &'a Process>, thread: HostPid) -> Option<HostPid> {
    let mut owners = processes.filter(|process| process.threads.contains_key(&thread));
    owners.next().map(|process| process.pid)
}

/// Whether it has ended since its number was read.
fn is_gone(target: HostPid) -> bool {
    Dir::open(target).is_err()
}

fn of_thread(pid: HostPid, thread: HostPid) -> Problem {
    Problem::Refused(support::files::pidfd_of_thread(thread, pid))
}

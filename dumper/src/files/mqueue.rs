//! POSIX message queues: which one, and how it is open.
//!
//! A queue with a name in the dumper's IPC namespace stays there, with its messages, whoever has it open: as a file does. One
//! without a name goes with who has it open, and one of the tree's own namespace with that: these are in the images, with their
//! messages ([`crate::mqueues`]), and the file says which it is of.

use collector::{OpenFile, Process};
use images::messages::{FileEntry, MqueueFileEntry, fd_type};
use kernel::mqueue::{self, Attributes};
use support::mqueue as refusals;

use super::file_kind::FileKind;
use super::problem::{Doing, Problem};
use super::regular::Regular;
use super::survey::Survey;

/// An open message queue.
#[derive(Debug)]
pub(super) struct MessageQueue;

const DELETED: &[u8] = b" (deleted)";

impl FileKind for MessageQueue {
    fn types(&self) -> &'static [u32] {
        &[fd_type::MQUEUE]
    }

    /// Or a file in the root directory, as their file system is nowhere but has a root of its own.
    fn is(&self, file: &OpenFile) -> bool {
        let name = file.target.as_encoded_bytes().strip_prefix(b"/");
        file.mode & libc::S_IFMT == libc::S_IFREG
            && file.flags & libc::O_PATH.cast_unsigned() == 0
            && name.is_some_and(|name| !name.contains(&b'/'))
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let fd = survey.held.borrow(process.pid, file.fd)?;
        let stat = nix::sys::stat::fstat(&fd).doing("stat")?;
        // The target runs: the number may be another file's by now.
        if stat.st_ino != file.inode {
            return Err(Problem::Gone);
        }
        if !mqueue::is_queue(&fd).doing("find the file system of")? {
            return Regular.capture(survey, process, file, entry);
        }
        let fown = survey.owner(process.pid, file)?;
        // There is no mark that covers its messages and who is notified of them.
        survey.to_keep = false;
        let queue = survey.context.queues.get(&(stat.st_dev, stat.st_ino)).copied();
        if queue.is_none() && mqueue::is_notified(&fd).doing("read who is notified by")? {
            return Err(Problem::Refused(refusals::NOTIFIES));
        }
        let Attributes { most, bytes, .. } = mqueue::attributes(&fd).doing("look at")?;
        let path = file.target.as_encoded_bytes();
        let path = path.strip_suffix(DELETED).unwrap_or(path);
        let name = path.strip_prefix(b"/").unwrap_or(path).to_vec();
        let is_unlinked = stat.st_nlink == 0;
        match (queue, is_unlinked) {
            (Some(_), _) => {}
            // It has lost its name since.
            (None, true) => return Err(Problem::Gone),
            (None, false) => {
                let there = mqueue::number_of(&name).doing("look for")?;
                if there != Some((stat.st_dev, stat.st_ino)) {
                    return Err(Problem::Refused(refusals::ELSEWHERE));
                }
            }
        }
        let mq = MqueueFileEntry {
            id: entry.id,
            flags: file.flags,
            fown,
            name,
            unlinked: is_unlinked.then_some(true),
            inode: stat.st_ino,
            boot: kernel::boot::boot(),
            most,
            bytes,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode,
            queue,
        };
        Ok(FileEntry { r#type: fd_type::MQUEUE, mq: Some(mq), ..entry })
    }
}

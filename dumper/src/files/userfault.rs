//! userfaultfds: which memory they serve, the inventory tells ([`crate::userfaults`]). Of a tree that stands still no fault waits: a
//! thread that waited has been told to stop, and comes upon the same fault when it goes on, be it here or restored.

use collector::{OpenFile, Process};
use images::messages::{FileEntry, UserfaultFileEntry, UserfaultMemoryEntry, fd_type};
use support::userfaults::{OF_USER, SIGNALS, UNSEEN};

use super::file_kind::FileKind;
use super::made_in_task::MadeInTask;
use super::problem::Problem;
use super::survey::Survey;

/// A userfaultfd.
#[derive(Debug)]
pub(super) struct Userfault;

/// `UFFDIO_REGISTER_MODE_MISSING`.
const MISSING: u64 = 1;

impl FileKind for Userfault {
    fn types(&self) -> &'static [u32] {
        &[fd_type::USERFAULT]
    }

    fn is(&self, file: &OpenFile) -> bool {
        file.is_userfaultfd()
    }

    /// It is made in the process whose memory it serves.
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
        if survey.context.for_user {
            return Err(Problem::Refused(OF_USER));
        }
        let fown = survey.owner(process.pid, file)?;
        if fown.pid != 0 || fown.signum != 0 {
            return Err(Problem::Refused(SIGNALS));
        }
        // There is no mark that covers what it serves.
        survey.to_keep = false;
        let known = survey.context.userfaults.get(&(process.pid, file.fd));
        let known = known.ok_or(Problem::Refused(UNSEEN))?;
        let served = known.served.iter().map(|span| UserfaultMemoryEntry {
            start: span.start,
            bytes: span.bytes(),
            modes: MISSING,
        });
        survey.out.beside.of::<MadeInTask>().0.insert(entry.id);
        let userfault = UserfaultFileEntry {
            id: entry.id,
            flags: file.flags,
            fown,
            features: known.features,
            user_mode_only: known.user_mode_only.then_some(true),
            served: served.collect(),
        };
        let userfault = Some(Box::new(userfault));
        Ok(FileEntry { r#type: fd_type::USERFAULT, userfault, ..entry })
    }
}

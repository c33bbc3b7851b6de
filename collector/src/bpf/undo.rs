//! What the end of threads will undo in System V semaphores, by an iterator of its own: few processes have such.

use ebpf_common::{KIND_UNDO, UndoRecord};
use ids::HostPid;
use inventory::SemaphoreUndo;
use kernel::bpf::IterTarget;
use zerocopy::FromBytes;

use super::BpfError;
use super::programs::What;
use super::reading::BpfSource;
use super::records::records;

/// Of a set that has been removed.
const REMOVED: i32 = -1;

impl BpfSource {
    /// What is to be undone for the threads of a process.
    pub(crate) fn semaphore_undo(&mut self, pid: HostPid) -> Result<Vec<SemaphoreUndo>, BpfError> {
        let of = IterTarget::Process(pid);
        match self.iterate(What::SemaphoreUndo, of) {
            // It has ended.
            Err(BpfError::Iterate { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {
                return Ok(Vec::new());
            }
            done => done?,
        }
        let bad = || BpfError::Record { what: What::SemaphoreUndo.text(), of };
        let mut found = Vec::new();
        for record in records(&self.output) {
            let (KIND_UNDO, bytes) = record.ok_or_else(bad)? else { continue };
            let (UndoRecord { head, adjustments }, _) =
                UndoRecord::read_from_prefix(bytes).map_err(|_| bad())?;
            let Some(tid) = HostPid::new(head.tid) else { continue };
            found.push(SemaphoreUndo {
                tid,
                list: head.list,
                users: head.users,
                set: Some(head.set).filter(|set| *set != REMOVED),
                adjustments: adjustments.to_vec(),
                more: head.more != 0,
            });
        }
        Ok(found)
    }
}

//! Userfaultfds, and what they serve, by iterators of their own: few processes have such.

use ebpf_common::{KIND_SERVED, KIND_USERFAULT, ServedRecord, USERFAULT_STARTED, UserfaultRecord};
use inventory::{OpenFile, Process, Userfaultfd, Userfaults};
use kernel::bpf::IterTarget;
use zerocopy::FromBytes;

use super::BpfError;
use super::programs::What;
use super::reading::BpfSource;
use super::records::records;

const USER_MODE_ONLY: u32 = 1;

impl BpfSource {
    /// What a process has of userfaultfds; `None` if this kernel does not tell.
    pub(crate) fn userfaults(&mut self, process: &Process) -> Result<Option<Userfaults>, BpfError> {
        let of = IterTarget::Process(process.pid);
        let mut found = Userfaults::default();
        let is_userfault =
            |fd| process.files.iter().any(|file| file.fd == fd && OpenFile::is_userfaultfd(file));
        if !self.iterate_over_living(What::Userfaults, of)? {
            return Ok(Some(found));
        }
        let bad = |what: What| move || BpfError::Record { what: what.text(), of };
        for record in records(&self.output) {
            let bad = bad(What::Userfaults);
            let (KIND_USERFAULT, bytes) = record.ok_or_else(bad)? else { continue };
            let (record, _) = UserfaultRecord::read_from_prefix(bytes).map_err(|_| bad())?;
            // A thread with tables of its own is shown behind its process.
            if is_userfault(record.fd) && !found.files.iter().any(|file| file.fd == record.fd) {
                found.files.push(decode(&record));
            }
        }
        if found.files.is_empty() && process.files.iter().any(OpenFile::is_userfaultfd) {
            return Ok(None);
        }
        if !self.iterate_over_living(What::ServedMappings, of)? {
            return Ok(Some(found));
        }
        for record in records(&self.output) {
            let bad = bad(What::ServedMappings);
            let (KIND_SERVED, bytes) = record.ok_or_else(bad)? else { continue };
            let (record, _) = ServedRecord::read_from_prefix(bytes).map_err(|_| bad())?;
            found.served.push((record.start, record.context));
        }
        Ok(Some(found))
    }
}

fn decode(record: &UserfaultRecord) -> Userfaultfd {
    let UserfaultRecord { context, fd, flags, features, own, .. } = *record;
    Userfaultfd {
        fd,
        context,
        is_own: own != 0,
        user_mode_only: flags & USER_MODE_ONLY != 0,
        features: (features & USERFAULT_STARTED != 0)
            .then_some(u64::from(features & !USERFAULT_STARTED)),
    }
}

//! Asynchronous I/O contexts, by the iterator over the mappings of their rings.

use ebpf_common::{AIO_UNKNOWN, AioRecord, KIND_AIO};
use ids::HostPid;
use inventory::AioContext;
use kernel::bpf::IterTarget;
use zerocopy::FromBytes;

use super::BpfError;
use super::programs::What;
use super::reading::BpfSource;
use super::records::records;

impl BpfSource {
    /// The contexts of a process, and mappings of rings that it has none for; by their addresses.
    pub(crate) fn aio_contexts(&mut self, pid: HostPid) -> Result<Vec<AioContext>, BpfError> {
        let of = IterTarget::Process(pid);
        match self.iterate(What::AioContexts, of) {
            // It has ended.
            Err(BpfError::Iterate { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {
                return Ok(Vec::new());
            }
            done => done?,
        }
        let bad = || BpfError::Record { what: What::AioContexts.text(), of };
        let mut found: Vec<AioContext> = Vec::new();
        for record in records(&self.output) {
            let (KIND_AIO, bytes) = record.ok_or_else(bad)? else { continue };
            let (record, _) = AioRecord::read_from_prefix(bytes).map_err(|_| bad())?;
            found.push(decode(&record));
        }
        // A thread with tables of its own is shown beside its process.
        found.sort_unstable_by_key(|context| context.start);
        found.dedup_by_key(|context| context.start);
        Ok(found)
    }
}

fn decode(record: &AioRecord) -> AioContext {
    AioContext {
        start: record.start,
        context: record.context,
        requests: record.requests,
        events: record.events,
        tail: record.tail,
        in_flight: Some(record.in_flight).filter(|count| *count != AIO_UNKNOWN),
        owned: record.owned != 0,
        waiting: record.waiting != 0,
    }
}

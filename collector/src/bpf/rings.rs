//! io_urings, by the iterators over descriptors and threads.

use std::collections::{BTreeMap, HashMap};

use ebpf_common::{
    AIO_UNKNOWN, FileRecord, KIND_FILE, KIND_REQUESTS, KIND_RING, RegisteredFile as Place,
    RequestsRecord, RingRecord,
};
use ids::HostPid;
use inventory::{Process, Registered, RegisteredFile, Requests, Ring};
use kernel::bpf::IterTarget;
use zerocopy::FromBytes;

use super::BpfError;
use super::programs::What;
use super::reading::BpfSource;
use super::records::{records, with_name};

impl BpfSource {
    /// The rings that a process has as descriptors.
    pub(crate) fn rings(&mut self, process: &Process) -> Result<Vec<Ring>, BpfError> {
        let of = IterTarget::Process(process.pid);
        let is_ring = |fd| process.files.iter().any(|file| file.fd == fd && file.is_ring());
        if !self.iterate_over_living(What::Rings, of)? {
            return Ok(Vec::new());
        }
        let bad = || BpfError::Record { what: What::Rings.text(), of };
        // A thread with tables of its own is shown behind its process.
        let mut found: BTreeMap<i32, (Ring, Vec<Place>)> = BTreeMap::new();
        for record in records(&self.output) {
            let (KIND_RING, bytes) = record.ok_or_else(bad)? else { continue };
            let (record, places) = RingRecord::read_from_prefix(bytes).map_err(|_| bad())?;
            if !is_ring(record.fd) {
                continue;
            }
            let places = places.chunks_exact(size_of::<Place>());
            let places = places.map(|bytes| Place::read_from_bytes(bytes).map_err(|_| bad()));
            let places = places.collect::<Result<_, _>>()?;
            found.entry(record.fd).or_insert_with(|| (decode(&record), places));
        }
        let descriptors = match found.values().any(|(_, places)| !places.is_empty()) {
            true => self.addresses(process.pid)?,
            false => HashMap::new(),
        };
        let rings = found.into_values().map(|(ring, places)| {
            let files = places.iter().map(|place| Registered {
                tag: place.tag,
                file: match (place.file, descriptors.get(&place.file)) {
                    (0, _) => RegisteredFile::None,
                    (_, Some(fd)) => RegisteredFile::Descriptor(*fd),
                    (_, None) => RegisteredFile::Elsewhere,
                },
            });
            Ring { files: files.collect(), ..ring }
        });
        Ok(rings.collect())
    }

    /// The lowest descriptor of a process for each address of an open file.
    fn addresses(&mut self, pid: HostPid) -> Result<HashMap<u64, i32>, BpfError> {
        let of = IterTarget::Process(pid);
        let mut found = HashMap::new();
        if !self.iterate_over_living(What::Files, of)? {
            return Ok(found);
        }
        let bad = || BpfError::Record { what: What::Files.text(), of };
        let mut last = -1;
        for record in records(&self.output) {
            let (KIND_FILE, bytes) = record.ok_or_else(bad)? else { continue };
            let (record, _) = with_name::<FileRecord>(bytes).ok_or_else(bad)?;
            // What comes behind is of a thread with tables of its own.
            if record.fd <= last {
                break;
            }
            last = record.fd;
            found.entry(record.file).or_insert(record.fd);
        }
        Ok(found)
    }

    /// What the threads of a process have in flight.
    pub(crate) fn requests(&mut self, pid: HostPid) -> Result<Vec<Requests>, BpfError> {
        let of = IterTarget::Process(pid);
        if !self.iterate_over_living(What::Requests, of)? {
            return Ok(Vec::new());
        }
        let bad = || BpfError::Record { what: What::Requests.text(), of };
        let mut found = Vec::new();
        for record in records(&self.output) {
            let (KIND_REQUESTS, bytes) = record.ok_or_else(bad)? else { continue };
            let (record, _) = RequestsRecord::read_from_prefix(bytes).map_err(|_| bad())?;
            let Some(tid) = HostPid::new(record.tid) else { continue };
            found.push(Requests {
                tid,
                in_flight: Some(record.in_flight).filter(|count| *count != AIO_UNKNOWN),
                registered: record.registered,
            });
        }
        Ok(found)
    }

    /// Runs an iterator over a process; whether it lives.
    pub(super) fn iterate_over_living(
        &mut self,
        what: What,
        of: IterTarget,
    ) -> Result<bool, BpfError> {
        match self.iterate(what, of) {
            Err(BpfError::Iterate { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }
}

fn decode(record: &RingRecord) -> Ring {
    Ring {
        fd: record.fd,
        flags: record.flags,
        submission_entries: record.submission_entries,
        submitted: record.submitted,
        completion_entries: record.completion_entries,
        completed: record.completed,
        submitter: HostPid::new(record.submitter),
        eventfd: u32::try_from(record.eventfd).ok(),
        eventfd_async: record.eventfd_async != 0,
        places: record.files,
        files: Vec::new(),
        free_places: record.free_places,
        buffers: record.buffers,
        has: record.has,
    }
}

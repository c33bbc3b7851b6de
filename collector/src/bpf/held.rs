//! Who holds what has no name, by the iterators.

use std::net::Ipv6Addr;

use ebpf_common::{HeldRecord, KIND_HELD};
use ids::HostPid;
use kernel::bpf::IterTarget;
use zerocopy::FromBytes;

use super::BpfError;
use super::programs::What;
use super::reading::BpfSource;
use super::records::{ANON_INODE_FS, MQUEUE_FS, PIPE_FS, SOCKET_FS, records};
use crate::holds::{Class, Ends, Failure, Held, Hidden, Hold, References};

impl BpfSource {
    /// All that these processes, or all of the machine, hold and that has no name.
    pub(crate) fn held(&mut self, pids: Option<&[HostPid]>) -> Result<Vec<Held>, BpfError> {
        let mut held = Vec::new();
        for what in [What::HeldFiles, What::HeldMappings] {
            match pids {
                None => self.add_held(what, IterTarget::All, &mut held)?,
                Some(pids) => {
                    for &pid in pids {
                        self.add_held(what, IterTarget::Process(pid), &mut held)?;
                    }
                }
            }
        }
        // A thread with tables of its own is shown beside its process.
        held.sort_unstable_by_key(|held| (held.pid, held.hold));
        held.dedup_by_key(|held| (held.pid, held.hold, held.description));
        Ok(held)
    }

    fn add_held(
        &mut self,
        what: What,
        target: IterTarget,
        held: &mut Vec<Held>,
    ) -> Result<(), BpfError> {
        match self.iterate(what, target) {
            // It has ended.
            Err(BpfError::Iterate { source, .. })
                if source.raw_os_error() == Some(libc::ESRCH) && target != IterTarget::All =>
            {
                return Ok(());
            }
            done => done?,
        }
        let bad = || BpfError::Record { what: what.text(), of: target };
        for record in records(&self.output) {
            let (KIND_HELD, bytes) = record.ok_or_else(bad)? else { continue };
            let (record, _) = HeldRecord::read_from_prefix(bytes).map_err(|_| bad())?;
            held.extend(decode(&record));
        }
        Ok(())
    }
}

fn decode(record: &HeldRecord) -> Option<Held> {
    let count = |count: i32| u64::try_from(count).unwrap_or(0);
    let class = match record.magic {
        _ if record.named != 0 => Class::Named,
        PIPE_FS => Class::Pipe,
        SOCKET_FS => Class::Socket,
        ANON_INODE_FS => Class::Anonymous,
        // Who reads a queue takes messages away.
        MQUEUE_FS => Class::File { is_written: true },
        _ if record.mode & libc::S_IFMT == libc::S_IFIFO => Class::Pipe,
        _ => Class::File { is_written: record.count > 0 || record.writable_mappings > 0 },
    };
    Some(Held {
        pid: HostPid::new(record.tgid)?,
        hold: match record.fd {
            -1 => Hold::Mapping(record.start),
            fd => Hold::Descriptor(fd),
        },
        class,
        ends: Ends::of(record.flags),
        description: record.file,
        inode: (0, record.inode),
        peculiar: record.peculiar,
        hidden: Hidden {
            packet: record.packet,
            source: Some((record.source.into(), record.source_interface))
                .filter(|source| *source != (Ipv6Addr::UNSPECIFIED, 0)),
            multicast: record.multicast_interface,
            polled: record.polled,
            failure: (record.error != 0)
                .then_some(Failure { error: record.error, ended: record.ended != 0 }),
        },
        is_program: record.program != 0,
        references: (record.references != 0).then(|| References {
            description: record.references,
            descriptions: count(record.count),
            by_name: count(record.name_references),
            names: count(record.inode_references),
            context: count(record.context_references),
        }),
    })
}

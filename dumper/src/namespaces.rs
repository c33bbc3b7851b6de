//! Which namespaces a tree is in, and what they say of themselves.
//!
//! Tasks refer to namespaces by numbers of the checkpoint. The dumper's own have the first ones, in the
//! order in which CRIU meets them: a restore takes its own for those. All others are described by an image of
//! their number.

use std::collections::BTreeMap;
use std::io;

use collector::{Inventory, Process};
use ids::HostPid;
use images::messages::{TaskKobjIdsEntry, UtsnsEntry};
use images::{ImageWriter, names};
use kernel::namespaces::{of_process, uts_names};

use crate::error::Error;
use crate::own_namespaces::KINDS;
use crate::processes::is_zombie;

/// The namespaces of a tree.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// Those that are not the dumper's, by name and the kernel's id.
    others: BTreeMap<(&'static str, u64), u32>,
    uts: BTreeMap<u32, UtsnsEntry>,
}

impl Namespaces {
    /// Numbers the namespaces of a frozen tree, and reads those that are not the dumper's, of which `own` are the ids.
    pub(crate) fn read(
        inventory: &Inventory,
        own: &BTreeMap<&'static str, u64>,
    ) -> Result<Self, Error> {
        let mut found = Self::default();
        for process in inventory.processes.values().filter(|process| !is_zombie(process)) {
            for name in KINDS {
                let Some(&id) = process.namespaces.get(name) else { continue };
                let next = (KINDS.len() + found.others.len() + 1) as u32;
                if own.get(name) == Some(&id) || found.others.contains_key(&(name, id)) {
                    continue;
                }
                found.others.insert((name, id), next);
                if name == "uts" {
                    found.uts.insert(next, read_uts(process.pid)?);
                }
            }
        }
        Ok(found)
    }

    /// The numbers of the namespaces that a process is in; the rest of the entry is empty.
    pub(crate) fn of(&self, process: &Process) -> TaskKobjIdsEntry {
        self.numbered(|name| process.namespaces.get(name).copied())
    }

    /// Those of the dumper.
    pub(crate) fn own() -> TaskKobjIdsEntry {
        Self::default().numbered(|_| None)
    }

    fn numbered(&self, id: impl Fn(&'static str) -> Option<u64>) -> TaskKobjIdsEntry {
        let [pid, net, ipc, uts, time, mnt, user, cgroup] = std::array::from_fn(|index| {
            let name = KINDS[index];
            let other = id(name).and_then(|id| self.others.get(&(name, id)).copied());
            Some(other.unwrap_or(index as u32 + 1))
        });
        TaskKobjIdsEntry {
            pid_ns_id: pid,
            net_ns_id: net,
            ipc_ns_id: ipc,
            uts_ns_id: uts,
            time_ns_id: time,
            mnt_ns_id: mnt,
            user_ns_id: user,
            cgroup_ns_id: cgroup,
            ..TaskKobjIdsEntry::default()
        }
    }

    /// Writes the images of those that are not the dumper's.
    pub(crate) fn encode(&self, writer: &ImageWriter) -> Result<(), images::Error> {
        self.uts
            .iter()
            .try_for_each(|(&number, entry)| writer.write_one(&names::utsns(number), entry))
    }
}

fn read_uts(pid: HostPid) -> Result<UtsnsEntry, Error> {
    let failed = |source: io::Error| Error::Process {
        operation: "read the host name in the namespace of",
        pid,
        source,
    };
    let names = of_process(pid, "uts").and_then(uts_names).map_err(failed)?;
    Ok(UtsnsEntry { nodename: names.node, domainname: names.domain })
}

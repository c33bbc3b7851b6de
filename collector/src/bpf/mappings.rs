//! The mappings of a process, out of the iterator's records.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use arch::memory::{GATE, has_gate};
use ebpf_common::{
    KIND_POLICY, KIND_VMA, PolicyRecord, TaskRecord, VmaRecord, backing, beside, name,
};
use ids::HostPid;
use images::MappingKind;
use inventory::mapping_kind;
use kernel::bpf::IterTarget;
use kernel::procfs::{self, Dir};
use zerocopy::FromBytes;

use super::programs::What;
use super::reading::BpfSource;
use super::records::{device, protection_key, records, vm_flags, with_name};
use super::{BpfError, fallback};
use crate::settings::MemoryPolicy;
use crate::{Inventory, Mapping, Process, VmFlags};

impl BpfSource {
    pub(super) fn mappings(
        &mut self,
        pid: HostPid,
        speaker: &TaskRecord,
    ) -> Result<Vec<Mapping>, BpfError> {
        self.iterate(What::Mappings, IterTarget::Process(pid))?;
        // A number that is none is of a thread that has gone.
        let tid = HostPid::new(speaker.ids.tid).unwrap_or(pid);
        let bad = || BpfError::Record { what: What::Mappings.text(), of: IterTarget::Process(pid) };
        let mut mappings: Vec<Mapping> = Vec::new();
        for record in records(&self.output) {
            let bytes = match record.ok_or_else(bad)? {
                (KIND_VMA, bytes) => bytes,
                (KIND_POLICY, bytes) => {
                    let (record, _) = PolicyRecord::read_from_prefix(bytes).map_err(|_| bad())?;
                    let owner = mappings.last_mut().filter(|last| last.start == record.start);
                    if let Some(mapping) = owner {
                        mapping.policy = MemoryPolicy::of(&record.policy);
                    }
                    continue;
                }
                _ => continue,
            };
            let (record, text) = with_name::<VmaRecord>(bytes).ok_or_else(bad)?;
            // The same once more, for a thread with a descriptor table of its own.
            if mappings.last().is_some_and(|last| last.start >= record.start) {
                break;
            }
            if record.backing == backing::STACKED {
                // What the program mapped is known to /proc alone.
                return fallback::mappings(pid, tid);
            }
            let name = match record.name_kind {
                name::PATH if record.name_bytes == 0 => {
                    let range = format!("map_files/{:x}-{:x}", record.start, record.end);
                    tracing::debug!(
                        %pid,
                        "the name of mapping {:x} is too long for its record: /proc is asked",
                        record.start
                    );
                    let Some(text) = fallback::link(pid, tid, &range)? else {
                        continue;
                    };
                    text
                }
                name::PATH | name::SPECIAL => text,
                name::ANONYMOUS => bracketed("anon", &text),
                name::ANONYMOUS_SHARED => bracketed("anon_shmem", &text),
                _ => place_name(&record, speaker).into(),
            };
            let flags = vm_flags(&record);
            mappings.push(Mapping {
                start: record.start,
                end: record.end,
                kind: mapping_kind(name.as_bytes(), record.inode, flags),
                flags,
                offset: if record.backing == backing::NONE { 0 } else { record.page_offset << 12 },
                device: device(record.device),
                inode: record.inode,
                protection_key: protection_key(&record),
                policy: None,
                locked: Some(record.beside & beside::LOCKS != 0),
                name,
            });
        }
        let gate = self.gate.as_ref().filter(|_| has_gate(speaker.processor.space_flags));
        mappings.extend(gate.cloned());
        Ok(mappings)
    }
}

/// The mappings of `process` from an earlier inventory, if they are the same still.
pub(super) fn unchanged(process: &Process, earlier: &mut Inventory) -> Option<Vec<Mapping>> {
    let mark = |process: &Process| process.in_process.as_ref()?.mappings_mark;
    let earlier = earlier.processes.get_mut(&process.pid)?;
    let same = mark(process)? == mark(earlier)?;
    same.then(|| std::mem::take(&mut earlier.mappings))
}

/// The last of this process's own mappings, if it is the one that no process makes. Its flags are
/// the permissions that it shows and nothing more.
pub(super) fn own_gate() -> Option<Mapping> {
    let mut text = Vec::new();
    Dir::open(HostPid::own()).ok()?.read("maps", &mut text).ok()?;
    let map = procfs::maps(&text).last()?.ok()?;
    if map.raw_name != GATE {
        return None;
    }
    let mut flags = VmFlags::default();
    for (letter, flag) in [(b'r', VmFlags::READ), (b'w', VmFlags::WRITE), (b'x', VmFlags::EXEC)] {
        if map.permissions.contains(&letter) {
            flags |= flag;
        }
    }
    Some(Mapping {
        start: map.start,
        end: map.end,
        flags,
        offset: map.offset,
        device: map.device,
        inode: map.inode,
        protection_key: 0,
        policy: None,
        locked: Some(false),
        name: OsString::from_vec(GATE.to_vec()),
        kind: MappingKind::Vsyscall,
    })
}

fn bracketed(kind: &str, text: &OsString) -> OsString {
    let mut name = OsString::from(format!("[{kind}:"));
    name.push(text);
    name.push("]");
    name
}

/// The names that follow from where a mapping lies (`get_vma_name` in fs/proc/task_mmu.c).
fn place_name(record: &VmaRecord, task: &TaskRecord) -> &'static str {
    let places = &task.places;
    if record.backing != backing::NONE {
        ""
    } else if record.start < places.heap_end && record.end > places.heap_start {
        "[heap]"
    } else if record.start <= places.stack_start && record.end >= places.stack_start {
        "[stack]"
    } else {
        ""
    }
}

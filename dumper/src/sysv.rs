//! System V shared memory: what the tasks have attached, and who else has.
//!
//! The kernel names the mapping of a segment by its key, and gives its id as the inode number. It counts all mappings of
//! a segment: if the tree's are all there are, it is the tree's own. What lies in the dumper's IPC namespace and nobody
//! of the tree has attached stays where it is, as files do: nobody can tell whose it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use collector::{Inventory, Mapping, Process};
use ids::HostPid;
use images::id_map::IdMap;
use images::messages::IpcShmEntry;
use images::{ImageWriter, MappingKind, names};
use kernel::huge_pages::shift_of_device;
use kernel::namespaces::{inside, of_process};
use kernel::pagemap::PAGE_SIZE;
use kernel::shared_memory::SharedMemory;
use kernel::sysv::limits::Limit;
use kernel::sysv::segments::{Attached, Segment, attached_to};
use kernel::sysv::{Owner, is_gone};
use support::Unsupported;
use support::ipc::{ATTACHED_UNSEEN, KEPT_BY_ITS_MAKER, MAPPED_OTHERWISE, SEGMENT_OF_ANOTHER};
use support::mappings::object_of;
use support::sharing::Thing;

use crate::error::Error;
use crate::ipc_desc::desc;
use crate::namespaces::Namespaces;
use crate::options::AskedSegments as Asked;
use crate::own_namespaces::own_number;
use crate::processes::is_zombie;
use crate::segment::{self, Key};
use crate::sharing;

/// The attachments of a segment in the tree.
#[derive(Debug)]
struct Use {
    /// The first who has it, and where.
    pid: HostPid,
    mapping: Mapping,
    /// How many mappings there are of it in the tree.
    count: u64,
}

/// A segment of the tree.
#[derive(Debug)]
struct Found {
    segment: Segment,
    /// A process that is in its namespace.
    member: HostPid,
    /// Where that one has it attached. In a namespace of the tree's own nobody may have.
    mapping: Option<Mapping>,
    /// It is in huge pages of this size: two to the power of that.
    huge: Option<u32>,
}

/// The segments of a tree, by the kernel's number of their IPC namespace and by id.
#[derive(Debug, Default)]
pub(crate) struct Segments(BTreeMap<(u64, i32), Found>);

/// Finds the segments that belong to the tree, and what stands in their way: those that it has attached, and all in
/// namespaces that are not the dumper's.
pub(crate) fn look(
    asked: Asked,
    inventory: &Inventory,
) -> Result<(Segments, Vec<Unsupported>), Error> {
    let (uses, others) = (uses(inventory), namespaces(asked.own, inventory));
    let (mut found, mut refused) = (Segments::default(), Vec::new());
    if uses.is_empty() && others.is_empty() {
        return Ok((found, refused));
    }
    let of_device = failed("find the device of shared memory", HostPid::own());
    let device = device().map_err(&of_device)?;
    let pages = |on: u64| match on == device {
        true => Ok(Some(None)),
        false => shift_of_device(on).map(|shift| shift.map(Some)).map_err(&of_device),
    };
    for ((namespace, id), used) in uses {
        let pid = used.pid;
        let read = || Segment::read(id);
        let read = match others.contains_key(&namespace) {
            false => read(),
            true => of_process(pid, "ipc").and_then(|it| inside("ipc", it, read)),
        };
        let memory = pages(used.mapping.device)?;
        let refusal = match (read, memory) {
            (Ok(segment), Some(huge)) if segment.attached >= used.count => {
                if asked.user.is_some_and(|user| !is_of(&segment.owner, user)) {
                    SEGMENT_OF_ANOTHER
                } else if segment.attached > used.count {
                    outside(asked.root, inventory, (namespace, id))?
                } else {
                    let mapping = Some(used.mapping);
                    let of_tree = Found { segment, member: pid, mapping, huge };
                    found.0.insert((namespace, id), of_tree);
                    continue;
                }
            }
            (Ok(_), _) => MAPPED_OTHERWISE,
            (Err(error), _) if is_gone(&error) => MAPPED_OTHERWISE,
            (Err(error), _) => {
                return Err(failed("look at the System V shared memory", pid)(error));
            }
        };
        refused.push(refusal.of(pid, object_of(&used.mapping)));
    }
    for (&namespace, &member) in &others {
        let all = of_process(member, "ipc").and_then(|it| inside("ipc", it, unattached));
        let all = all.map_err(failed("look at the System V shared memory", member))?;
        for (segment, on, is_forced) in all {
            let key = (namespace, segment.id);
            let refusal = match on {
                _ if found.0.contains_key(&key) => continue,
                // Refused above, if the tree has it.
                None => outside(asked.root, inventory, key)?,
                Some(_) if is_forced => KEPT_BY_ITS_MAKER,
                Some(on) => match pages(on)? {
                    None => MAPPED_OTHERWISE,
                    Some(huge) => {
                        found.0.insert(key, Found { segment, member, mapping: None, huge });
                        continue;
                    }
                },
            };
            let object = format!("System V shared memory segment {}", segment.id);
            refused.push(refusal.of(member, object));
        }
    }
    Ok((found, refused))
}

/// The IPC namespaces of the tree that are not the dumper's, each with a process that is in it and has no parent in it: those
/// below are often children that end soon, whatever their numbers.
pub(crate) fn namespaces(own: Option<u64>, inventory: &Inventory) -> BTreeMap<u64, HostPid> {
    let all = &inventory.processes;
    let of = |process: &Process| {
        let namespace = process.namespaces.get("ipc").filter(|_| !is_zombie(process)).copied();
        namespace.filter(|namespace| own != Some(*namespace))
    };
    let of_parent = |process: &Process| process.ppid.and_then(|parent| of(all.get(&parent)?));
    let topmost = all.values().filter(|process| of_parent(process) != of(process));
    topmost.filter_map(|process| Some((of(process)?, process.pid))).collect()
}

/// The device of shared memory.
fn device() -> io::Result<u64> {
    let memory = SharedMemory::new(PAGE_SIZE as usize, 0)?;
    Ok(memory.into_file()?.metadata()?.dev())
}

/// All segments of the calling thread's namespace. Of one that nobody has attached the device of its memory; and whether the
/// kernel keeps such only while its maker lives.
fn unattached() -> io::Result<Vec<(Segment, Option<u64>, bool)>> {
    let is_forced = Limit::RemovedForced.first()? == Some(1);
    let one = |segment: Segment| {
        let on = match segment.attached {
            0 => Some(Attached::attach(&segment, false)?.file(false)?.metadata()?.dev()),
            _ => None,
        };
        Ok((segment, on, is_forced))
    };
    Segment::all()?.into_iter().map(one).collect()
}

fn failed(operation: &'static str, pid: HostPid) -> impl Fn(io::Error) -> Error {
    move |source| Error::Process { operation, pid, source }
}

fn is_of(owner: &Owner, user: u32) -> bool {
    (owner.uid, owner.cuid) == (user, user)
}

fn uses(inventory: &Inventory) -> BTreeMap<(u64, i32), Use> {
    let mut uses: BTreeMap<(u64, i32), Use> = BTreeMap::new();
    for process in inventory.processes.values().filter(|process| !is_zombie(process)) {
        let attached = process.mappings.iter().filter(|it| it.kind == MappingKind::SystemV);
        for mapping in attached {
            let namespace = process.namespaces.get("ipc").copied().unwrap_or_default();
            // What has a larger number is a file by such a name, which no segment has.
            let id = i32::try_from(mapping.inode).unwrap_or(-1);
            let first = || Use { pid: process.pid, mapping: mapping.clone(), count: 0 };
            uses.entry((namespace, id)).or_insert_with(first).count += 1;
        }
    }
    uses
}

/// Who outside of the tree has attached a segment.
fn outside(
    root: HostPid,
    inventory: &Inventory,
    (namespace, id): (u64, i32),
) -> Result<support::Refusal, Error> {
    let mut others = attached_to(id, namespace)?;
    others.retain(|(pid, _)| !inventory.processes.contains_key(pid));
    Ok(match others[..] {
        [] => ATTACHED_UNSEEN,
        [(pid, place), ..] => {
            let place = format!("mapping at {place:#x}");
            sharing::held_by(root, Thing::Memory, pid, (place, true), others.len() == 1)
        }
    })
}

impl Found {
    fn open(&self) -> io::Result<File> {
        let member = self.member;
        match &self.mapping {
            Some(Mapping { start, end, .. }) => {
                File::open(format!("/proc/{member}/map_files/{start:x}-{end:x}"))
            }
            // The memory stays as long as the file is open.
            None => inside("ipc", of_process(member, "ipc")?, || {
                Attached::attach(&self.segment, false)?.file(false)
            }),
        }
    }
}

impl Segments {
    /// Opens the memory of all segments, of a tree that stands still.
    pub(crate) fn open(&self) -> Result<BTreeMap<Key, segment::Segment>, Error> {
        let mut opened = BTreeMap::new();
        for (number, (&(namespace, id), found)) in self.numbered() {
            let pid = found.member;
            // The last huge page is mapped whole.
            let page = found.huge.and_then(|shift| 1u64.checked_shl(shift)).unwrap_or(1);
            let bytes = found.segment.bytes.next_multiple_of(page);
            let file = found.open().map_err(failed("open the System V shared memory", pid))?;
            let segment = segment::Segment { file, pid, bytes, mapped: bytes, number };
            opened.insert(Key::SystemV { namespace, id }, segment);
        }
        Ok(opened)
    }

    /// The segments with the numbers of their page maps: the id of each, as CRIU has it, of the first namespace that has
    /// it.
    fn numbered(&self) -> impl Iterator<Item = (u64, (&(u64, i32), &Found))> {
        let mut taken = std::collections::BTreeSet::new();
        let number = |id: i32, taken: &mut std::collections::BTreeSet<u64>| {
            let mut number = u64::from(id.unsigned_abs());
            while !taken.insert(number) {
                number += segment::APART;
            }
            number
        };
        self.0.iter().map(move |one| (number(one.0.1, &mut taken), one))
    }

    /// Writes what the segments are, each namespace's into an image of its own.
    pub(crate) fn encode(
        &self,
        namespaces: &Namespaces,
        inventory: &Inventory,
        writer: &ImageWriter,
    ) -> Result<(), images::Error> {
        let mut entries: BTreeMap<u32, Vec<IpcShmEntry>> = BTreeMap::new();
        let boot = kernel::boot::boot();
        for (number, (_, found)) in self.numbered() {
            let Found { segment, member, huge, .. } = found;
            let Some(process) = inventory.processes.get(member) else { continue };
            let Some(namespace) = namespaces.of(process).ipc_ns_id else { continue };
            let boot = if Some(namespace) == own_number("ipc") { boot } else { None };
            let hugetlb_flag = huge.map(|shift| Segment::huge_flags(shift).cast_unsigned());
            let entry = entry(segment, number, namespaces.ids());
            let entry = IpcShmEntry { boot, hugetlb_flag, ..entry };
            entries.entry(namespace).or_default().push(entry);
        }
        entries.iter().try_for_each(|(namespace, entries)| {
            writer.write_all(&names::ipcns_shm(*namespace), entries)
        })
    }
}

fn entry(segment: &Segment, number: u64, ids: &IdMap) -> IpcShmEntry {
    let desc = desc(segment.id, &segment.owner, ids);
    IpcShmEntry {
        desc,
        size: segment.bytes,
        in_pagemaps: Some(true),
        hugetlb_flag: None,
        pages: (number != u64::from(desc.id)).then_some(number),
        boot: None,
    }
}

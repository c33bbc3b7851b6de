//! BPF maps: how they were made, and what is in them (`bpfmap-data.img`).
//!
//! Nobody else changes a map of a tree that stands still, as it has no reference but that of the open file
//! (`collector::sharing`): no program uses it, and it has no name in a BPF file system.

use std::collections::{BTreeMap, BTreeSet};

use collector::{OpenFile, Process};
use images::messages::{BpfmapDataEntry, BpfmapFileEntry, FileEntry, fd_type};
use images::{ImageWriter, names};
use kernel::bpfmap::{self, Elements};
use support::bpfmap::{
    LARGEST_TOGETHER, NUMA_NODE, OF_NODE, OF_ROOT, TOO_LARGE_TOGETHER, WRITE_ONLY, of_map, room,
};

use super::Captured;
use super::beside::Part;
use super::file_kind::FileKind;
use super::problem::{Doing, Problem};
use super::survey::Survey;

/// An open BPF map.
#[derive(Debug)]
pub(super) struct BpfMap;

/// What is in maps, by their numbers, and what they have room for together.
#[derive(Debug, Default)]
struct InMaps {
    elements: BTreeMap<u32, Elements>,
    seen: BTreeSet<u32>,
    room: u64,
}

impl Part for InMaps {}

impl FileKind for BpfMap {
    fn types(&self) -> &'static [u32] {
        &[fd_type::BPFMAP]
    }

    fn is(&self, file: &OpenFile) -> bool {
        file.target == "anon_inode:bpf-map"
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let refused = |refusal| Err(Problem::Refused(refusal));
        if survey.context.for_user {
            return refused(OF_ROOT);
        }
        if file.flags.cast_signed() & libc::O_ACCMODE == libc::O_WRONLY {
            return refused(WRITE_ONLY);
        }
        let fown = survey.owner(process.pid, file)?;
        let map = survey.held.borrow(process.pid, file.fd)?;
        let info = bpfmap::info(&map).doing("look at")?;
        let bytes = room(info.key, info.value, info.most);
        let made_otherwise = info.has_types || info.interface != 0 || info.extra != 0;
        if let Some(refusal) = of_map(info.kind, info.flags, bytes, made_otherwise) {
            return refused(refusal);
        }
        if info.flags & NUMA_NODE != 0 && bpfmap::has_several_nodes() {
            return refused(OF_NODE);
        }
        let maps = survey.out.beside.of::<InMaps>();
        if maps.seen.insert(info.id) {
            maps.room = maps.room.saturating_add(bytes.unwrap_or(u64::MAX));
        }
        if maps.room > LARGEST_TOGETHER {
            return refused(TOO_LARGE_TOGETHER);
        }
        let (frozen, memlock) = bpfmap::state(&map).doing("look at")?;
        if survey.frozen {
            let elements = bpfmap::elements(&map, &info).doing("read")?;
            survey.out.beside.of::<InMaps>().elements.insert(info.id, elements);
        }
        let bpf = BpfmapFileEntry {
            id: entry.id,
            flags: file.flags,
            pos: 0,
            fown,
            map_type: info.kind,
            key_size: info.key,
            value_size: info.value,
            map_id: info.id,
            max_entries: info.most,
            map_flags: info.flags,
            memlock,
            frozen,
            map_name: info.name,
            ifindex: 0,
            mnt_id: None,
            map_extra: None,
        };
        Ok(FileEntry { r#type: fd_type::BPFMAP, bpf: Some(Box::new(bpf)), ..entry })
    }

    fn encode(&self, captured: &Captured, writer: &ImageWriter) -> Result<(), images::Error> {
        let Some(maps) = captured.beside.get::<InMaps>() else { return Ok(()) };
        let mut sink = writer.image(&names::bpfmap_data())?;
        for (&map_id, Elements { count, keys, values }) in &maps.elements {
            let (keys_bytes, values_bytes) = (keys.len() as u32, values.len() as u32);
            sink.put(&BpfmapDataEntry { map_id, keys_bytes, values_bytes, count: *count })?;
            sink.payload(keys)?;
            sink.payload(values)?;
        }
        sink.finish()
    }
}

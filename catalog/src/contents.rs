//! What is in a checkpoint.

use std::collections::BTreeMap;

use api::{
    CheckpointContents, ContentsFile, ContentsGhost, ContentsImage, ContentsLeftOut,
    ContentsMapping, ContentsMemory, ContentsProcess, ContentsThread, ContentsTimes, FrozenAccount,
    ProcessLeftOut,
};
use images::checkpoint::{Body, Mapping, Process, State, Thread};
use images::messages::{DumpStatsEntry, FdinfoEntry};
use images::{Checkpoint, Error, Images, MappingKind, PAGE_SIZE, PageMap, names};

use crate::describe::{self, printable};

/// What a row takes beside its text, roughly.
const ROW: usize = 100;
const MAP_SHARED: u32 = 0x01;

/// How much is told: images decide what there is, and who asks should not wait for all of it.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Of each list so many rows.
    each: usize,
    /// So many bytes of rows in all.
    bytes: usize,
}

impl Most {
    /// All there is.
    pub const ALL: Self = Self { each: usize::MAX, bytes: usize::MAX };
    /// As much as is sent to others.
    pub const SENT: Self = Self { each: 1000, bytes: 8 << 20 };

    /// The rows of a list that are told, and how many are not. `row` says how long its text is, too.
    fn told<I, T>(
        &mut self,
        list: impl Iterator<Item = I>,
        mut row: impl FnMut(&mut Self, I) -> (T, usize),
    ) -> (Vec<T>, u64) {
        let (mut told, mut left_out) = (Vec::new(), 0);
        for it in list {
            if told.len() == self.each || self.bytes == 0 {
                left_out += 1;
                continue;
            }
            let (row, text) = row(self, it);
            self.bytes = self.bytes.saturating_sub(ROW + text);
            told.push(row);
        }
        (told, left_out)
    }
}

/// Reads and checks a checkpoint, and says what is in it.
///
/// # Errors
/// If it cannot be read whole.
pub fn contents(images: &Images, mut most: Most) -> Result<CheckpointContents, Error> {
    let checkpoint = &Checkpoint::load(images.clone())?;
    let mut memory = ContentsMemory::default();
    for body in checkpoint.processes.iter().filter_map(|process| process.body.as_ref()) {
        add(&mut memory, &of_process(body));
    }
    for map in checkpoint.shared_memory.values() {
        add(&mut memory, &of_pages(map));
    }
    let mut files = BTreeMap::new();
    for file in describe::open_files(checkpoint) {
        *files.entry(describe::kind(file).to_owned()).or_default() += 1;
    }
    let pipes = checkpoint.pipes.iter().chain(&checkpoint.fifos).map(|pipe| pipe.payload.size);
    let packets = checkpoint.packets.iter().map(|packet| packet.payload.size);
    let all = images.files()?;
    let image_bytes = all.iter().map(|file| file.size).fold(0, u64::saturating_add);
    let (told, images_left) = most.told(all.into_iter(), |_, file| {
        let text = file.name.len();
        (ContentsImage { name: printable(file.name.as_bytes()), bytes: file.size }, text)
    });
    let (ghosts, ghosts_left) = ghosts(checkpoint, &mut most);
    let (processes, processes_left) =
        most.told(checkpoint.processes.iter(), |most, process| of(checkpoint, process, most));
    let stats = images.read_one(&names::stats_dump())?.and_then(|stats| stats.dump);
    Ok(CheckpointContents {
        directory: images.path().display().to_string(),
        format: images.inventory().img_version,
        threads: checkpoint.processes.iter().map(|process| process.threads.len() as u64).sum(),
        processes,
        memory,
        files,
        queued_bytes: pipes.chain(packets).fold(0, u64::saturating_add),
        ghosts,
        images: told,
        image_bytes,
        times: stats.map(times),
        left_out: ContentsLeftOut {
            processes: processes_left,
            ghosts: ghosts_left,
            images: images_left,
        },
    })
}

fn of(checkpoint: &Checkpoint, process: &Process, most: &mut Most) -> (ContentsProcess, usize) {
    let path = |id: u32| describe::path(checkpoint, id);
    let body = process.body.as_ref();
    let creds =
        process.threads.first().and_then(|leader| leader.core.thread_core.as_ref()?.creds.as_ref());
    let (threads, threads_left) = most.told(process.threads.iter(), |_, thread| {
        let thread = ContentsThread { tid: thread.tid, comm: comm(process, thread) };
        let text = thread.comm.len();
        (thread, text)
    });
    let table = body.and_then(|body| checkpoint.files.tables.get(&body.ids.files_id));
    let (files, files_left) = most.told(table.into_iter().flatten(), |_, info| {
        let file = descriptor(checkpoint, info);
        let text = file.what.len();
        (file, text)
    });
    let mappings = body.into_iter().flat_map(|body| &body.mappings);
    let mappings = mappings.filter(|mapping| mapping.kind != MappingKind::Guard);
    let (map, map_left) = most.told(mappings, |_, it| {
        let mapping = mapping(checkpoint, body, it);
        let text = mapping.file.as_ref().map_or(0, String::len);
        (mapping, text)
    });
    let (state, wait_status) = match process.state {
        State::Alive => ("running", None),
        State::Stopped => ("stopped", None),
        State::Dead { status } => ("zombie", Some(status.cast_unsigned())),
    };
    let lender = body.and_then(|body| checkpoint.processes.get(body.lender?));
    let told = ContentsProcess {
        pid: process.pid,
        ppid: process.ppid,
        pgid: process.pgid,
        sid: process.sid,
        comm: printable(&process.task.comm),
        state: state.to_owned(),
        wait_status,
        program: body.and_then(|body| path(body.mm.exe_file_id)),
        directory: body.and_then(|body| path(body.fs.cwd_id)),
        uid: creds.map(|creds| creds.euid),
        gid: creds.map(|creds| creds.egid),
        threads,
        memory: body.map(of_process).unwrap_or_default(),
        memory_of: lender.map(|lender| lender.pid),
        map,
        files,
        left_out: ProcessLeftOut { threads: threads_left, map: map_left, files: files_left },
    };
    let texts = [Some(&told.comm), told.program.as_ref(), told.directory.as_ref()];
    let text = texts.into_iter().flatten().map(String::len).sum();
    (told, text)
}

fn comm(process: &Process, thread: &Thread) -> String {
    let own = thread.core.thread_core.as_ref().and_then(|core| core.comm.as_deref());
    printable(own.unwrap_or(&process.task.comm))
}

fn of_process(body: &Body) -> ContentsMemory {
    let bytes = body.mappings.iter().map(length).fold(0, u64::saturating_add);
    let (mappings, mapped_bytes) = (body.mappings.len() as u64, bytes);
    ContentsMemory { mappings, mapped_bytes, ..of_pages(&body.pages) }
}

fn of_pages(map: &PageMap) -> ContentsMemory {
    let all = pages_in(map, 0, u64::MAX);
    ContentsMemory {
        stored_pages: all.stored,
        stored_bytes: all.stored.saturating_mul(PAGE_SIZE),
        parent_pages: all.parent,
        ..ContentsMemory::default()
    }
}

fn add(sum: &mut ContentsMemory, other: &ContentsMemory) {
    sum.mappings = sum.mappings.saturating_add(other.mappings);
    sum.mapped_bytes = sum.mapped_bytes.saturating_add(other.mapped_bytes);
    sum.stored_pages = sum.stored_pages.saturating_add(other.stored_pages);
    sum.stored_bytes = sum.stored_bytes.saturating_add(other.stored_bytes);
    sum.parent_pages = sum.parent_pages.saturating_add(other.parent_pages);
}

/// Where the pages of a range are.
#[derive(Clone, Copy, Debug, Default)]
struct Pages {
    stored: u64,
    parent: u64,
}

fn pages_in(map: &PageMap, start: u64, end: u64) -> Pages {
    let first = map.runs.partition_point(|run| run.end() <= start);
    let mut found = Pages::default();
    for run in map.runs[first..].iter().take_while(|run| run.start < end) {
        let pages = run.end().min(end).saturating_sub(run.start.max(start)) / PAGE_SIZE;
        if run.is_stored() {
            found.stored = found.stored.saturating_add(pages);
        } else if run.in_parent() {
            found.parent = found.parent.saturating_add(pages);
        }
    }
    found
}

fn length(mapping: &Mapping) -> u64 {
    mapping.vma.end.saturating_sub(mapping.vma.start)
}

fn mapping(checkpoint: &Checkpoint, body: Option<&Body>, it: &Mapping) -> ContentsMapping {
    let (vma, bytes) = (&it.vma, length(it));
    let is_shared = it.kind.is_shared_anonymous() || it.kind == MappingKind::SystemV;
    let shared = checkpoint.shared_memory.get(&vma.shmid).filter(|_| is_shared);
    // The page map of shared memory counts from its beginning.
    let pages = match (shared, body) {
        (Some(map), _) => pages_in(map, vma.pgoff, vma.pgoff.saturating_add(bytes)),
        (None, Some(body)) => pages_in(&body.pages, vma.start, vma.end),
        (None, None) => Pages::default(),
    };
    let may = |bit: u32, letter: char| if vma.prot & bit != 0 { letter } else { '-' };
    let shared = if vma.flags & MAP_SHARED != 0 { 's' } else { 'p' };
    let id = u32::try_from(vma.shmid).ok().filter(|_| it.kind.is_of_file());
    ContentsMapping {
        place: format!("{:x}-{:x}", vma.start, vma.end),
        bytes,
        permissions: [may(1, 'r'), may(2, 'w'), may(4, 'x'), shared].into_iter().collect(),
        kind: describe::mapping(it.kind).to_owned(),
        file: id.and_then(|id| describe::name(checkpoint, id)),
        offset: vma.pgoff,
        stored_pages: pages.stored,
        parent_pages: pages.parent,
        absent_pages: (bytes / PAGE_SIZE).saturating_sub(pages.stored.saturating_add(pages.parent)),
    }
}

fn descriptor(checkpoint: &Checkpoint, info: &FdinfoEntry) -> ContentsFile {
    let file = checkpoint.files.entries.get(&info.id).map(Box::as_ref);
    ContentsFile {
        fd: info.fd,
        file: info.id,
        kind: file.map_or("unknown", describe::kind).to_owned(),
        what: file.map(|file| describe::what(checkpoint, file)).unwrap_or_default(),
        close_on_exec: info.flags & 1 != 0,
    }
}

fn ghosts(checkpoint: &Checkpoint, most: &mut Most) -> (Vec<ContentsGhost>, u64) {
    let files = &checkpoint.files;
    let mut seen = BTreeMap::new();
    for remap in files.remaps.values() {
        seen.entry(remap.remap_id).or_insert(remap.orig_id);
    }
    most.told(files.ghosts.iter(), |_, (id, ghost)| {
        let path = seen.get(id).and_then(|file| describe::name(checkpoint, *file));
        let ghost = ContentsGhost { path: path.unwrap_or_default(), bytes: ghost.size() };
        let text = ghost.path.len();
        (ghost, text)
    })
}

fn times(stats: DumpStatsEntry) -> ContentsTimes {
    ContentsTimes {
        freezing_us: stats.freezing_time,
        frozen_us: stats.frozen_time,
        memory_dump_us: stats.memdump_time,
        memory_write_us: stats.memwrite_time,
        pages_scanned: stats.pages_scanned,
        pages_written: stats.pages_written,
        frozen_account: stats.frozen_account.map(|account| FrozenAccount {
            stop_us: account.stop.into(),
            inventory_us: account.inventory.into(),
            registers_us: account.registers.into(),
            parasite_us: account.parasite.into(),
            files_us: account.files.into(),
            memory_us: account.memory.into(),
            cure_us: account.cure.into(),
            release_us: account.release.into(),
            handover_us: account.handover.unwrap_or(0).into(),
            others_us: account.others.unwrap_or(0).into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn told(name: &str, most: Most) -> CheckpointContents {
        let sets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/criu-4.2");
        contents(&Images::open(&sets.join(name)).unwrap(), most).unwrap()
    }

    #[test]
    fn each_page_that_is_stored_is_in_a_mapping() {
        for name in ["minimal", "family", "ghosts"] {
            for process in told(name, Most::ALL).processes {
                let private = process.map.iter().filter(|it| !it.kind.contains("shared"));
                let stored: u64 = private.map(|it| it.stored_pages).sum();
                assert_eq!(stored, process.memory.stored_pages, "{name} {}", process.pid);
            }
        }
        let minimal = told("minimal", Most::ALL);
        let map = &minimal.processes[0].map;
        let code = map.iter().find(|it| it.permissions == "r-xp" && it.file.is_some()).unwrap();
        assert_eq!(code.bytes / PAGE_SIZE, code.stored_pages + code.absent_pages);
        assert!(map.iter().any(|it| it.kind == "vdso"));
        assert_eq!(minimal.left_out, ContentsLeftOut::default());
    }

    #[test]
    fn what_is_not_told_is_counted() {
        let all = told("family", Most::ALL);
        let few = told("family", Most { each: 2, bytes: usize::MAX });
        assert_eq!(few.processes.len(), 2);
        assert_eq!(few.left_out.processes, all.processes.len() as u64 - 2);
        let (one, whole) = (&few.processes[0], &all.processes[0]);
        assert_eq!(one.map.len() as u64 + one.left_out.map, whole.map.len() as u64);
        assert_eq!((few.memory, few.threads), (all.memory, all.threads));
        let none = told("family", Most { each: 10, bytes: 1 });
        assert_eq!((none.images.len(), none.processes.len()), (1, 0));
    }
}

//! What there is to say of a checkpoint.

use std::collections::BTreeMap;

use catalog::describe::{self, printable};
use images::checkpoint::{Body, Process, State, Thread};
use images::messages::{DumpStatsEntry, FdinfoEntry};
use images::{Checkpoint, PageMap, names};
use serde::Serialize;

/// What is in a checkpoint.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// The directory.
    pub(crate) directory: String,
    /// Version of the image format.
    pub(crate) format: u32,
    /// The processes, parents before children.
    pub(crate) processes: Vec<ProcessSummary>,
    /// Threads of all processes.
    pub(crate) threads: usize,
    /// Memory of all processes, shared memory counted once.
    pub(crate) memory: MemorySummary,
    /// Open file descriptions by kind.
    pub(crate) files: BTreeMap<&'static str, usize>,
    /// Bytes waiting in pipes, fifos and sockets.
    pub(crate) queued_bytes: u64,
    /// Files whose names are gone and whose contents are in the images.
    pub(crate) ghosts: Vec<GhostSummary>,
    /// The files of the checkpoint.
    pub(crate) images: Vec<ImageSummary>,
    /// How long they are together.
    pub(crate) image_bytes: u64,
    /// What the dump cost, if its statistics are in the directory.
    pub(crate) times: Option<Times>,
}

/// A process.
#[derive(Debug, Serialize)]
pub(crate) struct ProcessSummary {
    pub(crate) pid: u32,
    /// 0 for the root of the tree.
    pub(crate) ppid: u32,
    pub(crate) pgid: u32,
    pub(crate) sid: u32,
    pub(crate) comm: String,
    /// `running`, `stopped` or `zombie`.
    pub(crate) state: &'static str,
    /// How a zombie ended, as a wait status.
    pub(crate) wait_status: Option<u32>,
    /// The program it runs.
    pub(crate) program: Option<String>,
    /// Its working directory.
    pub(crate) directory: Option<String>,
    /// Its effective user and group.
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) threads: Vec<ThreadSummary>,
    /// Its own memory, shared memory not counted as stored.
    pub(crate) memory: MemorySummary,
    /// The process whose memory it has as well, which has all of it here.
    pub(crate) memory_of: Option<u32>,
    /// Its descriptors.
    pub(crate) files: Vec<FileSummary>,
}

/// A thread.
#[derive(Debug, Serialize)]
pub(crate) struct ThreadSummary {
    pub(crate) tid: u32,
    pub(crate) comm: String,
}

/// Memory, in bytes and pages.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct MemorySummary {
    pub(crate) mappings: usize,
    pub(crate) mapped_bytes: u64,
    /// In this checkpoint.
    pub(crate) stored_pages: u64,
    pub(crate) stored_bytes: u64,
    /// In the parent checkpoint.
    pub(crate) parent_pages: u64,
}

/// A descriptor.
#[derive(Debug, Serialize)]
pub(crate) struct FileSummary {
    pub(crate) fd: u32,
    /// Number of the open file description in the checkpoint: equal numbers are the same one.
    pub(crate) file: u32,
    pub(crate) kind: &'static str,
    /// Its path, address or state.
    pub(crate) what: String,
    pub(crate) close_on_exec: bool,
}

/// A file without a name.
#[derive(Debug, Serialize)]
pub(crate) struct GhostSummary {
    /// The name it had.
    pub(crate) path: String,
    pub(crate) bytes: u64,
}

/// A file of the checkpoint.
#[derive(Debug, Serialize)]
pub(crate) struct ImageSummary {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// What a dump cost. Times are microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Times {
    /// Stopping every task.
    pub(crate) freezing_us: u32,
    /// From the first stopped task to the last resumed one.
    pub(crate) frozen_us: u32,
    /// Taking memory.
    pub(crate) memory_dump_us: u32,
    /// Writing memory.
    pub(crate) memory_write_us: u32,
    pub(crate) pages_scanned: u64,
    pub(crate) pages_written: u64,
    /// Where the frozen time went, of checkpoints that stasis made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) frozen_account: Option<FrozenAccount>,
}

/// Where the frozen time went, step by step. Times are microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct FrozenAccount {
    pub(crate) stop_us: u32,
    pub(crate) inventory_us: u32,
    pub(crate) registers_us: u32,
    pub(crate) parasite_us: u32,
    pub(crate) files_us: u32,
    pub(crate) cure_us: u32,
    pub(crate) memory_us: u32,
    pub(crate) release_us: u32,
    /// Of one thread, or of all of a process with seccomp filters, before that time.
    pub(crate) handover_us: u32,
}

impl Summary {
    /// Says what is in a checkpoint.
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Self, images::Error> {
        let dir = &checkpoint.images;
        let processes: Vec<_> = checkpoint
            .processes
            .iter()
            .map(|process| summarize_process(checkpoint, process))
            .collect();
        let mut memory = MemorySummary::default();
        for process in &processes {
            memory.mappings += process.memory.mappings;
            memory.mapped_bytes += process.memory.mapped_bytes;
            memory.add_pages_of(&process.memory);
        }
        for map in checkpoint.shared_memory.values() {
            memory.add_pages(map);
        }
        let mut files = BTreeMap::new();
        for file in describe::open_files(checkpoint) {
            *files.entry(describe::kind(file)).or_default() += 1;
        }
        let pipes = checkpoint.pipes.iter().chain(&checkpoint.fifos).map(|pipe| pipe.payload.size);
        let packets = checkpoint.packets.iter().map(|packet| packet.payload.size);
        let images: Vec<_> = dir
            .files()?
            .into_iter()
            .map(|file| ImageSummary { name: file.name, bytes: file.size })
            .collect();
        Ok(Self {
            directory: dir.path().display().to_string(),
            format: dir.inventory().img_version,
            threads: processes.iter().map(|process| process.threads.len()).sum(),
            processes,
            memory,
            files,
            queued_bytes: pipes.chain(packets).sum(),
            ghosts: ghosts(checkpoint),
            image_bytes: images.iter().map(|image| image.bytes).sum(),
            images,
            times: dir.read_one(&names::stats_dump())?.and_then(|stats| stats.dump).map(Into::into),
        })
    }
}

fn summarize_process(checkpoint: &Checkpoint, process: &Process) -> ProcessSummary {
    let path = |id: u32| describe::path(checkpoint, id);
    let body = process.body.as_ref();
    let creds =
        process.threads.first().and_then(|leader| leader.core.thread_core.as_ref()?.creds.as_ref());
    ProcessSummary {
        pid: process.pid,
        ppid: process.ppid,
        pgid: process.pgid,
        sid: process.sid,
        comm: printable(&process.task.comm),
        state: match process.state {
            State::Alive => "running",
            State::Stopped => "stopped",
            State::Dead { .. } => "zombie",
        },
        wait_status: match process.state {
            State::Dead { status } => Some(status.cast_unsigned()),
            State::Alive | State::Stopped => None,
        },
        program: body.and_then(|body| path(body.mm.exe_file_id)),
        directory: body.and_then(|body| path(body.fs.cwd_id)),
        uid: creds.map(|creds| creds.euid),
        gid: creds.map(|creds| creds.egid),
        threads: process
            .threads
            .iter()
            .map(|thread| ThreadSummary { tid: thread.tid, comm: thread_comm(process, thread) })
            .collect(),
        memory: body.map(process_memory).unwrap_or_default(),
        memory_of: body
            .and_then(|body| checkpoint.processes.get(body.lender?))
            .map(|lender| lender.pid),
        files: body.map(|body| descriptors(checkpoint, body)).unwrap_or_default(),
    }
}

fn thread_comm(process: &Process, thread: &Thread) -> String {
    let own = thread.core.thread_core.as_ref().and_then(|core| core.comm.as_deref());
    printable(own.unwrap_or(&process.task.comm))
}

fn process_memory(body: &Body) -> MemorySummary {
    let mut memory = MemorySummary {
        mappings: body.mappings.len(),
        mapped_bytes: body
            .mappings
            .iter()
            .fold(0, |sum: u64, mapping| sum.saturating_add(mapping.vma.end - mapping.vma.start)),
        ..Default::default()
    };
    memory.add_pages(&body.pages);
    memory
}

impl MemorySummary {
    fn add_pages(&mut self, map: &PageMap) {
        self.stored_pages += map.stored_pages();
        self.stored_bytes += map.stored_bytes();
        self.parent_pages +=
            map.runs.iter().filter(|run| run.in_parent()).map(|run| run.pages).sum::<u64>();
    }

    fn add_pages_of(&mut self, other: &Self) {
        self.stored_pages += other.stored_pages;
        self.stored_bytes += other.stored_bytes;
        self.parent_pages += other.parent_pages;
    }
}

fn descriptors(checkpoint: &Checkpoint, body: &Body) -> Vec<FileSummary> {
    let table = checkpoint.files.tables.get(&body.ids.files_id);
    table.into_iter().flatten().map(|info| descriptor(checkpoint, info)).collect()
}

fn descriptor(checkpoint: &Checkpoint, info: &FdinfoEntry) -> FileSummary {
    let file = checkpoint.files.entries.get(&info.id).map(Box::as_ref);
    FileSummary {
        fd: info.fd,
        file: info.id,
        kind: file.map_or("unknown", describe::kind),
        what: file.map(|file| describe::what(checkpoint, file)).unwrap_or_default(),
        close_on_exec: info.flags & 1 != 0,
    }
}

fn ghosts(checkpoint: &Checkpoint) -> Vec<GhostSummary> {
    let files = &checkpoint.files;
    let mut seen = BTreeMap::new();
    for remap in files.remaps.values() {
        seen.entry(remap.remap_id).or_insert(remap.orig_id);
    }
    files
        .ghosts
        .iter()
        .map(|(id, ghost)| GhostSummary {
            path: seen
                .get(id)
                .and_then(|file| describe::name(checkpoint, *file))
                .unwrap_or_default(),
            bytes: ghost.size(),
        })
        .collect()
}

impl From<DumpStatsEntry> for Times {
    fn from(stats: DumpStatsEntry) -> Self {
        Self {
            freezing_us: stats.freezing_time,
            frozen_us: stats.frozen_time,
            memory_dump_us: stats.memdump_time,
            memory_write_us: stats.memwrite_time,
            pages_scanned: stats.pages_scanned,
            pages_written: stats.pages_written,
            frozen_account: stats.frozen_account.map(|account| FrozenAccount {
                stop_us: account.stop,
                inventory_us: account.inventory,
                registers_us: account.registers,
                parasite_us: account.parasite,
                files_us: account.files,
                cure_us: account.cure,
                memory_us: account.memory,
                release_us: account.release,
                handover_us: account.handover.unwrap_or(0),
            }),
        }
    }
}

//! A whole checkpoint, read and checked.
//!
//! [`Checkpoint::load`] reads every image but the pages and the bytes in pipes and queues, and checks each against
//! the others: whoever has one need not ask whether a descriptor's file, a process's parent or a mapping's file
//! exists. What is wrong is said with the image and the object. Whether this machine can restore it all is
//! another question, and not asked here.

mod contents;
pub mod dedup;
mod files;
mod ipc;
mod memory;
mod networks;
mod processes;
mod unique;

use std::collections::BTreeMap;

use crate::error::Error;
use crate::images::Images;
use crate::messages::{
    CgroupEntry, FileLockEntry, MemfdInodeEntry, SeccompEntry, TimensEntry, TtyDataEntry,
    TtyInfoEntry, UtsnsEntry,
};
use crate::names;
use crate::pagemap::PageMap;
use unique::unique;

pub use contents::{
    Ghost, GhostPart, MapContents, Payload, PayloadReader, PipeContents, QueuedPacket,
    StreamContents,
};
pub use files::Files;
pub use ipc::{IpcNamespace, MessageQueue, PosixQueue, SemaphoreSet};
pub use networks::Network;
pub use processes::{Body, Mapping, Process, State, Thread};

/// A checkpoint in which everything that is referred to is there.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where it was read from, and where its pages are.
    pub images: Images,
    /// The processes, parents before children. The first is the root of the tree.
    pub processes: Vec<Process>,
    /// Open files, descriptor tables, and what stands in for lost names.
    pub files: Files,
    /// Shared memory by its id (`shmid`): that of shared anonymous mappings, of memfds, and of System V
    /// segments.
    pub shared_memory: BTreeMap<u64, PageMap>,
    /// Memfds by `inode_id`. CRIU stores shared anonymous mappings as memfds as well.
    pub memfds: BTreeMap<u64, MemfdInodeEntry>,
    /// Terminals by id.
    pub terminals: BTreeMap<u32, TtyInfoEntry>,
    /// What is in terminals' input queues.
    pub terminal_input: Vec<TtyDataEntry>,
    /// What is in pipes.
    pub pipes: Vec<PipeContents>,
    /// What is in BPF maps.
    pub maps: Vec<MapContents>,
    /// What is in fifos.
    pub fifos: Vec<PipeContents>,
    /// What is in sockets' receive queues, oldest first for each socket.
    pub packets: Vec<QueuedPacket>,
    /// What is in TCP connections, by the inodes of their sockets.
    pub streams: BTreeMap<u32, StreamContents>,
    /// Locks on files.
    pub locks: Vec<FileLockEntry>,
    /// Filters of system calls; threads refer to them by index.
    pub seccomp: SeccompEntry,
    /// Control groups, where they were dumped.
    pub cgroups: Option<CgroupEntry>,
    /// UTS namespaces of the processes, by number. Those of the dumper have no image.
    pub uts_namespaces: BTreeMap<u32, UtsnsEntry>,
    /// IPC namespaces of the processes, by number, with what belongs to them of the dumper's own.
    pub ipc_namespaces: BTreeMap<u32, IpcNamespace>,
    /// Network namespaces of the processes and of their sockets, by number, beside the dumper's.
    pub networks: BTreeMap<u32, Network>,
    /// The clocks when the dump was made.
    pub clocks: Option<TimensEntry>,
}

impl Checkpoint {
    /// Reads and checks the checkpoint in `images`.
    pub fn load(images: Images) -> Result<Self, Error> {
        if !images.inventory().fdinfo_per_id() {
            return Err(Error::invalid(
                names::inventory().name(),
                "one descriptor table per process: images older than CRIU 1.0 are not supported; restore the checkpoint by the CRIU that wrote it, \
                 and dump anew",
            ));
        }
        nothing_is_unread(&images)?;
        let processes = processes::load(&images)?;
        let memfds = memory::memfds(&images)?;
        let files = Files::load(&images, &processes)?;
        let ipc_namespaces = ipc::load(&images, &processes)?;
        let entries = || files.entries.values().map(|file| &**file);
        let checkpoint = Self {
            streams: contents::streams(&images, entries())?,
            networks: networks::load(&images, &processes, entries())?,
            files,
            shared_memory: memory::shared(&images, &processes, &memfds, &ipc_namespaces)?,
            memfds,
            terminals: terminals(&images)?,
            terminal_input: images.read_all(&names::tty_data())?,
            pipes: contents::pipes(&images, &names::pipes_data())?,
            maps: contents::maps(&images)?,
            fifos: contents::pipes(&images, &names::fifo_data())?,
            packets: contents::packets(&images)?,
            locks: images.read_all(&names::file_locks())?,
            seccomp: images.read_one(&names::seccomp())?.unwrap_or_default(),
            cgroups: images.read_one(&names::cgroup())?,
            uts_namespaces: processes::uts_namespaces(&images, &processes)?,
            ipc_namespaces,
            clocks: images.read_one(&names::timens(0))?,
            processes,
            images,
        };
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// The process at the root of the tree.
    pub fn root(&self) -> &Process {
        &self.processes[0]
    }

    fn check(&self) -> Result<(), Error> {
        self.files.check()?;
        self.check_terminals()?;
        memory::check_memfds(self)?;
        for process in &self.processes {
            if let Some(body) = &process.body {
                memory::check(self, process, body)?;
            }
            for thread in &process.threads {
                self.check_filter(thread)?;
            }
        }
        for packet in &self.packets {
            self.files.require(packet.entry.id_for, names::sk_queues().name(), "a packet")?;
            for file in packet.entry.scm.iter().flat_map(|part| &part.rights) {
                self.files.require(*file, names::sk_queues().name(), "a packet")?;
            }
        }
        Ok(())
    }

    fn check_terminals(&self) -> Result<(), Error> {
        for file in self.files.entries.values() {
            let terminal = file.tty.as_ref().map(|terminal| terminal.tty_info_id);
            if terminal.is_some_and(|id| !self.terminals.contains_key(&id)) {
                let what = format!("file {}: its terminal is not in tty-info.img", file.id);
                return Err(Error::invalid(names::files().name(), what));
            }
        }
        Ok(())
    }

    fn check_filter(&self, thread: &Thread) -> Result<(), Error> {
        let Some(filter) = thread.core.thread_core.as_ref().and_then(|core| core.seccomp_filter)
        else {
            return Ok(());
        };
        if (filter as usize) < self.seccomp.seccomp_filters.len() {
            return Ok(());
        }
        let what = format!("seccomp filter {filter} is not in {}", names::seccomp().name());
        Err(Error::invalid(names::core(thread.tid).name(), what))
    }
}

/// What begins an image: the number of all, and that of its kind.
const HEAD: u64 = 8;

/// There is no image that nobody reads, as CRIU of before 2.0 wrote them.
fn nothing_is_unread(images: &Images) -> Result<(), Error> {
    for file in images.files()?.into_iter().filter(|file| file.size > HEAD) {
        if let Some(what) = names::unread(&file.name) {
            let reason = format!(
                "there are {what} in it, which nobody reads there; restore the checkpoint by the CRIU that wrote it, and dump anew"
            );
            return Err(Error::invalid(&file.name, reason));
        }
    }
    Ok(())
}

fn terminals(images: &Images) -> Result<BTreeMap<u32, TtyInfoEntry>, Error> {
    let image = names::tty_info();
    unique(image.name(), "terminal", images.read_all(&image)?.into_iter().map(|tty| (tty.id, tty)))
}

//! Keeps a live inventory of process trees: by eBPF iterators where the kernel lets us, from
//! /proc otherwise. One [`Inventory`] type, two sources.

mod basis;
pub mod bpf;
mod deadline;
mod error;
mod holds;
mod identity;
pub mod looking;
mod parts;
mod proc_holds;
mod proc_mappings;
pub mod proc_source;
pub mod sharing;
mod tracks;

use std::num::NonZeroU32;
use std::os::fd::BorrowedFd;
use std::time::Instant;

pub use basis::Inventory;
use deadline::Deadline;
pub use error::Error;
pub use inventory::{
    Action, AioContext, FileMark, InProcess, InTask, Key, Mapping, Message, Messages, NamedFile,
    OpenFile, Peculiar, Process, ProcessFiles, ProcessState, Registered, RegisteredFile, Requests,
    Ring, SemaphoreUndo, SessionKeyring, Tables, Thread, Unaccepted, Userfaultfd, Userfaults,
    VmFlags, WaitingConnection, mapping_kind, settings,
};
pub use parts::Parts;
pub use tracks::{ROOM, Track, TrackError, Tracks};

pub use bpf::Home;
use bpf::{BpfError, BpfSource, Loaded};
use ids::HostPid;
use proc_source::ProcSource;

/// Every process of the tree below and with `root`, parents before their children, zombies
/// included.
///
/// # Errors
/// If `root` has gone, or `/proc` cannot be read.
pub fn tree(root: HostPid) -> Result<Vec<HostPid>, Error> {
    kernel::procfs::tree(root).map_err(|source| Error::Tree { root, source })
}

/// Where inventories come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The eBPF iterators.
    Bpf,
    /// /proc.
    Proc,
}

/// What an inventory is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Look {
    /// For what it says.
    #[default]
    Now,
    /// Another will be taken of the same processes, which shall not read what has not changed: so it is
    /// also found out who can change what they have open. Before that, what the caller itself has got at of
    /// the target's files must not change them: it does not count as somebody who can.
    Ahead,
}

/// Takes inventories, by the source that it was opened with.
#[derive(Debug)]
pub struct Collector {
    sources: Sources,
    /// Threads in the last inventory: what to expect of the next.
    threads: usize,
}

#[derive(Debug)]
enum Sources {
    Bpf(Box<BpfSource>),
    Proc(ProcSource),
}

impl Collector {
    /// Takes the best source that there is: the eBPF programs that are pinned, else new ones, which are
    /// left there for the next command; and where that is not to be had, /proc.
    #[must_use]
    pub fn open() -> Self {
        Self::open_at(&Home::default())
    }

    /// Like [`Collector::open`], with programs and what they take in other places.
    #[must_use]
    pub fn open_at(home: &Home) -> Self {
        if home.is_none() {
            return Self::proc_only();
        }
        match bpf::open(home) {
            Ok(source) => Self::of(Sources::Bpf(Box::new(source))),
            Err(error) => {
                let why = bpf::chain(&error);
                let source = match &error {
                    BpfError::OtherClocks => ProcSource::with_terminals(home.clone()),
                    _ => ProcSource::default(),
                };
                match error {
                    // As it is to be.
                    BpfError::NoRight(_) | BpfError::OtherClocks => {
                        tracing::info!("inventories come from /proc, slower: {why}");
                    }
                    _ => tracing::warn!("inventories come from /proc, slower: {why}"),
                }
                Self::of(Sources::Proc(source))
            }
        }
    }

    const fn of(sources: Sources) -> Self {
        Self { sources, threads: 0 }
    }

    /// Takes the programs as a collector's service does, with room for so many tracked processes: they are
    /// left for others to find, with the tracks that are kept by them. The error says why not, if they
    /// are this process's own.
    ///
    /// # Errors
    /// If this kernel has no place for them.
    pub fn serve(home: &Home, tracked: NonZeroU32) -> Result<(Self, Option<BpfError>), Error> {
        let (source, reason) = bpf::serve(home, tracked)?;
        Ok((Self::of(Sources::Bpf(Box::new(source))), reason))
    }

    /// Loads the eBPF programs, for this process alone.
    ///
    /// # Errors
    /// If this kernel has no place for them.
    pub fn with_bpf() -> Result<Self, Error> {
        let mut source = BpfSource::new(Loaded::load()?);
        source.check()?;
        Ok(Self::of(Sources::Bpf(Box::new(source))))
    }

    /// Like [`Collector::with_bpf`], with room for so many tracked processes.
    ///
    /// # Errors
    /// As [`Collector::with_bpf`].
    pub fn with_bpf_for(tracked: NonZeroU32) -> Result<Self, Error> {
        let mut source = BpfSource::new(Loaded::load_for(Some(tracked))?);
        source.check()?;
        Ok(Self::of(Sources::Bpf(Box::new(source))))
    }

    /// What keeps tracks, by the programs that this has loaded or serves; `None` where another process
    /// keeps tracks by them, and when asked again.
    pub fn tracks(&mut self) -> Option<Tracks> {
        match &mut self.sources {
            Sources::Bpf(source) => source.tracing().map(Tracks::new),
            Sources::Proc(_) => None,
        }
    }

    /// Reads /proc, whatever else there is.
    #[must_use]
    pub fn proc_only() -> Self {
        Self::of(Sources::Proc(ProcSource::default()))
    }

    /// From now on, until this goes, what changes open files is counted, where that is to be had. Marks of
    /// sockets and pipes tell also of options that are set and set back between two inventories;
    /// before, sockets, pipes and fifos have no marks. And files that cannot have changed since an inventory
    /// that looked ahead ([`Look::Ahead`]) are not read again. It makes every system call on the
    /// machine a little slower, so it is for the time of a dump.
    pub fn watch(&mut self) {
        if let Sources::Bpf(source) = &mut self.sources {
            source.watch();
        }
    }

    /// From now on makes use of what is counted for tracks that there are now.
    pub fn follow(&mut self) {
        if let Sources::Bpf(source) = &mut self.sources {
            source.follow();
        }
    }

    /// Makes no more use of tracks.
    pub fn unfollow(&mut self) {
        if let Sources::Bpf(source) = &mut self.sources {
            source.unfollow();
        }
    }

    /// Of how many processes the last inventory has not read the open files, because nothing can have
    /// changed.
    #[must_use]
    pub fn spared(&self) -> usize {
        match &self.sources {
            Sources::Bpf(source) => source.spared,
            Sources::Proc(_) => 0,
        }
    }

    /// From now on inventories fail with [`Error::OutOfTime`] when they are not done by `until`;
    /// `None` for no limit.
    pub fn limit(&mut self, until: Option<Instant>) {
        *match &mut self.sources {
            Sources::Bpf(source) => &mut source.until,
            Sources::Proc(source) => &mut source.until,
        } = Deadline(until);
    }

    /// What was read, unless it was to be read by then.
    fn in_time<T>(&self, taken: Result<T, Error>) -> Result<T, Error> {
        let until = match &self.sources {
            Sources::Bpf(source) => source.until,
            Sources::Proc(source) => source.until,
        };
        // What is over may be a part, or not to be understood.
        if until.is_over() { Err(Error::OutOfTime) } else { taken }
    }

    /// Where inventories come from.
    #[must_use]
    pub const fn source(&self) -> Source {
        match self.sources {
            Sources::Bpf(_) => Source::Bpf,
            Sources::Proc(_) => Source::Proc,
        }
    }

    /// Every process of the tree below and with `root`, parents before their children, zombies
    /// included: by whichever way is quicker, judged by the last inventory.
    ///
    /// # Errors
    /// If `root` has gone, or the processes cannot be listed.
    pub fn tree(&mut self, root: HostPid) -> Result<Vec<HostPid>, Error> {
        match &mut self.sources {
            Sources::Bpf(source) if bpf::quicker_at_once(self.threads) => {
                let pids = source.tree(root)?;
                // Let /proc say how there is none.
                if pids.is_empty() { tree(root) } else { Ok(pids) }
            }
            _ => tree(root),
        }
    }

    /// Takes an inventory in one bulk pass. Processes that are gone are absent.
    ///
    /// # Errors
    /// If something that is there cannot be read or understood.
    pub fn inventory(&mut self, pids: &[HostPid]) -> Result<Inventory, Error> {
        self.parts(pids, Parts::all())
    }

    /// Takes an inventory of the tree below and with `root`. `earlier` is one of before, or an empty
    /// one: what the kernel's own marks show to be unchanged since is taken from there.
    ///
    /// # Errors
    /// If something that is there cannot be read or understood.
    pub fn take_tree(
        &mut self,
        root: HostPid,
        earlier: &mut Inventory,
        look: Look,
    ) -> Result<Inventory, Error> {
        let taken = match &mut self.sources {
            Sources::Bpf(source) if bpf::quicker_at_once(self.threads) => {
                source.take_tree(root, Parts::all(), earlier, look).map_err(Error::from)
            }
            Sources::Bpf(source) => Ok(source.take(&tree(root)?, Parts::all(), earlier, look)?),
            Sources::Proc(source) => source.take(&tree(root)?, Parts::all()),
        };
        let inventory = self.in_time(taken)?;
        if inventory.processes.is_empty() {
            // Let /proc say how there is none.
            tree(root)?;
        }
        self.threads = inventory.processes.values().map(|process| process.threads.len()).sum();
        Ok(inventory)
    }

    /// Takes an inventory of processes as [`Collector::take_tree`] does of a tree.
    ///
    /// # Errors
    /// If something that is there cannot be read or understood.
    pub fn again(
        &mut self,
        pids: &[HostPid],
        earlier: &mut Inventory,
        look: Look,
    ) -> Result<Inventory, Error> {
        let taken = match &mut self.sources {
            Sources::Bpf(source) => {
                source.take(pids, Parts::all(), earlier, look).map_err(Error::from)
            }
            Sources::Proc(source) => source.take(pids, Parts::all()),
        };
        self.in_time(taken)
    }

    /// Who outside of the processes of an inventory holds what they hold and what has no name: pipes,
    /// sockets, event files, deleted files, anonymous shared memory. All that the tree itself holds may be
    /// told by counts of references; else every process of the machine is looked at. `sent` are files that
    /// are on their way to them in messages: this process has each open once for each such message.
    ///
    /// # Errors
    /// If something that is there cannot be read or understood.
    pub fn sharing(
        &mut self,
        inventory: &Inventory,
        sent: &[OpenFile],
    ) -> Result<sharing::Sharing, Error> {
        let found = sharing::look(&mut self.sources, inventory, sent);
        self.in_time(found)
    }

    /// The asynchronous I/O contexts of a process, as they are now, and mappings of rings that it has none for; by
    /// their addresses. `None` where the kernel does not tell: without BPF.
    ///
    /// # Errors
    /// If they cannot be read or understood.
    pub fn aio_contexts(&mut self, pid: HostPid) -> Result<Option<Vec<AioContext>>, Error> {
        match &mut self.sources {
            Sources::Bpf(source) => Ok(Some(source.aio_contexts(pid)?)),
            Sources::Proc(_) => Ok(None),
        }
    }

    /// What the end of the threads of a process will undo in sets of System V semaphores, as it is now. `None` where
    /// the kernel does not tell: without BPF.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn semaphore_undo(&mut self, pid: HostPid) -> Result<Option<Vec<SemaphoreUndo>>, Error> {
        match &mut self.sources {
            Sources::Bpf(source) => Ok(Some(source.semaphore_undo(pid)?)),
            Sources::Proc(_) => Ok(None),
        }
    }

    /// The session keyrings of the threads of a process that are neither their users' nor empty, as they are now. `None` where the
    /// kernel does not tell: without BPF.
    ///
    /// # Errors
    /// If they cannot be read or understood.
    pub fn session_keyrings(&mut self, pid: HostPid) -> Result<Option<Vec<SessionKeyring>>, Error> {
        match &mut self.sources {
            Sources::Bpf(source) => Ok(Some(source.session_keyrings(pid)?)),
            Sources::Proc(_) => Ok(None),
        }
    }

    /// The io_urings that a process has as descriptors, as they are now. `None` where the kernel does not tell: without BPF.
    ///
    /// # Errors
    /// If they cannot be read or understood.
    pub fn rings(&mut self, process: &Process) -> Result<Option<Vec<Ring>>, Error> {
        match &mut self.sources {
            Sources::Bpf(source) => Ok(Some(source.rings(process)?)),
            Sources::Proc(_) => Ok(None),
        }
    }

    /// What the threads of a process have in flight with io_urings, now. `None` where the kernel does not tell: without BPF.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn requests(&mut self, pid: HostPid) -> Result<Option<Vec<Requests>>, Error> {
        match &mut self.sources {
            Sources::Bpf(source) => Ok(Some(source.requests(pid)?)),
            Sources::Proc(_) => Ok(None),
        }
    }

    /// What a process has of userfaultfds, now. `None` where the kernel does not tell: without BPF.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn userfaults(&mut self, process: &Process) -> Result<Option<Userfaults>, Error> {
        match &mut self.sources {
            Sources::Bpf(source) => Ok(source.userfaults(process)?),
            Sources::Proc(_) => Ok(None),
        }
    }

    /// The messages in a POSIX queue that this process has open, if they are not more than `most` bytes together. `None` where the
    /// kernel does not tell: without BPF.
    ///
    /// # Errors
    /// If they cannot be read or understood.
    pub fn messages(
        &mut self,
        queue: BorrowedFd<'_>,
        most: u64,
    ) -> Result<Option<Messages>, Error> {
        match &mut self.sources {
            Sources::Bpf(source) => {
                let told = source.messages(queue, most).map_err(Error::from);
                self.in_time(told)
            }
            Sources::Proc(_) => Ok(None),
        }
    }

    /// The TCP connections that wait at a listening socket that this process has open, if what they have received is not more than
    /// `most` bytes together. `None` where the kernel does not tell: without BPF.
    ///
    /// # Errors
    /// If they cannot be read or understood.
    pub fn waiting(
        &mut self,
        socket: BorrowedFd<'_>,
        most: u64,
    ) -> Result<Option<Unaccepted>, Error> {
        match &mut self.sources {
            Sources::Bpf(source) => {
                let told = source.waiting(socket, most).map_err(Error::from);
                self.in_time(told)
            }
            Sources::Proc(_) => Ok(None),
        }
    }

    /// Takes only some parts of an inventory.
    ///
    /// # Errors
    /// If something that is there cannot be read or understood.
    pub fn parts(&mut self, pids: &[HostPid], parts: Parts) -> Result<Inventory, Error> {
        let taken = match &mut self.sources {
            Sources::Bpf(source) => {
                source.take(pids, parts, &mut Inventory::default(), Look::Now).map_err(Error::from)
            }
            Sources::Proc(source) => source.take(pids, parts),
        };
        let inventory = self.in_time(taken)?;
        self.threads = inventory.processes.values().map(|process| process.threads.len()).sum();
        Ok(inventory)
    }
}

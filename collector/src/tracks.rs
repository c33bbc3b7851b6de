//! Tracks: sets of processes whose changes the kernel counts, as the collector's service keeps them.
//!
//! A track begins with the processes that are there, and takes in what they make; it ends with the
//! last of them. The counting programs are attached only while there is a track.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::{SystemTime, UNIX_EPOCH};

use api::TrackTarget;
use ebpf_common::track::{TrackedProcess, dumper_of};
use ids::HostPid;
use kernel::cgroup::{self, Hierarchies, Version};
use kernel::procfs::{self, Dir, ProcFile, Status};

use crate::bpf::{BpfError, Counts, NotEntered, Tracers, now};
use crate::looking::is_alive;

/// How many processes may be tracked unless another number is given: each takes some 150 bytes of
/// the kernel's memory, from the start.
pub const ROOM: NonZeroU32 = NonZeroU32::new(1 << 14).unwrap();

/// Why processes cannot be tracked.
#[derive(Debug, thiserror::Error)]
pub enum TrackError {
    /// The programs are not there.
    #[error("track processes: the eBPF programs for it are not loaded")]
    Unsupported,
    /// There is nothing to track.
    #[error("track {what}: there is no running process")]
    Nobody {
        /// What was to be tracked.
        what: String,
    },
    /// There is no such process.
    #[error("track {what}")]
    Process {
        /// What was to be tracked.
        what: String,
        /// What was being read.
        #[source]
        source: procfs::Error,
    },
    /// There is no such cgroup.
    #[error("track cgroup {name}")]
    Cgroup {
        /// The cgroup.
        name: String,
        /// What was being read.
        #[source]
        source: cgroup::Error,
    },
    /// A process is in one track at most.
    #[error("process {pid} belongs to track {track} already")]
    Taken {
        /// The process.
        pid: HostPid,
        /// The track.
        track: u64,
    },
    /// The maps have no room.
    #[error("there is no room for more tracked processes")]
    Full,
    /// The kernel refused.
    #[error("track processes")]
    Bpf(#[from] BpfError),
}

/// A track as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// Names it.
    pub id: u64,
    /// What was asked for.
    pub target: TrackTarget,
    /// Whether system calls are counted: without that only what the scheduler tells is.
    pub calls: bool,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Processes that came or went.
    pub tree: u64,
    /// Processes that there was no room for: if there are any, the track is stale for good.
    pub lost: u64,
    /// The processes.
    pub processes: BTreeMap<HostPid, TrackedProcess>,
}

struct KnownTrack {
    target: TrackTarget,
    calls: bool,
    created_ms: u64,
}

/// The tracks.
pub struct Tracks {
    tracers: Tracers,
    counts: Counts,
    kept: BTreeMap<u64, KnownTrack>,
    next: u64,
}

impl std::fmt::Debug for Tracks {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tracks").field("ids", &self.kept.keys()).finish_non_exhaustive()
    }
}

/// Listed this often, a target that still shows processes that nobody has entered is given up.
const ROUNDS: u32 = 1000;

impl Tracks {
    pub(crate) fn new((tracers, counts): (Tracers, Counts)) -> Self {
        Self { tracers, counts, kept: BTreeMap::new(), next: 1 }
    }

    /// Begins a track; `calls` has system calls counted too.
    ///
    /// # Errors
    /// If there is nothing to track, or something is tracked already, or there is no room.
    pub fn begin(&mut self, target: &TrackTarget, calls: bool) -> Result<u64, TrackError> {
        self.sweep()?;
        let found = list(target)?;
        let id = self.next;
        self.next += 1;
        if let Err(error) = self.tracers.attach(calls) {
            self.settle();
            return Err(error.into());
        }
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let created_ms = u64::try_from(created.as_millis()).unwrap_or(u64::MAX);
        let kept = KnownTrack { target: target.clone(), calls, created_ms };
        self.kept.insert(id, kept);
        let entered = match self.counts.begin(id) {
            Ok(()) => self.enter_all(id, target, found),
            Err(NotEntered::Failed(error)) => Err(error.into()),
            Err(_) => Err(TrackError::Full),
        };
        match entered {
            Ok(()) => Ok(id),
            Err(error) => {
                self.end(id)?;
                Err(error)
            }
        }
    }

    /// Enters what there is, again and again until there is nothing new. A process that is entered
    /// brings its children with it from then on, so that is soon, however fast they come.
    fn enter_all(
        &mut self,
        id: u64,
        target: &TrackTarget,
        mut found: Vec<HostPid>,
    ) -> Result<(), TrackError> {
        let mut seen = BTreeSet::new();
        for _ in 0..ROUNDS {
            let mut is_new = false;
            for pid in found {
                if seen.insert(pid) {
                    is_new |= self.enter(id, pid)?;
                }
            }
            if !is_new {
                break;
            }
            found = match list(target) {
                Ok(found) => found,
                // It has ended meanwhile; what it has left runs on, tracked.
                Err(TrackError::Nobody { .. } | TrackError::Process { .. }) => Vec::new(),
                Err(error) => return Err(error),
            };
        }
        if self.counts.all()?.values().any(|process| process.track == id) {
            Ok(())
        } else {
            Err(TrackError::Nobody { what: name(target) })
        }
    }

    /// Whether the process is a new one, that the kernel had not entered itself.
    fn enter(&mut self, id: u64, pid: HostPid) -> Result<bool, TrackError> {
        let process = TrackedProcess { track: id, entered: now(), ..TrackedProcess::default() };
        match self.counts.enter(pid, process) {
            Ok(()) => {}
            Err(NotEntered::Already(track)) if track == id => return Ok(false),
            Err(NotEntered::Already(track)) if dumper_of(track).is_some() => {
                self.counts.take_over(pid, process)?;
            }
            Err(NotEntered::Already(track)) => return Err(TrackError::Taken { pid, track }),
            Err(NotEntered::Full) => return Err(TrackError::Full),
            Err(NotEntered::Failed(error)) => return Err(error.into()),
        }
        // If it has passed the tracepoint of its end before it was entered, nobody removes it.
        if !is_alive(pid) {
            self.counts.forget(pid);
        }
        Ok(true)
    }

    /// Ends a track; false if there is none of that id.
    ///
    /// # Errors
    /// If the maps cannot be read.
    pub fn end(&mut self, id: u64) -> Result<bool, TrackError> {
        if self.kept.remove(&id).is_none() {
            return Ok(false);
        }
        // A child may be entered while its maker is being removed.
        for _ in 0..ROUNDS {
            let all = self.counts.all()?;
            let mut pids = all.iter().filter(|(_, process)| process.track == id).peekable();
            if pids.peek().is_none() {
                break;
            }
            for (&pid, _) in pids {
                self.counts.forget(pid);
            }
        }
        self.counts.end(id);
        self.settle();
        Ok(true)
    }

    /// Has counted just what tracks want.
    fn settle(&mut self) {
        if self.kept.is_empty() {
            self.tracers.detach();
        } else if !self.counts_calls() {
            self.tracers.detach_calls();
        }
    }

    /// Whether system calls are counted now.
    #[must_use]
    pub fn counts_calls(&self) -> bool {
        self.kept.values().any(|kept| kept.calls)
    }

    /// Ends the tracks whose last process has ended, and forgets what dumpers have left that were
    /// killed.
    ///
    /// # Errors
    /// If the maps cannot be read.
    pub fn sweep(&mut self) -> Result<(), TrackError> {
        self.counts.sweep_dumps(None);
        if self.kept.is_empty() {
            return Ok(());
        }
        let all = self.counts.all()?;
        let live: BTreeSet<u64> = all.values().map(|process| process.track).collect();
        let ended: Vec<u64> = self.kept.keys().copied().filter(|id| !live.contains(id)).collect();
        for id in ended {
            self.end(id)?;
        }
        Ok(())
    }

    /// The tracks that there are.
    ///
    /// # Errors
    /// If the maps cannot be read.
    pub fn all(&mut self) -> Result<Vec<Track>, TrackError> {
        self.sweep()?;
        let mut processes: BTreeMap<u64, BTreeMap<HostPid, TrackedProcess>> = BTreeMap::new();
        if !self.kept.is_empty() {
            for (pid, process) in self.counts.all()? {
                processes.entry(process.track).or_default().insert(pid, process);
            }
        }
        let mut tracks = Vec::with_capacity(self.kept.len());
        for (&id, kept) in &self.kept {
            let counted = self.counts.track(id)?.unwrap_or_default();
            tracks.push(Track {
                id,
                target: kept.target.clone(),
                calls: kept.calls,
                created_ms: kept.created_ms,
                tree: counted.tree,
                lost: counted.lost,
                processes: processes.remove(&id).unwrap_or_default(),
            });
        }
        Ok(tracks)
    }

    /// One track.
    ///
    /// # Errors
    /// If the maps cannot be read.
    pub fn get(&mut self, id: u64) -> Result<Option<Track>, TrackError> {
        Ok(self.all()?.into_iter().find(|track| track.id == id))
    }
}

fn name(target: &TrackTarget) -> String {
    match target {
        TrackTarget::Pid(pid) => format!("process {pid}"),
        TrackTarget::Tree(root) => format!("the tree of process {root}"),
        TrackTarget::Cgroup(name) => format!("cgroup {name}"),
    }
}

/// The processes that a target has now.
fn list(target: &TrackTarget) -> Result<Vec<HostPid>, TrackError> {
    let of_proc = |source| TrackError::Process { what: name(target), source };
    let known = |pid| HostPid::new(pid).ok_or_else(|| TrackError::Nobody { what: name(target) });
    let pids = match target {
        TrackTarget::Pid(pid) => vec![process_of(known(*pid)?).map_err(of_proc)?],
        TrackTarget::Tree(root) => {
            process_of(known(*root)?).and_then(procfs::tree).map_err(of_proc)?
        }
        TrackTarget::Cgroup(name) => {
            of_cgroup(name).map_err(|source| TrackError::Cgroup { name: name.clone(), source })?
        }
    };
    if pids.is_empty() { Err(TrackError::Nobody { what: name(target) }) } else { Ok(pids) }
}

/// The process that a number is of: its own, or that of a thread of it.
fn process_of(tid: HostPid) -> Result<HostPid, procfs::Error> {
    Ok(Status::read(&Dir::open(tid)?)?.tgid)
}

/// In the unified hierarchy if it is there, else in that of the freezer.
fn of_cgroup(name: &str) -> Result<Vec<HostPid>, cgroup::Error> {
    let hierarchies = Hierarchies::find()?;
    let members = |version| hierarchies.named(version, name).and_then(|cgroup| cgroup.members());
    let members = match members(Version::V2) {
        Err(cgroup::Error::NotMounted(_) | cgroup::Error::Read { .. }) => members(Version::V1),
        answer => answer,
    };
    Ok(members?.processes.into_iter().collect())
}

//! The programs and maps that count what is changed: by tracked processes, of open files, by names.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray};
use ebpf_common::asked::{ASKED_WORDS, Asked};
use ebpf_common::track::{
    TOUCHED, TOUCHED_UNKNOWN, TRACK_WORDS, TRACKED_WORDS, Track, TrackedProcess, dump_track,
    dumper_of,
};
use ebpf_common::{CURSOR_WORDS, WaitingCursor};
use ids::HostPid;
use kernel::bpf::{Numbers, object_get, object_pin, raw_tracepoint};
use nix::time::{ClockId, clock_gettime};

use super::BpfError;
use super::object::CountingObjects;
use super::pins::{Lock, inside};
use super::programs::{ITERATORS, MAPS, PROGRAMS, TRACKED};

/// Counts system calls: the first of the programs that count.
const CALLS: &str = PROGRAMS[ITERATORS].name;

/// Says that an entry must not be there yet (include/uapi/linux/bpf.h).
const BPF_NOEXIST: u64 = 1;

/// The maps, as this process uses them.
pub(crate) struct Counts {
    tracked: HashMap<MapData, i32, [u64; TRACKED_WORDS]>,
    tracks: HashMap<MapData, u64, [u64; TRACK_WORDS]>,
    named: PerCpuArray<MapData, u64>,
    asked: HashMap<MapData, u32, [u64; ASKED_WORDS]>,
    touched: Numbers,
}

impl std::fmt::Debug for Counts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Counts")
    }
}

/// Why a process could not be entered.
#[derive(Debug)]
pub(crate) enum NotEntered {
    /// It is there already, with this track.
    Already(u64),
    /// The map is full.
    Full,
    /// Something else.
    Failed(BpfError),
}

impl Counts {
    fn open(maps: &[OwnedFd]) -> Result<Self, BpfError> {
        let [tracked, tracks, named, asked, touched, _] = maps else {
            return Err(BpfError::Missing(MAPS[0]));
        };
        let failed = |name| move |source| BpfError::Map { name, source };
        let map = |fd: &OwnedFd, name| {
            let fd = fd.try_clone().map_err(MapError::IoError);
            fd.and_then(MapData::from_fd).map_err(failed(name))
        };
        let hash = |fd, name| Ok::<_, BpfError>(Map::HashMap(map(fd, name)?));
        let [tracked_name, tracks_name, named_name, asked_name, touched_name, _] = MAPS;
        let mapped = Numbers::map(touched.as_fd(), TOUCHED);
        Ok(Self {
            tracked: hash(tracked, tracked_name)?.try_into().map_err(failed(tracked_name))?,
            tracks: hash(tracks, tracks_name)?.try_into().map_err(failed(tracks_name))?,
            named: Map::PerCpuArray(map(named, named_name)?)
                .try_into()
                .map_err(failed(named_name))?,
            asked: Map::LruHashMap(map(asked, asked_name)?)
                .try_into()
                .map_err(failed(asked_name))?,
            touched: mapped
                .map_err(|errno| failed(touched_name)(MapError::IoError(errno.into())))?,
        })
    }

    /// Says what this thread wants of the next iteration over some files.
    pub(super) fn ask(&mut self, asked: Asked) -> Result<(), BpfError> {
        let thread = kernel::process::own_thread().unsigned();
        let failed = |source| BpfError::Map { name: MAPS[3], source };
        self.asked.insert(thread, <[u64; ASKED_WORDS]>::from(asked), 0).map_err(failed)
    }

    /// How often files have been touched that are counted at this place. Touches of unknown files are added, as each may have been of
    /// any file.
    pub(super) fn touched(&self, place: usize) -> u64 {
        let read = |place| self.touched.get(place).unwrap_or(0);
        read(place).wrapping_add(read(TOUCHED_UNKNOWN))
    }

    /// [`touched`](Self::touched) of every place.
    pub(super) fn all_touched(&self) -> Vec<u64> {
        (0..TOUCHED_UNKNOWN).map(|place| self.touched(place)).collect()
    }

    /// What is kept of a process, if it is tracked.
    pub(crate) fn process(&self, pid: HostPid) -> Result<Option<TrackedProcess>, BpfError> {
        found(self.tracked.get(&pid.get(), 0), MAPS[0]).map(|words| words.map(Into::into))
    }

    /// What is kept of a track.
    pub(crate) fn track(&self, id: u64) -> Result<Option<Track>, BpfError> {
        let words = found(self.tracks.get(&id, 0), MAPS[1])?;
        Ok(words.map(|[tree, lost]| Track { tree, lost }))
    }

    /// How often anybody has changed files by their names; and how often, what is mounted.
    pub(crate) fn names(&self) -> Result<[u64; 2], BpfError> {
        let failed = |source| BpfError::Map { name: MAPS[2], source };
        let read = |which| {
            let values = self.named.get(&which, 0).map_err(failed)?;
            Ok(values.iter().fold(0, |sum: u64, count| sum.wrapping_add(*count)))
        };
        Ok([read(0)?, read(1)?])
    }

    /// All tracked processes. One that comes or goes meanwhile may be there or not.
    pub(crate) fn all(&self) -> Result<BTreeMap<HostPid, TrackedProcess>, BpfError> {
        let mut all = BTreeMap::new();
        // By numbers first: an iteration over a map that changes may start anew, and see some twice.
        for pid in self.tracked.keys() {
            let pid = pid.map_err(|source| BpfError::Map { name: MAPS[0], source })?;
            let Some(pid) = HostPid::new(pid) else { continue };
            if let Some(process) = self.process(pid)? {
                all.insert(pid, process);
            }
        }
        Ok(all)
    }

    /// Enters a process.
    pub(crate) fn enter(
        &mut self,
        pid: HostPid,
        process: TrackedProcess,
    ) -> Result<(), NotEntered> {
        let words: [u64; TRACKED_WORDS] = process.into();
        match self.tracked.insert(pid.get(), words, BPF_NOEXIST) {
            Ok(()) => Ok(()),
            Err(MapError::SyscallError(error)) => match error.io_error.raw_os_error() {
                Some(libc::EEXIST) => match self.process(pid) {
                    Ok(Some(process)) => Err(NotEntered::Already(process.track)),
                    // It has gone this moment.
                    Ok(None) => Ok(()),
                    Err(error) => Err(NotEntered::Failed(error)),
                },
                Some(libc::E2BIG | libc::ENOMEM) => Err(NotEntered::Full),
                _ => Err(NotEntered::Failed(BpfError::Map {
                    name: MAPS[0],
                    source: MapError::SyscallError(error),
                })),
            },
            Err(source) => Err(NotEntered::Failed(BpfError::Map { name: MAPS[0], source })),
        }
    }

    /// Enters a process that a dump has entered, if it is the same one still.
    pub(crate) fn take_over(
        &mut self,
        pid: HostPid,
        process: TrackedProcess,
    ) -> Result<(), BpfError> {
        let words: [u64; TRACKED_WORDS] = process.into();
        self.tracked
            .insert(pid.get(), words, 0)
            .map_err(|source| BpfError::Map { name: MAPS[0], source })
    }

    /// Forgets the processes of a dump's track, and what dumps that have been killed have left.
    pub(crate) fn sweep_dumps(&mut self, own: Option<u64>) {
        let Ok(all) = self.all() else { return };
        let mut alive: BTreeMap<i32, bool> = BTreeMap::new();
        for (pid, process) in all {
            let Some(dumper) = dumper_of(process.track) else { continue };
            let mut lives = || Path::new(&format!("/proc/{dumper}")).exists();
            let is_over =
                Some(process.track) == own || !*alive.entry(dumper).or_insert_with(&mut lives);
            if is_over {
                self.forget(pid);
            }
        }
    }

    /// Forgets all tracks but those of dumps.
    fn forget_tracks(&mut self) -> Result<(), BpfError> {
        for (pid, process) in self.all()? {
            if dumper_of(process.track).is_none() {
                self.forget(pid);
            }
        }
        let ids: Result<Vec<u64>, MapError> = self.tracks.keys().collect();
        for id in ids.map_err(|source| BpfError::Map { name: MAPS[1], source })? {
            self.end(id);
        }
        Ok(())
    }

    /// Forgets a process; one that is not there is none the less forgotten.
    pub(crate) fn forget(&mut self, pid: HostPid) {
        if let Err(error) = self.tracked.remove(&pid.get()) {
            tracing::trace!(%pid, %error, "not tracked any more");
        }
    }

    /// Makes a track.
    pub(crate) fn begin(&mut self, id: u64) -> Result<(), NotEntered> {
        match self.tracks.insert(id, [0; TRACK_WORDS], 0) {
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::E2BIG) =>
            {
                Err(NotEntered::Full)
            }
            Err(source) => Err(NotEntered::Failed(BpfError::Map { name: MAPS[1], source })),
            Ok(()) => Ok(()),
        }
    }

    /// Forgets a track, when no process has it.
    pub(crate) fn end(&mut self, id: u64) {
        if let Err(error) = self.tracks.remove(&id) {
            tracing::debug!(id, %error, "a track that is not there any more");
        }
    }
}

fn found<T>(value: Result<T, MapError>, name: &'static str) -> Result<Option<T>, BpfError> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(BpfError::Map { name, source }),
    }
}

/// The programs and maps in the kernel, and the folder where others find them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counting<'a> {
    pub(super) objects: &'a CountingObjects,
    pub(super) folder: Option<&'a Arc<OwnedFd>>,
}

/// Where a thread is with a queue that it reads.
pub(super) struct Cursor {
    map: HashMap<MapData, u32, [u64; CURSOR_WORDS]>,
    thread: u32,
}

impl Cursor {
    /// Begins with what waits at a socket, or looks for a page.
    pub(super) fn begin_with(&mut self, cursor: WaitingCursor) -> Result<(), BpfError> {
        let WaitingCursor { fd, state, request, list, packet, inner, .. } = cursor;
        let WaitingCursor { part, piece, left, written, pages, .. } = cursor;
        let words = [fd, state, request, list, packet, inner, part, piece, left, written, pages];
        self.map.insert(self.thread, words, 0).map_err(Self::failed)
    }

    /// How far the programs are.
    pub(super) fn now(&self) -> Result<WaitingCursor, BpfError> {
        let words = self.map.get(&self.thread, 0).map_err(Self::failed)?;
        let [fd, state, request, list, packet, inner, part, piece, left, written, pages] = words;
        let cursor =
            WaitingCursor { fd, state, request, list, packet, inner, ..Default::default() };
        Ok(WaitingCursor { part, piece, left, written, pages, ..cursor })
    }

    /// Begins with the queue behind a descriptor of this process.
    pub(super) fn begin(&mut self, fd: i32) -> Result<(), BpfError> {
        let mut words = [0; CURSOR_WORDS];
        words[0] = u64::from(fd.cast_unsigned());
        self.map.insert(self.thread, words, 0).map_err(Self::failed)
    }

    fn failed(source: MapError) -> BpfError {
        BpfError::Map { name: MAPS[MAPS.len() - 1], source }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        // It may have made room for another.
        self.map.remove(&self.thread).ok();
    }
}

impl Counting<'_> {
    /// What tracks are kept by.
    pub(super) fn tracers(&self, keeper: Option<Lock>) -> Result<(Tracers, Counts), BpfError> {
        let clone = |program: &OwnedFd| program.try_clone();
        let programs = self.objects.programs.iter().map(clone).collect::<Result<_, _>>();
        let programs = programs
            .map_err(|source| BpfError::Map { name: MAPS[0], source: MapError::IoError(source) })?;
        let folder = self.folder.cloned();
        let tracers = Tracers { programs, links: Vec::new(), calls: None, folder, _keeper: keeper };
        Ok((tracers, self.counts()?))
    }

    /// Has all counted, by the links of tracks where there are any, and processes entered that
    /// inventories are taken of.
    pub(super) fn watch(&self) -> Result<Watch, BpfError> {
        // By what others have attached already, the counting costs nobody anything more.
        let links = names().zip(&self.objects.programs).map(|(name, program)| {
            self.joined(name).map_or_else(|| attach(program.as_fd(), name), Ok)
        });
        let links = links.collect::<Result<_, _>>()?;
        let counts = self.counts()?;
        let (pid, number) = (HostPid::own(), now() / 1000);
        let track = Some(dump_track(pid.get(), number as u32));
        let mut watch = Watch { counts, track, own: HashSet::new(), _links: links };
        watch.enter(std::iter::once(pid));
        Ok(watch)
    }

    /// Makes use of what tracks have counted; `None` if none has system calls counted.
    pub(super) fn follow(&self) -> Option<Watch> {
        let links = names().map(|name| self.joined(name));
        let links = links.collect::<Option<_>>()?;
        let counts = self
            .counts()
            .inspect_err(|error| tracing::debug!(%error, "no use is made of tracks"))
            .ok()?;
        Some(Watch { counts, track: None, own: HashSet::new(), _links: links })
    }

    fn joined(&self, name: &str) -> Option<OwnedFd> {
        object_get(&inside(self.folder?, &link_name(name))).ok()
    }

    /// The counts.
    pub(super) fn counts(&self) -> Result<Counts, BpfError> {
        Counts::open(&self.objects.maps)
    }

    /// How many processes can be tracked.
    pub(super) fn room(&self) -> Result<u32, BpfError> {
        let failed = |source| BpfError::Map { name: TRACKED, source };
        let [map, ..] = self.objects.maps.as_slice() else {
            return Err(BpfError::Missing(TRACKED));
        };
        let map = map.try_clone().map_err(|error| failed(MapError::IoError(error)))?;
        let info = MapData::from_fd(map).and_then(|map| map.info()).map_err(failed)?;
        Ok(info.max_entries())
    }

    /// Says where this thread is with a queue that it reads.
    pub(super) fn cursor(&self) -> Result<Cursor, BpfError> {
        let name = MAPS[MAPS.len() - 1];
        let failed = |source| BpfError::Map { name, source };
        let map = self.objects.maps.last().ok_or(BpfError::Missing(name))?;
        let map = map.try_clone().map_err(MapError::IoError).and_then(MapData::from_fd);
        let map = Map::LruHashMap(map.map_err(failed)?).try_into().map_err(failed)?;
        Ok(Cursor { map, thread: kernel::process::own_thread().unsigned() })
    }

    /// Whether anything of tracks is attached.
    pub(super) fn is_attached(&self) -> bool {
        let is_there = |name| self.folder.is_some_and(|at| inside(at, &link_name(name)).exists());
        names().any(is_there)
    }

    /// Takes away what somebody has left who kept tracks and was killed.
    pub(super) fn sweep(&self) -> Result<(), BpfError> {
        for name in names() {
            unpin(self.folder, name);
        }
        self.counts()?.forget_tracks()
    }
}

/// The names of the programs that count.
fn names() -> impl Iterator<Item = &'static str> {
    PROGRAMS[ITERATORS..].iter().map(|program| program.name)
}

fn attach(program: BorrowedFd<'_>, name: &'static str) -> Result<OwnedFd, BpfError> {
    raw_tracepoint(program).map_err(|source| BpfError::Attach { name, source })
}

/// The counts, and the programs that keep them, for as long as this is kept, whatever becomes of
/// others that use them.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(super) counts: Counts,
    /// With this, processes are entered in the map, and taken out at the end.
    track: Option<u64>,
    /// Descriptions that this process had open before it got at any of a target's.
    pub(super) own: HashSet<u64>,
    _links: Vec<OwnedFd>,
}

impl Watch {
    /// Has the changes of processes counted, from here on.
    pub(super) fn enter(&mut self, pids: impl Iterator<Item = HostPid>) {
        let Some(track) = self.track else { return };
        for pid in pids {
            let entered = now();
            let process = TrackedProcess { track, entered, ..TrackedProcess::default() };
            match self.counts.enter(pid, process) {
                Ok(()) | Err(NotEntered::Already(_)) => {}
                Err(error) => {
                    tracing::debug!(?error, "files are read anew of processes without room");
                    return;
                }
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.track.is_some() {
            self.counts.sweep_dumps(self.track);
        }
    }
}

/// The programs as tracks have them called, and where others find that.
#[derive(Debug)]
pub(crate) struct Tracers {
    programs: Vec<OwnedFd>,
    links: Vec<OwnedFd>,
    calls: Option<OwnedFd>,
    folder: Option<Arc<OwnedFd>>,
    /// The right to what is pinned in the folder.
    _keeper: Option<Lock>,
}

fn link_name(program: &str) -> String {
    format!("{program}_link")
}

impl Tracers {
    /// Has the programs called; those that count system calls only if asked to.
    pub(crate) fn attach(&mut self, calls: bool) -> Result<(), BpfError> {
        if self.links.is_empty() {
            let mut links = Vec::with_capacity(PROGRAMS.len());
            for (program, name) in self.programs.iter().zip(names()).skip(1) {
                links.push(self.link(program, name)?);
            }
            self.links = links;
        }
        if calls && self.calls.is_none() {
            let program = self.programs.first().ok_or(BpfError::Missing(CALLS))?;
            self.calls = Some(self.link(program, CALLS)?);
        }
        Ok(())
    }

    fn link(&self, program: &OwnedFd, name: &'static str) -> Result<OwnedFd, BpfError> {
        let link = attach(program.as_fd(), name)?;
        if let Some(folder) = &self.folder {
            unpin(Some(folder), name);
            let pinned = object_pin(link.as_fd(), &inside(folder, &link_name(name)));
            // The folder may have been removed; the tracks are as good without.
            if let Err(error) = pinned {
                tracing::warn!(%error, name, "dumps make no use of tracks: the link cannot be pinned");
            }
        }
        Ok(link)
    }

    /// Has no program called but by who else has opened the links.
    pub(crate) fn detach(&mut self) {
        self.links.clear();
        for name in names().skip(1) {
            unpin(self.folder.as_ref(), name);
        }
        self.detach_calls();
    }

    /// Has system calls counted no more.
    pub(crate) fn detach_calls(&mut self) {
        self.calls = None;
        unpin(self.folder.as_ref(), CALLS);
    }
}

impl Drop for Tracers {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Removes the pin of a link.
fn unpin(folder: Option<&Arc<OwnedFd>>, program: &str) {
    let Some(folder) = folder else { return };
    match fs::remove_file(inside(folder, &link_name(program))) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, "remove the pin of the link of {program}");
        }
        _ => {}
    }
}

/// As the programs tell the time.
pub(crate) fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned()
    })
}

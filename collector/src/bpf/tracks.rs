//! The programs and maps that count what tracked processes change.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray};
use aya::{Btf, Ebpf};
use ebpf_common::track::{TRACK_WORDS, TRACKED_WORDS, Track, TrackedProcess};
use kernel::bpf::{object_get, object_pin, raw_tracepoint};

use super::BpfError;
use super::load::load_tracepoint;

/// The programs, with their tracepoints; the first counts system calls.
const PROGRAMS: [(&str, &str); 4] = [
    ("track_call", "sys_exit"),
    ("track_fork", "sched_process_fork"),
    ("track_exec", "sched_process_exec"),
    ("track_exit", "sched_process_exit"),
];

const MAPS: [&str; 3] = ["TRACKED", "TRACKS", "NAMED"];

/// Says that an entry must not be there yet (include/uapi/linux/bpf.h).
const BPF_NOEXIST: u64 = 1;

/// The maps, as this process uses them.
pub(crate) struct Counts {
    tracked: HashMap<MapData, i32, [u64; TRACKED_WORDS]>,
    tracks: HashMap<MapData, u64, [u64; TRACK_WORDS]>,
    named: PerCpuArray<MapData, u64>,
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
    fn open(
        mut map: impl FnMut(&'static str) -> Result<MapData, BpfError>,
    ) -> Result<Self, BpfError> {
        let [tracked, tracks, named] = MAPS;
        let failed = |name| move |source| BpfError::Map { name, source };
        Ok(Self {
            tracked: Map::HashMap(map(tracked)?).try_into().map_err(failed(tracked))?,
            tracks: Map::HashMap(map(tracks)?).try_into().map_err(failed(tracks))?,
            named: Map::PerCpuArray(map(named)?).try_into().map_err(failed(named))?,
        })
    }

    /// What is kept of a process, if it is tracked.
    pub(crate) fn process(&self, pid: i32) -> Result<Option<TrackedProcess>, BpfError> {
        found(self.tracked.get(&pid, 0), MAPS[0]).map(|words| words.map(Into::into))
    }

    /// What is kept of a track.
    pub(crate) fn track(&self, id: u64) -> Result<Option<Track>, BpfError> {
        let words = found(self.tracks.get(&id, 0), MAPS[1])?;
        Ok(words.map(|[tree, lost]| Track { tree, lost }))
    }

    /// How often anybody has changed, or has got to change, files by their names.
    pub(crate) fn names(&self) -> Result<u64, BpfError> {
        let failed = |source| BpfError::Map { name: MAPS[2], source };
        let values = self.named.get(&0, 0).map_err(failed)?;
        Ok(values.iter().fold(0, |sum, count| sum.wrapping_add(*count)))
    }

    /// All tracked processes. One that comes or goes meanwhile may be there or not.
    pub(crate) fn all(&self) -> Result<BTreeMap<i32, TrackedProcess>, BpfError> {
        let mut all = BTreeMap::new();
        // By numbers first: an iteration over a map that changes may start anew, and see some twice.
        for pid in self.tracked.keys() {
            let pid = pid.map_err(|source| BpfError::Map { name: MAPS[0], source })?;
            if let Some(process) = self.process(pid)? {
                all.insert(pid, process);
            }
        }
        Ok(all)
    }

    /// Enters a process.
    pub(crate) fn enter(&mut self, pid: i32, process: TrackedProcess) -> Result<(), NotEntered> {
        let words: [u64; TRACKED_WORDS] = process.into();
        match self.tracked.insert(pid, words, BPF_NOEXIST) {
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

    /// Forgets a process; one that is not there is none the less forgotten.
    pub(crate) fn forget(&mut self, pid: i32) {
        if let Err(error) = self.tracked.remove(&pid) {
            tracing::trace!(pid, %error, "not tracked any more");
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

/// The programs, in the kernel, and where others find them.
#[derive(Debug)]
pub(crate) struct Tracers {
    programs: Vec<OwnedFd>,
    links: Vec<OwnedFd>,
    calls: Option<OwnedFd>,
    folder: Option<PathBuf>,
}

/// Loads the tracking programs of an object.
pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf) -> Result<(Tracers, Counts), BpfError> {
    let mut programs = Vec::with_capacity(PROGRAMS.len());
    for (name, tracepoint) in PROGRAMS {
        programs.push(load_tracepoint(ebpf, name, tracepoint, btf)?);
    }
    let counts = Counts::open(|name| own_map(ebpf, name))?;
    Ok((Tracers { programs, links: Vec::new(), calls: None, folder: None }, counts))
}

/// Another handle of a map of a loaded object.
fn own_map(ebpf: &Ebpf, name: &'static str) -> Result<MapData, BpfError> {
    let (Some(Map::HashMap(data)) | Some(Map::PerCpuArray(data))) = ebpf.map(name) else {
        return Err(BpfError::Missing(name));
    };
    let fd = data.fd().as_fd().try_clone_to_owned();
    fd.map_err(MapError::IoError)
        .and_then(MapData::from_fd)
        .map_err(|source| BpfError::Map { name, source })
}

/// Pins the maps in a folder.
pub(super) fn pin_maps(ebpf: &Ebpf, folder: &Path) -> Result<(), BpfError> {
    for name in MAPS {
        let map = ebpf.map(name).ok_or(BpfError::Missing(name))?;
        map.pin(folder.join(name)).map_err(|source| BpfError::Pin { name, source })?;
    }
    Ok(())
}

fn link_name(program: &str) -> String {
    format!("{program}_link")
}

impl Tracers {
    /// From now on links are pinned in this folder, which is there.
    pub(super) fn pin_in(&mut self, folder: &Path) {
        self.folder = Some(folder.into());
    }

    /// Has the programs called; those that count system calls only if asked to.
    pub(crate) fn attach(&mut self, calls: bool) -> Result<(), BpfError> {
        if self.links.is_empty() {
            let mut links = Vec::with_capacity(PROGRAMS.len());
            for (program, (name, _)) in self.programs.iter().zip(PROGRAMS).skip(1) {
                links.push(self.link(program, name)?);
            }
            self.links = links;
        }
        if calls && self.calls.is_none() {
            let program = self.programs.first().ok_or(BpfError::Missing(PROGRAMS[0].0))?;
            self.calls = Some(self.link(program, PROGRAMS[0].0)?);
        }
        Ok(())
    }

    fn link(&self, program: &OwnedFd, name: &'static str) -> Result<OwnedFd, BpfError> {
        let failed = |source| BpfError::Attach { name, source };
        let link = raw_tracepoint(program.as_fd()).map_err(failed)?;
        if let Some(folder) = &self.folder {
            let pin = folder.join(link_name(name));
            remove(&pin);
            object_pin(link.as_fd(), &pin).map_err(failed)?;
        }
        Ok(link)
    }

    /// Has no program called but by who else has opened the links.
    pub(crate) fn detach(&mut self) {
        self.links.clear();
        for (name, _) in &PROGRAMS[1..] {
            self.unpin(name);
        }
        self.detach_calls();
    }

    /// Has system calls counted no more.
    pub(crate) fn detach_calls(&mut self) {
        self.calls = None;
        self.unpin(PROGRAMS[0].0);
    }

    fn unpin(&self, program: &str) {
        if let Some(folder) = &self.folder {
            remove(&folder.join(link_name(program)));
        }
    }
}

fn remove(pin: &Path) {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, "remove the pin {}", pin.display());
        }
        _ => {}
    }
}

/// What another process counts, as this one may use it. The programs are called for as long as this
/// is kept, whatever becomes of the other.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) counts: Counts,
    _links: Vec<OwnedFd>,
}

impl Followed {
    /// Opens what is pinned in a folder; `None` when nothing is counted at present.
    pub(super) fn open(folder: &Path) -> Option<Self> {
        // Links first: what the maps say counts only while the programs are called.
        let links = PROGRAMS.iter().map(|(name, _)| object_get(&folder.join(link_name(name))).ok());
        let links: Vec<OwnedFd> = links.collect::<Option<_>>()?;
        let open = |name: &'static str| {
            let failed = |source| BpfError::Map { name, source };
            MapData::from_pin(folder.join(name)).map_err(failed)
        };
        let counts = Counts::open(open)
            .inspect_err(|error| tracing::debug!(%error, "no use is made of tracks"))
            .ok()?;
        Some(Self { counts, _links: links })
    }
}

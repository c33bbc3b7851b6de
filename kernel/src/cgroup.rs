//! Control groups, as far as stopping and resuming goes: the unified hierarchy (v2) and the v1
//! freezer.
//!
//! Both are asynchronous: a write asks for the freeze and the kernel reports later that every
//! task has stopped. v2 reports by an event on `cgroup.events`, which is waited for with `poll`.
//! v1 reports nothing: its `freezer.state` brings itself up to date when it is read, so it is
//! read again after waits that double from 20 µs.

mod directories;
mod own_mounts;
mod parse;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::procfs::{self, Dir, Mounts, ProcFile};

pub use directories::GroupDirectories;

use ids::HostPid;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

/// Why a cgroup could not be found, stopped or resumed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What /proc says of a process cannot be had.
    #[error(transparent)]
    Proc(#[from] procfs::Error),
    /// A file could not be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be written.
    #[error("write {value} to {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be waited for.
    #[error("wait for {path}")]
    Wait {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file says something that is not understood.
    #[error("understand {path}: {text:?}")]
    Strange {
        /// The file.
        path: PathBuf,
        /// The beginning of what it says.
        text: String,
    },
    /// No such hierarchy is mounted.
    #[error("find a mounted {0}")]
    NotMounted(Version),
    /// The process is in a cgroup that our mount does not show.
    #[error("find the {version} of process {pid}: {path} is outside the mounted part")]
    Outside {
        /// The process.
        pid: HostPid,
        /// Which hierarchy.
        version: Version,
        /// Its cgroup.
        path: String,
    },
    /// A directory is none of a cgroup that can be frozen.
    #[error("{} is not the directory of a control group that can be frozen", .0.display())]
    NotFreezable(PathBuf),
    /// The path is not one of a cgroup below the root.
    #[error("name a cgroup: {0:?} is not an absolute path without dots below the root")]
    Name(String),
    /// The tasks did not stop in time.
    #[error("freeze {path}: not all tasks stopped within {} ms", waited.as_millis())]
    Timeout {
        /// The cgroup.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
}

/// One of the two kinds of cgroup that can be frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The v1 freezer.
    V1,
    /// The unified hierarchy.
    V2,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1 freezer cgroup",
            Self::V2 => "unified cgroup",
        })
    }
}

/// Where a hierarchy is mounted, and which part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    root: PathBuf,
    point: PathBuf,
}

/// The mounted hierarchies that can freeze.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    unified: Option<Mount>,
    freezer: Option<Mount>,
}

impl Hierarchies {
    /// Looks through our own mounts; of several mounts of one hierarchy the first counts, which
    /// is the one that shows most.
    ///
    /// # Errors
    /// If the mounts cannot be read.
    pub fn find() -> Result<Self, Error> {
        let own = Dir::open(HostPid::own())?;
        Ok(Self::among(&Mounts::read(&own)?))
    }

    fn among(mounts: &Mounts) -> Self {
        let mut found = Self::default();
        for mount in &mounts.0 {
            let here = || Mount { root: (&mount.root).into(), point: (&mount.mount_point).into() };
            let mut options = mount.super_options.as_bytes().split(|byte| *byte == b',');
            match mount.fs_type.as_bytes() {
                b"cgroup2" => {
                    found.unified.get_or_insert_with(here);
                }
                b"cgroup" if options.any(|option| option == b"freezer") => {
                    found.freezer.get_or_insert_with(here);
                }
                _ => {}
            }
        }
        found
    }

    /// Mount point of the unified hierarchy.
    #[must_use]
    pub fn unified(&self) -> Option<&Path> {
        self.unified.as_ref().map(|mount| mount.point.as_path())
    }

    /// Mount point of the v1 freezer.
    #[must_use]
    pub fn freezer(&self) -> Option<&Path> {
        self.freezer.as_ref().map(|mount| mount.point.as_path())
    }

    fn mount(&self, version: Version) -> Result<&Mount, Error> {
        match version {
            Version::V1 => self.freezer.as_ref(),
            Version::V2 => self.unified.as_ref(),
        }
        .ok_or(Error::NotMounted(version))
    }

    /// The cgroup of a process; `None` when that is the root of the hierarchy, which cannot be
    /// frozen.
    ///
    /// # Errors
    /// If the hierarchy is not mounted, or the process gone or outside its mounted part.
    pub fn of_process(&self, version: Version, pid: HostPid) -> Result<Option<Cgroup>, Error> {
        let mount = self.mount(version)?;
        let memberships = procfs::Cgroup::read(&Dir::open(pid)?)?;
        let membership = match version {
            Version::V1 => memberships.v1("freezer"),
            Version::V2 => memberships.v2(),
        };
        let path = Path::new(&membership.ok_or(Error::NotMounted(version))?.path);
        let below = path.strip_prefix(&mount.root).map_err(|_| Error::Outside {
            pid,
            version,
            path: path.display().to_string(),
        })?;
        if below.as_os_str().is_empty() {
            return Ok(None);
        }
        Ok(Some(Cgroup { version, directory: mount.point.join(below) }))
    }

    /// The cgroup whose freezing keeps a process from running: its own, or one above; `None` if none
    /// is frozen.
    ///
    /// # Errors
    /// If the hierarchy is not mounted, or the process gone or outside its mounted part.
    pub fn frozen(&self, version: Version, pid: HostPid) -> Result<Option<Cgroup>, Error> {
        let Some(own) = self.of_process(version, pid)? else { return Ok(None) };
        let top = &self.mount(version)?.point;
        let above = own.directory.ancestors().take_while(|directory| *directory != top);
        let mut above = above.map(|directory| Cgroup::at(version, directory.to_owned()));
        Ok(above.find(|cgroup| cgroup.freeze_is_asked().unwrap_or(false)))
    }

    /// A cgroup by its path in the hierarchy, as `/proc/PID/cgroup` writes it.
    ///
    /// # Errors
    /// If the hierarchy is not mounted, or the name is none of a cgroup below its root.
    pub fn named(&self, version: Version, name: &str) -> Result<Cgroup, Error> {
        let mount = self.mount(version)?;
        let below = Path::new(name)
            .strip_prefix(&mount.root)
            .ok()
            .filter(|below| !below.as_os_str().is_empty() && parse::is_plain(below))
            .ok_or_else(|| Error::Name(name.to_owned()))?;
        Ok(Cgroup { version, directory: mount.point.join(below) })
    }
}

/// The processes of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Those that our pid namespace has numbers for.
    pub processes: BTreeSet<HostPid>,
    /// How many others there are.
    pub hidden: usize,
}

/// One cgroup that can be frozen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    version: Version,
    directory: PathBuf,
}

impl Cgroup {
    /// A cgroup by its directory: what [`directory`](Self::directory) gave.
    #[must_use]
    pub const fn at(version: Version, directory: PathBuf) -> Self {
        Self { version, directory }
    }

    /// The cgroup of a directory that somebody names.
    ///
    /// # Errors
    /// If it is none of a cgroup that can be frozen.
    pub fn of_directory(directory: &Path) -> Result<Self, Error> {
        let has = |file: &str| directory.join(file).exists();
        let system = statfs(directory).map(|found| found.filesystem_type());
        let version = match system {
            Ok(CGROUP_SUPER_MAGIC) if has("freezer.state") => Version::V1,
            Ok(CGROUP2_SUPER_MAGIC) if has("cgroup.freeze") => Version::V2,
            _ => return Err(Error::NotFreezable(directory.to_owned())),
        };
        Ok(Self { version, directory: directory.to_owned() })
    }

    /// Which hierarchy it is of.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Every process in it and below it.
    ///
    /// # Errors
    /// If the cgroup is gone or cannot be read.
    pub fn members(&self) -> Result<Members, Error> {
        let mut pids = Vec::new();
        let mut waiting = vec![self.directory.clone()];
        while let Some(directory) = waiting.pop() {
            let file = directory.join("cgroup.procs");
            let text = read(&file)?;
            pids.extend(parse::pids(&text).ok_or_else(|| strange(file, &text))?);
            let entries = fs::read_dir(&directory)
                .map_err(|source| Error::Read { path: directory.clone(), source })?;
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    waiting.push(entry.path());
                }
            }
        }
        let hidden = pids.iter().filter(|pid| pid.is_none()).count();
        Ok(Members { processes: pids.into_iter().flatten().collect(), hidden })
    }

    /// Whether somebody asked for this very cgroup to be frozen (whether or not all its tasks
    /// have stopped yet).
    ///
    /// # Errors
    /// If the cgroup is gone or cannot be read.
    pub fn freeze_is_asked(&self) -> Result<bool, Error> {
        let file = self.directory.join(match self.version {
            Version::V1 => "freezer.self_freezing",
            Version::V2 => "cgroup.freeze",
        });
        let text = read(&file)?;
        match text.trim_ascii() {
            b"0" => Ok(false),
            b"1" => Ok(true),
            _ => Err(strange(file, &text)),
        }
    }

    /// Asks for the freeze, and does not wait for it.
    ///
    /// # Errors
    /// If the cgroup cannot be written.
    pub fn begin_freeze(&self) -> Result<(), Error> {
        self.ask(true)
    }

    /// Asks for the freeze and waits until every task has stopped. When they do not by the
    /// deadline, the cgroup is thawed again.
    ///
    /// # Errors
    /// If the cgroup cannot be written, or its tasks do not stop in time.
    pub fn freeze(&self, within: Duration) -> Result<(), Error> {
        self.ask(true)?;
        let frozen = self.wait_frozen(within);
        if frozen.is_err() {
            self.thaw()?;
        }
        frozen
    }

    /// Lets the tasks run.
    ///
    /// # Errors
    /// If the cgroup cannot be written.
    pub fn thaw(&self) -> Result<(), Error> {
        self.ask(false)
    }

    /// What a person types to let the tasks run.
    #[must_use]
    pub fn thaw_command(&self) -> String {
        let (path, value) = self.switch(false);
        format!("echo {value} > {}", path.display())
    }

    fn switch(&self, freeze: bool) -> (PathBuf, &'static str) {
        let (file, value) = match (self.version, freeze) {
            (Version::V1, true) => ("freezer.state", "FROZEN"),
            (Version::V1, false) => ("freezer.state", "THAWED"),
            (Version::V2, true) => ("cgroup.freeze", "1"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
        };
        (self.directory.join(file), value)
    }

    fn ask(&self, freeze: bool) -> Result<(), Error> {
        let (path, value) = self.switch(freeze);
        fs::write(&path, value).map_err(|source| Error::Write { path, value, source })
    }

    fn wait_frozen(&self, within: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        let timeout = || Error::Timeout { path: self.directory.clone(), waited: within };
        match self.version {
            Version::V1 => self.wait_v1(deadline)?,
            Version::V2 => self.wait_v2(deadline)?,
        }
        .then_some(())
        .ok_or_else(timeout)
    }

    fn wait_v2(&self, deadline: Instant) -> Result<bool, Error> {
        let path = self.directory.join("cgroup.events");
        let file =
            File::open(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let mut text = [0; 256];
        loop {
            let length = file
                .read_at(&mut text, 0)
                .map_err(|source| Error::Read { path: path.clone(), source })?;
            match parse::frozen_event(&text[..length]) {
                Some(true) => return Ok(true),
                Some(false) => {}
                None => return Err(strange(path, &text[..length])),
            }
            if !wait_event(&file, &path, deadline)? {
                return Ok(false);
            }
        }
    }

    fn wait_v1(&self, deadline: Instant) -> Result<bool, Error> {
        let path = self.directory.join("freezer.state");
        let mut pause = Duration::from_micros(20);
        loop {
            let text = read(&path)?;
            match text.trim_ascii() {
                b"FROZEN" => return Ok(true),
                b"FREEZING" => {}
                _ => return Err(strange(path, &text)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }
}

/// Waits for the next event of a cgroup file; false when the deadline came first.
fn wait_event(file: &File, path: &Path, deadline: Instant) -> Result<bool, Error> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(false);
    }
    // Rounded up: a wait of 0 ms would spin through the last millisecond.
    let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], left) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(true),
        Err(errno) => Err(Error::Wait { path: path.to_owned(), source: errno.into() }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn strange(path: PathBuf, text: &[u8]) -> Error {
    let beginning = &text[..text.len().min(80)];
    Error::Strange { path, text: String::from_utf8_lossy(beginning).into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_machine_has_both() {
        let text = b"25 1 0:22 / /sys/fs/cgroup ro shared:8 - tmpfs tmpfs rw,mode=755\n\
            26 25 0:23 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n\
            27 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            28 25 0:25 /box/a\\040b /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n";
        let found = Hierarchies::among(&Mounts::parse(text).unwrap());
        let mount =
            |root: &str, point: &str| Some(Mount { root: root.into(), point: point.into() });
        assert_eq!(found.unified, mount("/", "/sys/fs/cgroup/unified"));
        assert_eq!(found.freezer, mount("/box/a b", "/sys/fs/cgroup/freezer"));
        let name = |name| found.named(Version::V1, name).map(|cgroup| cgroup.directory);
        assert_eq!(name("/box/a b/c").unwrap(), Path::new("/sys/fs/cgroup/freezer/c"));
        for bad in ["/box/a b", "/other", "c", "/box/a b/../c", ""] {
            assert!(matches!(name(bad), Err(Error::Name(_))), "{bad}");
        }
    }
}

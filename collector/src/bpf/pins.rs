//! The programs as they are left in the BPF file system for the next command.
//!
//! Below one root, that only root can look into, there is a folder for each version of the programs,
//! named by it, so that no version uses another one's. A folder is made under another name and renamed
//! when all is in it: it is there whole or not at all. Whoever changes anything below the root holds a
//! lock on it, which ends with the process that has it; what is left under another name by one that was
//! killed goes when the next one has the lock. Programs that are attached to nothing cost nothing, so the
//! folders stay, until the machine is started anew or somebody removes them.
//!
//! A collector's service pins, beside the programs, what keeps them attached for its tracks. It holds a
//! second lock for as long as it lives; what is attached with nobody holding that lock is taken away.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kernel::bpf::{object_get, object_pin};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, fstatfs, statfs};

use super::BpfError;
use super::object::{CountingObjects, Objects, VERSION};
use super::programs::{ITERATORS, MAPS, PROGRAMS};

/// Where the BPF file system is, by custom.
const BPF_FS: &str = "/sys/fs/bpf";

/// Where programs are pinned unless another folder is named.
pub const PIN_ROOT: &str = "/sys/fs/bpf/stasis";

/// Whoever has this folder's lock keeps tracks. (Names with dots are not for us in this file system.)
const KEEPER: &str = "keeper";

/// In a set that can count nothing; the others have all that counts.
const WITHOUT_COUNTS: &str = "without_counts";

/// What the names of sets in the making start with.
const UNFINISHED: &str = "new-";

/// How long a command waits for another that makes the programs ready.
const PATIENCE: Duration = Duration::from_secs(3);

/// The root of all that is pinned.
#[derive(Debug)]
pub(super) struct Pins {
    path: PathBuf,
    folder: OwnedFd,
}

/// The right to change what is below a root, or to keep tracks by what is in it.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "it is held")] Flock<File>);

/// What is pinned of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PinnedSet {
    pub(super) name: String,
    pub(super) is_own: bool,
}

impl Pins {
    /// Opens the root, if it is there.
    pub(super) fn open(path: &Path) -> Result<Self, BpfError> {
        let failed = |source| BpfError::PinFolder { path: path.into(), source };
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let folder =
            OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
        let found = folder.metadata().map_err(failed)?;
        // Whoever can change what is in there has a say in what is found of others' processes.
        if found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o077 != 0 {
            return Err(BpfError::PinsForeign { path: path.into(), owner: found.uid() });
        }
        let system = fstatfs(&folder).map_err(|errno| failed(errno.into()))?;
        if system.filesystem_type() != BPF_FS_MAGIC {
            return Err(BpfError::NoBpfFs(path.into()));
        }
        Ok(Self { path: path.into(), folder: folder.into() })
    }

    /// Opens the root, which it makes where there is none.
    pub(super) fn make(path: &Path) -> Result<Self, BpfError> {
        mount_bpf_fs(path)?;
        let failed = |source| BpfError::PinFolder { path: path.into(), source };
        let is_bpf =
            |parent| statfs(parent).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
        if !path.parent().is_some_and(is_bpf) {
            return Err(BpfError::NoBpfFs(path.into()));
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed(error)),
            _ => Self::open(path),
        }
    }

    /// Something below the root that was opened, whatever its path names by now.
    fn at(&self, name: &str) -> PathBuf {
        inside(&self.folder, name)
    }

    fn failed(&self) -> impl Fn(Error) -> BpfError {
        |source| BpfError::PinFolder { path: self.path.clone(), source }
    }

    /// Takes the right to change what is below, if somebody else has it as soon as it is free.
    pub(super) fn lock(&self) -> Result<Lock, BpfError> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.try_lock(".")? {
                Some(lock) => return Ok(lock),
                None if Instant::now() > end => return Err(BpfError::PinsBusy(self.path.clone())),
                // The kernel has no way to wait for a lock and a time at once.
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn try_lock(&self, name: &str) -> Result<Option<Lock>, BpfError> {
        let folder = File::open(self.at(name)).map_err(self.failed())?;
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Lock(lock))),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(self.failed()(errno.into())),
        }
    }

    /// Takes the right to keep tracks, and takes away what another one has left that had it; `None` if
    /// another one has it.
    pub(super) fn keep(&self, _lock: &Lock) -> Result<Option<Lock>, BpfError> {
        match DirBuilder::new().mode(0o700).create(self.at(KEEPER)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(self.failed()(error));
            }
            _ => {}
        }
        self.try_lock(KEEPER)
    }

    /// Whether somebody keeps tracks.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self.try_lock(KEEPER), Ok(None))
    }

    /// The programs that are there for this version, with their folder.
    pub(super) fn find(&self) -> Result<(Objects, OwnedFd), BpfError> {
        let path = self.path.join(VERSION);
        let failed = |source| BpfError::PinFolder { path: path.clone(), source };
        // All of one folder, also if another one takes its place meanwhile.
        let folder = OwnedFd::from(File::open(self.at(VERSION)).map_err(failed)?);
        let open = |name: &str| {
            let pin = || path.join(name);
            object_get(&inside(&folder, name))
                .map_err(|source| BpfError::Pinned { path: pin(), source })
        };
        let (iterators, counting) = PROGRAMS.split_at(ITERATORS);
        let iterators = iterators.iter().map(|program| open(program.name));
        let iterators = iterators.collect::<Result<Vec<_>, _>>()?.try_into();
        let counting = if inside(&folder, WITHOUT_COUNTS).exists() {
            None
        } else {
            let programs = counting.iter().map(|program| open(program.name));
            let programs = programs.collect::<Result<_, _>>()?;
            Some(CountingObjects {
                programs,
                maps: MAPS.iter().map(|name| open(name)).collect::<Result<_, _>>()?,
            })
        };
        let iterators = iterators.map_err(|_| BpfError::Missing(PROGRAMS[0].name))?;
        Ok((Objects { iterators, counting }, folder))
    }

    /// Pins programs in place of what is there of this version, and removes what others have left
    /// unfinished. Returns their folder.
    pub(super) fn put(&self, _lock: &Lock, objects: &Objects) -> Result<OwnedFd, BpfError> {
        for name in self.names()? {
            if name.starts_with(UNFINISHED) {
                self.remove(&name)?;
            }
        }
        let new = format!("{UNFINISHED}{}", std::process::id());
        let put = || {
            DirBuilder::new().mode(0o700).create(self.at(&new)).map_err(self.failed())?;
            let folder = OwnedFd::from(File::open(self.at(&new)).map_err(self.failed())?);
            pin_all(&folder, objects)?;
            // Of another size, or without all that belongs there.
            if self.at(VERSION).exists() {
                let old = format!("{UNFINISHED}old");
                fs::rename(self.at(VERSION), self.at(&old)).map_err(self.failed())?;
            }
            fs::rename(self.at(&new), self.at(VERSION)).map_err(self.failed())?;
            Ok(folder)
        };
        let done = put();
        for name in self.names()? {
            if name.starts_with(UNFINISHED) {
                self.remove(&name)?;
            }
        }
        done
    }

    fn names(&self) -> Result<Vec<String>, BpfError> {
        let entries = fs::read_dir(self.at(".")).map_err(self.failed())?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.collect())
    }

    fn remove(&self, name: &str) -> Result<(), BpfError> {
        match fs::remove_dir_all(self.at(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.failed()(error)),
            _ => Ok(()),
        }
    }

    /// The sets that are there.
    pub(super) fn list(&self) -> Result<Vec<PinnedSet>, BpfError> {
        let mut names = self.names()?;
        names.retain(|name| is_set(name));
        names.sort();
        let sets = names.into_iter().map(|name| PinnedSet { is_own: name == VERSION, name });
        Ok(sets.collect())
    }

    /// Removes all sets, of every version, and the root itself; what looks like something else is
    /// somebody else's. Returns how many there were. Processes that use them go on to do so.
    pub(super) fn clear(self) -> Result<usize, BpfError> {
        let lock = self.lock()?;
        if self.is_kept() {
            return Err(BpfError::PinsKept(self.path));
        }
        let mut count = 0;
        for name in self.names()? {
            if is_set(&name) || name == KEEPER || name.starts_with(UNFINISHED) {
                self.remove(&name)?;
                count += usize::from(is_set(&name));
            }
        }
        // Nobody who waits for the lock finds it here any more; there may be more in it.
        fs::remove_dir(&self.path).ok();
        drop(lock);
        Ok(count)
    }
}

/// Something in a folder that is open.
pub(super) fn inside(folder: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

fn is_set(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn pin_all(folder: &OwnedFd, objects: &Objects) -> Result<(), BpfError> {
    let pin = |name: &'static str, object: &OwnedFd| {
        object_pin(object.as_fd(), &inside(folder, name))
            .map_err(|source| BpfError::Pin { name, source })
    };
    let (iterators, counting) = PROGRAMS.split_at(ITERATORS);
    for (program, object) in iterators.iter().zip(&objects.iterators) {
        pin(program.name, object)?;
    }
    let Some(counts) = &objects.counting else {
        return DirBuilder::new()
            .mode(0o700)
            .create(inside(folder, WITHOUT_COUNTS))
            .map_err(|source| BpfError::PinFolder { path: WITHOUT_COUNTS.into(), source });
    };
    for (program, object) in counting.iter().zip(&counts.programs) {
        pin(program.name, object)?;
    }
    for (name, object) in MAPS.into_iter().zip(&counts.maps) {
        pin(name, object)?;
    }
    Ok(())
}

/// Has the BPF file system where it is by custom, if that is where the root is to be: as `ip`, `tc` and
/// `bpftool` do where nobody has mounted it at the machine's start.
fn mount_bpf_fs(root: &Path) -> Result<(), BpfError> {
    let is_there = || statfs(BPF_FS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if !root.starts_with(BPF_FS) || is_there() {
        return Ok(());
    }
    let failed = |source| BpfError::Mount { path: BPF_FS, source };
    // Of two who mount it at once, the second would hide what the first has pinned. Anybody may lock this
    // folder: so nobody waits long for it.
    let folder = File::open(BPF_FS)
        .map_err(|error| failed(nix::Error::from_raw(error.raw_os_error().unwrap_or(libc::EIO))))?;
    let end = Instant::now() + PATIENCE / 10;
    let mut folder = Flock::lock(folder, FlockArg::LockExclusiveNonblock);
    while let Err((unlocked, nix::Error::EWOULDBLOCK)) = folder {
        if Instant::now() > end {
            return Err(failed(nix::Error::EBUSY));
        }
        std::thread::sleep(Duration::from_millis(2));
        folder = Flock::lock(unlocked, FlockArg::LockExclusiveNonblock);
    }
    let _folder = folder.map_err(|(_, errno)| failed(errno))?;
    if is_there() {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), BPF_FS, Some("bpf"), flags, Some("mode=0700")).map_err(failed)
}

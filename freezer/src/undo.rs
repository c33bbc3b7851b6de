//! What would outlive whoever did it, and how it is undone.
//!
//! Most of what is done to a target ends with its doer: the kernel lets go of what a tracer holds. What the
//! kernel would keep is a [`Deed`]. It is written down, synced, before it is done ([`Undo::before`]), one file
//! a deed in `RUN_DIR/undo`, and undone when the [`Undo`] is dropped, on every path. If its doer is
//! killed, whatever stasis starts next undoes it ([`undo_left`]).
//!
//! The doer holds a lock on the file (flock(2)), which goes with it, however it ends, and with the programs that it has
//! started to do the deed; whoever undoes takes the lock first and removes the file last. So a deed of a living process is left alone, and nothing is
//! undone twice. A file of another boot is removed: what it tells of ended with that.
//!
//! A new kind of deed is a value of [`Deed`] that names its object by what cannot come to mean another
//! one, and its two arms below. What several deeds make is a list of `Undo`, the last one dropped first.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ids::HostPid;
use kernel::boot::boot;
use kernel::cgroup::{Cgroup, Version};
use kernel::procfs::{Dir, Namespaces, ProcFile, Stat};
use kernel::sysv::is_gone;
use kernel::sysv::segments::{self, Segment};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;
use crate::connections::{LockedNetwork, RepairedSocket};
use crate::link_remaps::LinkRemap;

/// The folder in which deeds are written down, in the one of what is known at run time.
pub const UNDO: &str = "undo";

/// Something done that the kernel keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// A control group is frozen that nobody had frozen before.
    FrozenCgroup {
        /// Of the hierarchy: 1 or 2.
        version: u8,
        /// Its directory.
        directory: PathBuf,
        /// The number of that, which no group made later has.
        inode: u64,
    },
    /// A control group is thawed for a while that somebody else has frozen.
    ThawedCgroup {
        /// Of the hierarchy: 1 or 2.
        version: u8,
        /// Its directory.
        directory: PathBuf,
        /// The number of that.
        inode: u64,
    },
    /// What comes for connections, and goes from them, is dropped.
    LockedNetwork(LockedNetwork),
    /// A file that has lost its name has another one, by which a restore finds it.
    LinkRemap(LinkRemap),
    /// Sockets of a target are in repair mode (`TCP_REPAIR`), or may be.
    RepairedSockets {
        /// Which.
        sockets: Vec<RepairedSocket>,
    },
    /// A control group has been made for a tree that is being restored. (It is written down when its number is known. Who is killed before
    /// that leaves a group with nobody in it.)
    MadeCgroup {
        /// Its directory.
        directory: PathBuf,
        /// The number of that, which no group made later has.
        inode: u64,
    },
    /// A System V shared memory segment is made for a tree that is being restored.
    MadeSegment {
        /// Its id.
        id: i32,
        /// The process that makes it, which the kernel tells of the segment.
        maker: i32,
        /// The kernel's number of its IPC namespace.
        namespace: u64,
    },
}

impl Deed {
    /// The freeze of a control group.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn freeze_of(cgroup: &Cgroup) -> Result<Self, Error> {
        let (version, directory, inode) = identity(cgroup)?;
        Ok(Self::FrozenCgroup { version, directory, inode })
    }

    /// The thaw of a control group that is frozen.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn thaw_of(cgroup: &Cgroup) -> Result<Self, Error> {
        let (version, directory, inode) = identity(cgroup)?;
        Ok(Self::ThawedCgroup { version, directory, inode })
    }

    /// Undoes it, if what it was done to is still there; whether it is.
    ///
    /// # Errors
    /// Also where that cannot be seen from here: what is not seen may be frozen all the same.
    fn undo(&self) -> Result<bool, Error> {
        let (version, directory, inode) = match self {
            Self::FrozenCgroup { version, directory, inode }
            | Self::ThawedCgroup { version, directory, inode } => (version, directory, inode),
            Self::LockedNetwork(lock) => return lock.undo(),
            Self::MadeCgroup { directory, inode } => return remove_cgroup(directory, *inode),
            Self::MadeSegment { id, maker, namespace } => {
                return remove_segment(*id, *maker, *namespace);
            }
            Self::LinkRemap(link) => {
                let failed = |source| Error::Locked { what: link.to_string(), source };
                return link.undo().map_err(failed);
            }
            Self::RepairedSockets { sockets } => {
                let what = || "repair mode of TCP connections".to_owned();
                let failed = |source| Error::Locked { what: what(), source };
                let mut found = false;
                for socket in sockets {
                    found |= socket.undo().map_err(failed)?;
                }
                return Ok(found);
            }
        };
        if !is_there(directory, *inode).map_err(|source| Error::Undo {
            operation: "look at",
            path: directory.clone(),
            source,
        })? {
            return Ok(false);
        }
        let version = if *version == 1 { Version::V1 } else { Version::V2 };
        let cgroup = Cgroup::at(version, directory.clone());
        match self {
            Self::ThawedCgroup { .. } => cgroup.begin_freeze()?,
            _ => cgroup.thaw()?,
        }
        Ok(true)
    }
}

/// Version, directory and number of a control group.
fn identity(cgroup: &Cgroup) -> Result<(u8, PathBuf, u64), Error> {
    let directory = cgroup.directory().to_owned();
    let version = match cgroup.version() {
        Version::V1 => 1,
        Version::V2 => 2,
    };
    match directory.metadata() {
        Ok(metadata) => Ok((version, directory, metadata.ino())),
        Err(source) => Err(Error::Undo { operation: "look at", path: directory, source }),
    }
}

/// Removes a control group; whether it was there. It stays if somebody is in it who does not end, or has made one below it: then it is theirs.
fn remove_cgroup(directory: &Path, inode: u64) -> Result<bool, Error> {
    /// Tasks that were killed are in their groups until they have ended.
    const PATIENCE: Duration = Duration::from_secs(1);
    const STEP: Duration = Duration::from_millis(2);
    let until = Instant::now() + PATIENCE;
    loop {
        // Where nothing can be seen any more, as what was mounted there is not, a group with nobody in it does no harm.
        match is_there(directory, inode) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => {
                let path = directory.to_owned();
                return Err(Error::Undo { operation: "look at", path, source });
            }
        }
        match std::fs::remove_dir(directory) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                if Instant::now() > until {
                    return Ok(false);
                }
                std::thread::sleep(STEP);
            }
            Err(source) => {
                let path = directory.to_owned();
                return Err(Error::Undo { operation: "remove", path, source });
            }
        }
    }
}

/// Removes a segment, unless a tree lives that has it; whether it was there.
fn remove_segment(id: i32, maker: i32, namespace: u64) -> Result<bool, Error> {
    let what = || format!("shared memory segment {id}");
    let own = Dir::open(HostPid::own()).and_then(|dir| Namespaces::read(&dir));
    if own.is_ok_and(|own| own.0.get("ipc") != Some(&namespace)) {
        return Ok(false);
    }
    match Segment::read(id) {
        Ok(found) if found.creator == maker && found.attached == 0 => segments::remove(id)
            .map(|()| true)
            .map_err(|source| Error::Locked { what: what(), source }),
        Ok(_) => Ok(false),
        Err(error) if is_gone(&error) => Ok(false),
        Err(source) => Err(Error::Locked { what: what(), source }),
    }
}

/// Whether a directory of control groups is the one with this number. That it is not is believed only
/// of a file system of control groups: in another mount namespace there may be anything, or nothing.
fn is_there(directory: &Path, inode: u64) -> io::Result<bool> {
    let found = match directory.metadata() {
        Ok(metadata) => Some(metadata.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let nearest = directory.ancestors().find(|place| found.is_some() || place.exists());
    let system = statfs(nearest.unwrap_or(directory))?.filesystem_type();
    if ![CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC].contains(&system) {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no control groups are mounted there, as they were when it was frozen",
        ));
    }
    Ok(found == Some(inode))
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrozenCgroup { directory, .. } => {
                write!(f, "freeze of control group {}", directory.display())
            }
            Self::ThawedCgroup { directory, .. } => {
                write!(f, "thaw of control group {}", directory.display())
            }
            Self::MadeCgroup { directory, .. } => {
                write!(f, "making of control group {}", directory.display())
            }
            Self::LockedNetwork(lock) => write!(f, "{lock}"),
            Self::MadeSegment { id, .. } => write!(f, "making of shared memory segment {id}"),
            Self::LinkRemap(link) => write!(f, "{link}"),
            Self::RepairedSockets { sockets } => {
                write!(f, "repair mode of TCP connections ({} looked at)", sockets.len())
            }
        }
    }
}

/// What a file says.
#[derive(Debug, Serialize, Deserialize)]
struct Record<D> {
    /// Of the machine; `None` where the kernel does not tell.
    boot: Option<u64>,
    /// Who did it, for people.
    pid: HostPid,
    deed: D,
}

/// A deed that is written down; dropping it undoes it.
#[derive(Debug)]
pub struct Undo {
    /// `None` when it is to stay.
    deed: Option<Deed>,
    path: PathBuf,
    /// Held for as long as the deed is ours.
    lock: Flock<File>,
}

/// Who does the deed for this process has it open: until that has ended nobody undoes it, even if this process is killed.
impl AsFd for Undo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

impl Undo {
    /// Writes down, in the folder `place`, what is about to be done.
    ///
    /// # Errors
    /// If it cannot be written: then it must not be done.
    pub fn before(place: &Path, deed: Deed) -> Result<Self, Error> {
        let failed = |source| Error::Undo { operation: "write", path: place.to_owned(), source };
        let record = Record { boot: boot(), pid: HostPid::own(), deed: &deed };
        let text = serde_json::to_vec(&record).map_err(|error| failed(error.into()))?;
        let (path, lock) = create(place).map_err(failed)?;
        let written = (&*lock)
            .write_all(&text)
            .and_then(|()| lock.sync_all())
            .and_then(|()| File::open(place)?.sync_all());
        if let Err(source) = written {
            // Nothing has been done yet.
            remove(&path);
            return Err(failed(source));
        }
        Ok(Self { deed: Some(deed), path, lock })
    }

    /// What was done is to stay: nobody undoes it.
    pub fn keep(mut self) {
        self.deed = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let Some(deed) = &self.deed else { return remove(&self.path) };
        match deed.undo() {
            Ok(_) => remove(&self.path),
            // Whoever starts next tries again.
            Err(error) => tracing::error!("undo the {deed}: {}", chain(&error)),
        }
    }
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("remove {}: {error}", path.display());
        }
        _ => {}
    }
}

/// Makes a file that nobody else undoes by.
fn create(place: &Path) -> io::Result<(PathBuf, Flock<File>)> {
    DirBuilder::new().recursive(true).mode(0o700).create(place)?;
    let mut number = 0u32;
    loop {
        let path = place.join(format!("{}-{number}.json", HostPid::own()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                let lock =
                    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
                // Somebody may have found it empty, and taken it away, before it was locked.
                if lock.metadata()?.nlink() > 0 {
                    return Ok((path, lock));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Undoes what others, which were killed, have left done and written down in the folder `place`. Every
/// command and service begins with it. Returns what was undone; all else is in the log.
pub fn undo_left(place: &Path) -> Vec<Deed> {
    let mut undone = Vec::new();
    for path in left(place) {
        match undo_file(&path) {
            Ok(Some((pid, deed))) => {
                tracing::warn!("undid the {deed}, left by process {pid}, which was killed");
                undone.push(deed);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!("{}", chain(&error)),
        }
    }
    undone
}

/// The files of a folder that nobody but us may write to, of each process the newest first.
fn left(place: &Path) -> Vec<PathBuf> {
    let ours = |metadata: &std::fs::Metadata| {
        metadata.is_dir()
            && metadata.uid() == nix::unistd::geteuid().as_raw()
            && metadata.mode() & 0o022 == 0
    };
    if !place.symlink_metadata().is_ok_and(|metadata| ours(&metadata)) {
        return Vec::new();
    }
    let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| number(&entry.path()).map(|number| (number, entry.path())))
        .collect();
    files.sort();
    files.into_iter().rev().map(|(_, path)| path).collect()
}

/// The writer of a file, and which of its files that is.
fn number(path: &Path) -> Option<(HostPid, u32)> {
    let (pid, number) = path.file_name()?.to_str()?.strip_suffix(".json")?.split_once('-')?;
    Some((pid.parse().ok()?, number.parse().ok()?))
}

/// Undoes what a file tells of, if its writer is gone: who that was, and what.
fn undo_file(path: &Path) -> Result<Option<(HostPid, Deed)>, Error> {
    /// More than any file has.
    const LONGEST: u64 = 16 << 20;
    let failed = |operation| {
        move |source: io::Error| Error::Undo { operation, path: path.to_owned(), source }
    };
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed("open"))?,
    };
    let Some(lock) = lock_left(file, path).map_err(failed("lock"))? else { return Ok(None) };
    if lock.metadata().map_err(failed("look at"))?.nlink() == 0 {
        return Ok(None);
    }
    let mut text = Vec::new();
    (&*lock).take(LONGEST).read_to_end(&mut text).map_err(failed("read"))?;
    // One that was not written to its end is of a deed that was not done.
    let record: Option<Record<Value>> = serde_json::from_slice(&text).ok();
    let Some(Record { pid, deed, .. }) = record.filter(|record| record.boot == boot()) else {
        remove(path);
        return Ok(None);
    };
    let deed: Deed = serde_json::from_value(deed)
        .map_err(|error| failed("understand, as this version cannot,")(error.into()))?;
    let done = deed.undo()?;
    remove(path);
    Ok(done.then_some((pid, deed)))
}

/// Locks a file; `None` if its writer lives, or somebody else is at it. Who did the deed for a writer that was killed is
/// waited for.
fn lock_left(mut file: File, path: &Path) -> io::Result<Option<Flock<File>>> {
    /// Programs that lock a network take milliseconds.
    const PATIENCE: Duration = Duration::from_secs(5);
    const STEP: Duration = Duration::from_millis(2);
    let until = Instant::now() + PATIENCE;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((file, nix::Error::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(errno.into()),
        };
        let writer = number(path).map(|(writer, _)| writer);
        if writer.is_none_or(lives) {
            return Ok(None);
        }
        if Instant::now() > until {
            let path = path.display();
            tracing::warn!(
                "{path} is still in use {PATIENCE:?} after its writer has ended: it is left to the next command"
            );
            return Ok(None);
        }
        std::thread::sleep(STEP);
    }
}

fn lives(pid: HostPid) -> bool {
    Dir::open(pid).and_then(|dir| Stat::read(&dir)).is_ok_and(|stat| !stat.is_dead())
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use kernel::descriptors::inherit;

    use super::*;

    /// Of a group that is not there.
    fn deed() -> Deed {
        let all = kernel::cgroup::Hierarchies::find().unwrap();
        let mounted = all.unified().or_else(|| all.freezer()).expect("control groups");
        let directory = mounted.join("stasis-no-such-group/below");
        Deed::FrozenCgroup { version: 2, directory, inode: 1 }
    }

    #[test]
    fn what_cannot_be_seen_from_here_is_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().join("undo");
        let elsewhere = scratch.path().join("group");
        let inode = scratch.path().metadata().unwrap().ino();
        for directory in [elsewhere.clone(), elsewhere.join("below"), scratch.path().to_owned()] {
            for inode in [inode, 1] {
                let deed = Deed::FrozenCgroup { version: 2, directory: directory.clone(), inode };
                drop(Undo::before(&place, deed).unwrap());
                let kept = left(&place);
                assert_eq!(kept.len(), 1, "{directory:?}");
                assert_eq!(undo_left(&place), []);
                assert_eq!(left(&place), kept, "{directory:?}");
                std::fs::remove_file(&kept[0]).unwrap();
            }
        }
    }

    #[test]
    fn who_does_a_deed_for_one_that_was_killed_is_waited_for() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().join("undo");
        std::fs::create_dir(&place).unwrap();
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let pid = ended.id();
        ended.wait().unwrap();
        let left_open = place.join(format!("{pid}-1.json"));
        let file = File::create(&left_open).unwrap();
        file.lock().unwrap();
        let mut does = std::process::Command::new("sleep");
        inherit(does.arg("0.2"), file.as_fd());
        let started = Instant::now();
        let mut does = does.spawn().unwrap();
        drop(file);
        undo_left(&place);
        assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
        assert_eq!(left(&place), [] as [PathBuf; 0]);
        does.wait().unwrap();
    }

    #[test]
    fn a_deed_is_written_before_it_is_done_and_left_alone_while_its_doer_lives() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().join("undo");
        assert_eq!(undo_left(&place), []);
        let undo = Undo::before(&place, deed()).unwrap();
        let second = Undo::before(&place, deed()).unwrap();
        assert_eq!(left(&place), [second.path.clone(), undo.path.clone()]);
        let text = std::fs::read(&undo.path).unwrap();
        let record: Record<Deed> = serde_json::from_slice(&text).unwrap();
        assert_eq!((record.boot, record.pid, record.deed), (boot(), HostPid::own(), deed()));
        assert_eq!(undo_left(&place), []);
        assert!(undo.path.exists());
        drop((undo, second));
        assert_eq!(left(&place), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn what_was_not_written_whole_and_what_another_boot_has_left_goes_unread() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path();
        let write = |name: &str, text: &str| std::fs::write(place.join(name), text).unwrap();
        let deed = serde_json::to_string(&deed()).unwrap();
        write("1-0.json", "");
        write("1-1.json", &format!("{{\"boot\":1,\"pid\":1,\"deed\":{deed}"));
        write("1-2.json", &format!("{{\"boot\":1,\"pid\":1,\"deed\":{deed}}}"));
        let own = serde_json::to_string(&boot()).unwrap();
        write("1-3.json", &format!("{{\"boot\":{own},\"pid\":1,\"deed\":{{\"of_later\":1}}}}"));
        write("else", "");
        assert_eq!(undo_left(place), []);
        let mut names: Vec<_> =
            std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["1-3.json", "else"], "what is not understood is kept");
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path();
        std::fs::write(place.join("1-0.json"), "").unwrap();
        assert_eq!(left(place).len(), 1);
        std::fs::set_permissions(place, PermissionsExt::from_mode(0o777)).unwrap();
        assert_eq!(left(place).len(), 0);
    }
}

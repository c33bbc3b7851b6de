//! Logging that goes on between two dumps.
//!
//! A userfaultfd ends with its last descriptor. So a dump that lets logging go on starts a
//! *uffd holder*: a process that holds the descriptors, says in a file which they are and to which
//! checkpoint what they tell is relative, and ends when the processes have ended. The next dump
//! takes the descriptors over by pidfd_getfd(2), for which the kernel asks for the same right as to
//! trace the holder, and ends it. From then on they are that dump's alone: if it fails, logging
//! is over, and the next one takes all pages. So there is never logging that is relative to
//! a checkpoint that does not exist.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ids::HostPid;
use kernel::descriptors::close_range;
use kernel::pidfd::PidFd;
use kernel::procfs::{Dir, ProcFile, Stat};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

/// The word by which the program of [`DumpOptions::uffd_holder`] is to begin a holder's life ([`keep`]),
/// with two words behind it.
///
/// [`DumpOptions::uffd_holder`]: crate::DumpOptions::uffd_holder
pub const KEEP: &str = "hold-uffds";

/// How long a holder may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a holder is told, and says to who looks for it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Holding {
    /// The holder, once it is there.
    uffd_holder: Option<Process>,
    /// The checkpoint to which the logging is relative ([`images::messages::InventoryEntry`]'s
    /// `dump_criu_run_id`).
    base: String,
    /// The logged processes, and the holder's descriptors.
    held: Vec<(Process, i32)>,
}

/// A process that cannot be taken for a later one of the same number.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Process {
    pid: HostPid,
    /// Clock ticks after the machine started.
    start_time: u64,
}

impl Process {
    fn of(pid: HostPid) -> Option<Self> {
        let stat = Dir::open(pid).and_then(|dir| Stat::read(&dir)).ok()?;
        (!stat.is_dead()).then_some(Self { pid, start_time: stat.start_time })
    }

    fn is_there(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// What was taken over from a holder.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) base: String,
    pub(super) fds: BTreeMap<HostPid, OwnedFd>,
}

/// The file of a holder. Numbers of processes are those of a pid namespace, and several may see one directory.
fn file_of(dirty_logs: &Path, root: HostPid) -> PathBuf {
    let namespace = kernel::namespaces::own("pid").and_then(kernel::namespaces::id);
    dirty_logs.join(format!("{}-{root}.json", namespace.unwrap_or_default()))
}

fn read(file: &Path) -> Option<Holding> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// Whether the tree below `root` has a holder that holds something.
pub(super) fn is_there(dirty_logs: &Path, root: HostPid) -> bool {
    read(&file_of(dirty_logs, root)).is_some_and(|holding| {
        holding.uffd_holder.is_some_and(Process::is_there)
            && holding.held.iter().any(|(process, _)| process.is_there())
    })
}

/// Takes the logging of the tree below `root` over from its holder, if it has one.
pub(super) fn take(dirty_logs: &Path, root: HostPid) -> Option<Taken> {
    let file = file_of(dirty_logs, root);
    let holding = read(&file)?;
    // A holder that is gone has left nothing; neither has one of another process of this number.
    let uffd_holder = holding
        .uffd_holder
        .and_then(|holder| PidFd::open(holder.pid).ok().filter(|_| holder.is_there()));
    let fds = uffd_holder.as_ref().map(|uffd_holder| {
        let living = holding.held.iter().filter(|(process, _)| process.is_there());
        living.filter_map(|&(process, fd)| Some((process.pid, uffd_holder.get(fd).ok()?))).collect()
    });
    if let Some(uffd_holder) = &uffd_holder {
        end(uffd_holder);
    }
    if let Err(error) = fs::remove_file(&file) {
        tracing::debug!(%error, "the holder's file");
    }
    let fds: BTreeMap<HostPid, OwnedFd> = fds?;
    (!fds.is_empty()).then_some(Taken { base: holding.base, fds })
}

/// Ends a holder, and waits until it has.
fn end(uffd_holder: &PidFd) {
    // It can only fail because the holder is gone.
    let _gone = uffd_holder.signal(libc::SIGKILL);
    let mut ended = [PollFd::new(uffd_holder.as_fd(), PollFlags::POLLIN)];
    if let Err(error) = poll(&mut ended, PollTimeout::from(1000u16)) {
        tracing::debug!(%error, "wait for the holder's end");
    }
}

/// Starts a holder for the tree below `root`. `program` is what to run: a `stasis`.
pub(super) fn start(
    program: &Path,
    dirty_logs: &Path,
    root: HostPid,
    base: &str,
    fds: &BTreeMap<HostPid, OwnedFd>,
) -> io::Result<()> {
    if let Some(run_dir) = dirty_logs.parent() {
        fs::create_dir_all(run_dir)?;
    }
    // Who may write here says what a dump believes.
    DirBuilder::new().recursive(true).mode(0o700).create(dirty_logs)?;
    let mut held = Vec::new();
    for (&pid, fd) in fds {
        // The holder is to inherit it.
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        held.extend(Process::of(pid).map(|process| (process, fd.as_raw_fd())));
    }
    let holding = Holding { uffd_holder: None, base: base.to_owned(), held };
    let file = file_of(dirty_logs, root);
    let mut uffd_holder = Command::new(program)
        .arg0("stasis")
        .arg(KEEP)
        .arg(&file)
        .arg(serde_json::to_string(&holding)?)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .spawn()?;
    let since = Instant::now();
    while !file.exists() {
        if uffd_holder.try_wait()?.is_some() || since.elapsed() > PATIENCE {
            uffd_holder.kill()?;
            return Err(io::Error::other("the holder did not start"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // Who lives on, as a service does, takes it away when it has ended. (Without the thread it would be a zombie until then.)
    let waiting = std::thread::Builder::new().name("holder".to_owned());
    drop(waiting.spawn(move || drop(uffd_holder.wait())));
    Ok(())
}

/// The whole life of a holder: says in `file` what it holds, and waits for the end of those that are
/// logged.
///
/// # Errors
/// When the file cannot be written, or `holding` is not what [`start`] makes of it.
pub fn keep(file: &Path, holding: &str) -> io::Result<()> {
    let mut holding: Holding = serde_json::from_str(holding)?;
    // Its own session: what happens to the terminal of whoever dumped is nothing to it.
    nix::unistd::setsid()?;
    // Nor are the descriptors that it was started with: who waits for the end of such a pipe, or for a
    // lock, would wait as long as this runs.
    close_others(&holding)?;
    holding.uffd_holder = Process::of(HostPid::own());
    let unfinished = file.with_extension("new");
    fs::write(&unfinished, serde_json::to_vec(&holding)?)?;
    fs::rename(&unfinished, file)?;
    for (process, _) in holding.held.iter().filter(|(process, _)| process.is_there()) {
        let Ok(pidfd) = PidFd::open(process.pid) else { continue };
        let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        while poll(&mut ended, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
    }
    fs::remove_file(file)
}

/// Closes all descriptors but the standard ones, which lead nowhere, and those that are held.
fn close_others(holding: &Holding) -> io::Result<()> {
    let mut kept: Vec<i32> = holding.held.iter().map(|&(_, fd)| fd).collect();
    kept.sort_unstable();
    let mut first = FIRST_OF_OTHERS;
    for fd in kept.into_iter().filter(|fd| *fd >= FIRST_OF_OTHERS) {
        if first < fd {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, i32::MAX)
}

/// Behind standard input, output and error.
const FIRST_OF_OTHERS: i32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> HostPid {
        HostPid::new(number).unwrap()
    }

    #[test]
    fn who_is_gone_holds_nothing() {
        let place = tempfile::tempdir().unwrap();
        assert!(take(place.path(), pid(7)).is_none());
        let own = Process::of(HostPid::own()).unwrap();
        assert!(own.is_there());
        let other = Process { start_time: own.start_time + 1, ..own };
        assert!(!other.is_there());
        let holding =
            Holding { uffd_holder: Some(other), base: "b".to_owned(), held: vec![(own, 0)] };
        let file = file_of(place.path(), pid(7));
        fs::write(&file, serde_json::to_vec(&holding).unwrap()).unwrap();
        assert!(take(place.path(), pid(7)).is_none(), "another process of the holder's number");
        assert!(!file.exists());
        fs::write(&file, b"{").unwrap();
        assert!(take(place.path(), pid(7)).is_none());
    }

    #[test]
    fn descriptors_outlive_who_started_the_keeper() {
        let place = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = HostPid::from(&child);
        let file = file_of(place.path(), pid);
        let held = fs::File::open("/proc/self/stat").unwrap();
        fcntl(&held, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let mut uffd_holder = Command::new("sleep").arg("100").spawn().unwrap();
        let holding = Holding {
            uffd_holder: Process::of(HostPid::from(&uffd_holder)),
            base: "b".to_owned(),
            held: vec![(Process::of(pid).unwrap(), held.as_raw_fd())],
        };
        fs::write(&file, serde_json::to_vec(&holding).unwrap()).unwrap();
        let taken = take(place.path(), pid).unwrap();
        assert_eq!((taken.base.as_str(), taken.fds.len()), ("b", 1));
        assert!(!uffd_holder.wait().unwrap().success(), "the holder was ended");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

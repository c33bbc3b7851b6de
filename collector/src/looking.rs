//! Who looks into processes just now, as a list of them or a dump does.
//!
//! Whoever looks takes copies of descriptors for a moment (`pidfd_getfd(2)`), by which he holds sockets and pipes
//! that are not his. Another who looks at the same time must not take him for a process that shares them. So
//! each has a mark: a memfd of a known name, which every process with the right to look can see in
//! `/proc/PID/fd`, in whatever mount namespace it is. Its owner cannot be feigned: a mark counts if it was made by
//! root or by the user who looks.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ids::HostPid;
use kernel::procfs::{self, Dir, ProcFile, Stat};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::geteuid;

const NAME: &str = "stasis-looks";
const LINK: &str = "/memfd:stasis-looks (deleted)";

/// Marks this process as one that looks into others, as long as the descriptor is open. To be taken before the first copy
/// of a descriptor, and closed after the last.
///
/// # Errors
///
/// That of `memfd_create(2)`.
pub fn mark() -> io::Result<OwnedFd> {
    Ok(memfd_create(NAME, MFdFlags::MFD_CLOEXEC)?)
}

/// Whether a process only looks, or has gone since it was seen.
pub(crate) fn is_passing(pid: HostPid) -> bool {
    match fs::read_dir(format!("/proc/{pid}/fd")) {
        // On its way out it lets go of its mark before its number goes.
        Ok(mut entries) => {
            entries.any(|entry| entry.is_ok_and(|entry| is_mark(&entry.path()))) || !is_alive(pid)
        }
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Whether a thread of the process has not begun to end.
pub(crate) fn is_alive(pid: HostPid) -> bool {
    const PF_EXITING: u32 = 4;
    let alive = |stat: &Stat| !stat.is_dead() && stat.flags & PF_EXITING == 0;
    // What cannot be told is taken for alive.
    let is_one = |stat: Result<Stat, procfs::Error>| match stat {
        Ok(stat) => alive(&stat),
        Err(error) => !error.is_gone(),
    };
    let dir = match Dir::open(pid) {
        Ok(dir) => dir,
        Err(error) => return !error.is_gone(),
    };
    is_one(Stat::read(&dir))
        || match dir.threads() {
            Ok(threads) => threads
                .into_iter()
                .any(|tid| is_one(dir.thread(tid).and_then(|dir| Stat::read(&dir)))),
            Err(error) => !error.is_gone(),
        }
}

fn is_mark(path: &Path) -> bool {
    let own = geteuid().as_raw();
    fs::read_link(path).is_ok_and(|link| link.as_os_str() == LINK)
        && fs::metadata(path).is_ok_and(|file| file.uid() == 0 || file.uid() == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_looks_while_it_has_its_mark() {
        assert!(!is_passing(HostPid::own()));
        let mark = mark().unwrap();
        assert!(is_passing(HostPid::own()));
        drop(mark);
        assert!(!is_passing(HostPid::own()));
    }

    #[test]
    fn who_has_ended_holds_nothing() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = HostPid::new(child.id().cast_signed()).unwrap();
        while !is_passing(pid) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.wait().unwrap();
        assert!(is_passing(pid));
    }
}

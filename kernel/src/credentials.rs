//! Work that is done with the rights of another: setresuid(2), setgroups(2), capset(2) in a thread
//! of its own.
//!
//! The kernel keeps credentials by thread. The thread takes them on, does the work and ends: nothing
//! has to be given back, so nothing can fail to be. Descriptors that it opens are the process's.

use std::io;

/// What the kernel asks for when a file is to be opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Credentials {
    /// Real, effective and saved user id, and the one for files.
    pub users: [u32; 4],
    /// Real, effective and saved group id, and the one for files.
    pub groups: [u32; 4],
    /// Supplementary groups.
    pub supplementary: Vec<u32>,
    /// Effective capabilities.
    pub effective: u64,
}

/// `CAP_SETUID`.
const SET_USER: u64 = 1 << 7;
/// The kernel's `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

impl Credentials {
    /// Does `work` with these credentials, in another thread. The caller needs the rights to take
    /// them on: `CAP_SETUID`, `CAP_SETGID`, and every capability among them.
    ///
    /// # Errors
    /// When the credentials cannot be taken on; the work is not done then.
    pub fn during<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .spawn_scoped(scope, || self.take_on().map(|()| work()))?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Makes these the credentials of the calling thread, for good.
    fn take_on(&self) -> io::Result<()> {
        let [user, effective_user, saved_user, files_user] = self.users;
        let [group, effective_group, saved_group, files_group] = self.groups;
        let count = self.supplementary.len();
        let list = self.supplementary.as_ptr();
        // The C library's functions would change all threads of the process.
        // SAFETY: `list` points at `count` group ids.
        done(unsafe { libc::syscall(libc::SYS_setgroups, count, list) })?;
        // SAFETY: these calls take integers only.
        unsafe {
            done(libc::syscall(libc::SYS_setresgid, group, effective_group, saved_group))?;
            libc::syscall(libc::SYS_setfsgid, files_group);
            // So that the change of user leaves the capabilities that may be asked for below.
            done(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0).into())?;
            done(libc::syscall(libc::SYS_setresuid, user, effective_user, saved_user))?;
        }
        if files_user != effective_user {
            set_capabilities(self.effective | SET_USER)?;
            // SAFETY: as above.
            unsafe { libc::syscall(libc::SYS_setfsuid, files_user) };
        }
        set_capabilities(self.effective)?;
        self.check()
    }

    /// Asks for the ids for files: the calls that set them report no failure.
    fn check(&self) -> io::Result<()> {
        // SAFETY: these calls take integers only, and -1 is no id: they change nothing.
        let (user, group) = unsafe {
            (libc::syscall(libc::SYS_setfsuid, -1), libc::syscall(libc::SYS_setfsgid, -1))
        };
        if user == i64::from(self.users[3]) && group == i64::from(self.groups[3]) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EPERM))
        }
    }
}

/// Does `work`, which takes on other ids in the calling process and comes back. The kernel takes a change of them for a reason not
/// to let the process be looked into (`PR_SET_DUMPABLE`): its own files in `/proc` are the machine's root's then, whom nobody in a user
/// namespace has rights over. So one that anybody like it might look into is that again.
///
/// # Errors
/// Those of `work`.
pub fn keeping_dumpable<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // SAFETY: the option takes no argument, and changes nothing.
    let was = unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) };
    let done = work();
    if was == 1 {
        nix::sys::prctl::set_dumpable(true)?;
    }
    done
}

/// Does `work` in a directory; where the file system belongs to a user namespace that has no number for the caller, who may make
/// nothing there, again as the owner of the directory, with the caller's capabilities.
///
/// # Errors
/// Those of `work`; when the ids cannot be taken on.
pub fn in_directory<T: Send>(
    directory: impl std::os::fd::AsFd,
    work: impl Fn() -> io::Result<T> + Sync,
) -> io::Result<T> {
    match work() {
        Err(error) if error.raw_os_error() == Some(libc::EOVERFLOW) => {}
        done => return done,
    }
    let owner = nix::sys::stat::fstat(directory)?;
    let (users, groups) = (nix::unistd::getresuid()?, nix::unistd::getresgid()?);
    let supplementary =
        nix::unistd::getgroups()?.into_iter().map(nix::unistd::Gid::as_raw).collect();
    let effective = caps::read(None, caps::CapSet::Effective).map_err(io::Error::other)?;
    let own = Credentials {
        users: [users.real, users.effective, users.saved, nix::unistd::Uid::from_raw(owner.st_uid)]
            .map(nix::unistd::Uid::as_raw),
        groups: [
            groups.real,
            groups.effective,
            groups.saved,
            nix::unistd::Gid::from_raw(owner.st_gid),
        ]
        .map(nix::unistd::Gid::as_raw),
        supplementary,
        effective: effective.iter().fold(0, |set, capability| set | capability.bitmask()),
    };
    own.during(&work)?
}

fn set_capabilities(effective: u64) -> io::Result<()> {
    let header = Header { version: CAPABILITY_VERSION, pid: 0 };
    let half = |set: u64| Half { effective: set as u32, permitted: set as u32, inheritable: 0 };
    let sets = [half(effective), half(effective >> 32)];
    // SAFETY: header and sets have the layout of version 3, which has two of them.
    done(unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) })
}

fn done(answer: libc::c_long) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// Needs root.
    #[test]
    fn work_is_done_with_the_rights_of_another() {
        assert!(nix::unistd::geteuid().is_root(), "needs root");
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let read =
            |credentials: &Credentials| credentials.during(|| fs::read(&path).is_ok()).unwrap();
        let other = Credentials { users: [4711; 4], groups: [4711; 4], ..Credentials::default() };
        assert!(!read(&other));
        assert!(read(&Credentials { supplementary: vec![5, 0], ..other.clone() }));
        let override_search = 1 << 1;
        assert!(read(&Credentials { effective: override_search, ..other.clone() }));
        assert!(read(&Credentials { users: [4711, 4711, 4711, 0], ..other }));
        // This thread is as it was.
        assert!(nix::unistd::geteuid().is_root() && fs::read(&path).is_ok());
    }
}

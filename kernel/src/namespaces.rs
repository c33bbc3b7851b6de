//! Namespaces: looked into, made and entered by their descriptors (setns(2), unshare(2)).
//!
//! To be in a namespace is a matter of a thread. So what has to be done inside one is done by a thread
//! that is made for it, and a namespace is held by its descriptor: it needs no process.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use ids::HostPid;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;

/// What a UTS namespace says of itself: at most 64 bytes each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UtsNames {
    /// `sethostname(2)`.
    pub node: Vec<u8>,
    /// `setdomainname(2)`.
    pub domain: Vec<u8>,
}

/// The longest name that the kernel takes (`__NEW_UTS_LEN`).
pub const LONGEST_UTS_NAME: usize = 64;

/// The kinds of namespaces by their names in `/proc/PID/ns`, with the flags of `clone`.
const FLAGS: [(&str, CloneFlags); 8] = [
    ("pid", CloneFlags::CLONE_NEWPID),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("time", CloneFlags::from_bits_retain(0x80)),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("user", CloneFlags::CLONE_NEWUSER),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
];

/// The last number of the images that is of a namespace of the dumper's own: there is one of each kind.
pub const LAST_OWN: u32 = FLAGS.len() as u32;

/// The flag of a kind of namespace (`CLONE_NEW*`).
#[must_use]
pub fn flag(name: &str) -> Option<u32> {
    let (_, flag) = FLAGS.iter().find(|(known, _)| *known == name)?;
    Some(flag.bits().cast_unsigned())
}

/// The name of the kind of namespace that has this flag.
#[must_use]
pub fn of_flag(flag: u32) -> Option<&'static str> {
    let (name, _) = FLAGS.iter().find(|(_, known)| known.bits().cast_unsigned() == flag)?;
    Some(name)
}

/// The link text of the caller's own namespace of a kind: `net:[4026531840]`.
///
/// # Errors
/// If `/proc` is not there, or the kernel has no such namespaces.
pub fn own_link(name: &str) -> io::Result<OsString> {
    std::fs::read_link(format!("/proc/self/ns/{name}")).map(PathBuf::into_os_string)
}

/// A namespace of a process, by its entry in `/proc/PID/ns`.
///
/// # Errors
/// If the process has gone or may not be looked into.
pub fn of_process(pid: HostPid, name: &str) -> io::Result<OwnedFd> {
    File::open(format!("/proc/{pid}/ns/{name}")).map(OwnedFd::from)
}

/// The calling thread's own.
///
/// # Errors
/// If `/proc` is not there.
pub fn own(name: &str) -> io::Result<OwnedFd> {
    File::open(format!("/proc/thread-self/ns/{name}")).map(OwnedFd::from)
}

/// Reads the names of a UTS namespace.
///
/// # Errors
/// If it may not be entered (`CAP_SYS_ADMIN` in the user namespace that owns it).
pub fn uts_names(namespace: impl AsFd + Send) -> io::Result<UtsNames> {
    elsewhere(move || {
        setns(namespace, CloneFlags::CLONE_NEWUTS)?;
        let names = nix::sys::utsname::uname()?;
        let bytes = |name: &std::ffi::OsStr| name.as_bytes().to_vec();
        Ok(UtsNames { node: bytes(names.nodename()), domain: bytes(names.domainname()) })
    })
}

/// Makes a UTS namespace with these names.
///
/// # Errors
/// Without the right to (`CAP_SYS_ADMIN`), or if a name is too long.
pub fn new_uts(names: &UtsNames) -> io::Result<OwnedFd> {
    elsewhere(|| {
        unshare(CloneFlags::CLONE_NEWUTS)?;
        nix::unistd::sethostname(std::ffi::OsStr::from_bytes(&names.node))?;
        // SAFETY: the pointer and the length are those of the name, which the kernel copies.
        let done = unsafe { libc::setdomainname(names.domain.as_ptr().cast(), names.domain.len()) };
        Errno::result(done)?;
        own("uts")
    })
}

/// Makes a cgroup namespace, whose roots are the groups that the calling process is in.
///
/// # Errors
/// Without the right to (`CAP_SYS_ADMIN`).
pub fn new_cgroup() -> io::Result<OwnedFd> {
    elsewhere(|| {
        unshare(CloneFlags::CLONE_NEWCGROUP)?;
        own("cgroup")
    })
}

/// Moves the calling thread into a namespace of a kind, by its name in `/proc/PID/ns`.
///
/// # Errors
/// Without the right to, or if the descriptor is no such namespace.
pub fn enter(name: &str, namespace: impl AsFd) -> io::Result<()> {
    Ok(setns(namespace, flag_of(name)?)?)
}

/// Makes a namespace of a kind, and does `work` inside.
///
/// # Errors
/// Without the right to, or when the work fails.
pub fn new(name: &str, work: impl FnOnce() -> io::Result<()> + Send) -> io::Result<OwnedFd> {
    in_new(name, || work().and_then(|()| own(name)))
}

/// Does `work` in a new namespace of a kind, which ends with it unless somebody has taken hold of it.
///
/// # Errors
/// As [`new`].
pub fn in_new<T: Send>(name: &str, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let flag = flag_of(name)?;
    elsewhere(|| {
        unshare(flag)?;
        work()
    })
}

fn flag_of(name: &str) -> io::Result<CloneFlags> {
    let known = FLAGS.iter().find(|(known, _)| *known == name);
    let unknown = || io::Error::other(format!("no kind of namespace is called {name}"));
    known.map(|(_, flag)| *flag).ok_or_else(unknown)
}

/// Does `work` in a thread that has entered a namespace of a kind, and ends with it.
///
/// # Errors
/// If it may not be entered, or when the work fails.
pub fn inside<T: Send>(
    name: &str,
    namespace: impl AsFd + Send,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    elsewhere(|| {
        enter(name, namespace)?;
        work()
    })
}

/// Does `work` in a thread that is in a namespace of a kind.
///
/// # Errors
/// If it may not be entered, or the work fails.
pub fn within<T: Send>(
    name: &str,
    namespace: OwnedFd,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    elsewhere(move || enter(name, namespace).and_then(|()| work()))
}

/// Makes a network namespace, which has nothing but a loopback device that is down.
///
/// # Errors
/// Without the right to (`CAP_SYS_ADMIN`).
pub fn new_network() -> io::Result<OwnedFd> {
    elsewhere(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        own("net")
    })
}

/// The kernel's id of a namespace.
///
/// # Errors
/// As fstat(2).
pub fn id(namespace: impl AsFd) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(namespace)?.st_ino)
}

/// The network namespace with this id, if a process is in it, or it has a name of `ip netns`.
///
/// # Errors
/// If the processes cannot be listed.
pub fn find_network(wanted: u64) -> io::Result<Option<OwnedFd>> {
    let is_it = |namespace: &OwnedFd| id(namespace).is_ok_and(|id| id == wanted);
    let processes = crate::procfs::processes().map_err(io::Error::other)?;
    let of_processes = processes.into_iter().filter_map(|pid| of_process(pid, "net").ok());
    let named = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let named = named.filter_map(|entry| File::open(entry.path()).ok()).map(OwnedFd::from);
    Ok(of_processes.chain(named).find(is_it))
}

/// The mount namespace with this id, if a process is in it.
///
/// # Errors
/// If the processes cannot be listed.
pub fn find_mounts(wanted: u64) -> io::Result<Option<OwnedFd>> {
    let is_it = |namespace: &OwnedFd| id(namespace).is_ok_and(|id| id == wanted);
    let processes = crate::procfs::processes().map_err(io::Error::other)?;
    Ok(processes.into_iter().filter_map(|pid| of_process(pid, "mnt").ok()).find(is_it))
}

/// Does `work` in the calling thread while that is in a network namespace. Nothing else of the process notices.
///
/// # Errors
/// If the namespace may not be entered, or the thread does not get back.
pub fn within_network<T>(namespace: impl AsFd, work: impl FnOnce() -> T) -> io::Result<T> {
    visiting("net", namespace, work)
}

/// The same of an IPC namespace.
///
/// # Errors
/// As [`within_network`].
pub fn within_ipc<T>(namespace: impl AsFd, work: impl FnOnce() -> T) -> io::Result<T> {
    visiting("ipc", namespace, work)
}

fn visiting<T>(name: &str, namespace: impl AsFd, work: impl FnOnce() -> T) -> io::Result<T> {
    let back = own(name)?;
    enter(name, namespace)?;
    let done = work();
    enter(name, back)?;
    Ok(done)
}

/// A mount namespace, as it is seen from its root.
#[derive(Debug)]
pub struct MountView {
    /// A handle on the root directory of the namespace: paths that begin there lead where they lead to its processes.
    pub root: OwnedFd,
    /// `mountinfo` of the namespace, which can be read again and again.
    pub table: File,
}

/// Looks into a mount namespace.
///
/// # Errors
/// If it may not be entered (`CAP_SYS_ADMIN` in the user namespace that owns it, `CAP_SYS_CHROOT`).
pub fn mount_view(namespace: impl AsFd + Send) -> io::Result<MountView> {
    in_mounts(namespace, |thread| {
        let root = nix::fcntl::open("/", HANDLE, Mode::empty())?;
        let table = openat(thread, "mountinfo", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(MountView { root, table: File::from(table) })
    })
}

/// A handle on a directory.
const HANDLE: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Does `work` in a mount namespace, from its root. It is given its thread's directory in `/proc`.
///
/// # Errors
/// If the namespace may not be entered, and those of `work`.
pub fn in_mounts<T: Send>(
    namespace: impl AsFd + Send,
    work: impl FnOnce(&OwnedFd) -> io::Result<T> + Send,
) -> io::Result<T> {
    elsewhere(move || {
        let thread = nix::fcntl::open("/proc/thread-self", HANDLE, Mode::empty())?;
        // Its directories are shared with the other threads.
        unshare(CloneFlags::CLONE_FS)?;
        setns(namespace, CloneFlags::CLONE_NEWNS)?;
        work(&thread)
    })
}

/// Moves the calling process into a mount namespace; its root directory stays where it is, so that paths lead where
/// they led. It shares its directories with nobody, unless it is there already. In a user namespace it may have lost the right
/// to search its working directory: then that is the root.
///
/// # Errors
/// Without the right to.
pub fn enter_mounts(namespace: impl AsFd) -> io::Result<()> {
    // Who is in it already may share its directories with whom it was made by.
    let here = nix::sys::stat::stat("/proc/thread-self/ns/mnt")?.st_ino;
    if nix::sys::stat::fstat(&namespace)?.st_ino == here {
        return Ok(());
    }
    let root = nix::fcntl::open("/", HANDLE, Mode::empty())?;
    let here = match nix::fcntl::open(".", HANDLE, Mode::empty()) {
        Err(Errno::EACCES) => None,
        here => Some(here?),
    };
    setns(namespace, CloneFlags::CLONE_NEWNS)?;
    nix::unistd::fchdir(&root)?;
    nix::unistd::chroot(".")?;
    here.map_or(Ok(()), |here| Ok(nix::unistd::fchdir(&here)?))
}

/// Does `work` in a mount namespace that is made for it, a copy of the caller's in which nothing propagates. It ends with `work` unless
/// that keeps a descriptor.
///
/// # Errors
/// Without the right to, and those of `work`.
pub fn in_new_mounts<T: Send>(
    work: impl FnOnce(&OwnedFd) -> io::Result<T> + Send,
) -> io::Result<T> {
    in_copied_mounts(crate::mounts::Propagation::Private, work)
}

/// The same, of which mounts still receive what is mounted where they receive it from; those that share do so, too.
///
/// # Errors
/// As [`in_new_mounts`].
pub fn in_receiving_mounts<T: Send>(
    work: impl FnOnce(&OwnedFd) -> io::Result<T> + Send,
) -> io::Result<T> {
    in_copied_mounts(crate::mounts::Propagation::Slave, work)
}

fn in_copied_mounts<T: Send>(
    propagation: crate::mounts::Propagation,
    work: impl FnOnce(&OwnedFd) -> io::Result<T> + Send,
) -> io::Result<T> {
    elsewhere(move || {
        let thread = nix::fcntl::open("/proc/thread-self", HANDLE, Mode::empty())?;
        unshare(CloneFlags::CLONE_FS)?;
        copy_mounts_as(propagation)?;
        work(&thread)
    })
}

fn copy_mounts_as(propagation: crate::mounts::Propagation) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let root = nix::fcntl::open("/", HANDLE, Mode::empty())?;
    let change = crate::mounts::Change {
        all_below: true,
        propagation: Some(propagation),
        ..Default::default()
    };
    crate::mounts::change(&root, &change)
}

/// Moves the calling thread, which shares its directories with no other, into a copy of its mount namespace in which nothing
/// propagates.
///
/// # Errors
/// Without the right to.
pub fn copy_mounts_privately() -> io::Result<()> {
    copy_mounts_as(crate::mounts::Propagation::Private)
}

/// Moves the calling thread, which shares its directories with no other, into a copy of its mount namespace.
///
/// # Errors
/// Without the right to.
pub fn copy_mounts() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWNS)?)
}

/// Does `work` in a thread of its own, whose namespaces end with it.
pub(crate) fn elsewhere<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::print_stdout, reason = "nothing is skipped without a word")]
    fn a_namespace_is_made_looked_into_and_left_to_itself() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: making a UTS namespace takes root");
            return;
        }
        let here = uts_names(own("uts").unwrap()).unwrap();
        let names = UtsNames { node: b"elsewhere".to_vec(), domain: b"example".to_vec() };
        let made = new_uts(&names).unwrap();
        assert_eq!(uts_names(made).unwrap(), names);
        assert_eq!(uts_names(own("uts").unwrap()).unwrap(), here);
        let made = new_network().unwrap();
        let inside = within_network(&made, || own("net").and_then(id)).unwrap().unwrap();
        assert_eq!(inside, id(&made).unwrap());
        assert_ne!(inside, own("net").and_then(id).unwrap());
        let long = UtsNames { node: vec![b'x'; LONGEST_UTS_NAME + 1], ..names };
        assert!(new_uts(&long).is_err());
    }
}

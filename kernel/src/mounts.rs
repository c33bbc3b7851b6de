//! Mounts by descriptors: copied, made, placed and changed without a path (open_tree(2), fsopen(2), move_mount(2),
//! mount_setattr(2)).
//!
//! A mount that is in no namespace ends with its descriptor, so whoever builds with these and is killed leaves
//! nothing behind.

use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

/// `FSCONFIG_SET_FLAG` (include/uapi/linux/mount.h).
const SET_FLAG: u32 = 0;
const SET_STRING: u32 = 1;
const CREATE: u32 = 6;
const RECONFIGURE: u32 = 7;

/// Bits of attributes by which access times are chosen.
pub const ACCESS_TIMES: u64 = libc::MOUNT_ATTR__ATIME;

/// How mounts and unmounts below a mount reach other mounts (`MS_PRIVATE` …).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Nowhere.
    Private,
    /// In both directions.
    Shared,
    /// From the group that it was shared with.
    Slave,
    /// Nowhere, and it cannot be copied.
    Unbindable,
}

/// What changes of a mount; bits are `MOUNT_ATTR_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Bits that are set.
    pub set: u64,
    /// Bits that are cleared.
    pub clear: u64,
    /// Whether mounts below get the same.
    pub all_below: bool,
    /// How it propagates.
    pub propagation: Option<Propagation>,
}

/// An option of a file system, with its value if it has one.
pub type FsOption<'a> = (&'a [u8], Option<&'a [u8]>);

fn descriptor(answer: libc::c_long) -> io::Result<OwnedFd> {
    let fd = Errno::result(answer)?;
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A device number as the kernel packs it, from the one that `stat` gives.
#[must_use]
pub const fn kernel_device(device: u64) -> u32 {
    libc::major(device) << 20 | libc::minor(device)
}

/// The mount that a descriptor, or a handle, is of, by the number that `mountinfo` has.
///
/// # Errors
/// When the kernel does not tell.
pub fn id(fd: impl AsFd) -> io::Result<i32> {
    crate::paths::mount(&fd).or_else(|error| crate::handles::mount_of(&fd).ok_or(error))
}

/// A copy of the mount that `path` leads to from `at`, with what `path` leads to as its root, in no namespace. With
/// `all_below` it has copies of all mounts below.
///
/// # Errors
/// Without the right to, or if there is nothing. `EINVAL` of a mount in another namespace, or one that is not to be copied.
pub fn copy(at: impl AsFd, path: &Path, all_below: bool) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    flags |= (libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT).cast_unsigned();
    if all_below {
        flags |= libc::AT_RECURSIVE.cast_unsigned();
    }
    let at = at.as_fd().as_raw_fd();
    // SAFETY: a string that ends in 0; the rest are integers.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, at, path.as_ptr(), flags) })
}

/// Whether nothing can be written by way of a descriptor, or a handle: its mount or its file system is read-only.
///
/// # Errors
/// When the file system fails.
pub fn is_read_only(fd: impl AsFd) -> io::Result<bool> {
    let found = nix::sys::statvfs::fstatvfs(fd)?;
    Ok(found.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY))
}

/// A copy of the mount that a directory is on, with that directory as its root, by which can be written to what only
/// a read-only mount shows. It is in no namespace, so nobody else can write by it, and it ends with its descriptor.
///
/// # Errors
/// As [`copy()`]; `EPERM` where the mount's being read-only is locked in a user namespace, `EROFS` for a file system that is
/// read-only itself.
pub fn writable_copy(directory: impl AsFd) -> io::Result<OwnedFd> {
    let copied = copy(directory, Path::new(""), false)?;
    make_writable(&copied)?;
    Ok(copied)
}

/// Makes a mount that is in no namespace one that can be written to, and shares nothing.
///
/// # Errors
/// As [`writable_copy`].
pub fn make_writable(mount: impl AsFd) -> io::Result<()> {
    let (clear, propagation) = (libc::MOUNT_ATTR_RDONLY, Some(Propagation::Private));
    change(&mount, &Change { clear, propagation, ..Change::default() })?;
    if is_read_only(&mount)? { Err(Errno::EROFS.into()) } else { Ok(()) }
}

fn moved(from: impl AsFd, to: impl AsFd, flags: libc::c_uint) -> io::Result<()> {
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    let flags = flags | libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let empty = c"".as_ptr();
    // SAFETY: two empty strings; the rest are integers.
    let done = unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) };
    Ok(Errno::result(done).map(drop)?)
}

/// Places a mount on what `at` is a handle on.
///
/// # Errors
/// Without the right to, or if `at` is not in the caller's mount namespace, or the two are not both directories or
/// both not.
pub fn attach(mount: impl AsFd, at: impl AsFd) -> io::Result<()> {
    moved(mount, at, 0)
}

/// Gives a private mount the peers and the master of another one of the same file system, whose root must hold its
/// root.
///
/// # Errors
/// `EINVAL` where that is not so, and before Linux 5.15.
pub fn join_group(mount: impl AsFd, like: impl AsFd) -> io::Result<()> {
    moved(like, mount, libc::MOVE_MOUNT_SET_GROUP)
}

/// Changes a mount.
///
/// # Errors
/// Without the right to; `ENOSYS` before Linux 5.12.
pub fn change(mount: impl AsFd, change: &Change) -> io::Result<()> {
    let propagation = match change.propagation {
        None => 0,
        Some(Propagation::Private) => libc::MS_PRIVATE,
        Some(Propagation::Shared) => libc::MS_SHARED,
        Some(Propagation::Slave) => libc::MS_SLAVE,
        Some(Propagation::Unbindable) => libc::MS_UNBINDABLE,
    };
    // struct mount_attr: set, clear, propagation, user namespace.
    let attributes = [change.set, change.clear, propagation, 0];
    let below = if change.all_below { libc::AT_RECURSIVE } else { 0 };
    let flags = libc::AT_EMPTY_PATH | below;
    // SAFETY: an empty string, and four words of which the size is told.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    Ok(Errno::result(done).map(drop)?)
}

/// Makes a file system and a mount of it, in no namespace. Which namespaces it is of (proc, sysfs, mqueue, cgroup),
/// the caller's are.
///
/// # Errors
/// With what the file system says, if it says something.
pub fn make<'a>(
    kind: &[u8],
    source: &[u8],
    options: impl IntoIterator<Item = FsOption<'a>>,
) -> io::Result<OwnedFd> {
    let kind = CString::new(kind)?;
    // SAFETY: a string that ends in 0; the rest is an integer.
    let context = descriptor(unsafe {
        libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC)
    })?;
    let told = |error| with_its_words(&context, error);
    if !source.is_empty() {
        configure(&context, SET_STRING, Some(b"source"), Some(source)).map_err(told)?;
    }
    set_options(&context, options).map_err(told)?;
    configure(&context, CREATE, None, None).map_err(told)?;
    let context = context.as_fd().as_raw_fd();
    // SAFETY: integers only.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context, libc::FSMOUNT_CLOEXEC, 0) })
}

/// Changes options of the file system of a mount.
///
/// # Errors
/// With what the file system says, if it says something.
pub fn reconfigure<'a>(
    mount: impl AsFd,
    options: impl IntoIterator<Item = FsOption<'a>>,
) -> io::Result<()> {
    let mount = mount.as_fd().as_raw_fd();
    let flags = libc::FSPICK_CLOEXEC | libc::FSPICK_EMPTY_PATH | libc::FSPICK_NO_AUTOMOUNT;
    // SAFETY: an empty string; the rest are integers.
    let context =
        descriptor(unsafe { libc::syscall(libc::SYS_fspick, mount, c"".as_ptr(), flags) })?;
    set_options(&context, options)
        .and_then(|()| configure(&context, RECONFIGURE, None, None))
        .map_err(|error| with_its_words(&context, error))
}

fn set_options<'a>(
    context: &OwnedFd,
    options: impl IntoIterator<Item = FsOption<'a>>,
) -> io::Result<()> {
    for (key, value) in options {
        let command = if value.is_some() { SET_STRING } else { SET_FLAG };
        configure(context, command, Some(key), value)?;
    }
    Ok(())
}

fn configure(
    context: &OwnedFd,
    command: u32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> io::Result<()> {
    let (key, value) = (key.map(CString::new).transpose()?, value.map(CString::new).transpose()?);
    let pointer = |text: &Option<CString>| text.as_deref().map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: strings that end in 0, or none where the command takes none; the rest are integers.
    let done = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            pointer(&key),
            pointer(&value),
            0,
        )
    };
    Ok(Errno::result(done).map(drop)?)
}

/// An error with what the file system has said about it.
fn with_its_words(context: &OwnedFd, error: io::Error) -> io::Error {
    let mut words = [0; 512];
    let said =
        context.try_clone().and_then(|context| std::fs::File::from(context).read(&mut words));
    match said {
        Ok(length) if length > 0 => {
            let words = String::from_utf8_lossy(&words[..length]);
            io::Error::new(error.kind(), format!("{} ({error})", words.trim()))
        }
        _ => error,
    }
}

/// Takes away the root of the caller's mount namespace, with all that is mounted there: the mount that `root` is the
/// root of, which is placed somewhere in it, becomes the root. The caller shares its directories with nobody.
///
/// # Errors
/// Without the right to, or if `root` is no root of a mount.
pub fn change_root(root: impl AsFd) -> io::Result<()> {
    use nix::fcntl::{OFlag, open};
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let old = open("/", flags, nix::sys::stat::Mode::empty())?;
    nix::unistd::fchdir(&root)?;
    // The old root comes to lie on the new one, with all that is mounted on it.
    nix::unistd::pivot_root(".", ".")?;
    nix::unistd::fchdir(&old)?;
    // What lies on it goes first. A root that is in no namespace any more cannot be unmounted.
    nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH)?;
    loop {
        match nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    nix::unistd::fchdir(&root)?;
    nix::unistd::chroot(".")?;
    Ok(nix::unistd::chdir("/")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers() {
        assert_eq!(kernel_device(libc::makedev(254, 3)), 254 << 20 | 3);
        assert_eq!(kernel_device(0x10), 0x10);
    }
    use crate::paths::{Links, find};
    use std::fs::File;

    #[test]
    #[allow(clippy::print_stdout, reason = "nothing is skipped without a word")]
    fn a_mount_without_a_namespace_is_made_filled_copied_and_changed() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: making a mount takes root");
            return;
        }
        let mount = make(b"tmpfs", b"mine", [(&b"size"[..], Some(&b"64k"[..]))]).unwrap();
        nix::sys::stat::mkdirat(&mount, "inside", nix::sys::stat::Mode::S_IRWXU).unwrap();
        let inside = find(&mount, Path::new("inside"), Links::Refused).unwrap();
        assert_eq!(id(&mount).unwrap(), id(&inside).unwrap());
        assert_ne!(id(&mount).unwrap(), id(File::open("/").unwrap()).unwrap());
        let read_only = Change { set: libc::MOUNT_ATTR_RDONLY, ..Change::default() };
        change(&mount, &read_only).unwrap();
        let again = nix::sys::stat::mkdirat(&mount, "again", nix::sys::stat::Mode::S_IRWXU);
        assert_eq!(again, Err(Errno::EROFS));
        assert!(is_read_only(&mount).unwrap());
        // Who shares nothing of the machine's mounts has the copy to himself.
        crate::namespaces::in_new_mounts(|_| {
            let at = tempfile::tempdir()?;
            attach(&mount, File::open(at.path())?)?;
            let inside = find(File::open(at.path())?, Path::new("inside"), Links::Refused)?;
            let copied = writable_copy(&inside)?;
            nix::sys::stat::mkdirat(&copied, "again", nix::sys::stat::Mode::S_IRWXU)?;
            assert!(at.path().join("inside/again").is_dir() && is_read_only(&inside)?);
            nix::mount::umount2(at.path(), nix::mount::MntFlags::MNT_DETACH)?;
            Ok(())
        })
        .unwrap();
        let kept = make(b"tmpfs", b"", [(&b"ro"[..], None)]).unwrap();
        assert_eq!(make_writable(&kept).unwrap_err().raw_os_error(), Some(libc::EROFS));
        let error = make(b"tmpfs", b"", [(&b"size"[..], Some(&b"much"[..]))]).unwrap_err();
        assert!(error.to_string().contains("size"), "{error}");
    }
}

//! Names of Unix sockets in directories that a mount hides, so that no path leads there.

use std::ffi::OsStr;
use std::fs::{DirBuilder, create_dir};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use kernel::{mounts, namespaces};
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

/// Does `work` where the directory of `name` is `directory`: in a mount namespace of its own that has nothing else in it. The last on the
/// way to the name is a link to the handle, by which the kernel comes to the directory itself, whatever lies on it.
pub(super) fn led(
    name: &Path,
    directory: &OwnedFd,
    work: impl FnOnce() -> io::Result<()> + Send,
) -> io::Result<()> {
    /// Where the links to handles are. A name that begins so is not found, which its error says.
    const PROC: &str = ".stasis-proc";
    let handle = |path: &OsStr| {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok::<_, io::Error>(open(path, flags, Mode::empty())?)
    };
    let apart = || {
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let root = handle("/".as_ref())?;
        let processes = mounts::copy(&root, Path::new("proc"), true)?;
        let place = mounts::make(b"tmpfs", b"stasis", [])?;
        mounts::attach(&place, &root)?;
        nix::unistd::fchdir(&place)?;
        nix::unistd::chroot(".")?;
        create_dir(PROC)?;
        mounts::attach(processes, handle(PROC.as_ref())?)?;
        let parent = name.parent().ok_or(io::ErrorKind::InvalidInput)?;
        if let Some(above) = parent.parent().filter(|above| !above.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).create(above)?;
        }
        symlink(format!("/{PROC}/self/fd/{}", directory.as_raw_fd()), parent)?;
        work()
    };
    namespaces::in_new("mnt", apart)
}

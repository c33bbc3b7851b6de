//! Names of Unix sockets in directories that a mount hides, so that no path leads there.

use std::fs::{DirBuilder, create_dir};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use kernel::{mounts, namespaces};
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use support::paths::{can_be_led, has_parts};

/// Does `work` where the directory of `name` is `directory`: in a mount namespace of its own that has nothing else in it. The last on the
/// way to the name is a link to the handle, by which the kernel comes to the directory itself, whatever lies on it.
pub(super) fn led(
    name: &Path,
    directory: &OwnedFd,
    work: impl FnOnce() -> io::Result<()> + Send,
) -> io::Result<()> {
    let parent = name.parent().filter(|parent| can_be_led(name) && has_parts(parent));
    let parent = parent.ok_or(io::ErrorKind::InvalidInput)?;
    let handle = |path: &Path| {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok::<_, io::Error>(open(path, flags, Mode::empty())?)
    };
    let apart = || {
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let root = handle(Path::new("/"))?;
        let processes = mounts::copy(&root, Path::new("proc"), true)?;
        let place = mounts::make(b"tmpfs", b"stasis", [])?;
        mounts::attach(&place, &root)?;
        nix::unistd::fchdir(&place)?;
        nix::unistd::chroot(".")?;
        // As long as there is nothing else here that the name could lead to.
        let links = place_of_links(parent);
        if let Some(above) = parent.parent().filter(|above| has_parts(above)) {
            DirBuilder::new().recursive(true).create(above)?;
        }
        symlink(links.join("self/fd").join(directory.as_raw_fd().to_string()), parent)?;
        create_dir(&links)?;
        mounts::attach(processes, handle(&links)?)?;
        work()
    };
    namespaces::in_new("mnt", apart)
}

/// Where the links to handles are: a directory that a path does not begin with.
fn place_of_links(path: &Path) -> PathBuf {
    let first = path.components().find(|part| matches!(part, Component::Normal(_)));
    let names = [Path::new("/processes"), Path::new("/handles")];
    let [one, other] = names;
    let is_taken = first.is_some_and(|first| Some(first.as_os_str()) == one.file_name());
    if is_taken { other } else { one }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_where_a_path_does_not_begin() {
        assert_eq!(place_of_links(Path::new("/a/processes")), Path::new("/processes"));
        for taken in ["/processes/1/root", "./processes", "processes/self"] {
            assert_eq!(place_of_links(Path::new(taken)), Path::new("/handles"), "{taken}");
        }
    }
}

//! The links of `/proc/PID`: `exe`, `cwd`, `root`, `fd/N`, `map_files/…`.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstatat};

use super::{Dir, Error};

/// The text of a link: a path (as the reader sees it, ` (deleted)` behind it when it has been
/// unlinked), `pipe:[…]`, `socket:[…]`, `anon_inode:[…]`.
pub type LinkTarget = OsString;

/// What `stat` tells of the file that a link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// `st_mode`.
    pub mode: u32,
    /// `st_rdev`.
    pub special: u64,
    /// `st_nlink`: 0 for a file that has been unlinked.
    pub links: u64,
    /// `st_size`.
    pub size: u64,
}

impl Dir {
    /// The text of a link.
    ///
    /// # Errors
    /// If it is not there, or the process has gone.
    pub fn link(&self, name: &str) -> Result<LinkTarget, Error> {
        readlinkat(self.as_fd(), name).map_err(|source| self.error(name, source))
    }

    /// `stat` of what the link leads to. This follows the kernel's own reference, not the path.
    ///
    /// # Errors
    /// If it is not there, or the process has gone.
    pub fn stat_behind(&self, name: &str) -> Result<FileStat, Error> {
        let stat = fstatat(self.as_fd(), name, AtFlags::empty())
            .map_err(|source| self.error(name, source))?;
        Ok(FileStat {
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: stat.st_mode,
            special: stat.st_rdev,
            links: stat.st_nlink,
            size: stat.st_size.cast_unsigned(),
        })
    }

    /// Opens what the link leads to with `O_PATH`: a handle, not a new use of the file.
    ///
    /// # Errors
    /// If it is not there, or the process has gone.
    pub fn open_behind(&self, name: &str) -> Result<OwnedFd, Error> {
        openat(self.as_fd(), name, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|source| self.error(name, source))
    }

    /// The program's file. Kernel threads and zombies have none.
    ///
    /// # Errors
    /// If the process has gone. `None` is for a process without a program.
    pub fn exe(&self) -> Result<Option<LinkTarget>, Error> {
        match self.link("exe") {
            Ok(target) => Ok(Some(target)),
            Err(Error::Read { source: Errno::ENOENT, .. }) if self.exists("stat") => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn exists(&self, name: &str) -> bool {
        fstatat(self.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use ids::HostPid;

    use super::*;

    #[test]
    fn links_of_a_process_that_is_gone_are_gone() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let dir = Dir::open(HostPid::from(&child)).unwrap();
        dir.link("exe").unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        for link in ["exe", "cwd", "ns/mnt", "fd/0"] {
            assert!(dir.link(link).unwrap_err().is_gone(), "{link}");
        }
    }

    #[test]
    fn own_links_lead_where_they_should() {
        let dir = Dir::open(HostPid::own()).unwrap();
        assert_eq!(dir.exe().unwrap(), Some(std::env::current_exe().unwrap().into_os_string()));
        assert_eq!(dir.link("cwd").unwrap(), std::env::current_dir().unwrap());
        assert!(dir.stat_behind("cwd").unwrap().mode & libc::S_IFDIR != 0);
        assert!(dir.link("fd/99999").unwrap_err().is_gone());
    }
}

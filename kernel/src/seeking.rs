//! Paths that are looked up with the rights of another thread.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OpenHow, openat2};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{read, write};

use crate::paths::{BENEATH, HANDLE, Links, find};

/// Bytes of a request: a descriptor, and a path with its end.
const REQUEST: usize = size_of::<RawFd>() + libc::PATH_MAX as usize;

/// Looks up paths, as [`find`] without links, also where whoever asks has not the right to pass.
///
/// In a user namespace nobody has rights to the directories of those who have no number there, not even who may do everything in it. But
/// what is mounted below such directories is in the copies that mount namespaces of such a user are made of. So somebody
/// looks that is outside.
#[derive(Debug)]
pub struct Seeker(OwnedFd);

impl Seeker {
    /// Does `work` with one that has the rights that the calling thread has now, and shares its descriptors: `work` may leave them behind,
    /// in a process that shares memory and descriptors with this one.
    ///
    /// # Errors
    /// If there is no room for a thread.
    pub fn during<T>(work: impl FnOnce(&Self) -> T) -> io::Result<T> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (asks, asked) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let seeker = Self(asks);
        std::thread::scope(|scope| {
            // It takes no lock that such a process may hold: it allocates nothing.
            std::thread::Builder::new().spawn_scoped(scope, move || while serve(&asked) {})?;
            let done = work(&seeker);
            // The other end is told, and the thread ends.
            drop(seeker);
            Ok(done)
        })
    }

    /// A handle on what `path` leads to from the directory `root`.
    ///
    /// # Errors
    /// As [`find`].
    pub fn find(&self, root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
        match find(&root, path, Links::Refused) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.ask(root.as_fd().as_raw_fd(), path).map_err(|_| error)
            }
            found => found,
        }
    }

    fn ask(&self, root: RawFd, path: &Path) -> io::Result<OwnedFd> {
        let below = path.strip_prefix("/").unwrap_or(path);
        let request = [&root.to_ne_bytes()[..], below.as_os_str().as_bytes(), &[0]].concat();
        if request.len() > REQUEST {
            return Err(Errno::ENAMETOOLONG.into());
        }
        write(&self.0, &request)?;
        let mut answer = [0; size_of::<RawFd>()];
        if read(&self.0, &mut answer)? != answer.len() {
            return Err(Errno::EPROTO.into());
        }
        match RawFd::from_ne_bytes(answer) {
            errno @ ..0 => Err(io::Error::from_raw_os_error(-errno)),
            // SAFETY: the thread has just opened it for this, and has told nobody else.
            found => Ok(unsafe { OwnedFd::from_raw_fd(found) }),
        }
    }
}

/// Answers one request; whether there may be another.
fn serve(asked: &OwnedFd) -> bool {
    let mut request = [0; REQUEST];
    let length = match read(asked, &mut request) {
        Ok(0) => return false,
        Ok(length) => length,
        Err(errno) => return errno == Errno::EINTR,
    };
    let found = match request[..length].split_first_chunk() {
        Some((root, path)) => opened(RawFd::from_ne_bytes(*root), path),
        None => -(Errno::EPROTO as RawFd),
    };
    write(asked, &found.to_ne_bytes()).is_ok()
}

/// The number of a handle, or that of an error below zero.
fn opened(root: RawFd, path: &[u8]) -> RawFd {
    let Ok(path) = CStr::from_bytes_with_nul(path) else { return -(Errno::EINVAL as RawFd) };
    // SAFETY: who asks holds it until there is an answer.
    let root = unsafe { std::os::fd::BorrowedFd::borrow_raw(root) };
    match openat2(root, path, OpenHow::new().flags(HANDLE).resolve(BENEATH)) {
        Ok(found) => std::os::fd::IntoRawFd::into_raw_fd(found),
        Err(errno) => -(errno as RawFd),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_is_there_is_found_and_what_leads_out_is_not() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(scratch.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("/", scratch.path().join("out")).unwrap();
        let root = File::open(scratch.path()).unwrap();
        let done = Seeker::during(|seeker| {
            let ask = |path: &str| seeker.ask(root.as_raw_fd(), Path::new(path));
            let found = ask("/a/b").unwrap();
            let same = crate::paths::attributes(&found).unwrap().inode;
            let by_path = scratch.path().join("a/b").metadata().unwrap();
            assert_eq!(same, std::os::unix::fs::MetadataExt::ino(&by_path));
            for (path, errno) in [
                ("none", Errno::ENOENT),
                ("out/etc", Errno::ELOOP),
                ("../..", Errno::EXDEV),
                (&"x".repeat(5000), Errno::ENAMETOOLONG),
            ] {
                assert_eq!(ask(path).unwrap_err().raw_os_error(), Some(errno as i32), "{path}");
            }
            seeker.find(&root, Path::new("a")).unwrap();
            7
        });
        assert_eq!(done.unwrap(), 7);
    }
}

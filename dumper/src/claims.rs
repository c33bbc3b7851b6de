//! One dump of a process at a time.
//!
//! Two at once would each take the other's protection of memory for changes, or refuse it. So
//! whoever dumps a tree first claims its processes, by a lock (flock(2)) on each one's
//! `/proc/PID/pagemap`: a file that only who may trace the process can open, of which all that look
//! at one /proc see the same, and that goes with the process. The lock goes with its holder,
//! however that ends. (The process itself can open that file, too: whoever holds the lock is named.)

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;

use ids::HostPid;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit};

use crate::error::Error;

/// The right to dump the processes of a tree, until it goes. It takes a descriptor for each.
#[derive(Debug)]
pub(crate) struct Claims {
    _locks: Vec<Flock<File>>,
}

impl Claims {
    /// Claims all processes of the tree below `root`, of those that are there and may be looked at.
    ///
    /// # Errors
    /// [`Error::Claimed`] if another dump has one of them.
    pub(crate) fn of_tree(root: HostPid) -> Result<Self, Error> {
        if let Some(found) = support::tree::of_init(root) {
            return Err(Error::Refused { root, found: vec![found] });
        }
        crate::files::raise_limit()?;
        let tree = collector::tree(root);
        let tree = tree.map_err(|source| Error::Inventory { pid: root, source })?;
        let mut locks = Vec::with_capacity(tree.len());
        for &pid in &tree {
            let failed = |source| Error::Process { operation: "claim", pid, source };
            let file = match File::open(format!("/proc/{pid}/pagemap")) {
                Ok(file) => file,
                // It is found gone, or refused, by all that comes after this.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound) => continue,
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
                    let found = vec![support::room::of_processes(root, tree.len(), hard)];
                    return Err(Error::Refused { root, found });
                }
                Err(error) => return Err(failed(error)),
            };
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => locks.push(lock),
                Err((file, nix::Error::EWOULDBLOCK)) => {
                    return Err(Error::Claimed { pid, by: holder(&file) });
                }
                Err((_, error)) => return Err(failed(error.into())),
            }
        }
        Ok(Self { _locks: locks })
    }
}

/// Who holds a lock on a file, by `/proc/locks`, if that tells.
fn holder(file: &File) -> Option<HostPid> {
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let inode = file.metadata().ok()?.ino().to_string();
    // "1: FLOCK  ADVISORY  WRITE 4711 00:16:12345 0 EOF"
    let of_file = |line: &&str| {
        let mut words = line.split_whitespace();
        words.nth(1) == Some("FLOCK")
            && words.nth(3).and_then(|place| place.rsplit(':').next()) == Some(&inode)
    };
    // A holder in another pid namespace is shown as 0, which is not a process.
    locks.lines().find(of_file)?.split_whitespace().nth(4)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_holds_until_it_goes() {
        let own = HostPid::own();
        let claims = Claims::of_tree(own).unwrap();
        let refused = Claims::of_tree(own).unwrap_err();
        assert!(matches!(refused, Error::Claimed { pid, by } if pid == own && by == Some(own)));
        drop(claims);
        assert!(Claims::of_tree(own).is_ok());
    }
}

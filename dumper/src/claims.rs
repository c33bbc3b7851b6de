//! One dump of a process at a time.
//!
//! Two at once would each take the other's protection of memory for changes, or refuse it. So
//! whoever dumps a tree first claims its processes, by a lock (flock(2)) on each one's
//! `/proc/PID/pagemap`: a file that only who may trace the process can open, of which all that look
//! at one /proc see the same, and that goes with the process. The lock goes with its holder,
//! however that ends. A process that is born later has a parent that is claimed.

use std::fs::File;

use nix::fcntl::{Flock, FlockArg};

use crate::error::Error;

/// The right to dump the processes of a tree, until it goes.
#[derive(Debug)]
pub(crate) struct Claims {
    _locks: Vec<Flock<File>>,
}

impl Claims {
    /// Claims all processes of the tree below `root`, of those that are there and may be looked at.
    ///
    /// # Errors
    /// [`Error::Claimed`] if another dump has one of them.
    pub(crate) fn of_tree(root: i32) -> Result<Self, Error> {
        let tree = collector::tree(root);
        let tree = tree.map_err(|source| Error::Inventory { pid: root, source })?;
        let mut locks = Vec::with_capacity(tree.len());
        for pid in tree {
            // What cannot be opened is refused, or found gone, by all that comes after this.
            let Ok(file) = File::open(format!("/proc/{pid}/pagemap")) else { continue };
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => locks.push(lock),
                Err((_, nix::Error::EWOULDBLOCK)) => return Err(Error::Claimed(pid)),
                Err((_, error)) => tracing::debug!(pid, %error, "claim a process"),
            }
        }
        Ok(Self { _locks: locks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_holds_until_it_goes() {
        let own = std::process::id().cast_signed();
        let claims = Claims::of_tree(own).unwrap();
        assert!(matches!(Claims::of_tree(own), Err(Error::Claimed(pid)) if pid == own));
        drop(claims);
        assert!(Claims::of_tree(own).is_ok());
    }
}

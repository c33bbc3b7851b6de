//! Mounts are attached, each to the one that it is on.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use kernel::mounts;
use kernel::paths::{Links, find};
use kernel::seeking::Seeker;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::plan::{Index, Plan};

const HANDLE: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Attaches mounts in the calling thread's namespace, whose root becomes the first of them, and says of each that it is there before
/// others are on it; the one that could not be, with its error. The seeker finds the places that the thread may not go to.
pub(super) fn attach_all(
    plan: &Plan,
    order: &[Index],
    (copies, seeker): (&BTreeMap<Index, OwnedFd>, Option<&Seeker>),
    is_there: &mut dyn FnMut(Index, &OwnedFd),
) -> Result<(), (Index, io::Error)> {
    for index in order {
        let mount = &plan.mounts[*index];
        let placed = || {
            let copy = copies.get(index).ok_or(io::ErrorKind::NotFound)?;
            let Some((parent, below)) = &mount.on else {
                mounts::attach(copy, open("/", HANDLE, Mode::empty())?)?;
                return mounts::change_root(copy);
            };
            let parent = copies.get(parent).ok_or(io::ErrorKind::NotFound)?;
            let place = match seeker {
                Some(seeker) => seeker.find(parent, below),
                None => find(parent, below, Links::Refused),
            };
            mounts::attach(copy, place?)
        };
        placed().map_err(|error| (*index, error))?;
        if let Some(copy) = copies.get(index) {
            is_there(*index, copy);
        }
    }
    Ok(())
}

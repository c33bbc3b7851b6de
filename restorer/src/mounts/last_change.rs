//! What is changed of a mount in the end.

use kernel::mounts::{Change, Propagation};

use super::flags;
use super::plan::Mount;

/// What is changed of a mount when all that is on it is there.
pub(super) fn last_change(mount: &Mount) -> Change {
    let unbindable = u64::from(mount.entry.flags) & libc::MS_UNBINDABLE != 0;
    let propagation = unbindable.then_some(Propagation::Unbindable);
    Change { propagation, ..flags::change(&mount.entry) }
}

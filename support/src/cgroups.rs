//! Control groups.

use crate::unsupported::Refusal;

/// A group of the first version that is frozen: its tasks do not stop for a tracer either. `thaw` is the
/// command that thaws it.
#[must_use]
pub fn frozen(thaw: &str) -> Refusal {
    Refusal::new(
        "it is frozen, and a frozen task cannot be stopped and read",
        format!("thaw it, or have whoever paused it do so: {thaw}"),
    )
}

/// A group that is to be described, of which there would be such a directory.
#[must_use]
pub fn not_there(directory: &str) -> Refusal {
    Refusal::new(
        "it is to be described, and is not there",
        format!("make it (mkdir {directory}) or name another"),
    )
}

/// A group that is to be described, of a hierarchy that is not mounted.
pub const NOT_MOUNTED: Refusal = Refusal::fixed(
    "it is to be described, and its hierarchy is not mounted here",
    "mount the hierarchy, or name groups of others alone (--cgroup-root CONTROLLER:/PATH)",
);

/// A group that is to be described, by a controller that there is none of.
pub const NO_CONTROLLER: Refusal = Refusal::fixed(
    "no hierarchy has this controller",
    "name one of /proc/self/cgroup (name=NAME for one without a controller)",
);

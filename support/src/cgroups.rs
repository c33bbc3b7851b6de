//! Control groups.

use crate::unsupported::{Refusal, word};

/// A group of the first version that is frozen: its tasks do not stop for a tracer either. `thaw` is the
/// command that thaws it.
#[must_use]
pub fn frozen(thaw: &str) -> Refusal {
    Refusal::new(
        "it is frozen, and a frozen task cannot be stopped and read",
        format!(
            "`criu dump --freeze-cgroup DIRECTORY` takes it as it is and leaves it frozen; or thaw it, or have the engine \
             that paused it do so: {thaw}"
        ),
    )
}

/// What is to stop a tree, and is no group that could.
pub const NOT_FREEZABLE: Refusal = Refusal::fixed(
    "the tree is to be stopped by it, and it is not the directory of a control group that can be frozen",
    "name the directory of one of the first version's freezer or of the second version, which has freezer.state or \
     cgroup.freeze (--freeze-cgroup)",
);

/// A group that is to stop a tree, and does not have it.
pub const TREE_NOT_IN_IT: Refusal = Refusal::fixed(
    "the tree is to be stopped by it, and its root is not in it",
    "name one that is (/proc/PID/cgroup), or leave --freeze-cgroup out",
);

/// A group that is to stop a tree, and would stop stasis.
pub const WOULD_STOP_US: Refusal = Refusal::fixed(
    "the tree is to be stopped by it, and stasis is in it, too",
    "start stasis outside of it, or leave --freeze-cgroup out",
);

/// A group that is to be described, of which there would be such a directory.
#[must_use]
pub fn not_there(directory: &str) -> Refusal {
    Refusal::new(
        "it is to be described, and is not there",
        format!("make it (mkdir {}) or name another", word(directory)),
    )
}

/// A group that is to be described, of a hierarchy that is not mounted.
pub const NOT_MOUNTED: Refusal = Refusal::fixed(
    "it is to be described, and its hierarchy is not mounted here",
    "mount the hierarchy, or name groups of others alone (--cgroup-root CONTROLLER:/PATH)",
);

/// Where hierarchies are to be mounted, and is no directory.
pub const NO_YARD: Refusal = Refusal::fixed(
    "control groups are to be found in it (--cgroup-yard), and it is not there",
    "make it and mount each hierarchy in a folder of it (cpu,cpuacct; systemd; unified), or leave the option out",
);

/// A group that is to be described, by a controller that there is none of.
pub const NO_CONTROLLER: Refusal = Refusal::fixed(
    "no hierarchy has this controller",
    "name one of /proc/self/cgroup (name=NAME for one without a controller)",
);

/// A group that is there, while `--cgroups strict` is to make it.
pub const THERE_ALREADY: Refusal = Refusal::fixed(
    "it is there already",
    "remove it (rmdir its directory), or restore with another mode (stasis restore --cgroups soft, criu restore \
     --manage-cgroups=soft)",
);

/// What helps where the groups of the images cannot be had.
pub const LEAVE: &str = "to leave the tree in the control groups of whoever restores it, stasis restore --cgroups ignore or \
                         criu restore --manage-cgroups=ignore";

/// A group of a hierarchy that is not mounted, or not that part of it.
pub const ELSEWHERE: Refusal =
    Refusal::fixed("its hierarchy is not mounted here, or not that part of it", LEAVE);

/// A cgroup namespace whose root is not above its tasks.
pub const ROOT_BELOW: Refusal = Refusal::fixed(
    "a task is in a control group outside of the root of its cgroup namespace, so that nothing tells which that is",
    "move the task into a group below that in which the namespace was made",
);

/// A group that is gone, and is not to be made again.
pub const NOT_MADE: Refusal = Refusal::fixed("it is not there, and is not to be made", LEAVE);

/// A group that has gone.
pub const GONE: Refusal = Refusal::fixed("it is not there", LEAVE);

/// A setting of a group that this machine does not have.
pub const NO_SETTING: Refusal =
    Refusal::fixed("this machine's control groups do not have it", LEAVE);

/// A group that would stop what goes into it; `file` lets it run if this is written to it.
#[must_use]
pub fn stopped(value: &str, file: &str) -> Refusal {
    Refusal::new("it is frozen", format!("let it run: echo {value} > {}", word(file)))
}

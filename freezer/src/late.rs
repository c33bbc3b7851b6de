//! Why a thread does not stop.

use std::collections::BTreeMap;

use ids::HostPid;
use kernel::cgroup::{Cgroup, Hierarchies, Version};
use kernel::kcmp::{self, Resource};
use kernel::procfs::{self, Dir, ProcFile, Stat};

/// The children for which a thread waits in a vfork: while it does it cannot stop, and they use its
/// memory.
pub(crate) fn vfork_children(tid: HostPid) -> Vec<HostPid> {
    if state(tid) != Some('D') {
        return Vec::new();
    }
    let children = Dir::open(tid).and_then(|dir| procfs::children(&dir)).unwrap_or_default();
    let shares =
        |child: &HostPid| kcmp::resources(*child, tid, Resource::Memory).is_ok_and(|o| o.is_eq());
    children.into_iter().filter(shares).collect()
}

/// The cgroup that keeps a task from running, and so from stopping. (A task of a frozen cgroup of the
/// second version does stop.)
fn frozen_cgroup(tid: HostPid) -> Option<Cgroup> {
    Hierarchies::find().and_then(|all| all.frozen(Version::V1, tid)).ok().flatten()
}

/// One of these threads of a process which nobody can seize: it has stopped by a signal, and is then frozen (version 1). Who tries waits in
/// the kernel until it is thawed, whatever signals it has. A stop by a signal is one of all threads.
pub(crate) fn cannot_be_seized(process: &Dir, threads: &[HostPid]) -> Option<HostPid> {
    /// Where the kernel stops threads for a signal.
    const STOP: &[u8] = b"do_signal_stop";
    for &tid in threads {
        let Ok(thread) = process.thread(tid) else { continue };
        let Ok(stat) = Stat::read(&thread) else { continue };
        return match stat.state {
            b'Z' | b'X' => continue,
            // Since Linux 6.1 what is frozen is in no other state beside.
            b'D' => {
                let mut place = Vec::new();
                thread.read("wchan", &mut place).ok()?;
                place.starts_with(STOP).then_some(tid)
            }
            b'T' => frozen_cgroup(tid).map(|_| tid),
            _ => None,
        };
    }
    None
}

fn state(tid: HostPid) -> Option<char> {
    Dir::open(tid).and_then(|dir| Stat::read(&dir)).ok().map(|stat| stat.state.into())
}

/// The first of the threads that have not stopped, and what it is at. `hurrying` are children of
/// vforks, with the threads that wait for them.
pub(crate) fn why_late(
    late: &[HostPid],
    root: HostPid,
    hurrying: &BTreeMap<HostPid, HostPid>,
) -> (HostPid, String) {
    let waits = |tid: &&HostPid| !hurrying.contains_key(tid);
    let tid = late.iter().find(waits).or(late.first()).copied().unwrap_or(root);
    let state = state(tid).unwrap_or('?');
    let why = if let Some(cgroup) = frozen_cgroup(tid) {
        let (directory, thaw) = (cgroup.directory().display(), cgroup.thaw_command());
        format!(
            "its cgroup {directory} is frozen; thaw it, or have whoever paused it do so: {thaw}"
        )
    } else if let Some((child, _)) = hurrying.iter().find(|(_, parent)| **parent == tid) {
        format!(
            "it waits in a vfork for its child, process {child}, to execute a program or to end; \
             try again when that is over"
        )
    } else {
        format!(
            "it waits uninterruptibly (state {state}), as on a file system or a device that does not \
             answer; /proc/{tid}/stack says at what"
        )
    };
    (tid, why)
}

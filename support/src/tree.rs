//! Trees of processes: what they share, where they are, who has them.

use std::collections::{BTreeMap, BTreeSet};

use ids::HostPid;
use images::MappingKind;
use inventory::{Process, ProcessState, Thread};

use crate::births::{self, Born};
use crate::mappings::{object_of, of_mapping};
use crate::settings;
use crate::shared_memory;
use crate::terminals;
use crate::unsupported::{BY_ROOT, Refusal, Unsupported};

/// What else one has to know to judge a tree.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The process that asks, which cannot stop itself.
    pub own: Option<HostPid>,
    /// Its namespaces.
    pub namespaces: BTreeMap<&'static str, u64>,
    /// The root may belong to a session (and a terminal) outside the tree.
    pub shell_job: bool,
    /// Leaders of the tree's sessions that live outside of it.
    pub leaders: BTreeSet<HostPid>,
    /// Whoever dumps sees to it that uprobes are there at the restore, too.
    pub allow_uprobes: bool,
}

/// The namespaces that a process may be in beside those of stasis, by their names in `/proc/PID/ns`.
pub const CARRIED_NAMESPACES: [&str; 8] =
    ["user", "pid", "time", "uts", "cgroup", "ipc", "net", "mnt"];

/// The namespaces of a process, by their names in `/proc/PID/ns`, in which it cannot be carried.
pub fn foreign_namespaces<'a>(
    process: &'a Process,
    around: &'a Surroundings,
) -> impl Iterator<Item = &'static str> + 'a {
    let others = process.namespaces.iter().filter(move |(name, id)| {
        let own = &process.namespaces;
        // Whether one of pids is carried takes more than its number (`pids`).
        if **name == "pid_for_children" {
            return false;
        }
        if let Some(kind) = name.strip_suffix("_for_children") {
            return own.get(kind).is_some_and(|own| own != *id);
        }
        let is_ours = around.namespaces.get(*name) == Some(*id);
        // So it is with users (`users`).
        !is_ours && !CARRIED_NAMESPACES.contains(name)
    });
    others.map(|(name, _)| *name)
}

/// What stands in the way of a dump of the tree below `root`, whose processes these are.
#[must_use]
pub fn of_tree(root: HostPid, tree: &[&Process], around: &Surroundings) -> Vec<Unsupported> {
    let mut found = Vec::new();
    let members: BTreeSet<HostPid> = tree.iter().map(|process| process.pid).collect();
    if let Some(own) = around.own.filter(|own| members.contains(own)) {
        let (reason, remedy) = (
            "a process cannot stop itself and go on",
            "run stasis outside the tree that it is to dump (in another terminal, or by setsid)",
        );
        found.push(Refusal::fixed(reason, remedy).of(own, "stasis itself"));
    }
    found.extend(of_init(root));
    found.extend(terminals::of_sessions(tree));
    found.extend(of_births(root, tree));
    let sid = tree.iter().find(|process| process.pid == root).and_then(|process| process.sid);
    for process in tree {
        session(process, (root, sid), around, &mut found);
        if !is_zombie(process) {
            of_process(process, tree, around, &mut found);
        } else if process.pid == root {
            let reason = "it has ended and waits for its parent to collect it";
            let remedy = match process.ppid {
                Some(parent) => format!("dump the tree of its parent, process {parent}"),
                None => "dump the tree of its parent".to_owned(),
            };
            found.push(Refusal::new(reason, remedy).of(root, "the process"));
        }
        if process.pid != root {
            found.extend(settings::of_child(process));
        }
    }
    found
}

/// The first process of a machine, or of a container, cannot come back: it has its number for as long as
/// there are others.
#[must_use]
pub fn of_init(root: HostPid) -> Option<Unsupported> {
    (root.get() == 1).then(|| {
        let reason = "it is the init of this machine or container: all processes end with it, so it could \
                      not be restored";
        let remedy = "dump the trees below it one by one (`stasis ps` lists them), or a container from \
                      outside, by the number that its init has there";
        Refusal::fixed(reason, remedy).of(1, "the process")
    })
}

const ENTERED: &str = "it has entered the pid namespace of the tree from outside (nsenter, exec of a container engine): it \
                       is no part of the tree, and would be lost with it";

const ENTERED_AND_ENDED: &str = "it has entered the pid namespace of the tree from outside and ended, and its parent has not waited for it: \
                                 the first process of the tree cannot end before that";

/// Whether it is such a process: many of them are gone soon.
#[must_use]
pub fn is_entered(found: &Unsupported) -> bool {
    found.reason == ENTERED || found.reason == ENTERED_AND_ENDED
}

/// The same when it has ended: the kernel keeps the first process of a pid namespace until all others in it are waited for.
#[must_use]
pub fn of_entered_and_ended(pid: HostPid, parent: Option<HostPid>) -> Unsupported {
    let remedy = match parent {
        Some(parent) => {
            format!("have its parent, process {parent}, wait for it, or end that: kill {parent}")
        }
        None => "have its parent wait for it".to_owned(),
    };
    Refusal::new(ENTERED_AND_ENDED, remedy).of(pid, "the process")
}

/// The root of a tree in a pid namespace that a restore is given, and that belongs to another user namespace than the dumper's.
#[must_use]
pub fn external_of_users(root: HostPid) -> Unsupported {
    Refusal::fixed(
        "its pid namespace, which a restore is to be given (--external), belongs to a user namespace below that of the dumping process: \
         a restore makes that anew, and it would not be the owner",
        "dump the tree of the first process in that pid namespace (`stasis ps` lists them), without --external for it",
    )
    .of(root, "pid namespace")
}

/// The root of a tree that is in another pid namespace than the dumper, with this number, and not the first process of it.
#[must_use]
pub fn without_first(root: HostPid, namespace: u64) -> Unsupported {
    Refusal::new(
        "it is in another pid namespace than the dumping process, and not the first process of it: a restore could not make it without \
         that one",
        format!(
            "dump the first process of the namespace, or give --external 'pid[{namespace}]:NAME' to the dump, and a pid namespace by \
             that name to the restore"
        ),
    )
    .of(root, "pid namespace")
}

/// The root of a tree whose pid namespace is to be given to a restore, though it is the first process of that.
#[must_use]
pub fn external_of_first(root: HostPid) -> Unsupported {
    Refusal::fixed(
        "it is the first process of the pid namespace that is external (--external pid[...]): in one that is given its number is that of \
         another",
        "leave the option out: a restore makes the namespace anew",
    )
    .of(root, "pid namespace")
}

/// A process that has entered the pid namespace of the tree, and is none of its first process' descendants.
#[must_use]
pub fn of_entered(pid: HostPid) -> Unsupported {
    Refusal::new(ENTERED, format!("wait until it has ended, or end it: kill {pid}"))
        .of(pid, "the process")
}

/// A process whose session or group is led from outside of the pid namespace that the tree has for itself.
#[must_use]
pub fn of_foreign_session(process: &Process) -> Unsupported {
    Refusal::fixed(
        "its leader is outside of the pid namespace of the tree, in which it has no number",
        "end this process, or have it found a session of its own (setsid): one that was started from outside \
         (nsenter, exec of a container engine) has that of where it came from",
    )
    .of(process.pid, "session")
}

/// Sessions and process groups have to lie inside the tree, or else the caller says that the
/// tree is a terminal's job.
fn session(
    process: &Process,
    (root, root_sid): (HostPid, Option<HostPid>),
    around: &Surroundings,
    found: &mut Vec<Unsupported>,
) {
    let (pid, sid) = (process.pid, process.sid);
    let mut add = |reason: &'static str, remedy: String| {
        found.push(
            Refusal::new(reason, remedy)
                .of(pid, format!("session {}", sid.map_or(0, HostPid::get))),
        );
    };
    if pid == root && sid != Some(pid) && !around.shell_job && !process.kernel_thread {
        let join = "give --shell-job, to have it join the session of whoever restores it";
        let remedy = match sid {
            // The leader is outside of the pid namespace.
            None => format!("{join}, or start it with setsid"),
            Some(sid) => format!(
                "{join}, start it with setsid, or, if process {sid} still runs, dump the tree of that"
            ),
        };
        add("its leader is outside the tree", remedy);
    } else if pid != root && sid != root_sid && sid.is_none_or(|sid| around.leaders.contains(&sid))
    {
        let remedy = "dump a tree that holds both, or start the process with setsid";
        add("its leader is outside the tree", remedy.to_owned());
    }
}

/// Who makes the processes of a tree, in their order; or the index of one that nobody can make.
///
/// # Errors
/// Such a one.
pub fn makers(root: HostPid, tree: &[&Process]) -> Result<Vec<births::Maker>, usize> {
    let indices: BTreeMap<HostPid, usize> =
        tree.iter().enumerate().map(|(index, process)| (process.pid, index)).collect();
    let born = |process: &&Process| Born {
        pid: process.pid,
        parent: process
            .ppid
            .filter(|_| process.pid != root)
            .and_then(|ppid| indices.get(&ppid).copied()),
        sid: process.sid,
    };
    let members: Vec<Born<HostPid>> = tree.iter().map(born).collect();
    let outside = indices.get(&root).and_then(|index| tree[*index].sid);
    births::makers(&members, outside)
}

/// Whether every process can be born into its session again, and into the memory that it has together with others.
fn of_births(root: HostPid, tree: &[&Process]) -> Vec<Unsupported> {
    match makers(root, tree) {
        Ok(makers) => {
            shared_memory::of_tree(root, tree, &makers, |process| is_in_vfork(process, tree))
        }
        Err(index) => {
            // Of a session whose number is not known something else is said.
            let of = |sid: HostPid| {
                births::nobody_makes(sid).of(tree[index].pid, format!("session {sid}"))
            };
            tree[index].sid.map(of).into_iter().collect()
        }
    }
}

/// A child of vfork uses the memory of its parent, which waits in the kernel until the child executes
/// a program or ends: that passes.
fn is_in_vfork(process: &Process, tree: &[&Process]) -> bool {
    let parent = tree.iter().find(|other| Some(other.pid) == process.ppid);
    parent.is_some_and(|parent| {
        parent.tables.memory == process.tables.memory
            && parent.threads.values().any(|thread| thread.state == 'D')
    })
}

/// Tables that a process shares with another outside of the tree. (Inside of it they are passed on from birth to birth.)
fn of_tables(process: &Process, tree: &[&Process]) -> Vec<Unsupported> {
    let (pid, tables) = (process.pid, &process.tables);
    let is_inside = |pid: HostPid| tree.iter().any(|process| process.pid == pid);
    let mut found = Vec::new();
    for (index, (name, flag, owner)) in [
        ("memory", "CLONE_VM", tables.memory),
        ("descriptor table", "CLONE_FILES", tables.files),
        ("working directory", "CLONE_FS", tables.file_system),
        ("signal handlers", "CLONE_SIGHAND", tables.signal_handlers),
    ]
    .into_iter()
    .enumerate()
    {
        // The inventory does not tell of itself that it is complete.
        let mut others = [tables.others[index], owner].into_iter().flatten();
        let outside = others.find(|other| *other != pid && !is_inside(*other));
        if let Some(other) = outside {
            let reason = format!("it is shared with process {other} outside the tree ({flag})");
            let remedy = format!(
                "end that process (kill {other}), dump a tree that holds both, or have the program start it \
                 without {flag}"
            );
            found.push(Refusal::new(reason, remedy).of(pid, name));
        }
    }
    found
}

fn of_process(
    process: &Process,
    tree: &[&Process],
    around: &Surroundings,
    found: &mut Vec<Unsupported>,
) {
    let pid = process.pid;
    if process.kernel_thread {
        let refusal = Refusal::fixed("it is part of the kernel", "choose another process");
        found.push(refusal.of(pid, "the process"));
        return;
    }
    for name in foreign_namespaces(process, around) {
        let refusal = match name {
            "time_for_children" => Refusal::fixed(
                "children of this process would be in another one than it is itself (unshare, setns)",
                "have it start a child there, and dump the tree of that child",
            ),
            _ => Refusal::fixed(
                "it is another one than that of stasis, and namespaces of this kind cannot be carried yet",
                "start it outside of containers and unshare(1)",
            ),
        };
        found.push(refusal.of(pid, format!("{name} namespace")));
    }
    found.extend(of_tables(process, tree));
    if process.in_process.as_ref().is_some_and(|known| known.local_descriptors) {
        let refusal = Refusal::fixed(
            "it has segments of its own (modify_ldt), which cannot be carried",
            "run a build of the program for 64 bits, which does without",
        );
        found.push(refusal.of(pid, "local descriptor table"));
    }
    for thread in process.threads.values() {
        of_thread(process, thread, found);
    }
    found.extend(settings::of_process(process));
    for mapping in &process.mappings {
        if around.allow_uprobes && mapping.kind == MappingKind::Uprobes {
            continue;
        }
        found.extend(of_mapping(mapping).map(|refusal| refusal.of(pid, object_of(mapping))));
    }
}

fn of_thread(process: &Process, thread: &Thread, found: &mut Vec<Unsupported>) {
    let (pid, tid) = (process.pid, thread.tid);
    let mut add = |is: bool, reason, remedy| {
        if is {
            found.push(Refusal::fixed(reason, remedy).of(pid, format!("thread {tid}")));
        }
    };
    add(
        thread.own_tables,
        "it does not share its files or working directory with its process",
        "let threads share them (CLONE_FILES | CLONE_FS)",
    );
    add(
        thread.own_namespaces,
        "it is in other namespaces than its process (unshare, setns)",
        "have it go back to those of its process (setns) before the dump, or end it",
    );
    add(
        tid == pid && thread.state == 'Z',
        "the process's first thread has ended before the others",
        "keep the first thread until the others have ended",
    );
    if thread.in_task.is_some_and(|known| known.ports) {
        let refusal = Refusal::fixed(
            "it may use I/O ports (ioperm, iopl), which cannot be carried",
            "have it give them back before the dump (iopl(0), ioperm(0, 65536, 0))",
        );
        found.push(refusal.of(pid, format!("I/O ports of thread {tid}")));
    }
    found.extend(settings::of_thread(process, thread));
}

const fn is_zombie(process: &Process) -> bool {
    matches!(process.state, ProcessState::Zombie { .. })
}

/// A task that `tracer`, a thread other than `own`, traces: a task can only have one.
#[must_use]
pub fn of_tracer(
    task: HostPid,
    tracer: Option<HostPid>,
    own: Option<HostPid>,
) -> Option<Unsupported> {
    tracer.filter(|_| tracer != own).map(|tracer| {
        let remedy = format!("detach the debugger, process {tracer}, or end it: kill {tracer}");
        Refusal::new(format!("process {tracer} traces it"), remedy).of(task, "the process")
    })
}

/// A process that whoever asks may not look into: this program, or a user.
#[must_use]
pub fn of_closed(pid: HostPid, to_user: bool) -> Unsupported {
    let refusal = match to_user {
        false => Refusal::fixed(
            "this program may not look into it",
            "run stasis as root (sudo), outside of any container",
        ),
        true => Refusal::fixed("it has rights that the caller lacks", BY_ROOT),
    };
    refusal.of(pid, "the process")
}

/// A tree that could not be looked at, for an error that says nothing of whether it can be carried.
#[must_use]
pub fn of_unseen(pid: HostPid, error: impl std::fmt::Display) -> Unsupported {
    let remedy = "see to what the error names, then ask again";
    Refusal::new(format!("it could not be looked at: {error}"), remedy).of(pid, "the process")
}

/// A process that is no longer there.
#[must_use]
pub fn of_ended(pid: HostPid) -> Unsupported {
    Refusal::fixed("it has ended", "choose a process that is there").of(pid, "the process")
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;

//! Processes and threads that came, went, or are not what they were.

use std::collections::BTreeMap;

use api::{ChangedTask, ComparedTask, TaskChanges};
use images::Checkpoint;
use images::checkpoint::{Process, State, Thread};

use super::lists::tell;
use crate::describe;

pub(super) const fn is_same(changes: &TaskChanges) -> bool {
    changes.came.is_empty() && changes.went.is_empty() && changes.changed.is_empty()
}

pub(super) fn compare(before: &Checkpoint, after: &Checkpoint) -> TaskChanges {
    let (old, new) = (tasks(before), tasks(after));
    let mut changes = TaskChanges::default();
    let TaskChanges { came, went, changed, left_out } = &mut changes;
    for (key, (task, _)) in &old {
        if !new.contains_key(key) {
            tell(went, left_out, || task.clone());
        }
    }
    for (key, (task, process)) in &new {
        let Some((was, old_process)) = old.get(key) else {
            tell(came, left_out, || task.clone());
            continue;
        };
        let mut compared = vec![("name", was.comm.clone(), task.comm.clone())];
        // What belongs to the whole process is told of its first task.
        if task.task == task.process {
            let facts = facts(before, old_process).into_iter().zip(facts(after, process));
            compared.extend(facts.map(|((what, old), (_, new))| (what, old, new)));
        }
        for (what, before, after) in compared.into_iter().filter(|(_, old, new)| old != new) {
            tell(changed, left_out, || {
                let (of, what) = (task.clone(), what.to_owned());
                ChangedTask { of, what, before, after }
            });
        }
    }
    changes
}

/// All tasks by process and number; a process that has ended is one.
fn tasks(checkpoint: &Checkpoint) -> BTreeMap<(u32, u32), (ComparedTask, &Process)> {
    let mut found = BTreeMap::new();
    for process in &checkpoint.processes {
        let mut add = |task: u32, comm: &[u8]| {
            let comm = describe::printable(comm);
            let told = ComparedTask { process: process.pid.into(), task: task.into(), comm };
            found.insert((process.pid, task), (told, process));
        };
        add(process.pid, &process.task.comm);
        for thread in process.threads.iter().filter(|thread| thread.tid != process.pid) {
            add(thread.tid, name(thread).unwrap_or(&process.task.comm));
        }
    }
    found
}

fn name(thread: &Thread) -> Option<&[u8]> {
    thread.core.thread_core.as_ref()?.comm.as_deref()
}

/// What is told of a process, each by what it is called.
fn facts(checkpoint: &Checkpoint, process: &Process) -> [(&'static str, String); 7] {
    let state = match process.state {
        State::Alive => "running",
        State::Stopped => "stopped",
        State::Dead { .. } => "ended",
    };
    let path = |id: u32| describe::path(checkpoint, id).unwrap_or_default();
    let body = process.body.as_ref();
    let leader = process.threads.first().and_then(|leader| leader.core.thread_core.as_ref());
    let user = leader.and_then(|core| core.creds.as_ref()).map(|creds| creds.euid.to_string());
    [
        ("state", state.to_owned()),
        ("parent", process.ppid.to_string()),
        ("group", process.pgid.to_string()),
        ("session", process.sid.to_string()),
        ("program", body.map(|body| path(body.mm.exe_file_id)).unwrap_or_default()),
        ("directory", body.map(|body| path(body.fs.cwd_id)).unwrap_or_default()),
        ("user", user.unwrap_or_default()),
    ]
}

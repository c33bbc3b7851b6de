//! `/proc` of pid namespaces below that of the root, in mount namespaces of their own.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};

use crate::mounts::{attach, await_file, bind, enter_root, propagate, table};
use crate::stage::{Findings, Outcome, Stage};
use crate::tree::child;

/// A pid namespace below that of the root, with its `/proc` in a mount namespace of its own (`unshare --pid --fork --mount-proc`).
pub(crate) fn nested_proc(stage: &Stage) -> Outcome {
    enter_root(stage, "mounts_nested_proc_inside")
}

/// The same below the init of one.
pub(crate) fn nested_proc_of_init(stage: &Stage) -> Outcome {
    enter_root(stage, "mounts_nested_proc_of_init_inside")
}

/// The processes that `/proc` shows, and who looks.
fn processes() -> (Vec<String>, Option<PathBuf>) {
    let entries = fs::read_dir("/proc").expect("read").flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<String> = names.filter(|name| name.parse::<u32>().is_ok()).collect();
    found.sort();
    (found, fs::read_link("/proc/self").ok())
}

fn has_own_proc(stage: &Stage, name: &'static str, work: impl FnOnce() -> Outcome) -> Outcome {
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS).expect("unshare");
    propagate(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    let first = child(stage, name, || {
        attach("own", Path::new("/proc"), "proc", MsFlags::MS_NOSUID, "hidepid=2");
        bind(Path::new("/proc/sys"), Path::new("/bound"));
        attach("above", Path::new("/proc/fs"), "tmpfs", MsFlags::empty(), "size=1m");
        work()
    });
    let mut found = Findings::default();
    stage.wait();
    found.same("the first", &Ok(WaitStatus::Exited(first, 0)), &waitpid(first, None));
    found.outcome()
}

fn sees(stage: &Stage, name: &str) -> Outcome {
    let of_all = File::open("/proc/meminfo").expect("open");
    let before = (processes(), table());
    stage.publish(name, "");
    stage.wait();
    let mut found = Findings::default();
    found.same("what is mounted and shown", &before, &(processes(), table()));
    let mut text = String::new();
    found.works("read", (&of_all).read_to_string(&mut text));
    found.must("what all have", text.contains("MemTotal"));
    stage.publish(&format!("{name} seen"), "");
    found.outcome()
}

pub(crate) fn nested_proc_inside(stage: &Stage) -> Outcome {
    let outer = child(stage, "outer", || {
        has_own_proc(stage, "first", || {
            let deeper = child(stage, "deeper", || {
                has_own_proc(stage, "inner", || {
                    let outcome = sees(stage, "inner");
                    await_file(stage, "middle seen");
                    outcome
                })
            });
            await_file(stage, "inner");
            let outcome = sees(stage, "middle");
            let mut found = Findings::default();
            found.works("what is shown", outcome);
            found.same("deeper", &Ok(WaitStatus::Exited(deeper, 0)), &waitpid(deeper, None));
            found.outcome()
        })
    });
    await_file(stage, "middle");
    let before = table();
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("mounts", &before, &table());
    found.same("outer", &Ok(WaitStatus::Exited(outer, 0)), &waitpid(outer, None));
    found.outcome()
}

/// A `/proc` of a namespace below that shares mounts, and a file about a process in it.
pub(crate) fn nested_proc_shared(stage: &Stage) -> Outcome {
    enter_root(stage, "mounts_nested_proc_shared_inside")
}

pub(crate) fn nested_proc_shared_inside(stage: &Stage) -> Outcome {
    let outer = child(stage, "outer", || {
        has_own_proc(stage, "first", || {
            let status = File::open("/proc/self/status").expect("open");
            propagate(Path::new("/proc"), MsFlags::MS_SHARED);
            let outcome = sees(stage, "middle");
            drop(status);
            outcome
        })
    });
    await_file(stage, "middle");
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("outer", &Ok(WaitStatus::Exited(outer, 0)), &waitpid(outer, None));
    found.outcome()
}

pub(crate) fn nested_proc_of_init_inside(stage: &Stage) -> Outcome {
    crate::init::inside(
        CloneFlags::CLONE_NEWPID,
        || {},
        || {
            attach("proc", Path::new("/proc"), "proc", MsFlags::MS_NOSUID, "");
            nested_proc_inside(stage)
        },
    )
}

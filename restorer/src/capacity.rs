//! Whether this machine has room for the tree: what its settings allow of tasks, mappings and memory.
//!
//! It is looked at before a process is made, so that a restore does not fail in the middle for what could
//! be known. What others take meanwhile is found by the call that fails then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ids::ImagePid;
use support::{Unsupported, room};

use crate::huge_pages;
use crate::load::Checkpoint;
use crate::plan::Plan;

/// Tasks of the restore's own: who holds the tree, and who makes its root.
pub(crate) const OWN_TASKS: u64 = 2;

/// What the machine allows, and has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine {
    tasks: u64,
    most_tasks: u64,
    most_mappings: u64,
    memory: MemoryPromise,
}

/// How the kernel promises memory (`vm.overcommit_memory`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemoryPromise {
    /// It does not count.
    Uncounted,
    /// What may still be promised, in bytes.
    Counted(u64),
}

/// A number in a file of one.
fn number(path: impl AsRef<Path>) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// All tasks of the machine, by `/proc/loadavg`: "0.20 0.18 0.12 1/80 11206".
fn tasks(loadavg: &str) -> Option<u64> {
    loadavg.split_whitespace().nth(3)?.split('/').nth(1)?.parse().ok()
}

/// A line of `/proc/meminfo`, in bytes.
fn field(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib.saturating_mul(1024))
}

impl Machine {
    fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let memory = match number("/proc/sys/vm/overcommit_memory") {
            Some(2) => {
                let meminfo = text("/proc/meminfo");
                let limit = field(&meminfo, "CommitLimit").unwrap_or(u64::MAX);
                let promised = field(&meminfo, "Committed_AS").unwrap_or(0);
                MemoryPromise::Counted(limit.saturating_sub(promised))
            }
            _ => MemoryPromise::Uncounted,
        };
        Self {
            tasks: tasks(&text("/proc/loadavg")).unwrap_or(0),
            most_tasks: number("/proc/sys/kernel/threads-max").unwrap_or(u64::MAX),
            most_mappings: number("/proc/sys/vm/max_map_count").unwrap_or(u64::MAX),
            memory,
        }
    }
}

/// Whether the kernel counts the memory that it promises, and refuses more than there is.
pub(crate) fn is_counted() -> bool {
    matches!(Machine::read().memory, MemoryPromise::Counted(_))
}

/// The tasks that will be made in a control group, by its directory.
pub(crate) type Births = BTreeMap<PathBuf, u64>;

/// What control groups, or one of those above them, do not allow (`pids.max`).
pub(crate) fn of_groups(root: ImagePid, forks: &Births) -> Vec<Unsupported> {
    let mut all: Births = Births::new();
    for (group, tasks) in forks {
        for above in group.ancestors() {
            *all.entry(above.to_owned()).or_default() += tasks;
        }
    }
    all.iter().filter_map(|(group, tasks)| of_group(root, group, *tasks)).collect()
}

fn of_group(root: ImagePid, group: &Path, needed: u64) -> Option<Unsupported> {
    let limit = group.join("pids.max");
    // Without a limit it says "max".
    let (most, now) = (number(&limit)?, number(group.join("pids.current"))?);
    room::of_group(root, &group.display().to_string(), needed, now, most)
}

/// What of the tree this machine has no room for.
pub(crate) fn find(checkpoint: &Checkpoint, plan: &Plan) -> Vec<Unsupported> {
    let machine = Machine::read();
    let Some(root) = plan.tasks.first().map(|task| task.pid) else { return Vec::new() };
    let threads = checkpoint.threads().saturating_sub(checkpoint.living().count());
    let tasks = (plan.tasks.len() + threads) as u64 + OWN_TASKS;
    let mut found: Vec<Unsupported> =
        room::of_tasks(root, tasks, machine.tasks, machine.most_tasks).into_iter().collect();
    let of_segments: u64 = checkpoint.segments.iter().map(|segment| segment.bytes).sum();
    let of_files = checkpoint.files.pages().saturating_mul(images::PAGE_SIZE);
    let mut promised = of_segments.saturating_add(of_files);
    for (process, body) in checkpoint.living() {
        let own = || body.mappings.iter().filter(|mapping| !mapping.kind.is_the_kernels());
        let count = own().count() as u64;
        found.extend(room::of_mappings(process.pid, count, machine.most_mappings));
        let writable = libc::PROT_WRITE.cast_unsigned();
        let private = libc::MAP_PRIVATE.cast_unsigned();
        let counted = own()
            .map(|mapping| &mapping.vma)
            .filter(|vma| vma.prot & writable != 0 && vma.flags & private != 0);
        let bytes = counted.map(|vma| vma.end.saturating_sub(vma.start));
        promised = bytes.fold(promised, u64::saturating_add);
    }
    if let MemoryPromise::Counted(left) = machine.memory {
        found.extend(room::of_memory(root, promised, left));
    }
    let contexts = checkpoint.living().flat_map(|(_, body)| &body.mm.aios);
    let requests: u64 = contexts.map(|context| u64::from(context.nr_req)).sum();
    if requests > 0 {
        // Where it is not told, the call that makes one says it.
        let left = kernel::aio::room().unwrap_or(u64::MAX);
        found.extend(room::of_aio(root, requests, left));
    }
    for (shift, pages) in huge_pages::needed(checkpoint) {
        let size = 1u64.checked_shl(shift).unwrap_or(u64::MAX);
        let directory = kernel::huge_pages::directory(shift).display().to_string();
        let left = kernel::huge_pages::available(shift);
        if pages > 0 {
            found.extend(room::of_huge_pages(root, (pages, size), left, &directory));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_understood() {
        assert_eq!(tasks("0.20 0.18 0.12 1/80 11206\n"), Some(80));
        assert_eq!(tasks("nonsense"), None);
        let meminfo = "CommitLimit:    12 kB\nCommitted_AS:     3 kB\n";
        assert_eq!(field(meminfo, "CommitLimit"), Some(12 * 1024));
        assert_eq!(field(meminfo, "Commit"), None);
        let machine = Machine::read();
        assert!(machine.tasks > 0 && machine.most_tasks >= machine.tasks, "{machine:?}");
    }

    #[test]
    fn groups_and_those_above_them_have_room_or_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (outer, inner) = (dir.path().join("outer"), dir.path().join("outer/inner"));
        std::fs::create_dir_all(&inner).unwrap();
        for (group, now, most) in [(&outer, "7", "10"), (&inner, "2", "max")] {
            std::fs::write(group.join("pids.current"), format!("{now}\n")).unwrap();
            std::fs::write(group.join("pids.max"), format!("{most}\n")).unwrap();
        }
        let root = ImagePid::new(7).unwrap();
        // One that will be made, too.
        let forks = |more| Births::from([(inner.clone(), 2), (outer.join("new"), more)]);
        assert_eq!(of_groups(root, &forks(1)), []);
        let found = of_groups(root, &forks(2));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].remedy, format!("echo 11 > {}", outer.join("pids.max").display()));
    }
}

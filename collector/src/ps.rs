//! Every process of the machine: can it be dumped, and if not, why.

use std::collections::BTreeMap;

use api::{ProcessList, ProcessSummary, Refusal};
use kernel::procfs::{self, Dir, Namespaces, ProcFile, Sockets, Stat, Status};

use crate::obstacles::{Obstacle, Surroundings, obstacles};
use crate::{Collector, Error, Inventory, Parts, Process, proc_source};

/// Every process of the machine, with what speaks against a dump of the tree below it.
///
/// # Errors
/// If the processes cannot be listed, or an inventory of them not be taken.
pub fn list(collector: &mut Collector) -> Result<ProcessList, Error> {
    let pids = procfs::processes().map_err(|source| Error::Proc { pid: 0, source })?;
    let (open, closed): (Vec<i32>, Vec<i32>) = pids.into_iter().partition(|&pid| may_inspect(pid));
    let mut inventory = collector.inventory(&open)?;
    // Of what may not be looked into there is still a name to list.
    let named = proc_source::take(&closed, Parts::empty())?;
    inventory.processes.extend(named.processes);
    let around = surroundings()?;
    let mut rows = BTreeMap::new();
    for process in inventory.processes.values() {
        if let Some(mut row) = Row::read(process, &around)? {
            if closed.contains(&process.pid) {
                row.obstacles = vec![Obstacle {
                    task: process.pid,
                    object: "the process".to_owned(),
                    reason: "this program may not look into it".to_owned(),
                    remedy: "run it as root, outside any container",
                }];
            }
            rows.insert(process.pid, row);
        }
    }
    let processes = rows
        .iter()
        .map(|(pid, row)| {
            let mut refusals: Vec<Refusal> = row.obstacles.iter().map(refusal).collect();
            refusals.extend(of_descendants(*pid, &inventory, &rows));
            ProcessSummary { dumpable: refusals.is_empty(), refusals, ..row.summary.clone() }
        })
        .collect();
    Ok(ProcessList { processes })
}

/// What has gone may be looked for: the inventory will not have it.
fn may_inspect(pid: i32) -> bool {
    Dir::open(pid).and_then(|dir| dir.may_inspect()).unwrap_or(true)
}

/// What this process sees around itself.
///
/// # Errors
/// If it cannot be read from /proc.
pub fn surroundings() -> Result<Surroundings, Error> {
    let pid = std::process::id().cast_signed();
    let read = || {
        let dir = Dir::open(pid)?;
        Ok(Surroundings { namespaces: Namespaces::read(&dir)?.0, sockets: Sockets::read(&dir)? })
    };
    read().map_err(|source| Error::Proc { pid, source })
}

struct Row {
    summary: ProcessSummary,
    obstacles: Vec<Obstacle>,
}

impl Row {
    /// `None` for a process that has gone.
    fn read(process: &Process, around: &Surroundings) -> Result<Option<Self>, Error> {
        match Self::of(process, around) {
            Ok(row) => Ok(Some(row)),
            Err(error) if error.is_gone() => Ok(None),
            Err(source) => Err(Error::Proc { pid: process.pid, source }),
        }
    }

    fn of(process: &Process, around: &Surroundings) -> Result<Self, procfs::Error> {
        let dir = Dir::open(process.pid)?;
        let stat = Stat::read(&dir)?;
        let status = Status::read(&dir)?;
        let mut command = Vec::new();
        dir.read("cmdline", &mut command)?;
        // Arguments end with zero bytes.
        let arguments = command.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        let summary = ProcessSummary {
            pid: process.pid,
            ppid: process.ppid,
            comm: stat.comm.to_string_lossy().into_owned(),
            command: arguments.collect::<Vec<_>>().join(" ").trim_end().to_owned(),
            uid: status.uid.effective,
            threads: process.threads.len() as u64,
            memory_bytes: u64::try_from(stat.rss).unwrap_or(0) * kernel::pagemap::PAGE_SIZE,
            dumpable: false,
            refusals: Vec::new(),
        };
        Ok(Self { summary, obstacles: obstacles(process, Some(&status), around) })
    }
}

fn refusal(obstacle: &Obstacle) -> Refusal {
    Refusal {
        object: obstacle.object.clone(),
        reason: obstacle.reason.clone(),
        remedy: Some(obstacle.remedy.to_owned()),
    }
}

/// A dump takes the whole tree: one line for each process below that stands in the way.
fn of_descendants(
    root: i32,
    inventory: &Inventory,
    rows: &BTreeMap<i32, Row>,
) -> impl Iterator<Item = Refusal> {
    let below = descendants(root, inventory);
    below.into_iter().filter_map(|pid| {
        // A zombie goes into the images with its parent.
        let zombie =
            matches!(inventory.processes.get(&pid)?.state, crate::ProcessState::Zombie { .. });
        let row = rows.get(&pid).filter(|_| !zombie)?;
        let first = row.obstacles.first()?;
        Some(Refusal {
            object: format!("process {pid} ({}) of its tree", row.summary.comm),
            reason: format!("{}: {}", first.object, first.reason),
            remedy: Some(first.remedy.to_owned()),
        })
    })
}

fn descendants(root: i32, inventory: &Inventory) -> Vec<i32> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(&parent) = all.get(next) {
        next += 1;
        let children = inventory.processes.values().filter(|process| process.ppid == parent);
        all.extend(children.map(|process| process.pid).filter(|pid| *pid != root));
    }
    all.remove(0);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_process_can_be_dumped_and_one_with_an_inotify_cannot() {
        let mut plain = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let own = std::process::id().cast_signed();
        let _watch =
            nix::sys::inotify::Inotify::init(nix::sys::inotify::InitFlags::empty()).unwrap();
        let list = list(&mut Collector::proc_only()).unwrap();
        let of = |pid| list.processes.iter().find(|row| row.pid == pid).unwrap();
        let sleep = of(plain.id().cast_signed());
        plain.kill().unwrap();
        plain.wait().unwrap();
        assert!(sleep.dumpable, "{sleep:?}");
        assert_eq!((&*sleep.comm, &*sleep.command, sleep.threads), ("sleep", "sleep 60", 1));
        assert!(sleep.memory_bytes > 0);
        let this = of(own);
        assert!(!this.dumpable);
        let reasons: Vec<_> = this.refusals.iter().map(|refusal| &refusal.reason).collect();
        assert!(reasons.iter().any(|reason| reason.contains("inotify")), "{reasons:?}");
        // And so cannot the one above.
        let parent = of(nix::unistd::getppid().as_raw());
        let object = format!("process {own} (");
        assert!(parent.refusals.iter().any(|refusal| refusal.object.starts_with(&object)));
    }
}

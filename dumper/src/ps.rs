//! Every process of the machine: can it be dumped, and if not, why. What is said here is what a dump
//! would say: it is looked for by the same code.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use api::{ProcessList, ProcessSummary};
use collector::{Collector, Home, Inventory, Parts, Process, ProcessState, proc_source};
use ids::HostPid;
use kernel::procfs::{self, Dir, ProcFile, Stat, Status};
use kernel::rights::{Right, User, held};
use support::Unsupported;
use support::settings::{of_seccomp, of_status};
use support::tree::{of_closed, of_ended, of_tracer, of_tree, of_unseen};

use crate::clock::Clock;
use crate::error::{Error, chain};
use crate::look::Looker;
use crate::options::DumpOptions;

/// Every process of the machine but this one, with what speaks against a dump of the tree below it; for
/// a user, those that he may look into. Of others in such a tree nothing is told but their names.
/// `programs` is as [`DumpOptions::programs`].
///
/// # Errors
/// If the processes cannot be listed, or an inventory of them not be taken.
pub fn list(programs: &Home, user: Option<User>) -> Result<ProcessList, Error> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let as_of_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let mut collector = Collector::open_at(programs);
    let own = HostPid::own();
    let pids = procfs::processes()?;
    let visible = visible(user, &pids)?;
    let is_open = |pid| visible.contains(&pid) && may_inspect(pid);
    let (open, closed): (Vec<HostPid>, Vec<HostPid>) =
        pids.into_iter().partition(|&pid| is_open(pid));
    let failed = |source| Error::Inventory { pid: own, source };
    let mut inventory = collector.inventory(&open).map_err(failed)?;
    // Of what may not be looked into there is still a name to list.
    let named = proc_source::take(&closed, Parts::empty()).map_err(failed)?;
    inventory.processes.extend(named.processes);
    let mut rows = BTreeMap::new();
    for process in inventory.processes.values() {
        if let Some(mut row) = Row::read(process)? {
            if closed.contains(&process.pid) {
                row.found = vec![of_closed(process.pid, user.is_some())];
            }
            rows.insert(process.pid, row);
        }
    }
    let children = children(&inventory);
    let mut processes = Vec::with_capacity(rows.len());
    let shown = |pid: &HostPid| *pid != own && (user.is_none() || open.contains(pid));
    for (&pid, row) in rows.iter().filter(|(pid, _)| shown(pid)) {
        let refusals = refusals(pid, &inventory, &children, &rows, &mut collector)?;
        let dumpable = refusals.is_empty();
        processes.push((pid, ProcessSummary { dumpable, refusals, ..row.summary.clone() }));
    }
    // A program with other rights may have been executed meanwhile: what was found is not his to see.
    let still = self::visible(user, &open)?;
    let his = |pid: &HostPid| !open.contains(pid) || still.contains(pid);
    processes.retain(|(pid, _)| user.is_none() || tree(*pid, &children).iter().all(his));
    let processes = processes.into_iter().map(|(_, row)| row).collect();
    Ok(ProcessList { processes, as_of_ms, next: None })
}

/// Those that a user may look into; all of them if none asks.
fn visible(user: Option<User>, pids: &[HostPid]) -> Result<BTreeSet<HostPid>, Error> {
    let Some(user) = user else { return Ok(pids.iter().copied().collect()) };
    held(user, Right::Read, pids).map_err(|source| Error::Process {
        operation: "ask who may look into the processes",
        pid: HostPid::own(),
        source,
    })
}

/// What has gone may be looked for: the inventory will not have it.
fn may_inspect(pid: HostPid) -> bool {
    Dir::open(pid).and_then(|dir| dir.may_inspect()).unwrap_or(true)
}

/// What stands in the way of a dump of the tree below a process. Only where nothing is known to is
/// looked closer, as a dump does before it stops anything: that takes a while.
fn refusals(
    root: HostPid,
    inventory: &Inventory,
    children: &BTreeMap<HostPid, Vec<HostPid>>,
    rows: &BTreeMap<HostPid, Row>,
    collector: &mut Collector,
) -> Result<Vec<Unsupported>, Error> {
    let options = DumpOptions::new(root);
    let looker = Looker::new(&options)?;
    let tree: Vec<&Process> =
        tree(root, children).into_iter().filter_map(|pid| inventory.processes.get(&pid)).collect();
    let mut found = of_tree(root, &tree, &looker.around);
    for process in tree.iter().filter(|process| !is_zombie(process)) {
        let of_process = rows.get(&process.pid).map(|row| row.found.clone());
        found.extend(of_process.unwrap_or_default());
        // A tracer in the tree is looked at closer.
        let is_inside = |tid: &HostPid| tree.iter().any(|it| it.threads.contains_key(tid));
        let tracer = rows.get(&process.pid).and_then(|row| row.tracer);
        found.extend(of_tracer(process.pid, tracer.filter(|tid| !is_inside(tid)), None));
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let clock = Clock::start(&options, Instant::now());
    match looker.look(collector, Inventory::default(), &clock) {
        Ok(_) => Ok(Vec::new()),
        Err(Error::Refused { found, .. }) => Ok(found),
        Err(error) if error.is_gone() => Ok(vec![of_ended(root)]),
        // One that cannot be looked at hides no other.
        Err(error) => Ok(vec![of_unseen(root, chain(&error))]),
    }
}

const fn is_zombie(process: &Process) -> bool {
    matches!(process.state, ProcessState::Zombie { .. })
}

fn children(inventory: &Inventory) -> BTreeMap<HostPid, Vec<HostPid>> {
    let mut children: BTreeMap<HostPid, Vec<HostPid>> = BTreeMap::new();
    for process in inventory.processes.values() {
        if let Some(parent) = process.ppid {
            children.entry(parent).or_default().push(process.pid);
        }
    }
    children
}

/// The processes below and with `root`.
fn tree(root: HostPid, children: &BTreeMap<HostPid, Vec<HostPid>>) -> Vec<HostPid> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(parent) = all.get(next) {
        next += 1;
        all.extend(children.get(parent).into_iter().flatten().filter(|pid| **pid != root));
    }
    all
}

/// The control group of a process: in the unified hierarchy, or else in that of systemd.
fn cgroup(dir: &Dir) -> Result<Option<String>, procfs::Error> {
    let mut text = Vec::new();
    dir.read("cgroup", &mut text)?;
    let text = String::from_utf8_lossy(&text);
    let of = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix));
    Ok(text
        .lines()
        .find_map(|line| line.split_once(":name=systemd:").map(|(_, path)| path))
        .into_iter()
        .chain(of("0::"))
        .max_by_key(|path| path.len())
        .map(str::to_owned))
}

struct Row {
    summary: ProcessSummary,
    found: Vec<Unsupported>,
    tracer: Option<HostPid>,
}

impl Row {
    /// `None` for a process that has gone.
    fn read(process: &Process) -> Result<Option<Self>, Error> {
        match Self::of(process) {
            Ok(row) => Ok(Some(row)),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn of(process: &Process) -> Result<Self, procfs::Error> {
        let dir = Dir::open(process.pid)?;
        let stat = Stat::read(&dir)?;
        let status = Status::read(&dir)?;
        let mut command = Vec::new();
        dir.read("cmdline", &mut command)?;
        // Arguments end with zero bytes.
        let arguments = command.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        let summary = ProcessSummary {
            pid: process.pid.get(),
            ppid: process.ppid.map_or(0, HostPid::get),
            comm: stat.comm.to_string_lossy().into_owned(),
            command: arguments.collect::<Vec<_>>().join(" ").trim_end().to_owned(),
            uid: status.uid.effective,
            cgroup: cgroup(&dir)?,
            threads: process.threads.len() as u64,
            memory_bytes: u64::try_from(stat.rss).unwrap_or(0) * kernel::pagemap::PAGE_SIZE,
            dumpable: false,
            refusals: Vec::new(),
        };
        let features = status.thread_features.as_deref();
        let mut found = of_status(process.pid, features);
        let readable = status.seccomp == 0 || kernel::seccomp::may_read();
        found.extend(of_seccomp(process, process.pid, status.seccomp, readable));
        Ok(Self { summary, found, tracer: status.tracer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root.
    #[test]
    fn a_plain_process_can_be_dumped_and_who_asks_cannot() {
        let sleep = |command: &[&str]| {
            let mut all = std::process::Command::new("setsid");
            let quiet = std::process::Stdio::null;
            all.args(command).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn().unwrap()
        };
        let mut plain = sleep(&["sleep", "60"]);
        let pid = HostPid::from(&plain);
        let executed = || std::fs::read(format!("/proc/{pid}/comm")).unwrap() == b"sleep\n";
        while !executed() {
            std::thread::yield_now();
        }
        let list = list(&Home::default(), None).unwrap();
        let of = |pid| list.processes.iter().find(|row| row.pid == HostPid::get(pid));
        plain.kill().unwrap();
        plain.wait().unwrap();
        let sleep = of(pid).unwrap();
        assert!(sleep.dumpable, "{sleep:?}");
        assert_eq!((&*sleep.comm, &*sleep.command, sleep.threads), ("sleep", "sleep 60", 1));
        assert!(sleep.memory_bytes > 0);
        let own = HostPid::own();
        assert!(of(own).is_none(), "the program that lists does not list itself");
        let parent = of(HostPid::new(nix::unistd::getppid().as_raw()).unwrap()).unwrap();
        assert!(parent.refusals.iter().any(|refusal| refusal.object == "stasis itself"));
    }
}

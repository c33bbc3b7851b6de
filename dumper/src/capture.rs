//! The third step, the frozen part: what the images will say is read into memory, and nothing is
//! written but the pages of a target that is to end anyway.
//!
//! The order: the inventory again, in bulk; registers; then, where something has to be asked of the
//! tasks themselves, their parasites, side by side, with the open files read while they run; then,
//! with every task its own self again, the memory. What the plan has read is not read again if a
//! mark says that it still holds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use collector::{Inventory, Look, Mapping, OpenFile, VmFlags};
use freezer::Release;
use hooks::Point;
use ids::HostPid;
use images::messages::TaskKobjIdsEntry;
use kernel::procfs::Dir;
use kernel::sched::Urgent;

use crate::aio;
use crate::cgroup_roots::CgroupRoots;
use crate::clock::Clock;
use crate::entered;
use crate::error::Error;
use crate::files;
use crate::freeze::{Frozen, stop_rest};
use crate::infect;
use crate::inject::Bits;
use crate::keys;
use crate::kobj_ids;
use crate::look;
use crate::mapped_locks;
use crate::memory::{self, Pages};
use crate::mqueues;
use crate::namespaces::Namespaces;
use crate::nested_users::Earlier;
use crate::numbers::Numbers;
use crate::options::AfterDump;
use crate::plan::{Dump, Plan, Planned};
use crate::processes::{is_zombie, lenders};
use crate::rings;
use crate::segment::Key;
use crate::semaphore_undo;
use crate::settle;
use crate::sharing;
use crate::sysv;
use crate::task_state::TaskStates;
use crate::tasks::{TaskCapture, ThreadCapture, read_pending};
use crate::tracees;
use crate::unsupported;
use crate::userfaults;
use crate::users::Users;

/// The third step: all that the images need is in memory.
pub(crate) struct Captured<'d> {
    // Fields are dropped in this order: nothing that takes a while keeps the target waiting.
    /// The target, until it is let go.
    pub(crate) tree: Option<freezer::Frozen>,
    pub(crate) urgent: Option<Urgent>,
    /// When it was told to stop.
    pub(crate) at: SystemTime,
    pub(crate) since: Instant,
    /// How long it has stood still until it could have been let go.
    pub(crate) frozen: Duration,
    pub(crate) planned: Planned<'d>,
    pub(crate) state: TreeState,
}

impl<'d> Captured<'d> {
    /// Reads all of the target.
    pub(crate) fn read(frozen: Frozen<'d>) -> Result<Self, Error> {
        let Frozen { mut planned, at, urgent, mut tree } = frozen;
        let Planned { dump, plan } = &mut planned;
        let state = read(plan, &mut tree, dump)?;
        let since = tree.since;
        let frozen = since.elapsed();
        let mut captured = Self { tree: Some(tree), urgent, at, since, frozen, planned, state };
        captured.planned.dump.meet_frozen()?;
        captured.frozen = since.elapsed();
        Ok(captured)
    }

    /// Lets go of a target that is to run on; one that is to end or to stay stopped waits, still alive, until its
    /// images are safe. So does one that somebody wants to find frozen then.
    pub(crate) fn release(mut self) -> Self {
        let dump = &mut self.planned.dump;
        let resumes = dump.options.afterwards() == AfterDump::Resume;
        let runs_on = resumes && !dump.hooks.keep_frozen();
        if let Some(tree) = self.tree.take_if(|_| runs_on) {
            // Who hangs on both hears of `post-dump` first.
            if !dump.hooks.hang_on(Point::PostDump) {
                dump.network.tell_to_unlock(dump.hooks, dump.options.pid);
            }
            tree.release(Release::Resume);
        }
        self.frozen = self.since.elapsed();
        if runs_on || !resumes {
            dump.clock.released();
        }
        if runs_on {
            dump.tell_let_go(self.since + self.frozen);
            dump.clock.account.release = dump.clock.account.rest_of(self.frozen);
        }
        self.urgent = None;
        // Programs that a hook starts nap as others do.
        if let Err(error) = nix::sys::prctl::set_timerslack(0) {
            tracing::debug!(%error, "naps stay short");
        }
        self
    }
}

/// What the images will say of a tree.
#[derive(Debug)]
pub(crate) struct TreeState {
    /// What this dump is known by to later ones.
    pub(crate) id: String,
    pub(crate) inventory: Inventory,
    pub(crate) tasks: BTreeMap<HostPid, TaskCapture>,
    /// What the images call the tasks.
    pub(crate) numbers: Numbers,
    pub(crate) namespaces: Namespaces,
    pub(crate) ids: BTreeMap<HostPid, TaskKobjIdsEntry>,
    /// Who has another's memory as well, and whose.
    pub(crate) lenders: BTreeMap<HostPid, HostPid>,
    pub(crate) files: files::Captured,
    /// Private pages, by process.
    pub(crate) pages: Vec<Pages>,
    /// How many of `pages` belong to processes, in the order of `tasks`; the others are the
    /// segments', in the order of `segments`.
    pub(crate) process_pages: usize,
    /// Shared memory, and the number that the images give it.
    pub(crate) segments: BTreeMap<Key, u64>,
    /// Contexts of asynchronous I/O.
    pub(crate) aio: aio::Contexts,
    /// What is to be undone in semaphores.
    pub(crate) semaphore_undo: semaphore_undo::ToUndo,
    /// What session keyrings hold.
    pub(crate) session_keys: keys::SessionKeys,
    /// POSIX message queues.
    pub(crate) queues: mqueues::Queues,
    /// What of it is System V's.
    pub(crate) system_v: sysv::Segments,
    /// Locks that mappings alone keep.
    pub(crate) kept_locks: mapped_locks::Kept,
    pub(crate) pages_scanned: u64,
    /// Somebody had frozen the control group that has stopped it.
    pub(crate) paused: bool,
}

impl TreeState {
    /// The roots of the cgroup namespace of a process, if that is not the dumper's.
    pub(crate) fn cgroup_roots(&self, pid: HostPid) -> Option<&CgroupRoots> {
        self.namespaces.cgroup_roots(self.inventory.processes.get(&pid)?)
    }
}

const TAKE_INVENTORY: &str = "take the inventory";
const READ_MOUNTS: &str = "read the mounts";
const READ_FILES: &str = "read the open files";

/// Takes the time since the last lap.
struct Laps(Instant);

impl Laps {
    fn so_far(&self) -> Duration {
        self.0.elapsed()
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.0, now))
    }
}

/// Reads all of a tree that stands still. The tasks are as they were afterwards.
fn read(
    plan: &mut Plan,
    frozen: &mut freezer::Frozen,
    dump: &mut Dump<'_>,
) -> Result<TreeState, Error> {
    let Dump { options, pre_copy, clock, network, .. } = dump;
    let others = clock.account.hooks + clock.account.others;
    clock.account.stop = frozen.since.elapsed().saturating_sub(others);
    let mut laps = Laps(Instant::now());
    plan.collector.limit(clock.frozen_until());
    settle::settle(plan, frozen, clock)?;
    let collector = &mut plan.collector;
    aio::settle(collector, &plan.inventory, clock)?;
    let mut take = |earlier: &mut Inventory| {
        let taken = look::inventory(collector, options.pid, earlier, Look::Now);
        clock.account.inventory = laps.so_far();
        clock.check(TAKE_INVENTORY)?;
        taken
    };
    let mut inventory = take(&mut plan.inventory)?;
    let stopped = |source| Error::Freeze { root: options.pid, source };
    while stop_rest(frozen, &inventory).map_err(stopped)? {
        inventory = take(&mut inventory)?;
    }
    if options.cross_check {
        compare(&inventory, &take(&mut Inventory::default())?)?;
    }
    let marked = pre_copy.take_marks(&mut inventory)?;
    pre_copy.doubt(&inventory);
    let root = options.pid;
    let mut found = unsupported::find(root, &inventory, Vec::new(), &plan.around);
    let is_late = || clock.check(READ_FILES).is_err();
    plan.files.receive(&inventory, &is_late).map_err(|error| Error::of_files(root, error))?;
    let sent: Vec<_> = plan.files.in_flight().cloned().collect();
    let collector = &mut plan.collector;
    let (rings, refused) = rings::look(collector, &inventory, aio::Tree::StandsStill)?;
    found.extend(refused);
    let asked = options.asks_for_segments(&plan.around);
    let (queues, refused) =
        mqueues::look(collector, &inventory, asked, &sent, aio::Tree::StandsStill)?;
    found.extend(refused);
    plan.files.know_queues(queues.numbers());
    let (userfaults, refused) = userfaults::look(collector, &inventory)?;
    found.extend(refused);
    plan.files.know_userfaults(userfaults);
    let held = (&sent[..], &rings, plan.views.automounts());
    found.extend(sharing::look_again(&plan.sharing, collector, root, &inventory, held)?);
    plan.files.know_rings(rings);
    let known = (&inventory, &plan.numbers);
    let still = aio::Tree::StandsStill;
    found.extend(entered::look(options, known, (&plan.around, still), &plan.entered)?.1);
    let (aio, refused) = aio::look(collector, &inventory, aio::Tree::StandsStill)?;
    found.extend(refused);
    let (semaphore_undo, refused) = semaphore_undo::look(collector, &inventory)?;
    found.extend(refused);
    let (session_keys, refused) =
        keys::look(collector, &inventory, (options.on_behalf_of, aio::Tree::StandsStill))?;
    found.extend(refused);
    let (system_v, refused) = sysv::look(asked, &inventory)?;
    found.extend(refused);
    found.extend(unsupported::of_mounts(root, &inventory, &plan.views, &plan.around)?);
    unsupported::refuse(root, found)?;
    clock.account.inventory = laps.lap();
    clock.check(TAKE_INVENTORY)?;

    let mut traced = tracees::tell(plan, &inventory, frozen)?;
    let mut tasks =
        read_tasks(&inventory, frozen, &mut plan.task_states, plan.bits.as_ref(), clock)?;
    for thread in tasks.values_mut().flat_map(|task| &mut task.threads) {
        thread.traced = traced.remove(&thread.tid);
    }
    let mut numbers = std::mem::take(&mut plan.numbers);
    for thread in tasks.values().flat_map(|task| &task.threads) {
        numbers.add(thread.tid, &thread.attributes.status.ns_pid)?;
    }
    numbers.complete(&inventory)?;
    let mut found = numbers.foreign(root, &inventory, plan.around.shell_job);
    found.extend(numbers.unsupported(root, &inventory));
    unsupported::refuse(root, found)?;
    clock.account.registers = laps.lap();

    let infected = infect::begin(plan, &inventory, &tasks, frozen, options.cross_check)?;
    let is_late = || clock.check(READ_MOUNTS).is_err();
    let users = users(root, &inventory, plan, &tasks)?;
    let own = &plan.around.namespaces;
    let known = (&plan.networks, &*plan.views, &users);
    let namespaces =
        Namespaces::read(&inventory, own, root, known, &options.external_pids, &is_late)?;
    clock.check(READ_MOUNTS)?;
    let ids = kobj_ids::number(&inventory, &namespaces, &numbers);
    let tables = ids.iter().map(|(&pid, ids)| (pid, ids.files_id)).collect();
    clock.account.parasite = laps.lap();
    let is_late = || clock.check(READ_FILES).is_err();
    let collector = &mut plan.collector;
    let files = plan.files.capture(&inventory, &numbers, &tables, &is_late, collector);
    let mut files = files.map_err(|error| Error::of_files(root, error))?;
    files.take_namespaces(namespaces.numbers().clone(), namespaces.ids().clone());
    // Most often those of the plan, so that there is nothing to be done.
    let other = plan.network_of(&inventory, root);
    let connections = (files.connections(), &files.queued()[..]);
    network.prepare(options, &pre_copy.id, &inventory, connections, other)?;
    plan.files
        .read_connections(&mut files, pre_copy.threads, &is_late, &mut plan.collector)
        .map_err(|error| Error::of_files(root, error))?;
    clock.account.files = laps.lap();
    clock.check(READ_FILES)?;
    let infected = infect::collect_reports(infected, &mut tasks, frozen)?;
    clock.account.parasite += laps.lap();
    infect::cure(infected, frozen)?;
    infect::ask_other_threads(plan, &inventory, &mut tasks, frozen, root)?;
    clock.account.cure = laps.lap();
    clock.check("ask the tasks")?;

    let (planned, writer) = (&mut plan.memory, &plan.writer);
    let mut held = files.take_memory();
    held.extend(system_v.open()?);
    let mut memory = memory::find(planned, pre_copy, &marked, writer, &inventory, held, clock)?;
    plan.frozen_pages.copy(&mut memory.pages, writer, clock)?;
    let stopped = |pid, tid| frozen.processes.get(&pid)?.get(&tid)?.stopped.as_ref();
    read_pending(&mut tasks, stopped)?;
    tracees::check_signals(&tasks)?;
    clock.account.memory = laps.lap();
    clock.check("copy the memory")?;
    Ok(TreeState {
        id: pre_copy.id.clone(),
        lenders: lenders(&inventory),
        inventory,
        tasks,
        numbers,
        namespaces,
        ids,
        files,
        pages: memory.pages,
        process_pages: memory.process_pages,
        segments: memory.segments,
        aio,
        semaphore_undo,
        session_keys,
        queues,
        system_v,
        kept_locks: std::mem::take(&mut plan.kept_locks),
        pages_scanned: memory.scanned,
        paused: frozen.was_paused(),
    })
}

/// What was taken over from an earlier inventory against one that was read whole.
fn compare(taken: &Inventory, whole: &Inventory) -> Result<(), Error> {
    for (&pid, process) in &taken.processes {
        let Some(other) = whole.processes.get(&pid) else { continue };
        let mut same_files = process.files.iter().zip(&other.files).map(|(one, two)| {
            // Who is outside of the tree goes on to move marks, and positions that it shares, and to lock files
            // that are everybody's: /dev/null, and the one inode that all event files have.
            let OpenFile { mark, position, locked, .. } = *two;
            OpenFile { mark, position, locked, ..one.clone() } == *two
        });
        // The first guard region of a mapping sets this without the lock that the mark counts. The page map
        // tells of the region itself.
        let mut same_mappings = process.mappings.iter().zip(&other.mappings).map(|(one, two)| {
            let guarded = VmFlags(two.flags.0 & VmFlags::GUARD.0);
            // Locks come and go without a change of the mappings.
            Mapping { flags: one.flags | guarded, locked: two.locked, ..one.clone() } == *two
        });
        let same_number = process.mappings.len() == other.mappings.len();
        let field = if !same_number || !same_mappings.all(|same| same) {
            "mappings"
        } else if process.files.len() != other.files.len() || !same_files.all(|same| same) {
            "open files"
        } else {
            continue;
        };
        return Err(Error::CrossCheck { pid, field });
    }
    Ok(())
}

fn read_tasks(
    inventory: &Inventory,
    frozen: &freezer::Frozen,
    states: &mut TaskStates,
    bits: Option<&Bits>,
    clock: &Clock,
) -> Result<BTreeMap<HostPid, TaskCapture>, Error> {
    let mut tasks = BTreeMap::new();
    let mut buffer = Vec::new();
    for (&pid, threads) in &frozen.processes {
        // A process that became a zombie is carried as one, from the inventory.
        let Some(process) = inventory.processes.get(&pid).filter(|process| !is_zombie(process))
        else {
            continue;
        };
        let dir = Dir::open(pid)?;
        let leader = threads.get(&pid).and_then(|leader| Some((leader.stopped.as_ref()?, leader)));
        let Some((stopped, leader)) = leader else {
            return Err(
                kernel::ptrace::Error::Gone { operation: "stop the leader of", tid: pid }.into()
            );
        };
        let mut task = TaskCapture::read(
            &dir,
            process,
            stopped,
            leader.group_stop,
            (states, bits),
            &mut buffer,
        )?;
        for (_, thread) in threads.iter().filter(|(tid, _)| **tid != pid) {
            if let Some(stopped) = &thread.stopped {
                task.threads.push(ThreadCapture::read(
                    &dir,
                    (process, task.attributes.abi),
                    stopped,
                    (states, bits),
                    &mut buffer,
                )?);
            }
        }
        clock.check("read the registers")?;
        tasks.insert(pid, task);
    }
    Ok(tasks)
}

/// The user namespace of the tree, which has been judged before: looked at again, if there is one.
fn users(
    root: HostPid,
    inventory: &Inventory,
    plan: &Plan,
    tasks: &BTreeMap<HostPid, TaskCapture>,
) -> Result<Users, Error> {
    let earlier = Earlier { users: &plan.nested_users, tasks };
    let networks = plan.files.networks();
    let (users, mut found) = Users::look(root, inventory, networks, &plan.around, Some(earlier))?;
    let threads = tasks.values().flat_map(|task| &task.threads);
    found.extend(users.unmapped(threads.map(|thread| (thread.tid, &thread.attributes.status))));
    let logins = tasks.iter().map(|(&pid, task)| (pid, task.attributes.login_uid));
    found.extend(users.unmapped_logins(logins));
    unsupported::refuse(root, found)?;
    Ok(users)
}

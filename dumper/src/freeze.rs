//! The second step: the [freezer](freezer::stop) stops the tree by the kernel's lists of children, and
//! whether that is all of it an inventory tells.

use std::time::{Duration, Instant, SystemTime};

use collector::Inventory;
use freezer::{FreezeGroup, StopError};
use hooks::{Moment, Point};
use ids::HostPid;
use kernel::sched::Urgent;

use crate::error::Error;
use crate::plan::{Plan, Planned};
use crate::processes::is_zombie;
use crate::rights;
use crate::rings;

/// The second step: the target stands still. Dropped, it runs on.
pub(crate) struct Frozen<'d> {
    // Fields are dropped in this order: nothing that takes a while keeps the target waiting.
    pub(crate) tree: freezer::Frozen,
    /// The target stands still for as long as this thread is kept waiting.
    pub(crate) urgent: Option<Urgent>,
    /// When it was told to stop.
    pub(crate) at: SystemTime,
    pub(crate) planned: Planned<'d>,
}

impl<'d> Frozen<'d> {
    /// Stops the target.
    pub(crate) fn stop(mut planned: Planned<'d>) -> Result<Self, Error> {
        let dump = &mut planned.dump;
        let options = dump.options;
        dump.progress.begin("freeze", None);
        let failed = |source| Error::Freeze { root: options.pid, source };
        let group =
            options.freeze_cgroup.as_deref().map(|it| FreezeGroup::of_directory(it, &options.undo));
        let group = group.transpose().map_err(|error| failed(StopError::Group(Box::new(error))))?;
        let urgent = Urgent::begin();
        // It naps while the target's tasks come to a stop, and not for longer than it means to.
        if let Err(error) = nix::sys::prctl::set_timerslack(1_000) {
            tracing::debug!(%error, "naps last longer than they should");
        }
        let (date, before) = (SystemTime::now(), Instant::now());
        // While one is tried again others would stand still: all are, then.
        let within = if dump.together.is_some() { Duration::ZERO } else { options.stop_within };
        let limit = options.max_freeze;
        let Plan { inventory, files, .. } = &mut *planned.plan;
        let has_workers = |pid| inventory.processes.get(&pid).is_none_or(rings::has_rings);
        let mut await_quiet = || files.await_quiet();
        let tree = freezer::stop(
            options.pid,
            within,
            limit,
            group.as_ref(),
            &has_workers,
            &mut await_quiet,
        );
        let tree = tree.map_err(failed)?;
        planned.plan.files.look_for_quiet();
        dump.clock.freeze(tree.since, options.max_freeze);
        let at = date + tree.since.duration_since(before);
        let mut frozen = Self { tree, urgent, at, planned };
        rights::check_frozen(options, &frozen.tree)?;
        frozen.gather()?;
        Ok(frozen)
    }

    /// Waits until all trees stand still that are dumped together: nobody of one can do something any more that another one knows
    /// nothing of. The time that all of them may stand still began with the first.
    fn gather(&mut self) -> Result<(), Error> {
        let dump = &mut self.planned.dump;
        let Some(together) = dump.together else { return Ok(()) };
        let since = together.stopped((self.tree.since, self.at));
        dump.clock.freeze(since, dump.options.max_freeze);
        dump.meet_frozen()?;
        let first = together.first().unwrap_or(since);
        dump.clock.freeze(first, dump.options.max_freeze);
        Ok(())
    }

    /// Calls the hooks at `network-lock`, if the tree has a network namespace of its own, and at `query-ext-files`.
    pub(crate) fn tell(mut self) -> Result<Self, Error> {
        let Planned { dump, plan } = &mut self.planned;
        let (root, started) = (dump.options.pid, Instant::now());
        let network =
            plan.inventory.processes.get(&root).and_then(|root| root.namespaces.get("net"));
        if network.is_some() && network != plan.around.namespaces.get("net") {
            dump.network.tell_to_lock(dump.hooks, root)?;
        }
        let images = dump.destination.path();
        hooks::call(dump.hooks, Moment::of(Point::QueryExtFiles, Some(root), images))?;
        dump.clock.account.hooks += started.elapsed();
        Ok(self)
    }
}

/// Stops what runs on by an inventory taken since then; whether there was any, so that another
/// inventory is needed. Processes whose parents have ended, and which are the children of others now,
/// run on.
pub(crate) fn stop_rest(
    frozen: &mut freezer::Frozen,
    inventory: &Inventory,
) -> Result<bool, StopError> {
    let missed: Vec<(HostPid, HostPid)> = inventory
        .processes
        .values()
        .filter(|process| !is_zombie(process))
        .flat_map(|process| process.threads.values().map(|thread| (process.pid, thread)))
        .filter(|(_, thread)| !matches!(thread.state, 'Z' | 'X'))
        .map(|(pid, thread)| (pid, thread.tid))
        .filter(|(pid, tid)| !frozen.has(*pid, *tid))
        .collect();
    if missed.is_empty() {
        frozen.keep_only(|pid| inventory.processes.contains_key(&pid));
        return Ok(false);
    }
    frozen.stop_missed(&missed)?;
    Ok(true)
}

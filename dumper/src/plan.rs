//! The first step of a dump: everything that can be learned, opened or refused while the target
//! runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use arch::fpu::Layout;
use collector::{Collector, Inventory, Look, Process};
use hooks::Hooks;
use ids::HostPid;
use images::{Destination, ImageWriter, Progress};
use support::tree::Surroundings;

use crate::clock::Clock;
use crate::ending::Ending;
use crate::entered;
use crate::error::Error;
use crate::files;
use crate::inject::{Bits, GadgetFinder, Gadgets, ParasiteReport};
use crate::later::Later;
use crate::look::{self, Looker, Seen};
use crate::mapped_locks;
use crate::memory::{self, FrozenPages, PlannedMemory, PreCopy};
use crate::mounts::Views;
use crate::namespaces::net::Plans as Networks;
use crate::nested_users::NestedUsers;
use crate::network::Network;
use crate::network::OtherNetwork;
use crate::numbers::Numbers;
use crate::options::{AfterDump, DumpOptions};
use crate::processes::{has_ended, is_zombie, lenders};
use crate::rendezvous::Rendezvous;
use crate::sharing;
use crate::task_state::TaskStates;

/// A dump under way: what all of its steps use.
pub(crate) struct Dump<'d> {
    pub(crate) options: &'d DumpOptions,
    pub(crate) destination: &'d dyn Destination,
    pub(crate) started: Instant,
    pub(crate) clock: Clock,
    pub(crate) hooks: &'d mut dyn Hooks,
    pub(crate) progress: &'d mut (dyn Progress + Send),
    /// What is copied while the target runs. Its logging may go on when the dump has ended.
    pub(crate) pre_copy: &'d mut PreCopy,
    /// Whose end has to be waited for.
    pub(crate) ending: &'d mut Ending,
    /// What is done to connections, and undone when the dump has ended.
    pub(crate) network: &'d mut Network,
    /// The names that files are given which have lost theirs, if they are; removed when the dump has ended.
    pub(crate) links: Option<Arc<files::GivenLinks>>,
    /// Where the dumps of other trees are waited for that are of the same moment, if there are any.
    pub(crate) together: Option<&'d Rendezvous<'d>>,
}

impl Dump<'_> {
    /// Waits until those of the other trees are here as well; for how long.
    pub(crate) fn meet(&self) -> Result<Duration, Error> {
        let since = Instant::now();
        self.together.map_or(Ok(()), |others| others.meet(&self.clock))?;
        Ok(since.elapsed())
    }

    /// The target was let go at this time.
    pub(crate) fn tell_let_go(&self, at: Instant) {
        if let Some(others) = self.together {
            others.let_go(at);
        }
    }

    /// As [`meet`](Self::meet), of a target that stands still.
    pub(crate) fn meet_frozen(&mut self) -> Result<(), Error> {
        let since = Instant::now();
        self.together.map_or(Ok(()), |others| others.meet_frozen(&self.clock))?;
        self.clock.account.others += since.elapsed();
        Ok(())
    }
}

/// The first step: all is known and ready, and the target runs.
pub(crate) struct Planned<'d> {
    pub(crate) dump: Dump<'d>,
    pub(crate) plan: Later<Plan>,
}

impl<'d> Planned<'d> {
    /// Learns, opens and refuses what can be. The plan takes long to give back: unless it is used up, it
    /// goes to `later`.
    pub(crate) fn make(mut dump: Dump<'d>, later: Sender<Plan>) -> Result<Self, Error> {
        dump.progress.begin("plan", None);
        let mut looker = Looker::new(dump.options)?;
        if let Some(links) = &dump.links {
            looker.make_links(Arc::clone(links));
        }
        let sharers = dump.together.map_or(1, Rendezvous::members);
        let plan = Plan::make(looker, dump.destination, &dump.clock, (dump.pre_copy, sharers))?;
        dump.clock.account.handover = dump.pre_copy.handover();
        Ok(Self { dump, plan: Later::new(plan, later) })
    }

    /// Waits until as much is known of all trees that are of one moment. What has changed in this one meanwhile is copied and read
    /// again, or it would have to be while all of them stand still.
    pub(crate) fn gather(mut self) -> Result<Self, Error> {
        let Self { dump, plan } = &mut self;
        if dump.together.is_none() {
            return Ok(self);
        }
        if dump.meet()? > FRESH {
            plan.freshen(dump.options, dump.pre_copy, &dump.clock)?;
        }
        dump.meet()?;
        Ok(self)
    }

    /// Holds the connections of the target still, if it is to end, and makes ready to read them. It is the
    /// last thing before the freeze, as they wait from here on.
    pub(crate) fn hold_network(mut self) -> Result<Self, Error> {
        let Dump { network, options, pre_copy, .. } = &mut self.dump;
        let Plan { inventory, files, .. } = &*self.plan;
        let other = self.plan.network_of(inventory, options.pid);
        let connections = (files.connections(), files.waiting());
        network.prepare(options, &pre_copy.id, inventory, connections, other)?;
        // From here on all trees are stopped.
        self.dump.meet()?;
        Ok(self)
    }
}

/// For so long what was learned of a target that runs is good enough.
const FRESH: Duration = Duration::from_millis(2);

/// What is known and ready when the target is stopped.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) collector: Collector,
    /// Taken before all else that is planned.
    pub(crate) inventory: Inventory,
    pub(crate) task_states: TaskStates,
    /// What the images call the tasks.
    pub(crate) numbers: Numbers,
    /// The mount namespaces of the tree that are not the dumper's.
    pub(crate) views: Arc<Views>,
    /// It holds some of the target's files.
    pub(crate) files: files::Plan,
    /// What is known of who else holds what the tree does.
    pub(crate) sharing: sharing::Known,
    pub(crate) entered: entered::Known,
    /// Locks that mappings alone keep.
    pub(crate) kept_locks: mapped_locks::Kept,
    pub(crate) nested_users: NestedUsers,
    pub(crate) finder: GadgetFinder,
    /// Code to lean on, by process, of those that have to be asked.
    pub(crate) gadgets: BTreeMap<HostPid, Gadgets>,
    /// By process.
    pub(crate) memory: BTreeMap<HostPid, PlannedMemory>,
    pub(crate) frozen_pages: FrozenPages,
    /// What is known of network namespaces beside the dumper's.
    pub(crate) networks: Networks,
    /// The dumper and its namespaces.
    pub(crate) around: Surroundings,
    pub(crate) writer: ImageWriter,
    /// Where this processor keeps extended state.
    pub(crate) layout: Layout,
    /// What bits of threads' flags stand for here; `None` where they have to be asked.
    pub(crate) bits: Option<Bits>,
}

impl Plan {
    /// The network namespace of a process of the tree, if it is not the dumper's.
    pub(crate) fn network_of(&self, inventory: &Inventory, pid: HostPid) -> Option<OtherNetwork> {
        let number = *inventory.processes.get(&pid)?.namespaces.get("net")?;
        Some((number, Arc::clone(self.files.networks().get(&number)?)))
    }

    /// Copies once more what was changed in memory, and takes the inventory again.
    fn freshen(
        &mut self,
        options: &DumpOptions,
        pre_copy: &mut PreCopy,
        clock: &Clock,
    ) -> Result<(), Error> {
        pre_copy.copy_again(&self.writer, clock)?;
        let mut earlier = std::mem::take(&mut self.inventory);
        self.inventory =
            look::inventory(&mut self.collector, options.pid, &mut earlier, Look::Ahead)?;
        Ok(())
    }

    /// Makes it. Last of all, memory is copied into a `pre_copy` while the target runs. So many `sharers` share the machine's memory.
    fn make(
        looker: Looker<'_>,
        destination: &dyn Destination,
        clock: &Clock,
        (pre_copy, sharers): (&mut PreCopy, usize),
    ) -> Result<Self, Error> {
        let options = looker.options;
        let mut collector = Collector::open_at(&options.programs);
        let bits = Bits::find(&mut collector);
        collector.watch();
        let mut seen = looker.look(&mut collector, Inventory::default(), clock)?;
        let writer = ImageWriter::of(destination.begin()?);
        let mut finder = GadgetFinder::default();
        let mut gadgets = BTreeMap::new();
        let mut memory = BTreeMap::new();
        let lenders = lenders(&seen.inventory);
        let own = |process: &&Process| !is_zombie(process) && !lenders.contains_key(&process.pid);
        for process in seen.inventory.processes.values().filter(own) {
            let pid = process.pid;
            let found = match options.cross_check
                || ParasiteReport::known(process, bits.as_ref()).is_none()
            {
                true => finder.find(process).map(Some),
                false => Ok(None),
            };
            let ready = found
                .map_err(|source| Error::Inject { pid, source })
                .and_then(|found| Ok((found, PlannedMemory::open(&writer, pid)?)));
            match ready {
                Ok((found, planned)) => {
                    gadgets.extend(found.map(|found| (pid, found)));
                    memory.insert(pid, planned);
                }
                // It executes a program that has no library yet, or ends: it is looked at when it stands
                // still.
                Err(Error::Inject { .. }) if pid != options.pid => {}
                Err(error) if error.has_no_code() => {}
                Err(error) if pid != options.pid && (error.is_gone() || has_ended(pid)) => {}
                Err(error) => return Err(error),
            }
        }
        let tree = (&seen.inventory, &seen.numbers);
        let runs_on = options.afterwards() == AfterDump::Resume;
        pre_copy.copy(options, tree, &mut finder, &gadgets, &writer, clock)?;
        // Copying takes a while, in which the target changes: what was learned before would have to
        // be learned again while it stands still.
        if !pre_copy.is_empty() {
            drop(seen.files);
            seen = looker.look(&mut collector, seen.inventory, clock)?;
        }
        pre_copy.warnings.append(&mut seen.entered.left_out);
        let Seen {
            inventory,
            task_states,
            numbers,
            views,
            files,
            sharing,
            entered,
            kept_locks,
            users,
        } = seen;
        memory::learn(&mut memory, &inventory);
        pre_copy.catch_up(&writer, clock)?;
        let resident = memory::resident_bytes(&inventory);
        let expected = pre_copy.expected(resident) + files.held_bytes();
        let ways = (runs_on, writer.encrypts());
        let shares = (pre_copy.threads, sharers);
        let frozen_pages = FrozenPages::choose(options.pid, ways, expected, shares)?;
        // To choose has taken a while, too.
        pre_copy.copy_again(&writer, clock)?;
        // What has changed meanwhile is old news by now: it need not be read again in the frozen
        // moment, which finds the rest where the processor has it at hand.
        let mut earlier = inventory;
        let inventory = look::inventory(&mut collector, options.pid, &mut earlier, Look::Ahead)?;
        let around = looker.around;
        let networks = Networks::begin(files.networks(), files.attached(), options)?;
        let layout = Layout::of_this_processor();
        Ok(Self {
            collector,
            inventory,
            task_states,
            numbers,
            views,
            files,
            sharing,
            entered,
            kept_locks,
            nested_users: users.nested,
            finder,
            gadgets,
            memory,
            frozen_pages,
            networks,
            around,
            writer,
            layout,
            bits,
        })
    }
}

//! A look at a tree that runs: what it is made of, and all that stands in the way of a dump, in one
//! pass.
//!
//! A program that forks, opens and closes meanwhile may show what never was: memory shared with a child
//! that is about to execute a program, a socket without its peer, a file without its name. So what
//! stands in the way counts when it is there in every one of a few looks. What passes is left to the
//! frozen look, which sees all at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use collector::{Collector, Inventory, Look, Process};
use ids::HostPid;
use support::Unsupported;
use support::tree::{Surroundings, foreign_namespaces, is_entered};

use crate::aio;
use crate::clock::Clock;
use crate::entered;
use crate::error::Error;
use crate::files;
use crate::keys;
use crate::mapped_locks;
use crate::mounts::Views;
use crate::mqueues;
use crate::namespaces::net::Plans as Networks;
use crate::numbers::Numbers;
use crate::options::DumpOptions;
use crate::processes::{count_memory_once, has_ended, lacks_mappings};
use crate::rings;
use crate::room;
use crate::semaphore_undo;
use crate::sharing;
use crate::sysv;
use crate::task_state::TaskStates;
use crate::unsupported;
use crate::userfaults;
use crate::users::Users;

/// Pauses between looks.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(5)];

/// How long the look waits for processes that have entered a container to end, and how long between two looks.
const ENTERED: Duration = Duration::from_secs(2);
const ENTERED_PAUSE: Duration = Duration::from_millis(50);

/// What a look has seen.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) inventory: Inventory,
    pub(crate) task_states: TaskStates,
    /// What the images call the tasks.
    pub(crate) numbers: Numbers,
    /// The mount namespaces of the tree that are not the dumper's.
    pub(crate) views: Arc<Views>,
    pub(crate) files: files::Plan,
    pub(crate) sharing: sharing::Known,
    pub(crate) entered: entered::Known,
    /// Locks that mappings alone keep.
    pub(crate) kept_locks: mapped_locks::Kept,
    pub(crate) users: Users,
}

/// What looks.
#[derive(Debug)]
pub(crate) struct Looker<'a> {
    pub(crate) options: &'a DumpOptions,
    pub(crate) around: Surroundings,
    context: files::PlanContext,
    /// What is mounted is judged, too.
    judges_mounts: bool,
}

impl<'a> Looker<'a> {
    pub(crate) fn new(options: &'a DumpOptions) -> Result<Self, Error> {
        Ok(Self {
            options,
            around: unsupported::surroundings(options)?,
            judges_mounts: true,
            context: files::PlanContext {
                shell_job: options.shell_job,
                gives_masters: options.gives_masters,
                for_user: options.on_behalf_of.is_some(),
                external_unix: options.external_unix.clone(),
                external_files: options.external_files.clone(),
                client: options.client,
                root: options.root.clone(),
                contents: options.contents,
                ghost_limit: options.ghost_limit,
                file_locks: options.file_locks,
                joined: BTreeMap::new(),
                hidden: BTreeMap::new(),
                rings: BTreeMap::new(),
                queues: BTreeMap::new(),
                userfaults: BTreeMap::new(),
                search: options.search.clone(),
                connections: options.connections,
                skip_in_flight: options.skip_in_flight,
                views: Arc::default(),
                link_remaps: match options.link_remap {
                    true => files::LinkRemaps::Allowed,
                    false => files::LinkRemaps::Refused,
                },
                evasive_devices: options.evasive_devices,
            },
        })
    }

    /// Of a pre-dump, which copies memory alone: engines tell only the dump what comes from outside.
    pub(crate) fn for_memory(options: &'a DumpOptions) -> Result<Self, Error> {
        Ok(Self { judges_mounts: false, ..Self::new(options)? })
    }

    /// Gives names to files that have lost theirs, instead of looking only.
    pub(crate) fn make_links(&mut self, links: Arc<files::GivenLinks>) {
        self.context.link_remaps = files::LinkRemaps::Make(links);
    }

    /// Looks as often as it takes to tell what stays from what passes. What has not changed since
    /// `earlier` is taken from there.
    pub(crate) fn look(
        &self,
        collector: &mut Collector,
        mut earlier: Inventory,
        clock: &Clock,
    ) -> Result<Seen, Error> {
        let mut standing: Option<Vec<Unsupported>> = None;
        let mut pauses = PAUSES.into_iter();
        let began = Instant::now();
        loop {
            // What was seen once, after looks that failed, may not stay.
            let mut is_first = false;
            let (next, error) = match self.once(collector, &mut earlier) {
                Ok((seen, found)) => {
                    clock.check("plan")?;
                    let lasting: Vec<Unsupported> = match &standing {
                        None => found,
                        Some(before) => lasting(found, before),
                    };
                    if lasting.is_empty() {
                        return Ok(seen);
                    }
                    is_first = standing.is_none();
                    standing = Some(lasting.clone());
                    (seen.inventory, Error::Refused { root: self.options.pid, found: lasting })
                }
                Err(error) if error.is_gone() && !has_ended(self.options.pid) => {
                    (Inventory::default(), error)
                }
                Err(error) => return Err(error),
            };
            // Whoever looks after a container enters it again and again, and is soon gone.
            let pause = match (pauses.next(), &error) {
                (Some(pause), _) => pause,
                (None, _) if is_first => ENTERED_PAUSE,
                (None, Error::Refused { found, .. })
                    if found.iter().all(is_entered) && began.elapsed() < ENTERED =>
                {
                    ENTERED_PAUSE
                }
                _ => return Err(error),
            };
            std::thread::sleep(pause);
            earlier = next;
        }
    }

    fn once(
        &self,
        collector: &mut Collector,
        earlier: &mut Inventory,
    ) -> Result<(Seen, Vec<Unsupported>), Error> {
        let root = self.options.pid;
        let mut inventory = inventory(collector, root, earlier, Look::Ahead)?;
        let task_states = TaskStates::read(&inventory, self.options.cross_check);
        let mut found = unsupported::find(
            root,
            &inventory,
            task_states.unsupported(root, &inventory),
            &self.around,
        );
        found.extend(unsupported::of_cgroups(self.options, &inventory));
        found.extend(crate::cgroups::of_options(self.options));
        found.extend(room::find(root, &inventory));
        let (kept_locks, refused) = mapped_locks::find(&inventory);
        found.extend(refused);
        found.extend(aio::look(collector, &inventory, aio::Tree::Runs)?.1);
        let (rings, refused) = rings::look(collector, &inventory, aio::Tree::Runs)?;
        found.extend(refused);
        found.extend(semaphore_undo::look(collector, &inventory)?.1);
        found.extend(
            keys::look(collector, &inventory, (self.options.on_behalf_of, aio::Tree::Runs))?.1,
        );
        let (userfaults, refused) = userfaults::look(collector, &inventory)?;
        found.extend(refused);
        found.extend(sysv::look(self.options.asks_for_segments(&self.around), &inventory)?.1);
        // Paths lead elsewhere in namespaces that are not carried: there is nothing to be learned of files.
        let foreign = |process: &Process| {
            let mut others = foreign_namespaces(process, &self.around);
            process.kernel_thread || others.next().is_some()
        };
        let none = Inventory::default();
        let (looked_at, numbers) = match inventory.processes.values().any(foreign) {
            true => (&none, Numbers::default()),
            false => (&inventory, task_states.numbers(root, &inventory)?),
        };
        let runs = (&self.around, aio::Tree::Runs);
        let entered =
            entered::look(self.options, (&inventory, &numbers), runs, &Default::default())?;
        found.extend(entered.1);
        let entered = entered.0;
        let own = self.around.namespaces.get("mnt").copied();
        let (views, refused) = Views::read(looked_at, root, own, &self.options.mounts)?;
        let views = Arc::new(views);
        found.extend(refused.into_iter().filter(|_| self.judges_mounts));
        found.extend(numbers.foreign(root, looked_at, self.around.shell_job));
        found.extend(numbers.unsupported(root, looked_at));
        let own_pids = self.around.namespaces.get("pid").copied();
        let external = &self.options.external_pids;
        found.extend(Numbers::unsupported_settings(looked_at, own_pids, external));
        let mut files = files::Plan::begin(looked_at)?;
        let sent: Vec<_> = files.in_flight().cloned().collect();
        let asked = self.options.asks_for_segments(&self.around);
        let (queues, refused) = mqueues::look(collector, looked_at, asked, &sent, aio::Tree::Runs)?;
        found.extend(refused);
        let of_mounts = queues.mounted_of_others(looked_at, asked, &views)?;
        found.extend(of_mounts.into_iter().filter(|_| self.judges_mounts));
        let (sharing, mut shared) =
            sharing::look(collector, root, looked_at, &sent, self.options.external_pipes)?;
        let (joined, hidden) = (sharing.joined.clone(), sharing.hidden.clone());
        let context = files::PlanContext {
            joined,
            hidden,
            rings,
            queues: queues.numbers(),
            userfaults,
            views: Arc::clone(&views),
            ..self.context.clone()
        };
        let refused = files.prepare(looked_at, &numbers, context, collector)?;
        // Who is at the other end is told better by who holds both.
        let is_told = |other: &Unsupported| {
            shared.iter().any(|it| (it.task, &it.object) == (other.task, &other.object))
        };
        let others: Vec<_> = refused.into_iter().filter(|other| !is_told(other)).collect();
        shared.extend(others);
        found.extend(shared);
        let networks = Networks::begin(files.networks(), files.attached(), self.options)?;
        found.extend(networks.unsupported(root, &looked_at.processes)?);
        let (users, refused) = Users::look(root, looked_at, files.networks(), &self.around, None)?;
        found.extend(refused);
        let of_mounts = users.nested.unsupported_mounts(&views, looked_at);
        found.extend(of_mounts.into_iter().filter(|_| self.judges_mounts));
        found.extend(users.unmapped(task_states.statuses()));
        found.extend(users.unmapped_logins(task_states.logins()));
        // A restore would make them by root's rights.
        if self.options.on_behalf_of.is_some() && networks.ids().next().is_some() {
            found.push(support::networks::OF_USER.of(root, "network namespace"));
        }
        inventory.refer_to_this();
        Ok((
            Seen {
                inventory,
                task_states,
                numbers,
                views,
                files,
                sharing,
                entered,
                kept_locks,
                users,
            },
            found,
        ))
    }
}

/// What is found of objects that were found before. The reason may be another: what the kernel tells of a socket, and whether it
/// tells anything, differs from one list to the next.
fn lasting(found: Vec<Unsupported>, before: &[Unsupported]) -> Vec<Unsupported> {
    let is_of_same = |one: &Unsupported| {
        before.iter().any(|other| (one.task, &one.object) == (other.task, &other.object))
    };
    found.into_iter().filter(is_of_same).collect()
}

/// The whole tree below `root`, with the mappings of a memory that several have at one of them; what has not changed since `earlier` is taken from there.
pub(crate) fn inventory(
    collector: &mut Collector,
    root: HostPid,
    earlier: &mut Inventory,
    look: Look,
) -> Result<Inventory, Error> {
    let mut take = |earlier: &mut Inventory| {
        let taken = collector.take_tree(root, earlier, look);
        taken.map_err(|source| Error::Inventory { pid: root, source })
    };
    let mut taken = take(earlier)?;
    if lacks_mappings(&taken) {
        taken = take(&mut Inventory::default())?;
    }
    count_memory_once(&mut taken);
    Ok(taken)
}

//! The first step of a dump: everything that can be learned, opened or refused while the target
//! runs.

use std::collections::BTreeMap;

use arch::fpu::Layout;
use collector::{Collector, Inventory, Look};
use images::{ImageWriter, WriteOptions};
use kernel::procfs::{Dir, Namespaces, ProcFile, Stat};

use crate::clock::Clock;
use crate::error::Error;
use crate::facts::Facts;
use crate::files;
use crate::ids::is_zombie;
use crate::inject::{CodeFinder, Codes, Report};
use crate::memory::{self, Early, PlannedMemory, Store};
use crate::obstacles;
use crate::options::{AfterDump, DumpOptions};

/// What is known and ready when the target is stopped.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) collector: Collector,
    /// Taken before all else that is planned.
    pub(crate) inventory: Inventory,
    pub(crate) facts: Facts,
    pub(crate) finder: CodeFinder,
    /// Code to lean on, by process, of those that have to be asked.
    pub(crate) codes: BTreeMap<i32, Codes>,
    /// By process.
    pub(crate) memory: BTreeMap<i32, PlannedMemory>,
    pub(crate) store: Store,
    /// The dumper's own.
    pub(crate) namespaces: Namespaces,
    pub(crate) writer: ImageWriter,
    /// Where this processor keeps extended state.
    pub(crate) layout: Layout,
}

impl Plan {
    /// Makes it, together with the plan for the open files, which is dropped when the target runs again.
    /// Last of all, memory is copied into `early` while the target runs.
    pub(crate) fn make(
        options: &DumpOptions,
        clock: &Clock,
        early: &mut Early,
    ) -> Result<(Self, files::Plan), Error> {
        let mut collector = Collector::open_at(&options.programs);
        collector.watch();
        let inventory =
            inventory(&mut collector, options.pid, &mut Inventory::default(), Look::Ahead)?;
        let namespaces = obstacles::own_namespaces()?;
        let facts = Facts::read(&inventory, options.cross_check);
        obstacles::check(&inventory, &facts, options, &namespaces)?;
        clock.check("plan")?;
        let context = files::PlanContext {
            shell_job: options.shell_job,
            root: options.root.clone(),
            ghost_limit: files::PlanContext::GHOST_LIMIT,
        };
        let (inventory, files) = look_at_files(&mut collector, options.pid, inventory, &context)?;
        let write = WriteOptions {
            overwrite: options.overwrite,
            in_place: options.in_place,
            ..WriteOptions::default()
        };
        let writer = ImageWriter::create(&options.images_dir, write)?;
        let mut finder = CodeFinder::default();
        let mut codes = BTreeMap::new();
        let mut memory = BTreeMap::new();
        for process in inventory.processes.values().filter(|process| !is_zombie(process)) {
            let pid = process.pid;
            let found = match options.cross_check || Report::known(process).is_none() {
                true => finder.find(process).map(Some),
                false => Ok(None),
            };
            let ready = found
                .map_err(|source| Error::Inject { pid, source })
                .and_then(|found| Ok((found, PlannedMemory::open(&writer, pid)?)));
            match ready {
                Ok((found, planned)) => {
                    codes.extend(found.map(|found| (pid, found)));
                    memory.insert(pid, planned);
                }
                // It executes a program that has no library yet: it is looked at again.
                Err(Error::Inject { source: crate::inject::Error::NoCodes { .. }, .. })
                    if pid != options.pid => {}
                // It ended while it was being looked at, which descendants may.
                Err(_) if pid != options.pid && has_ended(pid) => {}
                Err(error) => return Err(error),
            }
        }
        let runs_on = options.after == AfterDump::Resume;
        early.copy(options, &inventory, &mut finder, &codes, &writer, clock)?;
        // Copying takes a while, in which the target changes: what was learned before would have to
        // be learned again while it stands still.
        let (inventory, facts, files) = if early.is_empty() {
            (inventory, facts, files)
        } else {
            let mut earlier = inventory;
            drop(files);
            let inventory =
                self::inventory(&mut collector, options.pid, &mut earlier, Look::Ahead)?;
            let (inventory, files) =
                look_at_files(&mut collector, options.pid, inventory, &context)?;
            let facts = Facts::read(&inventory, options.cross_check);
            obstacles::check(&inventory, &facts, options, &namespaces)?;
            clock.check("plan again")?;
            (inventory, facts, files)
        };
        memory::learn(&mut memory, &inventory);
        early.copy_again(clock)?;
        let expected = early.expected(memory::resident_bytes(&inventory));
        let store = Store::choose(runs_on, expected, early.threads);
        // To choose has taken a while, too.
        early.copy_again(clock)?;
        // What has changed meanwhile is old news by now: it need not be read again in the frozen
        // moment, which finds the rest where the processor has it at hand.
        let mut earlier = inventory;
        let inventory = self::inventory(&mut collector, options.pid, &mut earlier, Look::Ahead)?;
        let layout = Layout::of_this_processor();
        let plan = Self {
            collector,
            inventory,
            facts,
            finder,
            codes,
            memory,
            store,
            namespaces,
            writer,
            layout,
        };
        Ok((plan, files))
    }
}

/// How often a refusal is doubted.
const DOUBTS: u32 = 2;

/// Looks at the open files. A program that changes them meanwhile may show what never was: a socket
/// without its peer, a file without its name. So a refusal counts when it is given again.
fn look_at_files(
    collector: &mut Collector,
    root: i32,
    mut now: Inventory,
    context: &files::PlanContext,
) -> Result<(Inventory, files::Plan), Error> {
    for _ in 0..DOUBTS {
        match files::Plan::prepare(&now, context) {
            Ok(files) => {
                now.refer_to_this();
                return Ok((now, files));
            }
            Err(_) => now = inventory(collector, root, &mut now, Look::Ahead)?,
        }
    }
    let files = files::Plan::prepare(&now, context)?;
    now.refer_to_this();
    Ok((now, files))
}

/// The whole tree below `root`; what has not changed since `earlier` is taken from there.
pub(crate) fn inventory(
    collector: &mut Collector,
    root: i32,
    earlier: &mut Inventory,
    look: Look,
) -> Result<Inventory, Error> {
    collector
        .take_tree(root, earlier, look)
        .map_err(|source| Error::Inventory { pid: root, source })
}

/// Whether a process is gone, or a zombie.
fn has_ended(pid: i32) -> bool {
    Dir::open(pid).and_then(|dir| Stat::read(&dir)).map_or(true, |stat| stat.is_dead())
}

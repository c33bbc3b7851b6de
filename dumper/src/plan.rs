//! The first step of a dump: everything that can be learned, opened or refused while the target
//! runs.

use std::collections::BTreeMap;

use collector::{Collector, Inventory, VmFlags};
use images::{ImageWriter, WriteOptions};
use kernel::pagemap::PageMap;
use kernel::procfs::{Dir, Namespaces, ProcFile, Stat};

use crate::clock::Clock;
use crate::error::Error;
use crate::facts::Facts;
use crate::files;
use crate::ids::is_zombie;
use crate::inject::{CodeFinder, Codes, Report};
use crate::memory::{Origin, Pages, Store};
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
}

impl Plan {
    /// Makes it, together with the plan for the open files, which is dropped when the target runs again.
    pub(crate) fn make(
        options: &DumpOptions,
        clock: &Clock,
    ) -> Result<(Self, files::Plan), Error> {
        let mut collector = match &options.programs {
            Some(folder) => Collector::open_from(folder),
            None => Collector::open(),
        };
        let inventory = inventory(&mut collector, options.pid, Inventory::default())?;
        let namespaces = obstacles::own_namespaces()?;
        let facts = Facts::read(&inventory);
        obstacles::check(&inventory, &facts, options, &namespaces)?;
        clock.check("plan")?;
        let context = files::PlanContext {
            shell_job: options.shell_job,
            root: options.root.clone(),
            ghost_limit: files::PlanContext::GHOST_LIMIT,
        };
        let files = files::Plan::prepare(&inventory, &context)?;
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
                // It ended while it was being looked at, which descendants may.
                Err(_) if pid != options.pid && has_ended(pid) => {}
                Err(error) => return Err(error),
            }
        }
        let runs_on = options.after == AfterDump::Resume;
        let store = Store::choose(runs_on, resident_bytes(&inventory));
        let plan =
            Self { collector, inventory, facts, finder, codes, memory, store, namespaces, writer };
        Ok((plan, files))
    }
}

/// The whole tree below `root`; what has not changed since `earlier` is taken from there.
pub(crate) fn inventory(
    collector: &mut Collector,
    root: i32,
    earlier: Inventory,
) -> Result<Inventory, Error> {
    collector.take_tree(root, earlier).map_err(|source| Error::Inventory { pid: root, source })
}

/// Whether a process is gone, or a zombie.
fn has_ended(pid: i32) -> bool {
    Dir::open(pid).and_then(|dir| Stat::read(&dir)).map_or(true, |stat| stat.is_dead())
}

/// What will be needed of the memory of one process.
#[derive(Debug)]
pub(crate) struct PlannedMemory {
    pub(crate) map: PageMap,
    /// Empty, with its file.
    pub(crate) pages: Pages,
}

impl PlannedMemory {
    pub(crate) fn open(writer: &ImageWriter, pid: i32) -> Result<Self, Error> {
        let map = PageMap::open(pid).map_err(|source| Error::Process {
            operation: "open the page map",
            pid,
            source,
        })?;
        Ok(Self { map, pages: Pages::new(writer, pid, Origin::Process(pid))? })
    }
}

/// An estimate of the memory that a dump of the tree will hold.
fn resident_bytes(inventory: &Inventory) -> u64 {
    let resident = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
        let mut fields = text.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0u64));
        let (resident, file) = (fields.nth(1).unwrap_or(0), fields.next().unwrap_or(0));
        resident.saturating_sub(file) * kernel::pagemap::PAGE_SIZE
    };
    let shared: u64 = inventory
        .processes
        .values()
        .flat_map(|process| &process.mappings)
        .filter(|mapping| mapping.flags.contains(VmFlags::MAY_SHARE))
        .filter(|mapping| mapping.name == "/dev/zero (deleted)")
        .map(|mapping| mapping.end - mapping.start)
        .sum();
    inventory.processes.keys().map(|&pid| resident(pid)).sum::<u64>() + shared
}

//! A pre-dump: memory alone, copied while the tree runs and never stands still, as the parent of a
//! dump that follows. And the end of the logging that both leave behind.

use std::collections::BTreeMap;
use std::time::Instant;

use collector::{Collector, Inventory, Look};
use images::messages::{DumpStatsEntry, StatsEntry};
use images::{Destination, ImageWriter, Progress, names};

use crate::claims::Claims;
use crate::clock::Clock;
use crate::denied;
use crate::error::Error;
use crate::inject::GadgetFinder;
use crate::look::{Looker, Seen, inventory};
use crate::memory::{self, PreCopy};
use crate::options::{DumpOptions, DumpReport};
use crate::write;

/// Copies the larger part of the memory of the tree below [`DumpOptions::pid`], and lets its
/// changes be logged from there on. The tree runs on, whatever [`DumpOptions::after`] says.
///
/// # Errors
/// As [`crate::dump`].
pub fn pre_dump(
    options: &DumpOptions,
    destination: &dyn Destination,
    progress: &mut (dyn Progress + Send),
) -> Result<DumpReport, Error> {
    try_to_pre_dump(options, destination, progress)
        .map_err(|error| denied::explain(error, options.pid))
}

fn try_to_pre_dump(
    options: &DumpOptions,
    destination: &dyn Destination,
    progress: &mut (dyn Progress + Send),
) -> Result<DumpReport, Error> {
    let _claims = Claims::of_tree(options.pid)?;
    let mut pre_copy = PreCopy::new(true);
    let done = copy(options, destination, &mut pre_copy, progress);
    match done.is_ok() {
        true => pre_copy.keep(options),
        false => pre_copy.end(),
    }
    done.map(|report| DumpReport { warnings: pre_copy.warnings, ..report })
}

fn copy(
    options: &DumpOptions,
    destination: &dyn Destination,
    pre_copy: &mut PreCopy,
    progress: &mut dyn Progress,
) -> Result<DumpReport, Error> {
    let started = Instant::now();
    let clock = Clock::start(options, started);
    progress.begin("plan", None);
    // What a dump would refuse is refused now, and some of it, as an io_uring, would write into
    // memory unseen.
    let look = Looker::for_memory(options)?;
    let Seen { inventory, numbers, .. } =
        look.look(&mut Collector::open_at(&options.programs), Inventory::default(), &clock)?;
    let writer = ImageWriter::of(destination.begin()?);
    progress.begin("copy", None);
    let mut finder = GadgetFinder::default();
    pre_copy.copy(
        options,
        (&inventory, &numbers),
        &mut finder,
        &BTreeMap::new(),
        &writer,
        &clock,
    )?;
    pre_copy.encode(&writer, &write::inventory(&pre_copy.id), &numbers)?;
    let pages_written = pre_copy.bytes() / images::PAGE_SIZE;
    let dump =
        DumpStatsEntry { pages_written, shpages_written: Some(0), ..DumpStatsEntry::default() };
    let stats = StatsEntry { dump: Some(dump), restore: None };
    writer.write_one(&names::stats_dump(), &stats)?;
    writer.write_one(&names::inventory(), &write::inventory(&pre_copy.id))?;
    let committed = writer.commit()?;
    Ok(DumpReport {
        total: started.elapsed(),
        processes: inventory.processes.len(),
        threads: inventory.processes.values().map(|process| process.threads.len()).sum(),
        pages_written,
        image_bytes: committed.bytes,
        ..DumpReport::default()
    })
}

/// Ends the logging that a dump or pre-dump of [`DumpOptions::pid`] let go on. Whether there was
/// any.
///
/// # Errors
/// When there is no such process, or a dump of it is under way.
pub fn end_dirty_log(options: &DumpOptions) -> Result<bool, Error> {
    let _claims = Claims::of_tree(options.pid)?;
    let inventory = inventory(
        &mut Collector::open_at(&options.programs),
        options.pid,
        &mut Inventory::default(),
        Look::Now,
    )?;
    memory::end_dirty_log(&options.dirty_logs, options.pid, &inventory)
}

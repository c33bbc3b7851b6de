//! The way of a dump: plan, freeze, capture, release, write.

use std::time::{Duration, Instant, SystemTime};

use freezer::{Frozen, Release};
use images::Progress;
use kernel::sched::Urgent;
use support::settings::unseen_without_bpf;

use crate::capture::{self, Captured};
use crate::claims::Claims;
use crate::clock::Clock;
use crate::denied;
use crate::ending::Ending;
use crate::error::Error;
use crate::files;
use crate::interrupted;
use crate::memory::{Early, Pages};
use crate::options::{AfterDump, DumpOptions, DumpReport};
use crate::plan::Plan;
use crate::processes::has_ended;
use crate::rights;
use crate::threads::with_this_log;
use crate::write;

/// Dumps the tree below [`DumpOptions::pid`] into images.
///
/// The images are complete or absent. Whatever goes wrong, a panic or a `SIGKILL` of this process
/// included, the tree runs on as it was; it is ended, where that was asked for, only once the
/// images are safe.
///
/// # Errors
/// [`Error::Refused`] names what cannot be carried, before anything is stopped. What only stands in the
/// way for a moment is waited for: [`Error::Tried`] tells that it did not pass. All others say what
/// failed on the way.
pub fn dump(
    options: &DumpOptions,
    progress: &mut (dyn Progress + Send),
) -> Result<DumpReport, Error> {
    try_to_dump(options, progress).map_err(|error| denied::explain(error, options.pid))
}

fn try_to_dump(
    options: &DumpOptions,
    progress: &mut (dyn Progress + Send),
) -> Result<DumpReport, Error> {
    rights::check_tree(options)?;
    let started = Instant::now();
    let mut tries = 1;
    loop {
        let source = match attempt(options, started, progress) {
            Ok(report) => return Ok(report),
            Err(Failed::Passing(error)) => error,
            // What went wrong may tell of a process that a user may not look at.
            Err(Failed::Final(error)) => {
                return Err(rights::check_tree(options).err().unwrap_or(error));
            }
        };
        // A program with other rights may have come, which is not tried again, nor told of.
        rights::check_tree(options)?;
        let within = started.elapsed();
        if has_ended(options.pid) {
            return Err(source);
        }
        if tries == TRIES || within > TRYING {
            return Err(Error::Tried { tries, within, source: Box::new(source) });
        }
        tracing::info!(tries, error = %source, "the dump is tried again");
        std::thread::sleep(PAUSE * tries * tries);
        tries += 1;
    }
}

/// How often a dump is tried that fails for what may pass.
const TRIES: u32 = 8;
/// After how long it is not tried again.
const TRYING: Duration = Duration::from_secs(10);
/// The first pause between tries; the others are longer.
const PAUSE: Duration = Duration::from_millis(2);

/// Why one try failed.
enum Failed {
    /// It would fail again.
    Final(Error),
    /// It may have been for the moment: a task ended, or something was in passing, when the tree was
    /// stopped.
    Passing(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        if error.is_gone() { Self::Passing(error) } else { Self::Final(error) }
    }
}

impl Failed {
    /// Of a tree that stands still: what stands in the way was not there before.
    fn when_frozen(error: Error) -> Self {
        match error {
            Error::Refused { .. } => Self::Passing(error),
            error => error.into(),
        }
    }
}

fn attempt(
    options: &DumpOptions,
    started: Instant,
    progress: &mut (dyn Progress + Send),
) -> Result<DumpReport, Failed> {
    let _claims = Claims::of_tree(options.pid)?;
    // ptrace belongs to a thread, and a thread that ends lets go of all that it traced: with a
    // thread for each dump, every way out of it releases the target.
    let mut early = Early::new(false);
    let mut kept = Kept::default();
    let mut ending = Ending::default();
    let dumped = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("dump".to_owned())
            .spawn_scoped(
                scope,
                with_this_log(|| {
                    run(options, started, &mut early, &mut kept, &mut ending, progress)
                }),
            )
            .map_err(|source| Error::Process {
                operation: "start a thread for the dump",
                pid: options.pid,
                source,
            })?
            .join()
            .unwrap_or(Err(Failed::Final(Error::Panicked)))
    });
    // Only now, as this takes a while, and in the thread the target may still stand still.
    drop(kept);
    match options.track && options.after != AfterDump::Kill && dumped.is_ok() {
        true => early.keep(options),
        false => early.end(),
    }
    // Their tracer has ended: nothing but their parents keeps them now.
    early.warnings.append(&mut ending.wait());
    dumped.map(|report| {
        let blind = report.source == Some(collector::Source::Proc);
        let unseen = blind.then(|| {
            format!("without eBPF it was not seen whether there are {}", unseen_without_bpf())
        });
        DumpReport { warnings: early.warnings.into_iter().chain(unseen).collect(), ..report }
    })
}

/// What is large or slow to let go of: after an error it outlives the thread that holds the target.
#[derive(Default)]
struct Kept {
    plan: Option<Plan>,
    files: Option<files::Plan>,
}

fn run(
    options: &DumpOptions,
    started: Instant,
    early: &mut Early,
    kept: &mut Kept,
    ending: &mut Ending,
    progress: &mut dyn Progress,
) -> Result<DumpReport, Failed> {
    progress.begin("plan", None);
    let mut clock = Clock::start(options, started);
    let (plan, files) = Plan::make(options, &clock, early)?;
    clock.account.handover = early.handover();
    let (plan, files) = (kept.plan.insert(plan), kept.files.insert(files));
    progress.begin("freeze", None);
    // The target stands still for as long as this thread is kept waiting.
    let urgent = Urgent::begin();
    // It naps while the target's tasks come to a stop, and not for longer than it means to.
    if let Err(error) = nix::sys::prctl::set_timerslack(1_000) {
        tracing::debug!(%error, "naps last longer than they should");
    }
    let before = (SystemTime::now(), Instant::now());
    let mut frozen = freezer::stop(options.pid, options.stop_within, options.max_freeze)
        .map_err(|source| Error::Freeze { root: options.pid, source })?;
    clock.freeze(frozen.since, options.max_freeze);
    rights::check_frozen(options, &frozen)?;
    let mut captured = capture::capture(plan, &mut frozen, options, files, early, &mut clock)
        .map_err(Failed::when_frozen)?;
    let since = frozen.since;
    let frozen_at = before.0 + since.duration_since(before.1);
    // A target that runs on is released at once; one that is to end or to stay stopped waits,
    // still alive, until its images are safe.
    let mut held = Some(frozen);
    if options.after == AfterDump::Resume {
        release(&mut held, Release::Resume);
    }
    let frozen = since.elapsed();
    clock.released();
    if options.after == AfterDump::Resume {
        clock.account.release = clock.account.rest_of(frozen);
    }
    drop(urgent);
    // What it holds of the target's files must not outlive their use by the target.
    kept.files = None;
    captured.pages.iter_mut().for_each(Pages::settle);
    interrupted::name_calls(&mut captured.tasks);
    let Some(Plan { store, writer, collector, .. }) = kept.plan.take() else {
        return Err(Failed::Final(Error::Panicked));
    };
    let source = collector.source();
    // Its programs look at every system call of the machine until then.
    drop(collector);
    early.encode(&writer, &write::inventory(&captured.id))?;
    let committed = write::write(&captured, &store, writer, options, frozen, &clock, progress)?;
    match options.after {
        AfterDump::Resume => {}
        AfterDump::Stop => release(&mut held, Release::Stop),
        AfterDump::Kill => {
            *ending = Ending::of(&captured.inventory);
            release(&mut held, Release::Kill);
        }
    }
    let frozen = if options.after == AfterDump::Resume { frozen } else { since.elapsed() };
    clock.account.release += clock.account.rest_of(frozen);
    Ok(DumpReport {
        frozen,
        account: clock.account,
        total: started.elapsed(),
        image_bytes: committed.bytes,
        source: Some(source),
        ..summary(&captured, early, frozen_at)
    })
}

fn release(held: &mut Option<Frozen>, how: Release) {
    if let Some(frozen) = held.take() {
        frozen.release(how);
    }
}

fn summary(captured: &Captured, early: &Early, frozen_at: SystemTime) -> DumpReport {
    let written = captured.pages.iter().map(Pages::bytes).sum::<u64>() + early.bytes();
    DumpReport {
        processes: captured.inventory.processes.len(),
        threads: captured.tasks.values().map(|task| task.threads.len()).sum(),
        pages_scanned: captured.pages_scanned,
        pages_written: written / images::PAGE_SIZE,
        frozen_at: Some(frozen_at),
        ..DumpReport::default()
    }
}

//! The way of a dump: plan, freeze, capture, write.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use hooks::{Hooks, Moment, Point};
use images::{Destination, Progress};

use crate::capture::Captured;
use crate::claims::Claims;
use crate::clock::Clock;
use crate::denied;
use crate::ending::Ending;
use crate::error::Error;
use crate::files::GivenLinks;
use crate::freeze::Frozen;
use crate::memory::PreCopy;
use crate::network::Network;
use crate::options::{AfterDump, DumpOptions, DumpReport};
use crate::plan::{Dump, Plan, Planned};
use crate::processes::has_ended;
use crate::rendezvous::{OnTheWay, Rendezvous};
use crate::rights;
use crate::threads::with_this_log;
use crate::write::Written;

/// Dumps the tree below [`DumpOptions::pid`] into images, which come to `destination`.
///
/// The images are complete or absent. Whatever goes wrong, a panic or a `SIGKILL` of this process
/// included, the tree runs on as it was; it is ended, where that was asked for, only once the
/// images are safe.
///
/// # Errors
/// [`Error::Refused`] names what cannot be carried, before anything is stopped. What only stands in the
/// way for a moment is waited for: [`Error::Tried`] tells that it did not pass. [`Error::Hook`] tells
/// that one of the `hooks` refused: after `post-dump` the images are there nevertheless. All others say
/// what failed on the way.
pub fn dump(
    options: &DumpOptions,
    destination: &dyn Destination,
    hooks: &mut dyn Hooks,
    progress: &mut (dyn Progress + Send),
) -> Result<DumpReport, Error> {
    try_to_dump(options, destination, hooks, progress)
        .map_err(|error| denied::explain(error, options.pid))
}

fn try_to_dump(
    options: &DumpOptions,
    destination: &dyn Destination,
    hooks: &mut dyn Hooks,
    progress: &mut (dyn Progress + Send),
) -> Result<DumpReport, Error> {
    rights::check_tree(options)?;
    let images = destination.path();
    hooks::call(hooks, Moment::of(Point::PreDump, Some(options.pid), images))?;
    let mut tries = Tries::begin();
    loop {
        let among = Among { started: tries.started, together: None };
        match attempt(options, destination, among, hooks, progress) {
            Ok(report) => return Ok(report),
            Err(failed) => tries.again(options, failed)?,
        }
    }
}

/// The tries of a dump.
pub(crate) struct Tries {
    pub(crate) started: Instant,
    tries: u32,
}

impl Tries {
    pub(crate) fn begin() -> Self {
        Self { started: Instant::now(), tries: 1 }
    }

    /// Pauses before the next try of what has failed with one tree.
    ///
    /// # Errors
    /// Why it is not tried again.
    pub(crate) fn again(&mut self, options: &DumpOptions, failed: Failed) -> Result<(), Error> {
        let source = match failed {
            Failed::Passing(error) => error,
            // What went wrong may tell of a process that a user may not look at.
            Failed::Final(error) => {
                return Err(rights::check_tree(options).err().unwrap_or(error));
            }
        };
        // A program with other rights may have come, which is not tried again, nor told of.
        rights::check_tree(options)?;
        let (tries, within) = (self.tries, self.started.elapsed());
        if has_ended(options.pid) {
            let ended = || std::io::Error::from_raw_os_error(libc::ESRCH);
            let gone = || Error::Process { operation: "dump", pid: options.pid, source: ended() };
            return Err(if source.has_no_code() { gone() } else { source });
        }
        if tries == TRIES || within > TRYING {
            return Err(Error::Tried { tries, within, source: Box::new(source) });
        }
        tracing::info!(tries, error = %source, "the dump is tried again");
        std::thread::sleep(PAUSE * tries * tries);
        self.tries += 1;
        Ok(())
    }
}

/// How often a dump is tried that fails for what may pass.
const TRIES: u32 = 8;
/// After how long it is not tried again.
const TRYING: Duration = Duration::from_secs(10);
/// The first pause between tries; the others are longer.
const PAUSE: Duration = Duration::from_millis(2);

/// Why one try failed.
pub(crate) enum Failed {
    /// It would fail again.
    Final(Error),
    /// It may have been for the moment: a task ended, or something was in passing, when the tree was
    /// stopped.
    Passing(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        match error.is_gone() || error.has_no_code() {
            true => Self::Passing(error),
            false => Self::Final(error),
        }
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

/// Of what dumps a try is.
#[derive(Clone, Copy)]
pub(crate) struct Among<'g> {
    /// When the first try began.
    pub(crate) started: Instant,
    /// Where the dumps of other trees are waited for that are of the same moment.
    pub(crate) together: Option<&'g Rendezvous<'g>>,
}

/// Tries once.
pub(crate) fn attempt(
    options: &DumpOptions,
    destination: &dyn Destination,
    Among { started, together }: Among<'_>,
    hooks: &mut dyn Hooks,
    progress: &mut (dyn Progress + Send),
) -> Result<DumpReport, Failed> {
    if let Some(parent) = options.parent.as_ref().filter(|it| it.is_encrypted())
        && !destination.encrypts()
    {
        let path = parent.path().to_owned();
        return Err(Failed::Final(Error::Parent(images::Error::PlainChild { path })));
    }
    let _claims = Claims::of_tree(options.pid)?;
    // ptrace belongs to a thread, and a thread that ends lets go of all that it traced: with a
    // thread for each dump, every way out of it releases the target.
    let mut pre_copy = PreCopy::new(false);
    let mut ending = Ending::default();
    // Undone when the target runs again.
    let mut network = Network::new(destination.path());
    let given = || GivenLinks::new(options.pid, &options.undo, destination.path());
    let links = options.link_remap.then(given).transpose().map_err(Error::from)?.map(Arc::new);
    let (later, dropped_later) = channel();
    let dump = Dump {
        options,
        destination,
        started,
        clock: Clock::start(options, started).with_others(together.map(Rendezvous::pulse)),
        hooks: &mut *hooks,
        progress,
        pre_copy: &mut pre_copy,
        ending: &mut ending,
        network: &mut network,
        links: links.clone(),
        together,
    };
    let dumped = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("dump".to_owned())
            .spawn_scoped(scope, with_this_log(|| run(dump, later)))
            .map_err(|source| Error::Process {
                operation: "start a thread for the dump",
                pid: options.pid,
                source,
            })?
            .join()
            .unwrap_or(Err(Failed::Final(Error::Panicked)))
    });
    // Of a dump that has failed: the target runs already.
    network.tell_to_unlock(hooks, options.pid);
    // Only now, as this takes a while, and in the thread the target may still stand still.
    drop((dropped_later, links));
    let may_track = !options.dry_run && options.after != AfterDump::Kill;
    match options.keep_dirty_log && may_track && dumped.is_ok() {
        true => pre_copy.keep(options),
        false => pre_copy.end(),
    }
    // Their tracer has ended: nothing but their parents keeps them now.
    pre_copy.warnings.append(&mut ending.wait());
    dumped.map(|mut report| {
        report.warnings.splice(..0, pre_copy.warnings);
        report
    })
}

/// The steps. If one fails, or panics, those of other trees that are of the same moment fail as well, once this target is let go.
fn run(dump: Dump<'_>, later: Sender<Plan>) -> Result<DumpReport, Failed> {
    let on_the_way = OnTheWay::to(dump.together);
    let report = steps(dump, later)?;
    on_the_way.done();
    Ok(report)
}

/// The steps. Each is made of the one before, and lets go of the target when it fails.
fn steps(dump: Dump<'_>, later: Sender<Plan>) -> Result<DumpReport, Failed> {
    let planned = Planned::make(dump, later)?.gather()?.hold_network()?;
    let frozen = Frozen::stop(planned)?.tell()?;
    let captured = Captured::read(frozen).map_err(Failed::when_frozen)?;
    let written = Written::write(captured.release())?.tell()?;
    Ok(written.end()?)
}

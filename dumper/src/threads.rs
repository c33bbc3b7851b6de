//! What threads of a dump have in common with the one that asked for it.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};

use tracing::dispatcher;

/// The work, to be done in another thread, with what it logs going where this thread's log goes: the
/// log of a request is not always that of the whole process.
pub(crate) fn with_this_log<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let log = dispatcher::get_default(Clone::clone);
    move || dispatcher::with_default(&log, work)
}

/// Has each of `work` done, by as many threads as there are `states`, one of which each has to itself. Panics as they do.
pub(crate) fn share<W: Send, S: Send, E: Send>(
    states: Vec<S>,
    work: Vec<W>,
    run: impl Fn(W, &mut S) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let threads = states.len().min(work.len());
    let work = Mutex::new(work.into_iter());
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
    let worker = &|mut own: S| {
        while let Some(piece) = next() {
            run(piece, &mut own)?;
        }
        Ok(())
    };
    let mut states = states.into_iter().take(threads);
    let Some(first) = states.next() else { return Ok(()) };
    std::thread::scope(|scope| {
        // With fewer of them it takes longer.
        let spawn = |own| {
            std::thread::Builder::new().spawn_scoped(scope, with_this_log(|| worker(own))).ok()
        };
        let others: Vec<_> = states.filter_map(spawn).collect();
        let mut done = worker(first);
        for other in others {
            done = done.and(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    })
}

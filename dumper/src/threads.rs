//! What threads of a dump have in common with the one that asked for it.

use tracing::dispatcher;

/// The work, to be done in another thread, with what it logs going where this thread's log goes: the
/// log of a request is not always that of the whole process.
pub(crate) fn with_this_log<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let log = dispatcher::get_default(Clone::clone);
    move || dispatcher::with_default(&log, work)
}

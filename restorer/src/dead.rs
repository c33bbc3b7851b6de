//! How a process ends as another did.

use kernel::process::{raise, set_signal_mask};

/// Ends the caller by the signal of a wait status; returns if it says that there was none, or if the
/// signal does not end it.
pub(crate) fn end_as(status: i32) {
    if libc::WIFSIGNALED(status) {
        // Not a second time the core of a program that has ended before. Lowering a limit and
        // unblocking signals always work; should they not, whoever calls this exits.
        let limit = nix::sys::resource::Resource::RLIMIT_CORE;
        nix::sys::resource::setrlimit(limit, 0, 0).unwrap_or_default();
        drop(set_signal_mask(0));
        drop(raise(libc::WTERMSIG(status)));
    }
}

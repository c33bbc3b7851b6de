//! How a process ends as another did.

use kernel::process::{reset_signal_actions, set_signal_mask};
use kernel::turn::raise;

/// Ends the caller by the signal of a wait status; returns if it says that there was none, or if the
/// signal does not end it.
pub(crate) fn end_as(status: i32) {
    if libc::WIFSIGNALED(status) {
        // Not a second time the core of a program that has ended before. Lowering a limit and
        // unblocking signals always work; should they not, whoever calls this exits.
        let limit = nix::sys::resource::Resource::RLIMIT_CORE;
        nix::sys::resource::setrlimit(limit, 0, 0).unwrap_or_default();
        // What this process ignores would not end it.
        reset_signal_actions();
        drop(set_signal_mask(0));
        raise(libc::WTERMSIG(status)).unwrap_or_default();
    }
}

/// Whether a process can have ended so: by a code, or by a signal that ends it.
pub(crate) const fn can_be(status: i32) -> bool {
    const ENDS_NOBODY: [i32; 9] = [
        0,
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGURG,
        libc::SIGWINCH,
    ];
    let signal = status & 0x7f;
    let mut at = 1;
    while at < ENDS_NOBODY.len() {
        if signal == ENDS_NOBODY[at] {
            return false;
        }
        at += 1;
    }
    signal <= 64 && status & !0xffff == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_signals_end_nobody() {
        assert!(
            can_be(0) && can_be(3 << 8) && can_be(libc::SIGKILL) && can_be(libc::SIGSEGV | 0x80)
        );
        assert!(!can_be(libc::SIGSTOP) && !can_be(libc::SIGCHLD) && !can_be(0x7f) && !can_be(-1));
    }
}

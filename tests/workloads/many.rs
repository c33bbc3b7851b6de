//! Much of one kind: what grows with a program's size is measured on these. Each waits with a
//! pulse (see `pulse`), and checks every one of its many things.
//!
//! `STASIS_WORKLOAD_COUNT` says how many; without it there are as many as a quick test wants.

pub(crate) mod connections;
pub(crate) mod files;
pub(crate) mod mappings;
pub(crate) mod memfds;
pub(crate) mod processes;
pub(crate) mod terminals;
pub(crate) mod threads;

use crate::stage::check;

/// A number from the environment.
pub(crate) fn setting(name: &str, otherwise: usize) -> usize {
    let Some(text) = std::env::var_os(name) else { return otherwise };
    text.to_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{name} is a number"))
}

fn count(otherwise: usize) -> usize {
    setting("STASIS_WORKLOAD_COUNT", otherwise)
}

fn may_open_many() {
    // SAFETY: the kernel fills the value in, and reads it.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit)).expect("getrlimit");
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)).expect("setrlimit");
    }
}

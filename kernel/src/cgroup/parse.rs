//! What the kernel writes about cgroups, understood. No system calls.

use std::path::{Component, Path};

use ids::HostPid;

/// The processes of a `cgroup.procs`, each `None` that is outside of our pid namespace; `None` when a line is
/// no pid.
pub(super) fn pids(text: &[u8]) -> Option<Vec<Option<HostPid>>> {
    let numbers = std::str::from_utf8(text).ok()?.lines().map(|line| line.parse().ok());
    numbers.map(|number| number.map(HostPid::new)).collect()
}

/// The line `frozen` of a `cgroup.events`.
pub(super) fn frozen_event(text: &[u8]) -> Option<bool> {
    text.split(|byte| *byte == b'\n').find_map(|line| match line {
        b"frozen 0" => Some(false),
        b"frozen 1" => Some(true),
        _ => None,
    })
}

/// Whether a relative path is made of plain names alone.
pub(super) fn is_plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn events_and_pids_are_read() {
        assert_eq!(frozen_event(b"populated 1\nfrozen 0\n"), Some(false));
        assert_eq!(frozen_event(b"populated 1\nfrozen 1\n"), Some(true));
        assert_eq!(frozen_event(b"populated 1\n"), None);
        assert_eq!(pids(b"12\n0\n7\n"), Some([12, 0, 7].map(HostPid::new).to_vec()));
        assert_eq!(pids(b""), Some(vec![]));
        assert_eq!(pids(b"x\n"), None);
    }

    proptest! {
        #[test]
        fn nothing_the_kernel_could_write_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(pids(&text).is_none_or(|pids| pids.len() <= text.len()));
            prop_assert!(frozen_event(&text).is_none() || text.len() >= 8);
        }
    }
}

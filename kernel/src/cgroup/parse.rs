//! What the kernel writes about cgroups, understood. No system calls.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::{Hierarchies, Mount, Version};

/// The mounted hierarchies in `/proc/self/mountinfo`; of several mounts of one the first, which
/// is the one that shows most.
pub(super) fn mounts(mountinfo: &[u8]) -> Hierarchies {
    let mut found = Hierarchies::default();
    for line in mountinfo.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        let (Some(root), Some(point)) = (fields.nth(3), fields.next()) else { continue };
        // Optional fields end with a lone dash; then come type, source and super options.
        let mut tail = fields.skip_while(|field| *field != b"-").skip(1);
        let (kind, options) = (tail.next(), tail.nth(1));
        let mount = || Mount { root: unescape(root), point: unescape(point) };
        match kind {
            Some(b"cgroup2") => {
                found.unified.get_or_insert_with(mount);
            }
            Some(b"cgroup") => {
                let mut options = options.unwrap_or_default().split(|byte| *byte == b',');
                if options.any(|option| option == b"freezer") {
                    found.freezer.get_or_insert_with(mount);
                }
            }
            _ => {}
        }
    }
    found
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            digits.iter().try_fold(0_u8, |value, digit| {
                let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
                value.checked_mul(8)?.checked_add(digit)
            })
        });
        match octal {
            Some(byte) => {
                path.push(byte);
                rest = &behind[3..];
            }
            None => {
                path.push(*first);
                rest = behind;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

/// The path of a process in one hierarchy, from `/proc/PID/cgroup`: lines of
/// `id:controllers:path`, where the unified hierarchy has id 0 and no controllers.
pub(super) fn membership(text: &[u8], version: Version) -> Option<&Path> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let right = match version {
            Version::V1 => controllers.split(|byte| *byte == b',').any(|name| name == b"freezer"),
            Version::V2 => id == b"0" && controllers.is_empty(),
        };
        right.then(|| Path::new(OsStr::from_bytes(path)))
    })
}

/// The processes of a `cgroup.procs`; `None` when a line is no pid.
pub(super) fn pids(text: &[u8]) -> Option<Vec<i32>> {
    std::str::from_utf8(text).ok()?.lines().map(|line| line.parse().ok()).collect()
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
    fn a_hybrid_machine_has_both() {
        let text = b"25 1 0:22 / /sys/fs/cgroup ro shared:8 - tmpfs tmpfs rw,mode=755\n\
            26 25 0:23 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n\
            27 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            28 25 0:25 /docker/a\\040b /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n";
        let found = mounts(text);
        let mount =
            |root: &str, point: &str| Some(Mount { root: root.into(), point: point.into() });
        assert_eq!(found.unified, mount("/", "/sys/fs/cgroup/unified"));
        assert_eq!(found.freezer, mount("/docker/a b", "/sys/fs/cgroup/freezer"));
    }

    #[test]
    fn a_process_is_found_in_each_hierarchy() {
        let text = b"5:freezer:/box/a:b\n4:cpu,cpuacct:/\n1:name=systemd:/x\n0::/user.slice/s\n";
        assert_eq!(membership(text, Version::V1), Some(Path::new("/box/a:b")));
        assert_eq!(membership(text, Version::V2), Some(Path::new("/user.slice/s")));
        assert_eq!(membership(b"1:name=systemd:/x\n", Version::V2), None);
    }

    #[test]
    fn events_and_pids_are_read() {
        assert_eq!(frozen_event(b"populated 1\nfrozen 0\n"), Some(false));
        assert_eq!(frozen_event(b"populated 1\nfrozen 1\n"), Some(true));
        assert_eq!(frozen_event(b"populated 1\n"), None);
        assert_eq!(pids(b"12\n7\n"), Some(vec![12, 7]));
        assert_eq!(pids(b""), Some(vec![]));
        assert_eq!(pids(b"x\n"), None);
    }

    proptest! {
        #[test]
        fn nothing_the_kernel_could_write_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let found = mounts(&text);
            prop_assert!(found.unified.is_none() || text.len() > 10);
            let paths = [membership(&text, Version::V1), membership(&text, Version::V2)];
            prop_assert!(paths.iter().flatten().all(|path| path.as_os_str().len() <= text.len()));
            prop_assert!(pids(&text).is_none_or(|pids| pids.len() <= text.len()));
            prop_assert!(frozen_event(&text).is_none() || text.len() >= 8);
        }
    }
}

//! How many of something the users of a user namespace may have.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

use super::{Member, enter_unseen};

/// How many of something may belong to each user of a user namespace: files below `/proc/sys/user`, which show those of the reader's
/// (namespaces(7)). There are as many as may be until somebody says otherwise.
pub const LIMITS: [&str; 12] = [
    "max_cgroup_namespaces",
    "max_fanotify_groups",
    "max_fanotify_marks",
    "max_inotify_instances",
    "max_inotify_watches",
    "max_ipc_namespaces",
    "max_mnt_namespaces",
    "max_net_namespaces",
    "max_pid_namespaces",
    "max_time_namespaces",
    "max_user_namespaces",
    "max_uts_namespaces",
];

/// What a limit is that nobody has set.
const NO_LIMIT: i64 = i32::MAX as i64;

/// Those limits of a user namespace that somebody has set, by their names.
///
/// # Errors
/// Without the right to enter it, or if somebody in there stops who reads them.
pub fn limits(namespace: impl AsFd) -> io::Result<BTreeMap<&'static str, i64>> {
    const NUMBER: usize = size_of::<i64>();
    let mut told = [0; LIMITS.len() * NUMBER];
    // Nothing is allocated by who is forked: another thread may hold the allocator's lock.
    Member::begin_telling(&mut told, |line| {
        enter_unseen(namespace.as_fd())?;
        let table =
            openat(AT_FDCWD, c"/proc/sys/user", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        LIMITS.iter().try_for_each(|name| line.write_all(&limit(&table, name)?.to_ne_bytes()))
    })?;
    let numbers = told
        .chunks_exact(NUMBER)
        .map(|bytes| i64::from_ne_bytes(bytes.try_into().unwrap_or_default()));
    Ok(LIMITS.into_iter().zip(numbers).filter(|(_, limit)| *limit != NO_LIMIT).collect())
}

/// One limit; a kernel without it has none.
fn limit(table: &OwnedFd, name: &str) -> io::Result<i64> {
    let mut text = [0; 32];
    let file = match openat(table, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(NO_LIMIT),
        file => File::from(file?),
    };
    let length = (&file).read(&mut text)?;
    let text = std::str::from_utf8(&text[..length]).ok();
    let strange = io::Error::from_raw_os_error(libc::EBADMSG);
    text.and_then(|text| text.trim().parse().ok()).ok_or(strange)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespaces::own;
    use crate::user_namespaces::{Inside, Maps, new_user};

    #[test]
    fn limits_are_read_inside() {
        let maps = Maps { users: vec![(0, 0, 1)], groups: vec![(0, 0, 1)], ..Maps::default() };
        let user = new_user(&maps).unwrap();
        assert!(limits(&user).unwrap().is_empty());
        let inside = Inside { user: user.as_fd(), ids: (0, 0), before: &[], is_exposed: true };
        inside.during(|| std::fs::write("/proc/sys/user/max_user_namespaces", "3")).unwrap();
        assert_eq!(limits(&user).unwrap(), [("max_user_namespaces", 3)].into());
        assert!(limits(own("net").unwrap()).is_err());
    }
}

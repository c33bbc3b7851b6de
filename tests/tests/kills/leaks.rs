//! What must not become more, however often services are killed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use stasis_tests::{Services, wait_until};

/// Control groups and processes go a moment after they are asked to.
const PATIENCE: Duration = Duration::from_secs(30);
/// A connection that nobody uses is closed in that time.
const IDLE: Duration = Duration::from_secs(150);

/// Things of the machine that somebody could have left.
#[derive(Debug)]
pub(crate) struct Things(BTreeSet<String>);

/// All directories below one, and files if they are asked for.
fn below(directory: &Path, files: bool, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory || files {
            found.insert(entry.path().display().to_string());
        }
        if is_directory {
            below(&entry.path(), files, found);
        }
    }
}

fn lines(path: &str) -> impl Iterator<Item = String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

impl Things {
    /// Those there are: control groups, mounts, pins of eBPF, shared memory, semaphores and queues.
    pub(crate) fn now() -> Self {
        let mut found = BTreeSet::new();
        below(Path::new("/sys/fs/cgroup"), false, &mut found);
        below(Path::new("/sys/fs/bpf"), true, &mut found);
        below(Path::new("/dev/shm"), true, &mut found);
        // Without their numbers, which are given anew, and what they hold.
        let mount = |line: String| line.split(' ').skip(3).collect::<Vec<_>>().join(" ");
        found.extend(lines("/proc/self/mountinfo").map(mount));
        for kind in ["shm", "sem", "msg"] {
            let id = |line: String| {
                let id = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
                format!("{kind} {id}")
            };
            found.extend(lines(&format!("/proc/sysvipc/{kind}")).map(id));
        }
        Self(found)
    }

    /// There are no more by now.
    pub(crate) fn must_be_all(&self) {
        let more = || Self::now().0.difference(&self.0).cloned().collect::<Vec<_>>();
        assert!(wait_until(PATIENCE, || more().is_empty()), "these are left: {:#?}", more());
    }
}

/// The names in a directory.
pub(crate) fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// How many descriptors each service has.
pub(crate) fn descriptors(services: &Services) -> Vec<(&'static str, usize)> {
    let count = |name| names(Path::new(&format!("/proc/{}/fd", services.pid(name)))).len();
    super::SERVICES.iter().map(|name| (*name, count(name))).collect()
}

/// Each has no more than it had, but for a few that it keeps once they are open.
pub(crate) fn must_have_no_more(services: &Services, before: &[(&str, usize)]) {
    const FEW: usize = 4;
    let more = || {
        let now = descriptors(services);
        let pairs = now.into_iter().zip(before);
        pairs.filter(|((_, now), (_, before))| *now > before + FEW).collect::<Vec<_>>()
    };
    assert!(wait_until(IDLE, || more().is_empty()), "these keep descriptors: {:?}", more());
}

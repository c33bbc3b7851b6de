//! Trees and control groups to be frozen.
#![allow(dead_code, reason = "each of the tests uses some of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use ids::HostPid;
use kernel::cgroup::{Hierarchies, Version};
use kernel::procfs::{self, Dir, ProcFile, Stat};

/// Ends its child.
pub(crate) struct Tree(pub(crate) Child);

impl Tree {
    /// A shell with a child of its own, both waiting.
    pub(crate) fn start() -> Self {
        let tree = Self(Command::new("sh").args(["-c", "sleep 1000 & wait"]).spawn().unwrap());
        eventually("the tree stands", || {
            procfs::tree(tree.pid()).is_ok_and(|tree| tree.len() == 2)
        });
        tree
    }

    pub(crate) fn pid(&self) -> HostPid {
        HostPid::from(&self.0)
    }

    pub(crate) fn states(&self) -> Vec<u8> {
        let tree = procfs::tree(self.pid()).unwrap();
        let state = |pid| Stat::read(&Dir::open(pid).unwrap()).unwrap().state;
        tree.into_iter().map(state).collect()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for pid in procfs::tree(self.pid()).unwrap_or_default() {
            kernel::process::send_signal(pid, 9).ok();
        }
        self.0.wait().ok();
    }
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A cgroup for one test.
pub(crate) struct Group(pub(crate) PathBuf);

impl Group {
    pub(crate) fn make(version: Version, name: &str) -> Option<Self> {
        let mounts = Hierarchies::find().unwrap();
        let root = match version {
            Version::V1 => mounts.freezer(),
            Version::V2 => mounts.unified(),
        };
        let Some(root) = root else {
            eprintln!("SKIPPED: no {version} hierarchy is mounted here");
            return None;
        };
        let path = root.join(format!("stasis-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Some(Self(path))
    }

    pub(crate) fn add(&self, tree: &Tree) {
        for pid in procfs::tree(tree.pid()).unwrap() {
            fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let gone = || fs::remove_dir(&self.0).is_ok() || !self.0.exists();
        let deadline = Instant::now() + Duration::from_secs(5);
        while !gone() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub(crate) fn frozen(version: Version, group: &Path) -> bool {
    let (file, word) = match version {
        Version::V1 => ("freezer.state", "FROZEN"),
        Version::V2 => ("cgroup.events", "frozen 1"),
    };
    fs::read_to_string(group.join(file)).unwrap().contains(word)
}

//! A place for programs of a test's own.

use stasis_collector::Home;

/// A folder of the BPF file system and one for what was looked up; both are removed at the end.
pub(crate) struct TestHome {
    home: Home,
    _dir: tempfile::TempDir,
}

impl TestHome {
    pub(crate) fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pins = format!("/sys/fs/bpf/stasis-test-{name}-{}", std::process::id()).into();
        Self { home: Home { pins, cache: dir.path().join("cache") }, _dir: dir }
    }
}

impl std::ops::Deref for TestHome {
    type Target = Home;

    fn deref(&self) -> &Home {
        &self.home
    }
}

impl Drop for TestHome {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.home.pins).ok();
    }
}

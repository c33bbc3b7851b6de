//! Trees whose root is born into namespaces: the program that makes them stays outside, and what is dumped is below it.

use std::path::PathBuf;
use std::time::Duration;

use crate::{Dump, Engine, Machine, Scratch, Workload, children_of, wait_until};

/// Such a tree, and what it takes to dump and restore it.
#[derive(Debug)]
pub struct Rig {
    /// The machine.
    pub machine: Machine,
    /// The test's directory.
    pub scratch: Scratch,
    /// The program that made the namespaces.
    pub workload: Workload,
    /// The root of the tree, by its number outside.
    pub root: i32,
}

impl Rig {
    /// Starts a workload, in `work` of a directory of the test's, whose root is so many generations below the program.
    #[must_use]
    pub fn start(family: &str, generations: usize) -> Self {
        Self::start_in(Scratch::new(), family, generations)
    }

    /// The same, in this directory of the test's.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_in(scratch: Scratch, family: &str, generations: usize) -> Self {
        let machine = Machine::prepare();
        let workload = Workload::start(family, scratch.path("work"));
        let below = |pid: i32| *children_of(pid).first().expect("a child");
        let root = (0..generations).fold(workload.pid(), |pid, _| below(pid));
        Self { machine, scratch, workload, root }
    }

    /// Where the images go.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.scratch.path("images")
    }

    /// Dumps and ends it.
    pub fn dump(&self, by: Engine) {
        by.dump(self.root, &self.images(), Dump::ENDING).must_succeed("dump");
        self.machine.await_no_children();
    }

    /// Restores it; the root's number outside.
    ///
    /// # Panics
    /// If nobody is there then.
    pub fn restore(&self, by: Engine) -> i32 {
        by.restore(&self.images(), Dump::ENDING).must_succeed("restore");
        let tops: Vec<i32> = self.machine.descendants();
        *tops.first().unwrap_or_else(|| panic!("nobody is there: {}", self.workload.log()))
    }

    /// Has it check itself. (The program that the test has started ends with its child, at the dump.)
    ///
    /// # Panics
    /// If something is not as it was.
    pub fn check(&self) {
        std::fs::write(self.workload.path("go"), "").expect("say so");
        let result = self.workload.path("result");
        wait_until(Duration::from_secs(30), || result.exists());
        let told = std::fs::read_to_string(result).unwrap_or_else(|error| error.to_string());
        assert_eq!(told, "PASS\n", "{}", self.workload.log());
    }

    /// Dumped and ended by one, restored by the other, it is as it was, and ends.
    pub fn carried(&self, by: Engine, to: Engine) {
        self.dump(by);
        self.restore(to);
        self.check();
        self.machine.await_no_children();
    }
}

//! How a workload and its test talk: by files in one directory, since nothing else may be open.

use std::cell::RefCell;
use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// `Err` holds what differs, one finding a line.
pub(crate) type Outcome = Result<(), String>;

/// The directory that the test and the workload share.
pub(crate) struct Stage {
    dir: RefCell<PathBuf>,
}

impl Stage {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir: RefCell::new(dir) }
    }

    /// The workload changed its root to the directory.
    pub(crate) fn is_the_root(&self) {
        self.dir.replace(PathBuf::from("/"));
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.borrow().clone()
    }

    /// Writes a file so that it is there whole or not at all.
    pub(crate) fn publish(&self, name: &str, text: &str) {
        let unfinished = self.path(&format!(".{name}"));
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, self.path(name)))
            .unwrap_or_else(|error| panic!("write {name}: {error}"));
    }

    /// Says that the state stands, and waits to be told to check it.
    pub(crate) fn ready_then_wait(&self) {
        self.ready_then_wait_and(|| {});
    }

    /// The same, and does something each time it looks.
    pub(crate) fn ready_then_wait_and(&self, meanwhile: impl FnMut()) {
        self.publish("ready", &std::process::id().to_string());
        self.wait_and(meanwhile);
    }

    /// Waits to be told to check. It looks again and again, because an inotify descriptor or a
    /// blocking fifo would be one more thing to carry.
    pub(crate) fn wait(&self) {
        self.wait_and(|| {});
    }

    fn wait_and(&self, mut meanwhile: impl FnMut()) {
        let go = self.path("go");
        while !go.exists() {
            meanwhile();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn report(&self, outcome: &Outcome) {
        match outcome {
            Ok(()) => self.publish("result", "PASS\n"),
            Err(what) => self.publish("result", &format!("FAIL\n{what}\n")),
        }
    }
}

/// Collects what differs, so that one run tells all of it.
#[derive(Default)]
pub(crate) struct Findings(Vec<String>);

impl Findings {
    /// `found` must equal `expected`.
    pub(crate) fn same<T: PartialEq + Debug>(&mut self, what: &str, expected: &T, found: &T) {
        if expected != found {
            self.0.push(format!("{what}: expected {expected:?}, found {found:?}"));
        }
    }

    /// `holds` must be true.
    pub(crate) fn must(&mut self, what: &str, holds: bool) {
        if !holds {
            self.0.push(format!("{what}: does not hold"));
        }
    }

    /// An operation must succeed; its value, if it did.
    pub(crate) fn works<T, E: Debug>(&mut self, what: &str, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.push(format!("{what}: {error:?}"));
                None
            }
        }
    }

    /// Whether something differs.
    pub(crate) fn any(&self) -> bool {
        !self.0.is_empty()
    }

    pub(crate) fn outcome(self) -> Outcome {
        if self.0.is_empty() { Ok(()) } else { Err(self.0.join("\n")) }
    }
}

/// Whether something comes to hold within a minute.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        if holds() {
            return true;
        }
        if std::time::Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Turns a libc return value into a result.
pub(crate) fn check(value: i32) -> Result<i32, std::io::Error> {
    if value < 0 { Err(std::io::Error::last_os_error()) } else { Ok(value) }
}

/// A repeatable stream of bytes, different for each seed.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// FNV-1a over 64-bit words: enough to see a changed byte.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

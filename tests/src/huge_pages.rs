//! Huge pages set aside for a test.

use std::path::PathBuf;

/// Another number of pages of 2 MiB than before, as long as this value is there.
#[derive(Debug)]
pub struct HugePages {
    before: u64,
}

/// How often memory is made ready for them.
const ATTEMPTS: usize = 2;

impl HugePages {
    /// Has so many more set aside; says why, and ends the test, where that cannot be had.
    #[must_use]
    pub fn reserve(count: u64) -> Self {
        let before = total().unwrap_or(0);
        let reserved = Self { before };
        let set = || {
            let more = (before + count).to_string();
            std::fs::write(file("nr_hugepages"), more).is_ok() && total() == Some(before + count)
        };
        let mut attempts = ATTEMPTS;
        while !set() && attempts > 0 {
            attempts -= 1;
            // Memory is in pieces, as after builds, whose files are in the cache: they are given up, and the rest is moved together.
            for (name, word) in [("drop_caches", "3"), ("compact_memory", "1")] {
                std::fs::write(PathBuf::from("/proc/sys/vm").join(name), word).unwrap_or_default();
            }
        }
        crate::require!(
            total() == Some(before + count),
            "{count} huge pages of 2 MiB can be set aside"
        );
        reserved
    }

    /// How many there are then.
    ///
    /// # Panics
    /// If the kernel does not tell.
    #[must_use]
    pub fn all(&self) -> u64 {
        total().expect("huge pages of 2 MiB")
    }

    /// Has none that nobody uses.
    #[must_use]
    pub fn take_away() -> Self {
        let before = total().unwrap_or(0);
        std::fs::write(file("nr_hugepages"), "0").unwrap_or_default();
        Self { before }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        std::fs::write(file("nr_hugepages"), self.before.to_string()).unwrap_or_default();
    }
}

/// Those that are meant to be there: what is still in use of those that were given back goes by itself.
fn total() -> Option<u64> {
    let number = |name| std::fs::read_to_string(file(name)).ok()?.trim().parse::<u64>().ok();
    number("nr_hugepages")?.checked_sub(number("surplus_hugepages")?)
}

fn file(name: &str) -> PathBuf {
    PathBuf::from("/sys/kernel/mm/hugepages/hugepages-2048kB").join(name)
}

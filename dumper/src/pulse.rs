//! Whether the dumps that are of one moment are at work, as the clock of each hears it ([`crate::rendezvous`]).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What they share.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Somebody has given up.
    ended: AtomicBool,
    /// Counts the steps of all.
    steps: AtomicU64,
}

impl Pulse {
    /// A step was made; whether another one is worth while.
    pub(crate) fn step(&self) -> bool {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.goes_on()
    }

    /// How many steps were made.
    pub(crate) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Whether nobody has given up.
    pub(crate) fn goes_on(&self) -> bool {
        !self.ended.load(Ordering::Acquire)
    }

    /// Somebody gives up, for all.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

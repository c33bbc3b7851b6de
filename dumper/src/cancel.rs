//! How a dump ends that nobody wants any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Cancels a dump, from another thread. A clone cancels the same.
///
/// It is asked where the limits of time are ([`DumpOptions::timeout`](crate::DumpOptions::timeout)): the target runs on, and nothing is
/// left of the images. Once these are whole the dump is done, and it is too late.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Cancels the dump.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

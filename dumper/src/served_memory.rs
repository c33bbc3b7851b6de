//! What is known of userfaultfds.

use std::collections::BTreeMap;

use ids::HostPid;
use kernel::pagemap::PageRun;

/// What is known of userfaultfds, by process and descriptor.
pub(crate) type Userfaults = BTreeMap<(HostPid, i32), Userfault>;

/// A userfaultfd.
#[derive(Clone, Debug, Default)]
pub struct Userfault {
    /// What it was asked for.
    pub(crate) features: Option<u64>,
    pub(crate) user_mode_only: bool,
    /// The memory that it serves.
    pub(crate) served: Vec<PageRun>,
}

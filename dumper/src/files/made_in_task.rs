//! Files that a restore has nowhere but in their task, so that nothing can refer to them before.

use std::collections::BTreeSet;

use super::beside::Part;

/// Their entries.
#[derive(Debug, Default)]
pub(super) struct MadeInTask(pub(super) BTreeSet<u32>);

impl Part for MadeInTask {}

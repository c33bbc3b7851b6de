//! The IPC namespaces that message queues are in.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Those that have been made, by their numbers in the images.
#[derive(Clone, Debug, Default)]
pub struct IpcNamespaces(pub BTreeMap<u32, Arc<OwnedFd>>);

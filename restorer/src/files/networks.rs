//! The network namespaces that sockets are made in.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use kernel::namespaces::within_network;

use super::Error;

/// Those that are not the restoring process's own.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    /// By their numbers in the images.
    pub made: BTreeMap<u32, Arc<OwnedFd>>,
    /// The number of the root's namespace: sockets are in it whose entries name none.
    pub usual: Option<u32>,
}

impl Networks {
    /// Does `work` in the namespace of this number.
    pub(super) fn within<T>(
        &self,
        number: Option<u32>,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Some(namespace) = number.or(self.usual).and_then(|number| self.made.get(&number))
        else {
            return work();
        };
        let failed = |source| {
            let operation = "enter the network namespace of a socket".to_owned();
            Error::Kernel { operation, source }
        };
        within_network(&**namespace, work).map_err(failed)?
    }
}

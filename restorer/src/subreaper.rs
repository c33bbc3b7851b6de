//! Who adopts the orphans of a tree that is being built.

use crate::error::Error;

/// While the tree is built, its orphans are ours: should it have to be destroyed, the dead can be
/// taken away.
#[derive(Debug)]
pub(crate) struct Subreaper {
    before: bool,
}

impl Subreaper {
    pub(crate) fn begin() -> Result<Self, Error> {
        let failed = |errno: nix::Error| Error::kernel("become a subreaper")(errno.into());
        let before = nix::sys::prctl::get_child_subreaper().map_err(failed)?;
        nix::sys::prctl::set_child_subreaper(true).map_err(failed)?;
        Ok(Self { before })
    }

    /// What `others` are started by us leave running is not ours: it goes where it would go without
    /// us. The holder waits for our word meanwhile, with every task stopped, so none ends by itself;
    /// one that is killed from outside may go to the same place.
    pub(crate) fn aside<T>(&self, others: impl FnOnce() -> T) -> T {
        // Neither can fail, as `begin` has shown.
        nix::sys::prctl::set_child_subreaper(self.before).unwrap_or_default();
        let result = others();
        nix::sys::prctl::set_child_subreaper(true).unwrap_or_default();
        result
    }
}

impl Drop for Subreaper {
    fn drop(&mut self) {
        // Giving up what we were just given cannot fail, and would do no harm if it did.
        nix::sys::prctl::set_child_subreaper(self.before).unwrap_or_default();
    }
}

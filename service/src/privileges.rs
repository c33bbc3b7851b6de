//! No more privileges than the work needs.
//!
//! Capabilities belong to threads: they are dropped before there is a second one.

use std::collections::HashSet;

use caps::{CapSet, Capability};
use nix::unistd::{Gid, Uid, User};

use crate::Error;

/// Which privileges a service keeps.
#[derive(Clone, Copy, Debug)]
pub enum Privileges {
    /// All it was started with: it makes processes that may need any of them.
    All,
    /// These capabilities, as far as it was started with them, for itself and all its children,
    /// and nothing that a set-user-id program could add.
    Only(&'static [Capability]),
}

impl Privileges {
    /// Drops what is not kept.
    pub(crate) fn drop_others(self) -> Result<(), Error> {
        let Self::Only(kept) = self else { return Ok(()) };
        nix::sys::prctl::set_no_new_privs()
            .map_err(|errno| Error::Capabilities(errno.to_string().as_str().into()))?;
        let kept: HashSet<_> = kept.iter().copied().collect();
        keep(&kept).map_err(Error::Capabilities)
    }
}

fn keep(kept: &HashSet<Capability>) -> Result<(), caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    // The bounding set can only be cut down with this one, so that goes first and it goes last.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding)?.difference(kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    let left: HashSet<_> = permitted.intersection(kept).copied().collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &left)?;
    caps::set(None, CapSet::Permitted, &left)?;
    caps::set(None, CapSet::Inheritable, &HashSet::new())
}

/// Becomes another user, with that user's primary group and no other.
pub(crate) fn become_user(name: &str) -> Result<(), Error> {
    let failed = |source| Error::User { name: name.to_owned(), source };
    let user = User::from_name(name)
        .map_err(failed)?
        .ok_or_else(|| Error::UnknownName { kind: "user", name: name.to_owned() })?;
    let (uid, gid): (Uid, Gid) = (user.uid, user.gid);
    nix::unistd::setgroups(&[]).map_err(failed)?;
    nix::unistd::setresgid(gid, gid, gid).map_err(failed)?;
    nix::unistd::setresuid(uid, uid, uid).map_err(failed)
}

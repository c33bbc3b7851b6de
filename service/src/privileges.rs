//! No more privileges than the work needs.
//!
//! Capabilities belong to threads: they are dropped before there is a second one.

use std::collections::HashSet;

use caps::errors::CapsError;
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
    /// Becomes another user, when one is named, and drops what is not kept.
    pub(crate) fn drop_others(self, user: Option<&str>) -> Result<(), Error> {
        let kept = match self {
            Self::All => None,
            Self::Only(kept) => Some(kept.iter().copied().collect::<HashSet<_>>()),
        };
        // In this order: the bounding set can only be cut down with a capability that goes with
        // root, and becoming another user takes some too.
        if let Some(kept) = &kept {
            bound(kept).map_err(Error::Capabilities)?;
        }
        if let Some(user) = user {
            become_user(user)?;
        }
        let Some(kept) = &kept else { return Ok(()) };
        nix::sys::prctl::set_no_new_privs().map_err(Error::NoNewPrivileges)?;
        keep(kept).map_err(Error::Capabilities)
    }
}

/// What no child of ours can ever have again.
fn bound(kept: &HashSet<Capability>) -> Result<(), CapsError> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        return Ok(());
    }
    for capability in caps::read(None, CapSet::Bounding)?.difference(kept) {
        caps::drop(None, CapSet::Bounding, *capability)?;
    }
    Ok(())
}

fn keep(kept: &HashSet<Capability>) -> Result<(), CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let left: HashSet<_> = permitted.intersection(kept).copied().collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &left)?;
    caps::set(None, CapSet::Permitted, &left)?;
    caps::set(None, CapSet::Inheritable, &HashSet::new())
}

/// Becomes another user, with that user's primary group and no other.
fn become_user(name: &str) -> Result<(), Error> {
    let failed = |source| Error::User { name: name.to_owned(), source };
    let user = User::from_name(name)
        .map_err(failed)?
        .ok_or_else(|| Error::UnknownName { kind: "user", name: name.to_owned() })?;
    let (uid, gid): (Uid, Gid) = (user.uid, user.gid);
    nix::unistd::setgroups(&[]).map_err(failed)?;
    nix::unistd::setresgid(gid, gid, gid).map_err(failed)?;
    nix::unistd::setresuid(uid, uid, uid).map_err(failed)
}

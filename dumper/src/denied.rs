//! What the kernel did not allow, said with the reason and what would help.
//!
//! The kernel's answer to who may not look into a process is "Operation not permitted", wherever in a
//! dump that is. What this process lacks, and what the other one has, tells why.

use ids::HostPid;
use kernel::procfs::{Dir, ProcFile, Status};
use kernel::rights::{capability, names_of};
use support::{Refusal, rights};

use crate::error::{Error, chain};

/// Capabilities that a dump needs: one of each list.
const NEEDED: [&[u32]; 2] =
    [&[capability::SYS_PTRACE], &[capability::CHECKPOINT_RESTORE, capability::SYS_ADMIN]];

/// Those that open files of /proc that belong to other users.
const OF_OTHERS: &[u32] = &[capability::DAC_OVERRIDE, capability::DAC_READ_SEARCH];

/// What is known of one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Side {
    uid: u32,
    capabilities: u64,
    /// The text of its `uid_map`: two processes with the same one are taken to be in one user namespace.
    ids: Option<String>,
}

impl Side {
    fn of(pid: HostPid) -> Option<Self> {
        let status = Dir::open(pid).and_then(|dir| Status::read(&dir)).ok()?;
        let ids = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).ok();
        Some(Self { uid: status.uid.effective, capabilities: status.cap_permitted, ids })
    }
}

/// The error of a dump of the tree below `root`; one that is a lack of rights says which.
pub(crate) fn explain(error: Error, root: HostPid) -> Error {
    let Some(pid) = error.denied(root) else { return error };
    let Some(own) = Side::of(HostPid::own()) else { return error };
    let yama = kernel::sysctl::read("/proc/sys/kernel/yama/ptrace_scope");
    let closed = yama.is_ok_and(|scope| scope.trim() == "3");
    let refusal = why(&own, Side::of(pid).as_ref(), closed);
    Error::Denied { said: chain(&error), refusal }
}

/// Why `own` may not look into `other`, and what would help. `closed` says that nobody may on this machine.
fn why(own: &Side, other: Option<&Side>, closed: bool) -> Refusal {
    let lacks = |any: &&&[u32]| any.iter().all(|bit| own.capabilities & 1 << bit == 0);
    let others = other.filter(|other| other.uid != own.uid).map(|_| OF_OTHERS);
    let needed = NEEDED.iter().chain(others.as_ref()).filter(lacks);
    let missing = needed.map(|any| 1u64 << any[0]).fold(0, |all, bit| all | bit);
    let beyond = other.map_or(0, |other| other.capabilities & !own.capabilities);
    if missing != 0 {
        rights::without(&names_of(missing))
    } else if closed {
        rights::CLOSED
    } else if other.is_some_and(|other| other.ids != own.ids) {
        rights::OTHER_USER_NAMESPACE
    } else if beyond != 0 {
        rights::beyond(&names_of(beyond))
    } else {
        rights::CONFINED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = u64::MAX >> 23;

    fn side(uid: u32, capabilities: u64, ids: &str) -> Side {
        Side { uid, capabilities, ids: Some(ids.to_owned()) }
    }

    #[test]
    fn what_is_lacking_is_named() {
        let root = |capabilities| side(0, capabilities, "0 0 4294967295");
        let of = |own: &Side, other: &Side, closed| why(own, Some(other), closed).reason;
        let without = |bit: u32| root(ALL & !(1 << bit));
        let found = of(&without(capability::SYS_PTRACE), &root(ALL), false);
        assert_eq!(found, "stasis runs without CAP_SYS_PTRACE");
        // One of the two is enough.
        let sandbox = of(&without(capability::SYS_ADMIN), &without(capability::SYS_ADMIN), false);
        assert!(sandbox.contains("security module"), "{sandbox}");
        let neither =
            root(ALL & !(1 << capability::SYS_ADMIN | 1 << capability::CHECKPOINT_RESTORE));
        assert!(of(&neither, &root(0), false).contains("CAP_CHECKPOINT_RESTORE"));
        let no_files = root(1 << capability::SYS_PTRACE | 1 << capability::SYS_ADMIN);
        assert!(of(&no_files, &side(7, 0, "0 0 4294967295"), false).contains("CAP_DAC_OVERRIDE"));
        assert!(of(&root(ALL), &root(ALL), true).contains("ptrace_scope is 3"));
        assert!(of(&root(ALL), &side(0, 0, "0 1000 1"), false).contains("user namespace"));
        let resource = of(&without(24), &root(ALL), false);
        assert!(resource.contains("CAP_SYS_RESOURCE"), "{resource}");
        assert!(why(&root(ALL), None, false).reason.contains("security module"));
    }
}

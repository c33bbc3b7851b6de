//! What a tree holds together with others, which a restore would cut in two.

use ids::HostPid;

use crate::unsupported::Refusal;

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thing {
    /// A pipe or fifo.
    Pipe,
    /// A socket.
    Socket,
    /// Something that tells of events, or does work: an eventfd, an epoll instance, a timerfd, an inotify instance, an io_uring.
    Anonymous,
    /// A BPF map.
    Map,
    /// A deleted file, or a memfd.
    DeletedFile,
    /// Shared anonymous memory.
    Memory,
}

impl Thing {
    /// What would be lost.
    const fn loss(self) -> &'static str {
        match self {
            Self::Pipe => "what is sent through it would not arrive",
            Self::Socket => "it would be another socket",
            Self::Anonymous => "each would have one of its own, and events would not arrive",
            Self::Map | Self::DeletedFile => "neither would see what the other writes",
            Self::Memory => "neither would see what the other writes into it",
        }
    }
}

/// A process outside of the tree that holds it as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Which.
    pub pid: HostPid,
    /// The name of its program.
    pub command: String,
    /// Where it holds it: `descriptor 5`.
    pub place: String,
    /// That is a mapping.
    pub by_mapping: bool,
    /// There is no other.
    pub alone: bool,
    /// The process, and its program, whose tree holds both, if that can be dumped.
    pub common: Option<(HostPid, String)>,
}

/// Something that a process outside of the tree holds as well.
#[must_use]
pub fn held_outside(thing: Thing, holder: &Holder) -> Refusal {
    let Holder { pid, command, place, .. } = holder;
    // Not how many, which changes all the time.
    let (others, hold_it) = match holder.alone {
        true => ("", "holds"),
        false => (" and others", "hold"),
    };
    let reason = format!(
        "process {pid} ({command}, {place}){others} outside the tree {hold_it} it as well: after a \
         restore {}",
        thing.loss()
    );
    let let_go = if holder.by_mapping { "unmap" } else { "close" };
    let end = format!("have process {pid} {let_go} it, or end it (kill {pid})");
    let remedy = match &holder.common {
        Some((common, command)) => format!(
            "dump process {common} ({command}), whose tree holds both (stasis dump {common} …, criu dump --tree {common} …), or \
             {end}"
        ),
        None => end,
    };
    Refusal::new(reason, remedy)
}

/// Something to which there are references that no process has.
#[must_use]
pub fn held_by_kernel(thing: Thing) -> Refusal {
    if thing == Thing::Map {
        return Refusal::fixed(
            "a BPF program, a name in a BPF file system, a mapping or another descriptor of the same map holds it as well, or nobody can \
             tell, without eBPF: after a restore neither would see what the other writes",
            "before the dump have the program unloaded, the name removed, the mapping unmapped and the other descriptors closed; dump as \
             root with eBPF (`stasis check` says what is missing)",
        );
    }
    Refusal::new(
        format!(
            "the kernel, or a message that nobody has received, holds it as well: after a restore {}",
            thing.loss()
        ),
        "have the message received, or whatever was given the descriptor (a device, an asynchronous \
         call) let go of it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_named_with_what_ends_it() {
        let holder = Holder {
            pid: HostPid::new(9).unwrap(),
            command: "x".to_owned(),
            place: "descriptor 5".to_owned(),
            by_mapping: false,
            alone: true,
            common: None,
        };
        let found = held_outside(Thing::Pipe, &holder);
        assert!(found.reason.starts_with("process 9 (x, descriptor 5) outside the tree holds it"));
        assert_eq!(found.remedy, "have process 9 close it, or end it (kill 9)");
        let common = Some((HostPid::new(4).unwrap(), "sh".to_owned()));
        let several = Holder { alone: false, by_mapping: true, common, ..holder };
        let found = held_outside(Thing::Memory, &several);
        assert!(found.reason.contains("and others outside the tree hold it"), "{}", found.reason);
        assert!(found.remedy.starts_with("dump process 4 (sh)"), "{}", found.remedy);
        assert!(found.remedy.ends_with("or have process 9 unmap it, or end it (kill 9)"));
    }
}

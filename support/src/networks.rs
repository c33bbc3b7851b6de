//! Network namespaces.

use crate::unsupported::Refusal;

/// Rules that iptables has put into nftables by parts of its own, which `nft` shows, but does not take.
pub const FOREIGN_RULES: Refusal = Refusal::fixed(
    "it has rules of iptables that nft cannot express (xt match, xt target)",
    "write these rules for nft (iptables-translate shows how), or have the container's engine set the firewall \
     again after the restore (--empty-ns net)",
);

/// A namespace of its own, of a tree that is dumped for somebody who is not root.
pub const OF_USER: Refusal = Refusal::fixed(
    "it is another one than that of the machine, and only root may have one made again",
    "ask as root, or have sockets and processes leave that namespace",
);

/// Next hops that are objects of their own.
pub const NEXT_HOPS: Refusal = Refusal::fixed(
    "it has next hops as objects of their own (ip nexthop), which cannot be carried yet",
    "write next hops into the routes (ip route add ... via ...)",
);

/// A program that sees packets before the network does.
pub const PROGRAM: Refusal = Refusal::fixed(
    "a program is attached to it (XDP), which cannot be carried",
    "detach it before the dump: ip link set dev DEVICE xdp off",
);

/// A device of a kind that is not carried.
#[must_use]
pub fn device(kind: &str) -> Refusal {
    match kind {
        "" => Refusal::fixed(
            "it is a device of this machine that was moved into the namespace, and cannot be made anew",
            "move it out before the dump: ip link set dev DEVICE netns 1",
        ),
        kind => Refusal::new(
            format!("devices of kind {kind} cannot be carried yet"),
            "remove it before the dump (ip link del DEVICE), or dump the namespace as an external one \
             (--external net[INODE]:NAME)",
        ),
    }
}

/// A device that the images do not say enough of to make it.
#[must_use]
pub fn unknown_device(kind: &str) -> Refusal {
    Refusal::new(
        format!("network devices of kind {kind} cannot be made yet"),
        "restore into a namespace that has it (dump with --external net[INODE]:NAME)",
    )
}

/// A pair of devices of which the other end is in no namespace of the checkpoint.
#[must_use]
pub fn other_end(name: &str) -> Refusal {
    Refusal::new(
        "its other end was outside of the tree",
        format!(
            "say what that is to be called here: --external 'veth[{name}]:NAME' (or NAME@BRIDGE)"
        ),
    )
}

/// A device that belongs to one outside of the tree.
#[must_use]
pub fn lower_device(kind: &str, name: &str) -> Refusal {
    Refusal::new(
        "the device that it belongs to was outside of the tree",
        format!("name that of this machine: --external '{kind}[{name}]:DEVICE'"),
    )
}

/// A namespace that a restore has to be given.
#[must_use]
pub fn external(key: &str) -> Refusal {
    Refusal::new(
        "the network namespace was not dumped",
        format!("open one that stands for it, and name it: --inherit-fd 'fd[N]:{key}'"),
    )
}

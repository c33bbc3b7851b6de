//! What open files have that they do not tell themselves: only the kernel's own structures show it.

use ebpf_common::peculiar;

use crate::unsupported::{Peculiarity, Refusal};

/// What sockets have that they do not tell themselves.
static OF_SOCKETS: [Peculiarity; 5] = [
    (
        peculiar::REUSEPORT_PROGRAM,
        Refusal::fixed(
            "a program chooses among the sockets at its address (SO_ATTACH_REUSEPORT_CBPF or _EBPF)",
            "detach it (SO_DETACH_REUSEPORT_BPF) before the dump",
        ),
        "programs that choose among sockets",
    ),
    (
        peculiar::IPSEC_POLICY,
        Refusal::fixed(
            "it has IPsec policies of its own (IP_XFRM_POLICY)",
            "have the program close it before the dump",
        ),
        "IPsec policies of sockets",
    ),
    (
        peculiar::ANYCAST,
        Refusal::fixed(
            "it is a member of an anycast group (IPV6_JOIN_ANYCAST)",
            "leave the group (IPV6_LEAVE_ANYCAST) before the dump",
        ),
        "anycast groups",
    ),
    (
        peculiar::SIGNED_TCP,
        Refusal::fixed(
            "it has keys by which connections are signed (TCP_MD5SIG, TCP_AO)",
            "remove the keys before the dump",
        ),
        "keys that sign TCP connections",
    ),
    (
        peculiar::FLOW_LABELS,
        Refusal::fixed(
            "it has leases of IPv6 flow labels (IPV6_FLOWLABEL_MGR), which cannot be carried",
            "give them back (IPV6_FL_A_PUT) before the dump",
        ),
        "leases of flow labels",
    ),
];

/// What files have.
static OF_FILES: [Peculiarity; 1] = [(
    peculiar::WRITE_ERROR,
    Refusal::fixed(
        "a write to it has failed, which the program was not told yet: after a restore it would not be",
        "have the program call fsync on this descriptor, which tells it",
    ),
    "write errors that were not told yet",
)];

fn all() -> impl Iterator<Item = &'static Peculiarity> {
    OF_SOCKETS.iter().chain(&OF_FILES)
}

/// What a file or socket has of it, by its bits.
pub fn of_bits(bits: u32) -> impl Iterator<Item = Refusal> {
    let found = all().filter(move |(bit, ..)| bits & bit != 0);
    found.map(|(_, refusal, _)| refusal.clone())
}

/// What to call these, to say that they cannot be seen.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    all().map(|(.., name)| *name)
}

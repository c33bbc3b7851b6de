//! Sockets.

use ebpf_common::peculiar;

use crate::unsupported::Refusal;

/// What sockets have that they do not tell themselves, with what to do about it, and what to call it.
static PECULIARITIES: [(u32, Refusal, &str); 5] = [
    (
        peculiar::REUSEPORT_PROGRAM,
        Refusal::fixed(
            "a program chooses among the sockets at its address (SO_ATTACH_REUSEPORT_CBPF or _EBPF)",
            "detach it (SO_DETACH_REUSEPORT_BPF) before the checkpoint",
        ),
        "programs that choose among sockets",
    ),
    (
        peculiar::IPSEC_POLICY,
        Refusal::fixed(
            "it has IPsec policies of its own (IP_XFRM_POLICY)",
            "close it before the checkpoint",
        ),
        "IPsec policies of sockets",
    ),
    (
        peculiar::MULTICAST_INTERFACE,
        Refusal::fixed(
            "it sends multicast by an interface that was given by number alone (IP_MULTICAST_IF)",
            "give the interface's address as well",
        ),
        "multicast interfaces by number",
    ),
    (
        peculiar::ANYCAST,
        Refusal::fixed(
            "it is a member of an anycast group (IPV6_JOIN_ANYCAST)",
            "leave the group (IPV6_LEAVE_ANYCAST) before the checkpoint",
        ),
        "anycast groups",
    ),
    (
        peculiar::SIGNED_TCP,
        Refusal::fixed(
            "it has keys by which connections are signed (TCP_MD5SIG, TCP_AO)",
            "remove the keys before the checkpoint",
        ),
        "keys that sign TCP connections",
    ),
];

/// What a socket has that it does not tell itself (bits of [`peculiar`]).
pub fn of_peculiar(bits: u32) -> impl Iterator<Item = Refusal> {
    let found = PECULIARITIES.iter().filter(move |(bit, ..)| bits & bit != 0);
    found.map(|(_, refusal, _)| refusal.clone())
}

/// What to call these, to say that they cannot be seen.
pub(crate) fn peculiar_names() -> impl Iterator<Item = &'static str> {
    PECULIARITIES.iter().map(|(.., name)| *name)
}

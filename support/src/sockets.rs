//! Sockets.

use std::path::Path;

use ebpf_common::peculiar;

use crate::unsupported::{Peculiarity, Refusal};

/// What sockets have that they do not tell themselves.
pub(crate) static PECULIARITIES: [Peculiarity; 7] = [
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
    (
        peculiar::FLOW_LABELS,
        Refusal::fixed(
            "it has leases of IPv6 flow labels (IPV6_FLOWLABEL_MGR), which cannot be carried",
            "give them back (IPV6_FL_A_PUT) before the checkpoint",
        ),
        "leases of flow labels",
    ),
    (
        peculiar::SENDING_INTERFACE,
        Refusal::fixed(
            "it sends by an interface that was given by number alone (IPV6_PKTINFO)",
            "bind it to the interface (SO_BINDTODEVICE) and set IPV6_PKTINFO without one",
        ),
        "interfaces by number to send by (IPV6_PKTINFO)",
    ),
];

/// An internet socket that is neither TCP nor UDP.
#[must_use]
pub fn unknown_internet_socket(kind: i32, protocol: i32) -> Refusal {
    Refusal::new(
        format!("internet sockets of type {kind} and protocol {protocol} are not supported"),
        "close it before the checkpoint",
    )
}

/// A flow label is set with the address of the peer.
pub const FLOW_LABEL: Refusal = Refusal::fixed(
    "it sends to its peer with an IPv6 flow label, which the images have no place for",
    "connect it without one (sin6_flowinfo) before the checkpoint",
);

/// The images tell the interface of an address by that of the socket only.
pub const LINK_LOCAL: Refusal = Refusal::fixed(
    "it is bound to a link-local address with no interface (SO_BINDTODEVICE)",
    "bind it to an interface, or to another address",
);

/// Connections at a listening TCP socket belong to nobody yet.
#[must_use]
pub fn waiting_connections(waiting: u32) -> Refusal {
    Refusal::new(
        format!("{waiting} TCP connections wait to be accepted"),
        "try again when they have been",
    )
}

/// A TCP connection.
pub const ESTABLISHED: Refusal = Refusal::fixed(
    "established TCP connections cannot be carried yet",
    "close the connection at one of its ends (`ss -tnp` lists both with their processes), then \
             dump again",
);

/// A UDP socket that holds back what is sent.
pub const CORKED: Refusal =
    Refusal::fixed("it is corked (UDP_CORK)", "uncork it before the checkpoint");

/// Datagrams in a UDP socket that stands still.
pub const DATAGRAMS_WAIT: Refusal = Refusal::fixed(
    "UDP datagrams wait to be read, and would be lost",
    "try again when they have been read",
);

/// A Unix socket whose peer nobody in the tree holds.
pub const CONNECTED_OUTSIDE: Refusal = Refusal::fixed(
    "it is connected to a process outside the tree",
    "close the connection, or dump a tree that holds both ends",
);

/// A stream that leads one way only.
pub const ONE_WAY: Refusal =
    Refusal::fixed("its peer is not connected to it", "close the connection before the checkpoint");

/// A connected Unix socket of which the kernel names no peer.
pub const NO_PEER: Refusal = Refusal::fixed("its other end cannot be found", "try again");

/// A connection whose listener is not in the tree.
pub const WAITS_OUTSIDE: Refusal = Refusal::fixed(
    "it waits to be accepted by a process outside the tree",
    "close the connection, or dump a tree that holds both ends",
);

/// Data that nobody can receive yet.
pub const SENT_BEFORE_ACCEPTED: Refusal = Refusal::fixed(
    "it has sent data over a connection that is not accepted yet",
    "try again when the connection has been accepted",
);

/// A listening socket of the tree, with somebody else's connection.
pub const STRANGER_WAITS: Refusal = Refusal::fixed(
    "a connection from outside the tree waits to be accepted",
    "try again when it has been accepted and closed",
);

/// A socket is in the network namespace in which it was made.
pub const OTHER_NETWORK: Refusal = Refusal::fixed(
    "it is of another network namespace than that of stasis",
    "run stasis in that namespace (nsenter --net), or close it before the checkpoint",
);

/// A filter, which cannot be read back in every case.
pub const PACKET_FILTER: Refusal = Refusal::fixed(
    "it has a packet filter, which is not supported yet",
    "detach the filter (SO_DETACH_FILTER) before the checkpoint",
);

/// A TCP socket that somebody restores or dumps.
pub const REPAIRED: Refusal = Refusal::fixed(
    "it is being repaired (TCP_REPAIR)",
    "have that ended, or close it before the checkpoint",
);

/// A socket of an address family that no kind of file carries.
#[must_use]
pub fn unknown_family(family: &str) -> Refusal {
    Refusal::new(
        format!("{family} sockets are not supported yet"),
        "close it before the checkpoint",
    )
}

/// An error that a call has yet to be told of.
pub const ERROR_WAITS: Refusal = Refusal::fixed(
    "an error waits in it that has not been received (SO_ERROR, MSG_ERRQUEUE)",
    "try again when it has been",
);

/// A Unix socket that is none of the three types.
#[must_use]
pub fn unknown_unix_socket(kind: i32) -> Refusal {
    Refusal::new(
        format!("Unix sockets of type {kind} are not supported"),
        "close it before the checkpoint",
    )
}

/// A Unix socket in a state that the kernel had none of.
#[must_use]
pub fn unknown_state(state: u32) -> Refusal {
    Refusal::new(format!("its state {state} is not known"), "close it before the checkpoint")
}

/// A socket that is bound to a relative path which does not lead to it any more.
#[must_use]
pub fn relative_name(shown: &Path) -> Refusal {
    Refusal::new(
        format!("its relative name {} does not end its path", shown.display()),
        "bind it to an absolute path",
    )
}

/// Messages that tell of their senders, as `option` asked for it.
#[must_use]
pub fn credentials_wait(option: &str) -> Refusal {
    Refusal::new(
        format!("messages wait in it with the credentials of their senders ({option})"),
        "try again when they have been received",
    )
}

/// An urgent byte in a Unix socket.
pub const URGENT_BYTE: Refusal = Refusal::fixed(
    "an urgent byte is queued in it (MSG_OOB), which cannot be put back as one",
    "try again when it has been received",
);

/// The kernel shows an empty message to one look only, so it counts as well how many there are.
pub const EMPTY_MESSAGE: Refusal =
    Refusal::fixed("an empty message is queued in it", "try again when it has been received");

/// Descriptors on their way.
pub const DESCRIPTORS_WAIT: Refusal = Refusal::fixed(
    "descriptors are queued in it (SCM_RIGHTS), which is not supported yet",
    "try again when they have been received",
);

/// A message that is longer than what is looked at.
#[must_use]
pub fn long_message(bytes: usize) -> Refusal {
    Refusal::new(
        format!("a message of more than {bytes} bytes is queued in it"),
        "try again when it has been received",
    )
}

/// A datagram from a name that nobody would have in a restore.
#[must_use]
pub fn other_sender(sender: &str) -> Refusal {
    Refusal::new(
        format!("a datagram from {} is queued in it, to whom an answer would go", sender),
        "try again when it has been received",
    )
}

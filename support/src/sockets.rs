//! Sockets.

use std::path::Path;

use crate::unsupported::{Refusal, word};

/// A socket whose file could not be made anew.
pub const ON_READ_ONLY: Refusal = Refusal::fixed(
    "its file is on a mount that is read-only: a restore could not bind it there again",
    "make that mount one that can be written to (nsenter --mount --target PID mount -o remount,bind,rw MOUNT_POINT), or \
     have the program close the socket before the dump",
);

/// An internet socket of a protocol that is not carried.
#[must_use]
pub fn unknown_internet_socket(kind: i32, protocol: i32) -> Refusal {
    const DCCP: i32 = 33;
    const SCTP: i32 = 132;
    const SMC: i32 = 256;
    const MPTCP: i32 = 262;
    const QUIC: i32 = 261;
    let (name, remedy) = match protocol {
        MPTCP => (
            "MPTCP",
            "have the program use TCP (of a Go program: GODEBUG=multipathtcp=0; of others: sysctl -w \
             net.mptcp.enabled=0 in their network namespace before they start)",
        ),
        SCTP => ("SCTP", "have the program close it before the dump"),
        DCCP => ("DCCP", "have the program close it before the dump"),
        SMC => ("SMC", "have the program use TCP (start it without smc_run)"),
        QUIC => ("QUIC", "have the program close it before the dump"),
        _ => {
            return Refusal::new(
                format!(
                    "internet sockets of type {kind} and protocol {protocol} are not supported"
                ),
                "have the program close it before the dump",
            );
        }
    };
    Refusal::new(
        format!("the kernel gives nobody the state of {name} sockets, so they cannot be carried"),
        remedy,
    )
}

/// A flow label is set with the address of the peer.
pub const FLOW_LABEL: Refusal = Refusal::fixed(
    "it sends to its peer with an IPv6 flow label, which the images have no place for",
    "connect it without one (sin6_flowinfo) before the dump",
);

/// The number of an interface means nothing to a restore.
pub const OPTION_INTERFACE_GONE: Refusal = Refusal::fixed(
    "an option of it names a network interface that is no more (IP_MULTICAST_IF, IP_UNICAST_IF, IPV6_PKTINFO or the like)",
    "have the program name another one, or close the socket, before the dump",
);

/// The kernel takes the address of an interface alone.
pub const OPTION_ADDRESS_GONE: Refusal = Refusal::fixed(
    "it sends multicast by an address that no network interface has any more (IP_MULTICAST_IF)",
    "give an interface the address again (ip address add), have the program name another one, or close the socket, before the dump",
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
        "try again when they have been, or dump with --skip-in-flight to leave them out",
    )
}

/// A connection at a listening TCP socket, from somebody who is not in the tree.
#[must_use]
pub fn waiting_from(peer: std::net::SocketAddr) -> Refusal {
    Refusal::new(
        format!(
            "a TCP connection from {peer} waits to be accepted, and no process of the tree has the other end"
        ),
        "dump with --tcp-established to carry it, or with --skip-in-flight to leave it out; or try again when it has been accepted",
    )
}

/// A connection at a listening TCP socket that cannot be put back there.
#[must_use]
pub fn waiting_peculiar(peer: std::net::SocketAddr, why: &str) -> Refusal {
    Refusal::new(
        format!("a TCP connection from {peer} waits to be accepted, and {why}"),
        "try again when it has been accepted, or dump with --skip-in-flight to leave it out",
    )
}

/// Connections at a listening TCP socket with more in them than is carried.
pub const WAITING_TOO_LARGE: Refusal = Refusal::fixed(
    "TCP connections wait to be accepted that have received more than 32 MiB together, or are more than 65,536",
    "try again when they have been accepted, or dump with --skip-in-flight to leave them out",
);

/// A TCP connection, where none is to be carried.
pub const ESTABLISHED: Refusal = Refusal::fixed(
    "it is a TCP connection",
    "dump with --tcp-established to carry it, or with --tcp-close to have it closed in the restored tree",
);

/// A TCP connection whose other end is not in the tree.
#[must_use]
pub fn connected_to(peer: std::net::SocketAddr) -> Refusal {
    Refusal::new(
        format!("it is a TCP connection to {peer}, and no process of the tree has the other end"),
        "dump with --tcp-established to carry it, or with --tcp-close to have it closed in the restored \
         tree; or dump a tree that holds both ends",
    )
}

/// A TCP socket in a state that it has for a moment.
#[must_use]
pub fn passing_state(state: u8) -> Refusal {
    Refusal::new(
        format!("its TCP state {state} is one that passes"),
        "try again when it is connected",
    )
}

/// A TCP connection that is handed over.
pub const CONNECTION_ON_ITS_WAY: Refusal = Refusal::fixed(
    "it is a TCP connection on its way in a message (SCM_RIGHTS)",
    "try again when it has been received, or dump with --tcp-close",
);

/// A TCP connection that goes on while it is read.
pub const MOVES: Refusal = Refusal::fixed(
    "its TCP connection did not stand still for as long as it takes to read it",
    "try again",
);

/// An urgent byte in a TCP connection.
pub const URGENT_TCP: Refusal = Refusal::fixed(
    "an urgent byte is queued in it (MSG_OOB), which cannot be put back as one",
    "try again when it has been received",
);

/// A TCP socket whose bytes the kernel translates.
#[must_use]
pub fn upper_protocol(name: &str) -> Refusal {
    Refusal::new(
        format!("the kernel speaks {name} over its TCP connection (TCP_ULP), and keeps the keys"),
        "have the program do that itself, or close the connection before the dump",
    )
}

/// No way to hold connections still while the tree is away.
pub const NO_LOCK: Refusal = Refusal::fixed(
    "while the tree is away, what comes for its TCP connections has to be dropped, and this machine has \
     neither nft nor iptables",
    "install nftables, or dump with --leave-running, or with --tcp-close",
);

/// A socket with a part of a datagram, which nobody can read.
pub const HELD_BACK: Refusal = Refusal::fixed(
    "it holds parts of a datagram that is not sent yet (UDP_CORK, MSG_MORE)",
    "try again when it has been sent",
);

/// Datagrams in a socket that stands still.
pub const DATAGRAMS_WAIT: Refusal = Refusal::fixed(
    "datagrams wait to be read, and would be lost",
    "try again when they have been read",
);

/// A datagram that would be told of otherwise after a restore than it is now.
pub const DATAGRAM_TOLD: Refusal = Refusal::fixed(
    "a datagram waits in it of which more is told than who sent it (IP_PKTINFO, UDP_GRO, a link-local sender), \
     which cannot be put back",
    "try again when it has been read",
);

/// The other end of a Unix socket, which nobody in the tree holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherEnd<'a> {
    /// The name that it has, as the kernel gives it; empty for none.
    pub name: &'a [u8],
    /// It receives datagrams.
    pub takes_datagrams: bool,
    /// Nobody listens by its name: it was the other end that connected, or the listener has gone.
    pub is_client: bool,
    /// The inode of the socket that is connected to it.
    pub socket: u64,
}

/// A Unix socket whose peer nobody in the tree holds.
#[must_use]
pub fn connected_outside(end: OtherEnd<'_>) -> Refusal {
    const REMEDY: &str = "close the connection, or dump a tree that holds both ends";
    let name = unix_name(end.name);
    let socket = end.socket;
    if name.is_empty() || end.is_client {
        let reason =
            "it is connected to a process outside the tree, and nobody could connect it again";
        return Refusal::new(
            reason,
            format!(
                "{REMEDY}; or hand its restore another socket: criu dump --external unix[{socket}], \
                 criu restore --inherit-fd fd[N]:socket:[{socket}]"
            ),
        );
    }
    let again = match end.takes_datagrams {
        true => "dump and restore with --ext-unix-sk, which connects it again".to_owned(),
        false => format!(
            "dump with --external unix[{socket}] and restore with --ext-unix-sk, which makes a new connection"
        ),
    };
    Refusal::new(
        format!("it is connected to a process outside the tree ({name})"),
        format!("{again} to {name}; or {REMEDY}"),
    )
}

/// The name of a Unix socket as people write it, with `@` for an abstract one.
#[must_use]
pub fn unix_name(name: &[u8]) -> String {
    match name {
        [0, rest @ ..] => format!("@{}", String::from_utf8_lossy(rest)),
        name => String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned(),
    }
}

/// A peer outside of the tree whose name leads nowhere by itself.
#[must_use]
pub fn relative_outside(name: &[u8]) -> Refusal {
    Refusal::new(
        format!(
            "it is connected to a process outside the tree by the relative path {}, which a restore \
             does not find",
            unix_name(name)
        ),
        "bind that socket to an absolute path",
    )
}

/// What an outside peer of a stream has sent.
pub const OUTSIDE_SENT: Refusal = Refusal::fixed(
    "data that a process outside the tree has sent waits in it, and a new connection would not have it",
    "try again when it has been received",
);

/// A Unix socket with a path, and no right to learn which file that is.
pub const FILE_NOT_TOLD: Refusal = Refusal::fixed(
    "it is bound to a path, and which file that is the kernel tells with CAP_NET_ADMIN alone",
    "give stasis CAP_NET_ADMIN as well, or run it as root",
);

/// A stream that leads one way only.
pub const ONE_WAY: Refusal =
    Refusal::fixed("its peer is not connected to it", "close the connection before the dump");

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
    "run stasis in that namespace (nsenter --net), or close it before the dump",
);

/// A filter that no call reads back.
pub const EBPF_FILTER: Refusal = Refusal::fixed(
    "it has an eBPF filter (SO_ATTACH_BPF), which the kernel does not give back",
    "detach the filter (SO_DETACH_FILTER) before the dump, or use a classic one (SO_ATTACH_FILTER)",
);

/// Messages in a netlink socket.
pub const NETLINK_MESSAGES: Refusal = Refusal::fixed(
    "messages of the kernel wait in it, which nobody else can send",
    "try again when they have been read",
);

/// A list that is on its way through a netlink socket.
pub const NETLINK_LIST: Refusal = Refusal::fixed(
    "a list that it asked the kernel for is still on its way",
    "try again when it has been read",
);

/// A netlink socket that is given packets, of a `queue` or a `log group`.
#[must_use]
pub fn netfilter_port(what: &str, number: &str) -> Refusal {
    Refusal::new(
        format!(
            "the kernel hands it the packets of netfilter's {what} {number}, which it was told by messages"
        ),
        "have the program close it before the dump, and open it again after the restore",
    )
}

/// A raw socket that may be a multicast router's.
pub const MULTICAST_ROUTER: Refusal = Refusal::fixed(
    "multicast is routed in this network, maybe by it (MRT_INIT), and the kernel would not route on",
    "stop the multicast router before the dump",
);

/// A raw or packet socket of a user's process, which he could not make again.
pub const OF_ROOT: Refusal = Refusal::fixed(
    "a raw or packet socket, which takes more rights to make than who asks has (CAP_NET_RAW)",
    "have root send the request (or send it with the gateway's token), or have the program close it before the dump",
);

/// A packet socket that asked for the same packets over and over.
#[must_use]
pub fn membership_count(count: u32) -> Refusal {
    Refusal::new(
        format!("it has asked {count} times for one membership (PACKET_ADD_MEMBERSHIP)"),
        "have the program close it before the dump: the kernel takes one membership back at a time",
    )
}

/// Groups of netlink that it takes rights to join.
pub const GROUPS_OF_ROOT: Refusal = Refusal::fixed(
    "a netlink socket of groups that it may take more rights to join than who asks has",
    "have root send the request (or send it with the gateway's token), or have the program close it before the dump",
);

/// A packet socket of an interface that is not there any more.
pub const INTERFACE_GONE: Refusal = Refusal::fixed(
    "the interface that it is bound to has been removed",
    "have the program close it before the dump, or bind it to another interface",
);

/// A group of packet sockets with a program that nobody can read.
pub const FANOUT_PROGRAM: Refusal = Refusal::fixed(
    "a program chooses who of its group gets a packet (PACKET_FANOUT_CBPF or _EBPF), which the kernel does not \
     give back",
    "have the program close it before the dump, or share packets in another way (PACKET_FANOUT_HASH)",
);

/// A ring of packets of which nobody can say where the kernel goes on.
pub const RING_UNCLEAR: Refusal = Refusal::fixed(
    "packets have passed through its ring (PACKET_RX_RING), and neither what is unread nor their times tell where in it the \
     kernel goes on",
    "dump it again when the program has read what is in the ring, or when more packets have come",
);

/// A ring beside which packets wait.
pub const RING_WITH_COPIES: Refusal = Refusal::fixed(
    "packets that were too long for its ring wait beside it (PACKET_COPY_THRESH), and they can only be read by taking them away",
    "have the program receive them before the dump, or make frames that packets fit into",
);

/// A ring to send by that has been used.
pub const RING_OF_SENDING: Refusal = Refusal::fixed(
    "packets have been sent by its ring (PACKET_TX_RING), and the kernel does not tell where in it it goes on",
    "have the program close it before the dump, and open it again after the restore",
);

/// A ring whose blocks have parts for the program.
pub const RING_WITH_PRIVATE_PARTS: Refusal = Refusal::fixed(
    "packets have passed through its ring, whose blocks have parts of the program's own (tp_sizeof_priv)",
    "have the program close it before the dump, and open it again after the restore",
);

/// A ring that has been used, of a socket that is bound to no protocol.
pub const RING_UNBOUND: Refusal = Refusal::fixed(
    "packets have passed through its ring, and it is bound to no protocol, or of the old type (SOCK_PACKET)",
    "have the program close it before the dump, and open it again after the restore",
);

/// A ring that has been used, without what a restore takes to bring a new one to the same place.
pub const RING_WITHOUT_LOOPBACK: Refusal = Refusal::fixed(
    "packets have passed through its ring, and the loopback interface, by which a restore would bring a new one to where the \
     kernel goes on, is down",
    "set it up before the dump: nsenter --net -t PID ip link set lo up",
);

/// A ring that cannot be brought to where the kernel goes on: a restore.
pub const RING_NOT_ADVANCED: Refusal = Refusal::fixed(
    "the loopback interface is down, by which its ring would be brought to where the kernel goes on in it",
    "set that interface up in the network namespace that the tree comes back in",
);

/// A mapping of a part of a ring.
pub const RING_IN_PARTS: Refusal = Refusal::fixed(
    "a part of the rings of a packet socket, which the kernel maps as a whole only",
    "have the program unmap it before the dump",
);

/// A mapping of a socket that no process of the tree has open, or that is no packet socket.
pub const RING_WITHOUT_SOCKET: Refusal = Refusal::fixed(
    "of a socket that is no packet socket, or that nobody in the tree has open",
    "have the program unmap it before the dump",
);

/// A TCP socket that somebody restores or dumps.
pub const REPAIRED: Refusal = Refusal::fixed(
    "it is being repaired (TCP_REPAIR)",
    "have that ended, or close it before the dump",
);

// include/linux/socket.h
const AF_QIPCRTR: i32 = 42;
const AF_SMC: i32 = 43;

/// Families of sockets that no kind of file carries, with what to call them, why, and what helps.
static FAMILIES: [(i32, &str, &str, &str); 12] = [
    (libc::AF_AX25, "AX.25", "their connections are the kernel's and the radio's", CLOSE),
    (libc::AF_KEY, "PF_KEY", "the kernel does not tell what they have registered for", NETLINK),
    (libc::AF_RDS, "RDS", "what is under way through them is the kernel's alone", CLOSE),
    (libc::AF_PPPOX, "PPP (PPPOX)", "their session is kept by the other side of the line", CLOSE),
    (
        libc::AF_CAN,
        "CAN",
        "what they wait for of the bus (CAN_BCM, CAN_ISOTP, filters) is not all to be read back",
        CLOSE,
    ),
    (libc::AF_TIPC, "TIPC", "their connections and subscriptions are the cluster's", CLOSE),
    (
        libc::AF_BLUETOOTH,
        "Bluetooth",
        "their connection is kept by the device at the other end",
        CLOSE,
    ),
    (
        libc::AF_ALG,
        "kernel crypto (AF_ALG)",
        "the kernel does not give back the key and the state of the cipher",
        LIBRARY,
    ),
    (
        libc::AF_VSOCK,
        "VM (vsock)",
        "their connections end in the hypervisor or a virtual machine",
        TCP,
    ),
    (AF_QIPCRTR, "Qualcomm IPC router", "their connections end in a device", CLOSE),
    (AF_SMC, "SMC", "their connections are kept by the network card", SMC_TCP),
    (libc::AF_XDP, "XDP", "their rings and memory are shared with the network card", CLOSE),
];

const CLOSE: &str = "have the program close it before the dump";
const NETLINK: &str = "have the program close it before the dump, or use netlink (NETLINK_XFRM)";
const LIBRARY: &str =
    "have the program use a library for it (of OpenSSL: without the engine afalg)";
const TCP: &str = "have the program close it before the dump, or use TCP or a Unix socket";
const SMC_TCP: &str = "have the program use TCP (start it without smc_run)";

/// A socket of an address family that no kind of file carries.
#[must_use]
pub fn unknown_family(family: i32) -> Refusal {
    let known = FAMILIES.iter().find(|(number, ..)| *number == family);
    match known {
        Some((_, name, reason, remedy)) => {
            Refusal::new(format!("{name} sockets cannot be carried: {reason}"), *remedy)
        }
        None => Refusal::new(
            format!("sockets of address family {family} are not known to this version"),
            CLOSE,
        ),
    }
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
        "have the program close it before the dump",
    )
}

/// A Unix socket in a state that the kernel had none of.
#[must_use]
pub fn unknown_state(state: u32) -> Refusal {
    Refusal::new(
        format!("its state {state} is not known"),
        "have the program close it before the dump",
    )
}

/// A socket whose file has several names.
pub const LINKED: Refusal = Refusal::fixed(
    "its file has more than one name (hard links), and a restore makes it anew by one",
    "remove the other names before the dump (find / -samefile PATH)",
);

/// A socket whose file has lost the name by which it was bound, and has another one somewhere.
pub const NAME_LOST: Refusal = Refusal::fixed(
    "the name by which it was bound is gone, and its file has another one (link) in a directory that is not known",
    "move the file back to the directory of that name before the dump (mv), or have the program bind it by the name that it is to have",
);

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

/// More descriptors on their way than the dumper may have open.
pub const MANY_DESCRIPTORS: Refusal = Refusal::fixed(
    "more descriptors are queued in it (SCM_RIGHTS) than this process may have open",
    "raise its limit of open files (`ulimit -n`), or try again when they have been received",
);

/// A file on its way whose name has been taken away, while it has others.
#[must_use]
pub fn lost_on_its_way(path: &Path) -> Refusal {
    Refusal::new(
        format!("its name {} has been removed, and it has others", path.display()),
        format!(
            "give it that name again: find its inode below the mount point and link it to {}",
            word(&path.to_string_lossy())
        ),
    )
}

/// A file that only messages have, with a lock.
pub const LOCKED_ON_ITS_WAY: Refusal = Refusal::fixed(
    "it is on its way to a process (SCM_RIGHTS) with a lock on it (flock, lease), which no process has",
    "try again when it has been received",
);

/// A file of a kind that a restore opens too late to send it.
pub const NOT_SENT: Refusal = Refusal::fixed(
    "it is on its way to a process (SCM_RIGHTS), and can only be made when all processes are there",
    "try again when it has been received",
);

/// A message from a process that has no number here.
pub const FOREIGN_SENDER: Refusal = Refusal::fixed(
    "a message waits in it whose sender (SO_PASSCRED) is in another pid namespace",
    "try again when it has been received",
);

/// A message that is longer than what is looked at.
#[must_use]
pub fn long_message(bytes: usize) -> Refusal {
    Refusal::new(
        format!("a message of more than {bytes} bytes is queued in it"),
        "try again when it has been received",
    )
}

/// A datagram from a socket whose name leads nowhere by itself.
#[must_use]
pub fn relative_sender(name: &str) -> Refusal {
    Refusal::new(
        format!(
            "a datagram is queued in it from a socket with the relative path {name}, to which an answer \
             would go"
        ),
        "try again when it has been received",
    )
}

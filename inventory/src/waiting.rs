//! TCP connections that wait to be accepted.

use std::net::SocketAddr;

/// What waits at a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unaccepted {
    /// All of it, in the order in which it is accepted.
    All(Vec<WaitingConnection>),
    /// More than was asked for: more than so many bytes, or connections.
    More,
    /// It changed while it was read.
    Moves,
}

/// A connection that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingConnection {
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's.
    pub peer: SocketAddr,
    /// `TCP_*`.
    pub state: u8,
    /// The error that it has ended with; 0 for none.
    pub error: i32,
    /// `TCPI_OPT_*`.
    pub options: u8,
    /// Scale of the peer's window.
    pub sent_scale: u8,
    /// Scale of its own window.
    pub received_scale: u8,
    /// Largest segment.
    pub segment: u16,
    /// How much the peer takes.
    pub window: u32,
    /// The clock of its timestamps.
    pub clock: u32,
    /// The newest timestamp of its peer.
    pub peer_clock: u32,
    /// The number of the first byte that it will send.
    pub sent_seq: u32,
    /// The number after all data that it has received.
    pub received_seq: u32,
    /// That data; `None` where the kernel does not tell.
    pub received: Option<Vec<u8>>,
    /// The peer has closed its side.
    pub ended: bool,
    /// What else it has, that is not told.
    pub peculiar: Option<Peculiar>,
}

/// What a connection may have beside data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peculiar {
    /// It is of MPTCP, or its data came with the request (TCP Fast Open).
    Protocol,
    /// The first packet of its peer, kept (`TCP_SAVE_SYN`).
    FirstPacket,
    /// An urgent byte.
    Urgent,
    /// Signatures.
    Signed,
    /// Data of its own that has been written already.
    Written,
}

//! TCP connections that wait at a listening socket, by an iterator of their own that is run until all have been told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use ebpf_common::{
    Header, KIND_LISTENER, KIND_PACKET, KIND_PIECE, KIND_WAITING, ListenerRecord, PAGE_BYTES,
    PAGES, PacketRecord, WaitingCursor, WaitingRecord, cursor, unaccepted as has,
};
use ids::HostPid;
use inventory::{Peculiar, Unaccepted, WaitingConnection};
use kernel::bpf::IterTarget;
use kernel::own_page::OwnPage;
use zerocopy::FromBytes;

use super::BpfError;
use super::programs::What;
use super::reading::BpfSource;
use super::records::records;

/// The most connections that wait at one socket and are told.
const MOST_CONNECTIONS: u32 = 1 << 16;

// TCPI_OPT_* (include/uapi/linux/tcp.h)
const OPTIONS: [(u32, u8); 5] = [
    (has::TIMESTAMPS, 1),
    (has::SACK, 2),
    (has::SCALES, 4),
    (has::ECN, 8),
    (has::MICROSECONDS, 64),
];

impl BpfSource {
    /// The connections that wait at a socket that this process has open, if what they have received is not more than `most` bytes;
    /// `None` if the programs do not tell, or if it is no listening TCP socket.
    pub(crate) fn waiting(
        &mut self,
        socket: BorrowedFd<'_>,
        most: u64,
    ) -> Result<Option<Unaccepted>, BpfError> {
        let pages = self.pages()?;
        let Some(counting) = self.programs.counting() else { return Ok(None) };
        let mut cursor = counting.cursor()?;
        cursor.begin_with(WaitingCursor {
            fd: u64::from(socket.as_raw_fd().cast_unsigned()),
            pages,
            ..WaitingCursor::default()
        })?;
        let of = IterTarget::Process(HostPid::own());
        let mut reading = Reading::default();
        let mut turns = 0;
        loop {
            self.iterate(What::Waiting, of)?;
            let bad = || BpfError::Record { what: What::Waiting.text(), of };
            let more = reading.take(&self.output).ok_or_else(bad)?;
            turns += 1;
            let is_over = self.until.is_over();
            match more {
                None => return Ok(None),
                Some(_) if reading.is_too_much(most) => return Ok(Some(Unaccepted::More)),
                Some(true) if turns < reading.most_turns() && !is_over => {}
                Some(true) => return Ok(Some(Unaccepted::Moves)),
                Some(false) => return Ok(Some(reading.finish())),
            }
        }
    }

    /// What the address of what describes a page is made that of the page by; 0 where that cannot be found out.
    fn pages(&mut self) -> Result<u64, BpfError> {
        /// In steps of 64 GiB: there is no machine with so much memory.
        const TURNS: u32 = 1 << 10;
        if let Some(pages) = self.pages {
            return Ok(pages);
        }
        let (Some(counting), Ok(page)) = (self.programs.counting(), OwnPage::new()) else {
            return Ok(*self.pages.insert(0));
        };
        let mut cursor = counting.cursor()?;
        let [packet, inner] = page.words();
        cursor.begin_with(WaitingCursor {
            fd: u64::from(page.as_fd().as_raw_fd().cast_unsigned()),
            state: PAGES,
            request: page.number(),
            packet,
            inner,
            ..WaitingCursor::default()
        })?;
        let of = IterTarget::Process(HostPid::own());
        let mut before = None;
        for _ in 0..TURNS {
            self.iterate(What::Waiting, of)?;
            let WaitingCursor { state, pages, part, .. } = cursor.now()?;
            if state == cursor::DONE {
                return Ok(*self.pages.insert(pages));
            }
            // It does not go on where the kernel's structures are others.
            if before == Some(part) || part == 0 {
                break;
            }
            before = Some(part);
        }
        Ok(*self.pages.insert(0))
    }
}

/// A packet: the number of its first byte, how many there should be, and what has been told of them.
type Packet = (u32, u32, Vec<u8>);

/// What has been told of a socket.
#[derive(Default)]
struct Reading {
    /// How many connections there were each time.
    seen: Vec<u32>,
    connections: Vec<(WaitingRecord, Vec<Packet>)>,
    bytes: u64,
    expected: u64,
}

impl Reading {
    fn is_too_much(&self, most: u64) -> bool {
        self.expected > most || self.seen.iter().any(|count| *count > MOST_CONNECTIONS)
    }

    /// A connection, a packet, a part of one and a piece take a step each; a turn has 64, or 24 KiB.
    fn most_turns(&self) -> u64 {
        let first = self.seen.first().copied().unwrap_or(0);
        8 + u64::from(first) + self.expected / 16
    }

    /// Takes what a turn has written out, and whether there is more: `None` inside if nothing was told, and outside if that is not
    /// understood.
    fn take(&mut self, output: &[u8]) -> Option<Option<bool>> {
        let mut more = None;
        for record in records(output) {
            let (kind, bytes) = record?;
            match kind {
                KIND_LISTENER => {
                    let (record, _) = ListenerRecord::read_from_prefix(bytes).ok()?;
                    if self.seen.last() != Some(&record.waiting) {
                        self.seen.push(record.waiting);
                    }
                    more = Some(record.more != 0);
                }
                KIND_WAITING => {
                    let (record, _) = WaitingRecord::read_from_prefix(bytes).ok()?;
                    self.expected += u64::from(record.received.wrapping_sub(record.unread));
                    self.connections.push((record, Vec::new()));
                }
                KIND_PACKET => {
                    let (record, _) = PacketRecord::read_from_prefix(bytes).ok()?;
                    let (_, packets) = self.connections.last_mut()?;
                    packets.push((record.number, record.bytes, Vec::new()));
                }
                KIND_PIECE => {
                    let (_, packets) = self.connections.last_mut()?;
                    let piece = bytes.get(size_of::<Header>()..)?;
                    self.bytes += piece.len() as u64;
                    packets.last_mut()?.2.extend(piece);
                }
                _ => {}
            }
        }
        Some(more)
    }

    /// The connections, if they are as many as the kernel says there are.
    fn finish(self) -> Unaccepted {
        let count = self.connections.len();
        let connections = self.connections.into_iter();
        let told: Option<Vec<_>> =
            connections.map(|(record, packets)| connection(&record, packets)).collect();
        match (self.seen[..] == [count as u32], told) {
            (true, Some(told)) => Unaccepted::All(told),
            _ => Unaccepted::Moves,
        }
    }
}

fn address(family: u32, words: [u32; 4], port: u16) -> Option<SocketAddr> {
    let ip: IpAddr = match family.cast_signed() {
        libc::AF_INET => Ipv4Addr::from(words[0].to_ne_bytes()).into(),
        libc::AF_INET6 => {
            let mut bytes = [0; 16];
            for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
                place.copy_from_slice(&word.to_ne_bytes());
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be(port)))
}

/// `None` if the record makes no sense: what it was of has gone.
fn connection(record: &WaitingRecord, packets: Vec<Packet>) -> Option<WaitingConnection> {
    const MICROSECOND: u64 = 1_000;
    let is = |bit| record.has & bit != 0;
    let unit = if is(has::MICROSECONDS) { MICROSECOND } else { MICROSECOND * 1_000 };
    let expected = record.received.wrapping_sub(record.unread);
    let data = data(record.unread, expected, packets);
    // What closes the peer's side has a number as well.
    let ended = data.as_ref().is_some_and(|data| data.len() as u32 != expected);
    let written = record.written != record.sent || record.sent != record.confirmed;
    let peculiar = [
        (is(has::OTHER_PROTOCOL), Peculiar::Protocol),
        (is(has::SAVED), Peculiar::FirstPacket),
        (is(has::URGENT), Peculiar::Urgent),
        (is(has::SIGNED), Peculiar::Signed),
        (written, Peculiar::Written),
    ];
    Some(WaitingConnection {
        local: address(record.family, record.local, record.local_port)?,
        peer: address(record.family, record.peer, record.peer_port)?,
        state: record.state as u8,
        error: record.error.cast_signed(),
        options: OPTIONS.iter().filter(|(bit, _)| is(*bit)).map(|(_, option)| option).sum(),
        sent_scale: (record.scales & 0xf) as u8,
        received_scale: (record.scales >> 4 & 0xf) as u8,
        segment: record.segment as u16,
        window: record.window,
        clock: ((record.now / unit) as u32).wrapping_add(record.clock_offset),
        peer_clock: record.peer_clock,
        sent_seq: record.sent,
        received_seq: record.received.wrapping_sub(ended.into()),
        received: data,
        ended,
        peculiar: peculiar.into_iter().find(|(is, _)| *is).map(|(_, what)| what),
    })
}

/// What the packets have from a number on, `expected` bytes or one less; `None` if they do not have all of it.
fn data(first: u32, expected: u32, packets: Vec<Packet>) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    for (number, bytes, told) in packets {
        if told.len() != bytes as usize {
            return None;
        }
        // It may begin with what has come before.
        let known = first.wrapping_add(data.len() as u32).wrapping_sub(number);
        if let Some(new) = told.get(known as usize..) {
            data.extend(new);
        } else if !told.is_empty() {
            return None;
        }
    }
    let missing = (expected as usize).checked_sub(data.len())?;
    (missing <= 1).then_some(data)
}

const _: () = assert!(PAGE_BYTES as u64 == arch::memory::PAGE_SIZE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_put_together() {
        let one = |number: u32, text: &str| (number, text.len() as u32, text.into());
        let told = |packets| data(u32::MAX - 1, 6, packets);
        let all = Some(b"abcdef".to_vec());
        assert_eq!(told(vec![one(u32::MAX - 1, "abc"), one(1, "def")]), all);
        assert_eq!(told(vec![one(u32::MAX - 1, "abc"), one(0, "cdef"), one(4, "")]), all);
        assert_eq!(told(vec![one(u32::MAX - 1, "abcde")]), Some(b"abcde".to_vec()));
        // Something is missing: at the end, between two, of one.
        assert_eq!(told(vec![one(u32::MAX - 1, "abcd")]), None);
        assert_eq!(told(vec![one(u32::MAX - 1, "abc"), one(2, "ef")]), None);
        assert_eq!(told(vec![(u32::MAX - 1, 6, b"abc".to_vec())]), None);
    }
}

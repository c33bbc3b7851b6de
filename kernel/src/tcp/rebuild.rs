//! A connection put together again, in a new socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use libc::{SOL_SOCKET, SOL_TCP};
use nix::sys::socket::{MsgFlags, SockaddrStorage, send, sendto};

use super::{
    CLOSE, CLOSING, Error, FIN_WAIT1, FIN_WAIT2, MARK, OFF, OFF_QUIETLY, OPTION_SACK,
    OPTION_WINDOW_SCALE, RECEIVED, SENT, SYN_SENT, Stream, TCP_QUEUE_SEQ, TCP_REPAIR,
    TCP_REPAIR_OPTIONS, TCP_REPAIR_QUEUE, TCP_REPAIR_WINDOW, TCP_TIMESTAMP, Window, failed,
    is_before, is_closed_here, is_closed_there, is_confirmed, repair, segment, state,
};
use crate::sockets::{self, Address, set_option, set_option_bytes};

/// The most that is put into a queue at once: it becomes one piece of the kernel's memory.
const PIECE: usize = 32 << 10;

fn put(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    while !bytes.is_empty() {
        let count = send(socket.as_raw_fd(), &bytes[..bytes.len().min(PIECE)], flags)?;
        bytes = &bytes[count..];
    }
    Ok(())
}

fn select(socket: BorrowedFd<'_>, queue: u32) -> io::Result<()> {
    set_option(socket, SOL_TCP, TCP_REPAIR_QUEUE, queue)
}

/// Has the kernel find out anew how large segments to the peer may be. When it connected it did not know yet what the peer takes, and
/// would go on with the 536 bytes of one that has not said: many times as many segments, for which there is not the
/// room in the peer's memory that its window promises. It finds out when options of IP are set, so they are set to
/// what they are.
fn settle_segments(socket: BorrowedFd<'_>) -> io::Result<()> {
    /// The longest: headers of IPv6.
    const ROOM: usize = 2048;
    let family = sockets::option(socket, SOL_SOCKET, libc::SO_DOMAIN)?.cast_signed();
    let of_v6 = (family == libc::AF_INET6).then_some((libc::SOL_IPV6, libc::IPV6_RTHDR));
    // An IPv6 socket may be connected by IPv4.
    for (level, name) in of_v6.into_iter().chain([(libc::SOL_IP, libc::IP_OPTIONS)]) {
        let mut bytes = [0; ROOM];
        let length = sockets::option_bytes(socket, level, name, &mut bytes)?;
        set_option_bytes(socket, level, name, &bytes[..length.min(ROOM)])?;
    }
    Ok(())
}

impl Window {
    /// As the kernel takes it of a connection that has received all before `next`. It refuses numbers beyond the
    /// window, which it has itself when it drops what there is no room for: the segment that was dropped has
    /// changed the peer's window, and its own is closed.
    fn allowed(self, next: u32) -> Self {
        let earlier = |one: u32, two: u32| if is_before(two, one) { two } else { one };
        Self {
            largest: self.largest.max(self.sent),
            received_update: earlier(self.received_update, next),
            sent_update: earlier(self.sent_update, next.wrapping_add(self.received)),
            ..self
        }
    }
}

impl Stream {
    /// What is before what closed the sides: numbers after all data.
    fn after_data(&self) -> (u32, u32) {
        let there = u32::from(is_closed_there(self.state));
        let here = u32::from(is_closed_here(self.state));
        (self.received_seq.wrapping_sub(there), self.sent_seq.wrapping_sub(here))
    }

    /// Makes a new socket this connection, from `local` to `peer`, without a word to the peer: with its
    /// numbers, options, queues and windows. It stays in repair mode. What has not been sent is left out, and
    /// no side is closed ([`Stream::send_rest`], [`Stream::close_sides`]).
    ///
    /// # Errors
    /// When the address is in use, or the numbers are none.
    pub fn connect(
        &self,
        socket: BorrowedFd<'_>,
        local: &Address,
        peer: &Address,
    ) -> Result<(), Error> {
        repair(socket).map_err(failed("begin to repair"))?;
        sockets::bind(socket, local).map_err(failed("bind"))?;
        let (received, sent) = self.after_data();
        let number = failed::<io::Error>("set the numbers");
        let first = received.wrapping_sub(self.received.len() as u32);
        select(socket, RECEIVED).map_err(&number)?;
        set_option(socket, SOL_TCP, TCP_QUEUE_SEQ, first).map_err(&number)?;
        let first = sent.wrapping_sub(self.sent.len() as u32);
        // The number of its first segment is that before what it sends.
        let first = first.wrapping_sub((self.state == SYN_SENT).into());
        select(socket, SENT).map_err(&number)?;
        set_option(socket, SOL_TCP, TCP_QUEUE_SEQ, first).map_err(&number)?;
        if self.state == SYN_SENT {
            return self.begin(socket, peer);
        }
        sockets::connect(socket, peer).map_err(failed("connect"))?;
        self.set_options(socket)?;
        let fill = failed::<io::Error>("fill a queue");
        select(socket, RECEIVED).map_err(&fill)?;
        put(socket, &self.received).map_err(&fill)?;
        select(socket, SENT).map_err(&fill)?;
        put(socket, self.sent_and_unsent().0).map_err(&fill)?;
        select(socket, 0).map_err(&fill)?;
        self.set_window(socket).map_err(failed("set the windows"))?;
        // It works without.
        settle_segments(socket).unwrap_or_default();
        Ok(())
    }

    /// Asks the peer for the connection, as had been done; whatever the answer is, nobody waits for it here.
    fn begin(&self, socket: BorrowedFd<'_>, peer: &Address) -> Result<(), Error> {
        let connect = failed::<io::Error>("connect");
        set_option(socket, SOL_TCP, TCP_REPAIR, OFF).map_err(&connect)?;
        match sockets::connect(socket, peer) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
                return Err(connect(error));
            }
            _ => {}
        }
        repair(socket).map_err(&connect)
    }

    fn set_options(&self, socket: BorrowedFd<'_>) -> Result<(), Error> {
        const MAXSEG: u32 = 2;
        const WINDOW: u32 = 3;
        const SACK: u32 = 4;
        const TIMESTAMP: u32 = 8;
        let scales = u32::from(self.sent_scale) | u32::from(self.received_scale) << 16;
        let options = [
            (self.options & OPTION_SACK != 0).then_some((SACK, 0)),
            (self.options & OPTION_WINDOW_SCALE != 0).then_some((WINDOW, scales)),
            self.timestamp.map(|_| (TIMESTAMP, 0)),
            Some((MAXSEG, self.segment)),
        ];
        let words = options.into_iter().flatten().flat_map(|(option, value)| [option, value]);
        let bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
        set_option_bytes(socket, SOL_TCP, TCP_REPAIR_OPTIONS, &bytes)
            .map_err(failed("set the options"))?;
        match self.timestamp {
            Some(time) => set_option(socket, SOL_TCP, TCP_TIMESTAMP, time)
                .map_err(failed("set the clock of timestamps")),
            None => Ok(()),
        }
    }

    fn set_window(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let Some(mut window) = self.window else { return Ok(()) };
        if is_closed_there(self.state) {
            window.received_update = window.received_update.wrapping_sub(1);
            window.received = window.received.saturating_add(1);
        }
        let window = window.allowed(self.after_data().0);
        let words = [
            window.sent_update,
            window.sent,
            window.largest,
            window.received,
            window.received_update,
        ];
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        set_option_bytes(socket, SOL_TCP, TCP_REPAIR_WINDOW, &bytes)
    }

    fn sent_and_unsent(&self) -> (&[u8], &[u8]) {
        self.sent.split_at(self.sent.len().saturating_sub(self.unsent as usize))
    }

    /// Writes what has not been sent, for the kernel to send as it always does. The other end, if it is of
    /// the same tree, has to be there.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn send_rest(&self, socket: BorrowedFd<'_>) -> Result<(), Error> {
        let (_, rest) = self.sent_and_unsent();
        if rest.is_empty() {
            return Ok(());
        }
        let write = failed::<io::Error>("write what was not sent");
        set_option(socket, SOL_TCP, TCP_REPAIR, OFF_QUIETLY).map_err(&write)?;
        put(socket, rest).map_err(&write)?;
        repair(socket).map_err(&write)
    }

    /// Closes the sides that were: ours by shutdown(2), the peer's by segments in its name, which
    /// nobody but this socket sees.
    ///
    /// # Errors
    /// Without the right to send such segments.
    pub fn close_sides(
        &self,
        socket: BorrowedFd<'_>,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Result<(), Error> {
        let here_first = matches!(self.state, FIN_WAIT1 | FIN_WAIT2 | CLOSING);
        let (mut received, sent) = self.after_data();
        let window = self.window.map_or(0, |window| window.received).min(u16::MAX.into()) as u16;
        let in_its_name = |number: u32, confirms: u32, flags: u8| {
            let packet = segment::packet(peer, local, (number, confirms), flags, window, &[]);
            inject(&packet, local, 0).map_err(failed("close the peer's side"))
        };
        let only_ours = is_closed_there(self.state) || is_confirmed(self.state);
        if only_ours {
            only_marked(socket).map_err(failed("keep others out"))?;
        }
        if here_first {
            self.shut_down(socket)?;
        }
        if let Some(failure) = self.failure {
            if failure.ended {
                in_its_name(received, sent, segment::FIN | segment::ACK)?;
                received = received.wrapping_add(1);
                await_state(socket, is_closed_there)?;
                if failure.error == libc::ECONNRESET {
                    self.shut_down(socket)?;
                }
            }
            in_its_name(received, 0, segment::RST)?;
            await_state(socket, |state| state == CLOSE)?;
            return set_option(socket, SOL_SOCKET, libc::SO_DETACH_FILTER, 0)
                .map_err(failed("let others in"));
        }
        if is_closed_there(self.state) {
            let confirmed = sent.wrapping_sub(self.sent.len() as u32);
            in_its_name(received, confirmed, segment::FIN | segment::ACK)?;
            received = received.wrapping_add(1);
        }
        if is_closed_here(self.state) && !here_first {
            self.shut_down(socket)?;
        }
        if is_confirmed(self.state) {
            in_its_name(received, sent.wrapping_add(1), segment::ACK)?;
        }
        if is_closed_there(self.state) {
            await_state(socket, is_closed_there)?;
        }
        if is_confirmed(self.state) {
            await_state(socket, is_confirmed)?;
        }
        if only_ours {
            set_option(socket, SOL_SOCKET, libc::SO_DETACH_FILTER, 0)
                .map_err(failed("let others in"))?;
        }
        Ok(())
    }

    /// Closes our side. If the peer knows of it, it counts as sent.
    fn shut_down(&self, socket: BorrowedFd<'_>) -> Result<(), Error> {
        let close = failed::<io::Error>("close its side");
        let known = is_confirmed(self.state);
        if known {
            select(socket, SENT).map_err(&close)?;
        }
        sockets::shutdown(socket, libc::SHUT_WR).map_err(&close)?;
        if known {
            select(socket, 0).map_err(&close)?;
        }
        Ok(())
    }
}

/// Waits until segments in the peer's name have come, which is at once but for a machine that is very busy.
fn await_state(socket: BorrowedFd<'_>, wanted: impl Fn(u8) -> bool) -> Result<(), Error> {
    const PATIENCE: Duration = Duration::from_secs(5);
    const PAUSE: Duration = Duration::from_millis(1);
    let step = "close the peer's side";
    let until = Instant::now() + PATIENCE;
    loop {
        if wanted(state(socket).map_err(failed(step))?.0) {
            return Ok(());
        }
        if Instant::now() >= until {
            let why = "a segment from this machine to itself did not arrive: its firewall drops it";
            return Err(Error { step, source: io::Error::new(io::ErrorKind::TimedOut, why) });
        }
        std::thread::sleep(PAUSE);
    }
}

/// Has a socket take only what carries [`MARK`].
fn only_marked(socket: BorrowedFd<'_>) -> io::Result<()> {
    const LOAD_WORD: u16 = 0x20;
    const IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const MARK_OF_PACKET: u32 = (-0x1000_i32).cast_unsigned() + 20;
    let step = |code, skip, k| libc::sock_filter { code, jt: 0, jf: skip, k };
    let mut filter = [
        step(LOAD_WORD, 0, MARK_OF_PACKET),
        step(IF_EQUAL, 1, MARK),
        step(RETURN, 0, u32::MAX),
        step(RETURN, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel reads the structure and as many instructions as it says, which live.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a packet with all its headers and a priority to an address of this machine.
pub(super) fn inject(packet: &[u8], to: SocketAddr, priority: u32) -> io::Result<()> {
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = sockets::create(family, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    set_option(&socket, SOL_SOCKET, libc::SO_MARK, MARK)?;
    set_option(&socket, SOL_SOCKET, libc::SO_PRIORITY, priority)?;
    let mut to = to;
    // A raw socket has no ports.
    to.set_port(0);
    sendto(socket.as_raw_fd(), packet, &SockaddrStorage::from(to), MsgFlags::empty())?;
    Ok(())
}

#[cfg(test)]
mod window_tests {
    use super::*;

    #[test]
    fn windows_are_as_the_kernel_takes_them() {
        let usual = Window {
            sent_update: u32::MAX - 9,
            sent: 100,
            largest: 200,
            received: 50,
            received_update: u32::MAX - 20,
        };
        assert_eq!(usual.allowed(10), usual);
        let dropped = Window { sent_update: 300, received: 0, ..usual };
        assert_eq!(dropped.allowed(10), Window { sent_update: 10, ..dropped });
        let wrong = Window { largest: 1, received_update: 90, ..usual };
        assert_eq!(wrong.allowed(10), Window { largest: 100, received_update: 10, ..wrong });
    }
}

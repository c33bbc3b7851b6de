//! Brings a new ring to where the kernel went on in another one.
//!
//! Nothing but packets makes the kernel go on. So the socket, which is bound to nothing yet, is bound to the loopback
//! interface and a protocol for experiments, and is sent packets of that, each of which is awaited; who listens to all
//! protocols on that interface sees them. What they have left in the ring is taken away.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::{BLOCKS, MappedRings, WORD, at, count, place};
use crate::packet_diag::Ring;
use crate::sockets::{self, Address};

/// For experiments (IEEE 802), and not the one that people try first.
const PROTOCOL: u16 = 0x88b6;
/// Of drivers among themselves (`ETH_P_CONTROL`): no packet has it, so that another socket's go past one that is done.
const NOBODYS: u16 = 0x0016;
/// `PACKET_STATISTICS`.
const STATISTICS: i32 = 6;
/// Bytes of a packet that is to fill a block: no loopback interface has a smaller MTU by itself.
const LONG: usize = 16_000;
const SHORT: usize = 32;
/// So long a packet is awaited, which takes microseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// A block may be handed over for the time that has passed just as it is to be left; then the way is gone once more.
const ROUNDS: u32 = 8;

/// A socket with a new ring, on its way.
struct Way<'a> {
    rings: &'a MappedRings,
    ring: &'a Ring,
    version: u32,
    sender: File,
}

/// Makes the kernel go on with a frame, or block, of a new ring, whose socket is bound to nothing; and puts there what has not
/// been read (frames or blocks with their heads). `bytes` are those of both rings of the socket.
///
/// # Errors
/// If the loopback interface is down (`ENETDOWN`), packets do not arrive, or there is no such frame or block.
pub fn advance(
    socket: BorrowedFd<'_>,
    (ring, version): (&Ring, u32),
    bytes: u64,
    next: u32,
    unread: &[(u32, &[u8])],
) -> io::Result<()> {
    let all = count(ring, version);
    let room = u64::from(if version == BLOCKS { ring.block_size } else { ring.frame_size });
    let fits = |(index, bytes): &(u32, &[u8])| *index < all && bytes.len() as u64 <= room;
    let is_clear = unread.iter().all(|part| part.0 != next || all == 1);
    if next >= all || !unread.iter().all(fits) || !is_clear || ring.bytes() > bytes {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let rings = MappedRings::map(socket, bytes, libc::PROT_READ | libc::PROT_WRITE)?;
    if next > 0 {
        let (sender, to) =
            (sockets::create(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?, loopback(PROTOCOL)?);
        sockets::bind(&sender, &to)?;
        sockets::bind(socket, &to)?;
        let way = Way { rings: &rings, ring, version, sender: sender.into() };
        if version == BLOCKS {
            way.through_blocks(next)?;
        } else {
            way.through_frames(next)?;
        }
        sockets::bind(socket, &loopback(NOBODYS)?)?;
        // Reading the counts of packets makes them 0 again.
        let mut counts = [0; 12];
        sockets::option_bytes(socket, libc::SOL_PACKET, STATISTICS, &mut counts)?;
    }
    for (index, bytes) in unread {
        rings.put(place(ring, version, *index), bytes, version);
    }
    Ok(())
}

/// Whether the loopback interface of a socket's network namespace is up.
///
/// # Errors
/// If the kernel does not say.
pub fn is_loopback_up(socket: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: of integers and arrays of them all zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = b"lo".map(u8::cast_signed);
    request.ifr_name[..name.len()].copy_from_slice(&name);
    // SAFETY: the kernel reads the name and writes the flags of an `ifreq`.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has written the flags, of which every value is one.
    Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags }) & libc::IFF_UP != 0)
}

/// `sockaddr_ll` of the loopback interface, with an address of hardware of six zeroes.
fn loopback(protocol: u16) -> io::Result<Address> {
    let interface = nix::net::if_::if_nametoindex("lo")?;
    let data = [&protocol.to_be_bytes()[..], &interface.to_ne_bytes(), &[0, 0, 0, 6], &[0; 8]];
    Address::new(libc::AF_PACKET as u16, &data.concat())
}

impl Way<'_> {
    /// Sends a packet, and waits until it shows.
    fn send(&self, bytes: usize, shows: impl Fn() -> bool) -> io::Result<()> {
        (&self.sender).write_all(&[0; LONG][..bytes])?;
        let until = Instant::now() + PATIENCE;
        while !shows() {
            if Instant::now() > until {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "a packet by the loopback interface does not arrive",
                ));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    fn through_frames(&self, next: u32) -> io::Result<()> {
        for index in 0..next {
            let start = place(self.ring, self.version, index);
            self.send(SHORT, || self.rings.has_packet(start, self.version))?;
            self.rings.clear(start, self.ring.frame_size.into());
        }
        Ok(())
    }

    fn through_blocks(&self, next: u32) -> io::Result<()> {
        let all = self.ring.block_count;
        let start = |index: u32| place(self.ring, BLOCKS, index);
        let mut steps = 0;
        loop {
            let current = steps % all;
            let (here, behind) = (start(current), start((current + 1) % all));
            let is_left = || self.rings.word(here + at::STATUS) != 0;
            if current == next {
                self.rings.forget(here);
                if !is_left() {
                    return Ok(());
                }
            }
            if steps / all >= ROUNDS {
                return Err(io::Error::other("the kernel does not stay where it is to go on"));
            }
            while !is_left() {
                let length = self.rings.word(here + at::LENGTH);
                // The one that does not fit any more begins the next block, and is to leave room in it.
                let room = u64::from(self.ring.block_size).saturating_sub(length.into());
                let bytes = if room > 2 * LONG as u64 { LONG } else { SHORT };
                self.send(bytes, || is_left() || self.rings.word(here + at::LENGTH) != length)?;
            }
            let until = Instant::now() + PATIENCE;
            let number = |block: u64| self.rings.long(block + at::NUMBER);
            while number(behind) <= number(here) && Instant::now() < until {
                std::thread::yield_now();
            }
            self.rings.set(here + at::STATUS, 0);
            steps += 1;
        }
    }
}

impl MappedRings {
    fn set(&self, at: u64, word: u32) {
        if at + WORD <= self.bytes {
            // SAFETY: the word is within the mapping, which is the value's own and was made to be written to. Volatile,
            // because the kernel reads it meanwhile.
            unsafe { self.start.add((at / WORD) as usize).write_volatile(word) };
        }
    }

    fn clear(&self, at: u64, bytes: u64) {
        // The status last: from then on it is the kernel's.
        for index in (0..bytes / WORD).rev() {
            self.set(at + index * WORD, 0);
        }
    }

    /// Forgets the packets in the block that the kernel writes to: those to come are behind them.
    fn forget(&self, block: u64) {
        self.set(block + at::PACKETS, 0);
        self.set(block + at::FIRST_PACKET, self.word(block + at::LENGTH));
    }

    /// Writes a frame or block, its status last.
    fn put(&self, start: u64, bytes: &[u8], version: u32) {
        let status = if version == BLOCKS { at::STATUS } else { 0 };
        let words = bytes.chunks(WORD as usize).map(|chunk| {
            let mut word = [0; WORD as usize];
            word[..chunk.len()].copy_from_slice(chunk);
            u32::from_ne_bytes(word)
        });
        let mut last = 0;
        for (at, word) in (0..).step_by(WORD as usize).zip(words) {
            if at == status {
                last = word;
            } else {
                self.set(start + at, word);
            }
        }
        self.set(start + status, last);
    }
}

//! Packet sockets: bound to an interface and a protocol, with memberships, options, a group, and rings.

use std::os::fd::{AsRawFd, OwnedFd};

use libc::{AF_PACKET, SOCK_DGRAM, SOCK_RAW, SOL_PACKET};

use crate::sockets::{bind, get, name, new, receive, send_to, set, set_bytes};
use crate::stage::{Findings, Outcome, Stage, check, eventually};

// include/uapi/linux/if_packet.h
const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;
const RX_RING: i32 = 5;
const AUXDATA: i32 = 8;
const ORIGDEV: i32 = 9;
const VERSION: i32 = 10;
const TX_RING: i32 = 13;
const FANOUT: i32 = 18;
const IGNORE_OUTGOING: i32 = 23;
/// In turn.
const LOAD_BALANCE: u32 = 1;
const SOCK_PACKET: i32 = 10;

/// For experiments (IEEE 802).
const PROTOCOL: u16 = 0x88b5;
/// Of the ring alone.
const OF_RING: u16 = PROTOCOL + 2;
/// Nobody else is disturbed by what is sent with this.
const OF_USED_RING: u16 = PROTOCOL + 16;
const LOOPBACK: u32 = 1;
const PAGE: usize = 4096;
const FRAME: usize = 2048;

/// `sockaddr_ll` of a protocol at the loopback interface.
fn address(protocol: u16) -> Vec<u8> {
    let family = (AF_PACKET as u16).to_ne_bytes();
    let front = [&family[..], &protocol.to_be_bytes(), &LOOPBACK.to_ne_bytes()].concat();
    [&front[..], &[0, 0, 0, 6], &[0; 8]].concat()
}

fn sends(protocol: u16, bytes: &[u8]) {
    let sender = new(AF_PACKET, SOCK_DGRAM, 0);
    send_to(&sender, bytes, &address(protocol)).expect("send");
}

/// A membership of a group of the loopback interface.
fn membership(socket: &OwnedFd, option: i32) {
    let front = [&LOOPBACK.to_ne_bytes()[..], &0_u16.to_ne_bytes(), &6_u16.to_ne_bytes()].concat();
    let request = [&front[..], &[1, 0, 0x5e, 0, 83, 7], &[0; 2]].concat();
    set_bytes(socket, SOL_PACKET, option, &request).expect("membership");
}

/// How many members the group has.
fn members() -> usize {
    let text = std::fs::read_to_string("/proc/net/dev_mcast").expect("read the groups");
    let line = text.lines().find(|line| line.ends_with("01005e005307"));
    let users = line.and_then(|line| line.split_whitespace().nth(2));
    users.map_or(0, |users| users.parse().expect("a number"))
}

/// `struct tpacket_req` of two pages.
fn ring() -> Vec<u8> {
    [PAGE as u32, 2, FRAME as u32, 4].map(u32::to_ne_bytes).concat()
}

fn map(socket: &OwnedFd) -> *mut u32 {
    // SAFETY: a new mapping at a place that the kernel chooses.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4 * PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            socket.as_raw_fd(),
            0,
        )
    };
    assert_ne!(start, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    start.cast()
}

/// The status of the first frame to receive.
fn status(rings: *mut u32) -> u32 {
    // SAFETY: the mapping has four pages, and begins with the first frame's status.
    unsafe { rings.read_volatile() }
}

fn arrives(socket: &OwnedFd) -> bool {
    let mut asked = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure is passed.
    check(unsafe { libc::poll(&raw mut asked, 1, 10_000) }).expect("poll") == 1
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let bound = new(AF_PACKET, SOCK_DGRAM, 0);
    bind(&bound, &address(PROTOCOL));
    set(&bound, SOL_PACKET, AUXDATA, 1);
    set(&bound, SOL_PACKET, ORIGDEV, 1);
    membership(&bound, ADD_MEMBERSHIP);
    let address_of = name(&bound);
    let group = std::process::id() & 0xffff | LOAD_BALANCE << 16;
    let shares = [(); 2].map(|()| {
        let socket = new(AF_PACKET, SOCK_RAW, 0);
        bind(&socket, &address(PROTOCOL + 1));
        set(&socket, SOL_PACKET, FANOUT, group);
        socket
    });
    let ringed = new(AF_PACKET, SOCK_DGRAM, 0);
    set(&ringed, SOL_PACKET, VERSION, 1);
    set_bytes(&ringed, SOL_PACKET, RX_RING, &ring()).expect("PACKET_RX_RING");
    set_bytes(&ringed, SOL_PACKET, TX_RING, &ring()).expect("PACKET_TX_RING");
    let rings = map(&ringed);
    bind(&ringed, &address(OF_RING));
    let idle = new(AF_PACKET, SOCK_RAW, 0);

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("address", &address_of, &name(&bound));
    found.same("PACKET_AUXDATA", &1, &get(&bound, SOL_PACKET, AUXDATA));
    found.same("PACKET_ORIGDEV", &1, &get(&bound, SOL_PACKET, ORIGDEV));
    found.same("members", &1, &members());
    sends(PROTOCOL, b"hello");
    let mut bytes = [0; 64];
    found.same("receive", &Some(5), &receive(&bound, &mut bytes).ok());
    for socket in &shares {
        found.same("PACKET_FANOUT", &group, &get(socket, SOL_PACKET, FANOUT));
        sends(PROTOCOL + 1, b"each");
    }
    for socket in &shares {
        found.same("each receives its own", &Some(14 + 4), &receive(socket, &mut bytes).ok());
    }
    found.same("PACKET_VERSION", &1, &get(&ringed, SOL_PACKET, VERSION));
    found.same("status before", &0, &status(rings));
    sends(OF_RING, b"ring");
    found.must("the ring receives", arrives(&ringed));
    found.same("status", &1, &(status(rings) & 1));
    found.same("an idle one", &[0; 2], &name(&idle)[2..4].try_into().expect("2 bytes"));
    membership(&bound, DROP_MEMBERSHIP);
    found.same("members at last", &0, &members());
    found.outcome()
}

/// What CRIU does not carry.
pub(crate) fn beyond_criu(stage: &Stage) -> Outcome {
    let member = new(AF_PACKET, SOCK_RAW, 0);
    membership(&member, ADD_MEMBERSHIP);
    membership(&member, ADD_MEMBERSHIP);
    set(&member, SOL_PACKET, IGNORE_OUTGOING, 1);
    // It holds packets when it is dumped, which are not carried.
    let unread = new(AF_PACKET, SOCK_DGRAM, 0);
    bind(&unread, &address(OF_RING));
    sends(OF_RING, b"unread");
    let natively = members();

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("PACKET_IGNORE_OUTGOING", &1, &get(&member, SOL_PACKET, IGNORE_OUTGOING));
    found.same("members", &natively, &members());
    membership(&member, DROP_MEMBERSHIP);
    found.same("it is still a member", &natively, &members());
    membership(&member, DROP_MEMBERSHIP);
    found.same("members at last", &(natively - 1), &members());
    found.outcome()
}

/// One of the old type, which is bound by a name.
pub(crate) fn old(stage: &Stage) -> Outcome {
    let socket = new(AF_PACKET, SOCK_PACKET, PROTOCOL.to_be().into());
    let family = (AF_PACKET as u16).to_ne_bytes();
    bind(&socket, &[&family[..], b"lo\0\0\0\0\0\0\0\0\0\0\0\0"].concat());
    let before = name(&socket);

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("name", &before, &name(&socket));
    sends(PROTOCOL, b"hello");
    let mut bytes = [0; 64];
    found.must("receive", receive(&socket, &mut bytes).is_ok());
    found.outcome()
}

/// A program's place in a ring to receive by.
struct Reader {
    socket: OwnedFd,
    protocol: u16,
    version: i32,
    ring: *mut u8,
    next: usize,
}

/// Frames or blocks of a ring.
const PARTS: usize = 4;

impl Reader {
    /// With a ring of four frames or blocks of two pages; blocks are handed over after so many milliseconds.
    fn new(protocol: u16, version: i32, timeout: u32) -> Self {
        let socket = new(AF_PACKET, SOCK_DGRAM, 0);
        set(&socket, SOL_PACKET, VERSION, version as u32);
        let size = 2 * PAGE as u32;
        let request = [size, PARTS as u32, size, PARTS as u32, timeout, 0, 0];
        let request = request.map(u32::to_ne_bytes).concat();
        let request = if version == 2 { &request[..] } else { &request[..16] };
        set_bytes(&socket, SOL_PACKET, RX_RING, request).expect("PACKET_RX_RING");
        // SAFETY: a new mapping at a place that the kernel chooses.
        let ring = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                2 * PAGE * PARTS,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        assert_ne!(ring, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        bind(&socket, &address(protocol));
        Self { socket, protocol, version, ring: ring.cast(), next: 0 }
    }

    fn word(&self, at: usize) -> *mut u32 {
        // SAFETY: all that is asked for is within the part of the ring.
        unsafe { self.ring.add(self.next * 2 * PAGE + at).cast() }
    }

    fn get(&self, at: usize) -> u32 {
        // SAFETY: the kernel may write to it meanwhile.
        unsafe { self.word(at).read_volatile() }
    }

    /// The first bytes of the packets in the next part, once the kernel has handed it over; gives it back.
    fn read(&mut self) -> Vec<u8> {
        let status = if self.version == 2 { 8 } else { 0 };
        if !eventually(|| self.get(status) & 1 != 0) {
            return Vec::new();
        }
        let (first, packets) = match self.version {
            2 => (self.get(16) as usize, self.get(12)),
            _ => (0, 1),
        };
        let mut found = Vec::new();
        let mut packet = first;
        for _ in 0..packets {
            // Where the packet begins behind its head: in a word of two halves.
            let begins = match self.version {
                0 => self.get(packet + 16) & 0xffff,
                1 => self.get(packet + 12) & 0xffff,
                _ => self.get(packet + 24) & 0xffff,
            };
            found.push((self.get(packet + begins as usize) & 0xff) as u8);
            packet += self.get(packet) as usize;
        }
        // SAFETY: as above; the part is the program's.
        unsafe { self.word(status).write_volatile(0) };
        self.next = (self.next + 1) % PARTS;
        found
    }

    fn gets(&mut self, byte: u8) -> Vec<u8> {
        sends(self.protocol, &[byte; 64]);
        self.read()
    }
}

/// Rings that packets have passed through, of all three versions: some that the program has read, some that wait.
pub(crate) fn rings(stage: &Stage) -> Outcome {
    // Nobody else sends with these, nor another one of this program.
    let own = 0xa000 + (std::process::id() % 0x400) as u16 * 8;
    let mut old = Reader::new(own, 0, 0);
    // Of two rings nothing but the times of their packets tells where the kernel goes on: here they pass a full second.
    let mut read = Reader::new(own + 5, 1, 0);
    let mut frames = Reader::new(own + 1, 1, 0);
    let mut blocks = Reader::new(own + 2, 2, 20);
    // Its packets wait in the block that the kernel writes to.
    let mut slow = Reader::new(own + 3, 2, 3000);
    let mut idle = Reader::new(own + 4, 2, 20);
    for byte in 1..=7 {
        assert_eq!((old.gets(byte), read.gets(byte)), (vec![byte], vec![byte]));
        std::thread::sleep(std::time::Duration::from_millis(150));
    }
    for byte in 1..=5 {
        assert_eq!(frames.gets(byte), [byte]);
    }
    sends(frames.protocol, &[6; 64]);
    sends(frames.protocol, &[7; 64]);
    for byte in 1..=6 {
        assert_eq!(blocks.gets(byte), [byte]);
    }
    sends(blocks.protocol, &[7; 64]);
    sends(blocks.protocol, &[8; 64]);
    assert!(arrives(&blocks.socket) && arrives(&frames.socket), "packets");
    assert_eq!(slow.gets(1), [1]);
    sends(slow.protocol, &[2; 64]);
    sends(slow.protocol, &[3; 64]);

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("frames that waited", &[[6], [7]], &[(); 2].map(|()| first(&frames.read())));
    // The time of a block may have passed between two packets.
    let mut waited = blocks.read();
    if waited.len() == 1 {
        waited.extend(blocks.read());
    }
    found.same("a block that waited", &vec![7, 8], &waited);
    found.same("a block that the kernel wrote to", &vec![2, 3], &slow.read());
    for byte in 10..20 {
        for ring in [&mut old, &mut read, &mut frames, &mut blocks, &mut idle] {
            found.same("a packet", &vec![byte], &ring.gets(byte));
        }
    }
    found.same("one behind", &vec![4], &slow.gets(4));
    found.outcome()
}

fn first(bytes: &[u8]) -> [u8; 1] {
    [bytes.first().copied().unwrap_or_default()]
}

/// A ring that a packet has been sent by.
pub(crate) fn used_ring(stage: &Stage) -> Outcome {
    const FRAME_DATA: usize = 32;
    const SEND_REQUEST: u32 = 1;
    let ringed = new(AF_PACKET, SOCK_DGRAM, 0);
    set(&ringed, SOL_PACKET, VERSION, 1);
    set_bytes(&ringed, SOL_PACKET, RX_RING, &ring()).expect("PACKET_RX_RING");
    set_bytes(&ringed, SOL_PACKET, TX_RING, &ring()).expect("PACKET_TX_RING");
    bind(&ringed, &address(OF_USED_RING));
    let rings = map(&ringed);
    // SAFETY: the ring to send by has two pages behind two of that to receive by.
    unsafe {
        let frame = rings.byte_add(2 * PAGE);
        frame.add(1).write_volatile(FRAME_DATA as u32);
        frame.write_volatile(SEND_REQUEST);
    }
    send_to(&ringed, &[], &address(OF_USED_RING)).expect("send what is in the ring");
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.must("the packet is there", arrives(&ringed));
    found.outcome()
}

/// A packet that is longer than a frame of the ring, which is whole beside it.
pub(crate) fn copied(stage: &Stage) -> Outcome {
    const COPY_THRESH: i32 = 7;
    let ringed = new(AF_PACKET, SOCK_DGRAM, 0);
    set(&ringed, SOL_PACKET, COPY_THRESH, 1);
    set_bytes(&ringed, SOL_PACKET, RX_RING, &ring()).expect("PACKET_RX_RING");
    bind(&ringed, &address(OF_USED_RING));
    sends(OF_USED_RING, &[7; 2 * FRAME]);
    assert!(arrives(&ringed), "it receives");
    stage.ready_then_wait();
    let mut bytes = [0; 3 * FRAME];
    let mut found = Findings::default();
    found.same("the whole packet", &Some(2 * FRAME), &receive(&ringed, &mut bytes).ok());
    found.outcome()
}

//! `iter/task_file`: the connections that wait at a listening socket which the reader has open, with what they have received.
//!
//! As a queue of messages is read: the reader notes in a map which descriptor it means, each turn writes out as much as the iterator's
//! buffer has room for, and the reader runs the program again until it has all. What a connection has received lies in pages that the
//! kernel refers to by what describes them. Where those pages are the reader has found out before, by a page of its own ([`pages`]).

use core::mem::MaybeUninit;

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_ktime_get_ns,
};
use stasis_ebpf_common::offsets::{self as o, ABSENT};
use stasis_ebpf_common::{
    Header, KIND_LISTENER, KIND_PACKET, KIND_PIECE, KIND_WAITING, ListenerRecord, NESTED,
    PAGE_BYTES, PAGE_FACTOR, PAGE_STRUCTURE, PAGES, PAGES_STEP, PacketRecord, WaitingCursor,
    WaitingRecord, cursor, unaccepted,
};

use crate::emit;
use crate::file::{FileContext, PIPE_FS, SOCKET_FS};
use crate::mqueue::QUEUES;
use crate::read::{at, field, fill, load, offset, zero};
use crate::room::Room;
use crate::task::bit;

/// Steps of a turn: a connection, a packet, a part or a piece of one.
const STEPS: u32 = 64;

/// A turn ends behind so many bytes, so that one more piece still fits into the iterator's buffer of 32 KiB.
const BYTES_OF_TURN: u64 = 24 << 10;

/// As many bytes as a piece has at most; the mask of one has to have room for it.
const PIECE: u64 = 4088;

const LISTEN: u8 = 10;
const TCP: u16 = 6;
const STREAM: u16 = 1;
const AF_INET6: u16 = 10;

/// Where the reader's cursor is: its fields are read and written one by one, as those of a queue of messages.
#[derive(Clone, Copy)]
struct Place(*mut WaitingCursor);

macro_rules! get {
    ($place:ident, $field:ident) => {
        // SAFETY: the verifier checks that it is in a value of the map.
        unsafe { core::ptr::read_volatile(&raw const (*$place.0).$field) }
    };
}

macro_rules! set {
    ($place:ident, $field:ident, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: as in `get`.
        unsafe { core::ptr::write_volatile(&raw mut (*$place.0).$field, value) };
    }};
}

#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
extern "C" fn task_file_waiting(context: *mut FileContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (meta, task, fd, file) =
        unsafe { ((*context).meta, (*context).task as u64, (*context).fd, (*context).file as u64) };
    if task == 0 || file == 0 || lacks_fields() {
        return 0;
    }
    // SAFETY: the helpers take nothing.
    let (reader, current) = unsafe { (bpf_get_current_pid_tgid() as u32, bpf_get_current_task()) };
    // Of others a descriptor with that number is another file.
    let (own, tables): (u64, u64) = (field(current, o::TASK_FILES), field(task, o::TASK_FILES));
    let Some(place) = QUEUES.get_ptr_mut(reader) else { return 0 };
    let place = Place(place.cast());
    if own != tables || get!(place, fd) != u64::from(fd) {
        return 0;
    }
    let magic: u64 = load(load(load(file, o::FILE_INODE), o::INODE_SB), o::SUPER_BLOCK_MAGIC);
    // As a number.
    let mut behind = 0_u64;
    fill(&mut behind, file, o::FILE_PRIVATE);
    if get!(place, state) == PAGES {
        if magic == PIPE_FS {
            pages(behind, place);
        }
        return 0;
    }
    if magic != SOCKET_FS {
        return 0;
    }
    let listener: u64 = field(behind, o::SOCKET_SOCK);
    let state: u8 = field(listener, o::SOCK_STATE);
    let (protocol, kind): (u16, u16) =
        (field(listener, o::SOCK_PROTOCOL_NUMBER), field(listener, o::SOCK_TYPE));
    if state != LISTEN || protocol != TCP || kind != STREAM {
        return 0;
    }
    // SAFETY: as above.
    read(unsafe { (*meta).seq }, listener, place);
    0
}

fn lacks_fields() -> bool {
    let lacks = |index| offset(index) == ABSENT;
    lacks(o::LISTENER_QUEUE)
        || lacks(o::REQUEST_NEXT)
        || lacks(o::REQUEST_SOCK)
        || lacks(o::TCP_RECEIVED)
        || lacks(o::TCP_UNREAD)
        || lacks(o::TCP_SENT)
        || lacks(o::TCP_CONFIRMED)
        || lacks(o::TCP_WRITTEN)
        || lacks(o::TCP_WINDOW)
        || lacks(o::TCP_SEGMENT)
        || lacks(o::TCP_HAS_TIMESTAMPS)
        || lacks(o::TCP_HAS_SCALES)
        || lacks(o::TCP_SACK)
        || lacks(o::TCP_SCALES)
        || lacks(o::TCP_PEER_CLOCK)
        || lacks(o::TCP_CLOCK_OFFSET)
        || lacks(o::TCP_ECN)
        || lacks(o::TCP_FAST_OPEN)
        || lacks(o::TCP_SAVED)
        || lacks(o::TCP_URGENT)
        || lacks(o::SOCK_ERROR)
        || lacks(o::PACKET_NUMBER)
        || lacks(o::PACKET_CONTROL)
        || lacks(o::PART_PAGE)
        || lacks(o::PART_BYTES_USED)
        || lacks(o::PART_OFFSET)
        || lacks(o::PIPE_PAGE)
        || offset(o::PAGE_STRUCTURE_BYTES) != PAGE_STRUCTURE
}

/// Looks for the page in a pipe, some steps on.
#[inline(never)]
fn pages(pipe: u64, place: Place) {
    let buffers: u64 = field(pipe, o::PIPE_BUFFERS);
    let page: u64 = field(buffers, o::PIPE_PAGE);
    let number = get!(place, request);
    let in_memory = number * u64::from(PAGE_BYTES);
    // What would describe the page with the number 0.
    let first = page.wrapping_sub(number * u64::from(PAGE_STRUCTURE));
    let (one, two) = (get!(place, packet), get!(place, inner));
    for _ in 0..STEPS {
        let base = (pipe & !(PAGES_STEP - 1)).wrapping_sub(get!(place, part) * PAGES_STEP);
        let address = base.wrapping_add(in_memory);
        let found: [u64; 2] = at(address);
        if page != 0 && found[0] == one && found[1] == two {
            set!(place, pages, base.wrapping_sub(first.wrapping_mul(PAGE_FACTOR)));
            set!(place, state, cursor::DONE);
            return;
        }
        set!(place, part, get!(place, part) + 1);
    }
}

#[inline(always)]
fn read(seq: *mut seq_file, listener: u64, place: Place) {
    if get!(place, state) == cursor::NEW {
        set!(place, request, field(listener, o::LISTENER_QUEUE));
        set!(place, state, cursor::UNDER_WAY);
    }
    set!(place, written, 0);
    tell(seq, listener, place);
    let Some(room) = Room::enter() else { return };
    for _ in 0..STEPS {
        if get!(place, state) != cursor::UNDER_WAY || get!(place, written) > BYTES_OF_TURN {
            break;
        }
        step(seq, &room, place);
    }
    room.leave();
    tell(seq, listener, place);
}

#[inline(never)]
fn tell(seq: *mut seq_file, listener: u64, place: Place) {
    emit(
        seq,
        &ListenerRecord {
            header: Header { kind: KIND_LISTENER, bytes: size_of::<ListenerRecord>() as u32 },
            waiting: field(listener, o::SOCK_CONNECTIONS),
            more: u32::from(get!(place, state) != cursor::DONE),
        },
    );
}

#[inline(always)]
fn step(seq: *mut seq_file, room: &Room, place: Place) {
    if get!(place, piece) != 0 {
        piece(seq, room, place);
    } else if get!(place, inner) != 0 {
        part(place);
    } else if get!(place, packet) != get!(place, list) {
        packet(seq, place);
    } else if get!(place, request) != 0 {
        connection(seq, place);
    } else {
        set!(place, state, cursor::DONE);
    }
}

/// Writes out what a connection is, and goes on to its first packet.
#[inline(never)]
fn connection(seq: *mut seq_file, place: Place) {
    let request = get!(place, request);
    let sock: u64 = field(request, o::REQUEST_SOCK);
    let mut room = MaybeUninit::uninit();
    let record: &mut WaitingRecord = zero(&mut room);
    let bytes = size_of::<WaitingRecord>();
    record.header = Header { kind: KIND_WAITING, bytes: bytes as u32 };
    ends(record, sock);
    numbers(record, sock);
    record.has = has(sock);
    emit(seq, record);
    let list = match sock {
        0 => 0,
        _ => sock + u64::from(offset(o::SOCK_RECEIVE_QUEUE)),
    };
    set!(place, written, get!(place, written) + bytes as u64);
    set!(place, list, list);
    set!(place, packet, at(list));
    set!(place, request, field(request, o::REQUEST_NEXT));
}

#[inline(never)]
fn ends(record: &mut WaitingRecord, sock: u64) {
    let family: u16 = field(sock, o::SOCK_FAMILY);
    record.family = family.into();
    if family == AF_INET6 {
        fill(&mut record.local, sock, o::SOCK_LOCAL_6);
        fill(&mut record.peer, sock, o::SOCK_PEER_6);
    } else {
        fill(&mut record.local[0], sock, o::SOCK_LOCAL);
        fill(&mut record.peer[0], sock, o::SOCK_PEER);
    }
    // The number that it is bound by is gone when it has been reset.
    fill(&mut record.local_port, sock, o::INET_PORT);
    fill(&mut record.peer_port, sock, o::SOCK_PEER_PORT);
    let state: u8 = field(sock, o::SOCK_STATE);
    record.state = state.into();
    fill(&mut record.error, sock, o::SOCK_ERROR);
}

#[inline(never)]
fn numbers(record: &mut WaitingRecord, sock: u64) {
    fill(&mut record.received, sock, o::TCP_RECEIVED);
    fill(&mut record.unread, sock, o::TCP_UNREAD);
    fill(&mut record.sent, sock, o::TCP_SENT);
    fill(&mut record.confirmed, sock, o::TCP_CONFIRMED);
    fill(&mut record.written, sock, o::TCP_WRITTEN);
    fill(&mut record.window, sock, o::TCP_WINDOW);
    let segment: u16 = field(sock, o::TCP_SEGMENT);
    record.segment = segment.into();
    // Fields of four bits each, in one byte.
    let scales: u8 = at(sock + u64::from(offset(o::TCP_SCALES) / 8));
    record.scales = scales.into();
    fill(&mut record.peer_clock, sock, o::TCP_PEER_CLOCK);
    fill(&mut record.clock_offset, sock, o::TCP_CLOCK_OFFSET);
    // SAFETY: the helper takes nothing.
    record.now = unsafe { bpf_ktime_get_ns() };
}

#[inline(never)]
fn has(sock: u64) -> u32 {
    let mut found = 0;
    if bit(sock, o::TCP_HAS_TIMESTAMPS) != 0 {
        found |= unaccepted::TIMESTAMPS;
    }
    // One of three bits.
    let sack = offset(o::TCP_SACK);
    let byte: u8 = at(sock + u64::from(sack / 8));
    if byte >> (sack % 8) & 7 != 0 {
        found |= unaccepted::SACK;
    }
    if bit(sock, o::TCP_HAS_SCALES) != 0 {
        found |= unaccepted::SCALES;
    }
    let ecn: u8 = field(sock, o::TCP_ECN);
    if ecn & 1 != 0 {
        found |= unaccepted::ECN;
    }
    if offset(o::TCP_MICROSECONDS) != ABSENT && bit(sock, o::TCP_MICROSECONDS) != 0 {
        found |= unaccepted::MICROSECONDS;
    }
    let request: u64 = field(sock, o::TCP_FAST_OPEN);
    let is_multipath: u8 = field(sock, o::TCP_MULTIPATH);
    if request != 0 || is_multipath != 0 {
        found |= unaccepted::OTHER_PROTOCOL;
    }
    let saved: u64 = field(sock, o::TCP_SAVED);
    if saved != 0 {
        found |= unaccepted::SAVED;
    }
    let urgent: u16 = field(sock, o::TCP_URGENT);
    if urgent != 0 {
        found |= unaccepted::URGENT;
    }
    let (md5, ao): (u64, u64) = (field(sock, o::TCP_MD5), field(sock, o::TCP_AO));
    if md5 != 0 || ao != 0 {
        found |= unaccepted::SIGNED;
    }
    found
}

/// Writes out what a packet is, and goes on to its first part.
#[inline(never)]
fn packet(seq: *mut seq_file, place: Place) {
    let packet = get!(place, packet);
    let control = packet + u64::from(offset(o::PACKET_CONTROL));
    let bytes = size_of::<PacketRecord>();
    emit(
        seq,
        &PacketRecord {
            header: Header { kind: KIND_PACKET, bytes: bytes as u32 },
            number: at(control + u64::from(offset(o::PACKET_NUMBER))),
            bytes: field(packet, o::PACKET_BYTES),
        },
    );
    set!(place, written, get!(place, written) + bytes as u64);
    set!(place, packet, field(packet, o::PACKET_NEXT));
    set!(place, part, 0);
    begin(packet, place);
}

/// Goes to the part of a packet that lies together with its headers.
#[inline(always)]
fn begin(packet: u64, place: Place) {
    let (all, elsewhere): (u32, u32) =
        (field(packet, o::PACKET_BYTES), field(packet, o::PACKET_BYTES_ELSEWHERE));
    let start: u64 = field(packet, o::PACKET_DATA);
    set!(place, inner, packet);
    set!(place, left, u64::from(all.wrapping_sub(elsewhere)));
    set!(place, piece, if all == elsewhere { 0 } else { start });
}

/// Goes on to the next part of a packet, or to the packet that hangs at it.
#[inline(never)]
fn part(place: Place) {
    let (packet, number) = (get!(place, inner), get!(place, part));
    let head: u64 = field(packet, o::PACKET_HEAD);
    let end: u32 = field(packet, o::PACKET_END);
    let shared = head + u64::from(end);
    let parts: u8 = field(shared, o::PARTS_COUNT);
    let nth = number & 0xff;
    if nth < u64::from(parts) {
        let part =
            shared + u64::from(offset(o::PARTS_PLACE)) + nth * u64::from(offset(o::PART_BYTES));
        let page: u64 = field(part, o::PART_PAGE);
        let (start, bytes): (u32, u32) =
            (field(part, o::PART_OFFSET), field(part, o::PART_BYTES_USED));
        let pages = get!(place, pages);
        // Memory of a device has no address. What is left out is missing in the end.
        let is_known = pages != 0 && page & 1 == 0 && bytes != 0;
        let address = page.wrapping_mul(PAGE_FACTOR).wrapping_add(pages) + u64::from(start);
        set!(place, left, bytes.into());
        set!(place, piece, if is_known { address } else { 0 });
        set!(place, part, number + 1);
        return;
    }
    let next: u64 = match number & NESTED {
        0 => field(shared, o::PARTS_LIST),
        _ => field(packet, o::PACKET_NEXT),
    };
    set!(place, part, NESTED);
    set!(place, inner, next);
    if next != 0 {
        begin(next, place);
    }
}

/// Writes out a piece of a part, and goes on to the next.
#[inline(never)]
fn piece(seq: *mut seq_file, room: &Room, place: Place) {
    let (from, left) = (get!(place, piece), get!(place, left));
    let bytes = if left < PIECE { left } else { PIECE };
    // Read volatile so that the compiler keeps the mask, which shows the verifier that the length is in bounds.
    // SAFETY: a local.
    let count = unsafe { core::ptr::read_volatile(&raw const bytes) } as u32 & (PAGE_BYTES - 1);
    let failed = room.read(from, count);
    let record = size_of::<Header>() as u32 + count;
    emit(seq, &Header { kind: KIND_PIECE, bytes: record });
    room.write(seq, count);
    let left = left - u64::from(count);
    set!(place, written, get!(place, written) + u64::from(record));
    set!(place, left, left);
    set!(place, piece, if left == 0 || failed != 0 { 0 } else { from + u64::from(count) });
}

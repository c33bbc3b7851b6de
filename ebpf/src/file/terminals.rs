//! Open terminals: how each is, and what waits in it, which no call shows without taking it away.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::seq_file;
use stasis_ebpf_common::offsets as o;
use stasis_ebpf_common::offsets::ABSENT;
use stasis_ebpf_common::queue::{INPUT, LINE_ENDS, MORE, MOST, RING_BYTES, WAITING};
use stasis_ebpf_common::{
    Header, InputState, KIND_INPUT, KIND_QUEUE, KIND_TERMINAL, QueueRecord, TerminalModes,
    TerminalRecord, TerminalState,
};

use crate::read::{at, field, fill, load, offset, zero};
use crate::room::Room;
use crate::{emit, numbers};

/// Major numbers of pseudo-terminals, masters and slaves (include/uapi/linux/major.h).
const MASTERS: u32 = 128;
const SLAVES: u32 = 136;

/// The terminal that a process has as its controlling one, in the kernel's encoding of devices, and the
/// process group in its foreground.
#[inline(always)]
pub(crate) fn controlling(terminal: u64) -> (u32, i32) {
    if terminal == 0 {
        return (0, 0);
    }
    let (major, minor) = device(terminal);
    (major << 20 | minor & 0xf_ffff, number(terminal, o::TERMINAL_FOREGROUND))
}

#[inline(always)]
fn device(terminal: u64) -> (u32, u32) {
    let driver: u64 = field(terminal, o::TERMINAL_DRIVER);
    let index: u32 = field(terminal, o::TERMINAL_INDEX);
    let first: u32 = field(driver, o::DRIVER_FIRST_MINOR);
    (field(driver, o::DRIVER_MAJOR), first.wrapping_add(index))
}

/// The number of a session or group.
#[inline(always)]
fn number(terminal: u64, of: usize) -> i32 {
    numbers::of(field(terminal, of))
}

/// Writes out how the terminal behind a descriptor is, if one is.
#[inline(never)]
pub(super) fn tell(seq: *mut seq_file, fd: u32, file: u64) -> u32 {
    if offset(o::TERMINAL_STOPPED) == ABSENT || offset(o::INPUT_HEAD) == ABSENT {
        return 0;
    }
    // Whatever else a device keeps there does not lead back to the file.
    let private: u64 = field(file, o::FILE_PRIVATE);
    let back: u64 = field(private, o::FILE_OF_TERMINAL);
    let terminal: u64 = field(private, o::TERMINAL_OF_FILE);
    if private == 0 || back != file || terminal == 0 {
        return 0;
    }
    let operations: u64 = field(file, o::FILE_OPERATIONS);
    let open: u64 = field(operations, o::OPERATIONS_OPEN);
    let real = state(seq, fd, terminal, open == 0);
    modes(seq, real);
    let opens: i32 = field(real, o::TERMINAL_OPENS);
    // A slave that nobody has open is told of by its master.
    let mut also = if real != terminal && opens <= 1 { real } else { 0 };
    let mut side = terminal;
    // One place calls for both, so that the verifier goes through it once.
    while side != 0 {
        input_state(seq, side);
        queues(seq, side);
        input_state(seq, side);
        // SAFETY: a local. Volatile so that the compiler makes no second copy of the loop's body.
        side = unsafe { core::ptr::read_volatile(&raw const also) };
        also = 0;
    }
    1
}

/// Returns the side whose modes count: of a pseudo-terminal the slave.
#[inline(never)]
fn state(seq: *mut seq_file, fd: u32, terminal: u64, hung_up: bool) -> u64 {
    let (major, minor) = device(terminal);
    let link: u64 = field(terminal, o::TERMINAL_LINK);
    let is_master = major == MASTERS;
    let is_pty = is_master || major == SLAVES;
    let real = if is_master && link != 0 { link } else { terminal };
    let discipline: u64 = field(terminal, o::TERMINAL_DISCIPLINE);
    let mut state = TerminalState {
        header: Header { kind: KIND_TERMINAL, bytes: size_of::<TerminalRecord>() as u32 },
        fd: fd as i32,
        discipline: field(field(discipline, o::DISCIPLINE_OPERATIONS), o::DISCIPLINE_NUMBER),
        major,
        minor,
        side: if is_master { 1 } else { u32::from(is_pty) * 2 },
        hung_up: u32::from(hung_up),
        opens: field(terminal, o::TERMINAL_OPENS),
        flags: field(terminal, o::TERMINAL_FLAGS),
        stopped: field(terminal, o::TERMINAL_STOPPED),
        stopped_by_call: field(terminal, o::TERMINAL_STOPPED_BY_CALL),
        packets: field(terminal, o::TERMINAL_PACKETS),
        ..TerminalState::default()
    };
    if link != 0 {
        state.other_opens = field(link, o::TERMINAL_OPENS);
        state.other_flags = field(link, o::TERMINAL_FLAGS);
        state.packet_status = field(link, o::TERMINAL_PACKET_STATUS);
    }
    let master = if is_master { terminal } else { link };
    let master_opens: i32 = field(master, o::TERMINAL_OPENS);
    if is_pty && master_opens > 0 {
        let instance: u64 = field(field(master, o::TERMINAL_DRIVER_DATA), o::PTS_SB);
        state.instance = field(instance, o::SUPER_BLOCK_DEV);
    }
    emit(seq, &state);
    real
}

#[inline(never)]
fn modes(seq: *mut seq_file, terminal: u64) {
    let mut place = MaybeUninit::uninit();
    let modes: &mut TerminalModes = zero(&mut place);
    fill(&mut modes.modes, terminal, o::TERMINAL_MODES);
    fill(&mut modes.locked, terminal, o::TERMINAL_LOCKED);
    fill(&mut modes.window, terminal, o::TERMINAL_WINDOW);
    emit(seq, modes);
}

#[inline(always)]
fn buffers(terminal: u64) -> u64 {
    let port: u64 = field(terminal, o::TERMINAL_PORT);
    if port == 0 { 0 } else { port + u64::from(offset(o::PORT_BUFFERS)) }
}

#[inline(never)]
fn input_state(seq: *mut seq_file, terminal: u64) {
    /// `WORK_STRUCT_PENDING`.
    const PENDING: u64 = 1;
    let input: u64 = field(terminal, o::TERMINAL_INPUT);
    let buffers = buffers(terminal);
    let buffer: u64 = field(buffers, o::BUFFERS_HEAD);
    let work: u64 = field(buffers, o::BUFFERS_WORK);
    let lock: u64 = field(buffers, o::BUFFERS_LOCK);
    let echoes: u64 = field(input, o::INPUT_ECHO_HEAD);
    let echoed: u64 = field(input, o::INPUT_ECHO_TAIL);
    let mut literal = 0;
    let bit = offset(o::INPUT_LITERAL_NEXT);
    if input != 0 && bit != ABSENT {
        let byte: u8 = at(input + u64::from(bit / 8));
        literal = u32::from(byte >> (bit % 8) & 1);
    }
    emit(
        seq,
        &InputState {
            header: Header { kind: KIND_INPUT, bytes: size_of::<InputState>() as u32 },
            head: field(input, o::INPUT_HEAD),
            canonical: field(input, o::INPUT_CANONICAL),
            tail: field(input, o::INPUT_TAIL),
            echoes: echoes.wrapping_sub(echoed),
            buffer,
            taken: field(buffer, o::FLIP_READ),
            column: field(input, o::INPUT_COLUMN),
            literal_next: literal,
            is_moving: u32::from(work & PENDING != 0 || lock != 0),
        },
    );
}

/// Writes out what was read.
#[inline(always)]
fn write(room: &Room, seq: *mut seq_file, queue: u32, count: u32) {
    let bytes = size_of::<QueueRecord>() as u32 + count;
    emit(seq, &QueueRecord { header: Header { kind: KIND_QUEUE, bytes }, queue, padding: 0 });
    room.write(seq, count);
}

/// Says that more waits than is written out.
#[inline(always)]
fn more(seq: *mut seq_file) {
    let header = Header { kind: KIND_QUEUE, bytes: size_of::<QueueRecord>() as u32 };
    emit(seq, &QueueRecord { header, queue: MORE, padding: 0 });
}

/// Writes out what waits: what the line discipline has taken and nobody has read, with where lines end, and
/// what it has not taken.
///
/// Nothing but the terminal is known to more than one of the steps: for each case that the verifier sees in what is
/// known, it goes through all that follows once more.
#[inline(never)]
fn queues(seq: *mut seq_file, terminal: u64) {
    if !waits(terminal) {
        return;
    }
    let Some(room) = Room::enter() else { return more(seq) };
    if !waiting(seq, &room, terminal) {
        more(seq);
    }
    taken(seq, &room, terminal);
    room.leave();
}

/// Whether anything waits, be it that the line discipline has taken it or not.
#[inline(never)]
fn waits(terminal: u64) -> bool {
    let input: u64 = field(terminal, o::TERMINAL_INPUT);
    let head: u64 = field(input, o::INPUT_HEAD);
    let tail: u64 = field(input, o::INPUT_TAIL);
    let first: u64 = field(buffers(terminal), o::BUFFERS_HEAD);
    let next: u64 = field(first, o::FLIP_NEXT);
    let (commit, read): (u32, u32) = (field(first, o::FLIP_COMMIT), field(first, o::FLIP_READ));
    head != tail || next != 0 || commit != read
}

/// Writes out what the line discipline has taken.
#[inline(always)]
fn taken(seq: *mut seq_file, room: &Room, terminal: u64) {
    let input: u64 = field(terminal, o::TERMINAL_INPUT);
    let head: u64 = field(input, o::INPUT_HEAD);
    let tail: u64 = field(input, o::INPUT_TAIL);
    if input == 0 || head == tail {
        return;
    }
    let mut wrong = room.read(input + u64::from(offset(o::INPUT_BUFFER)), RING_BYTES as u32);
    write(room, seq, INPUT, RING_BYTES as u32);
    let bits = RING_BYTES as u32 / 8;
    wrong |= room.read(input + u64::from(offset(o::INPUT_LINE_ENDS)), bits);
    write(room, seq, LINE_ENDS, bits);
    if wrong != 0 {
        more(seq);
    }
}

/// As many buffers as a pseudo-terminal has at most, each for 256 bytes or more.
const BUFFERS: u32 = 40;

/// Writes out what the line discipline has not taken; returns whether that is all. A loop without branches: the
/// verifier goes through each of them in each turn.
#[inline(always)]
fn waiting(seq: *mut seq_file, room: &Room, terminal: u64) -> bool {
    const LENGTH: u32 = MOST as u32 - 1;
    let mut buffer: u64 = field(buffers(terminal), o::BUFFERS_HEAD);
    let mut wrong = 0;
    for _ in 0..BUFFERS {
        if buffer == 0 {
            break;
        }
        let commit: u32 = field(buffer, o::FLIP_COMMIT);
        let read: u32 = field(buffer, o::FLIP_READ);
        let errors: u8 = field(buffer, o::FLIP_FLAGS);
        let count = commit.wrapping_sub(read);
        // 1 unless it is 0. Beside a flag for errors there are some.
        let any = (count | count.wrapping_neg()) >> 31;
        wrong |= u64::from(count & !LENGTH) | u64::from(any * u32::from(errors));
        // SAFETY: a local. Read volatile so that the compiler, which may know that the mask changes
        // nothing, keeps it: it is what shows the verifier that the length is in bounds.
        let count = unsafe { core::ptr::read_volatile(&raw const count) } & LENGTH;
        let data = buffer + u64::from(offset(o::FLIP_DATA)) + u64::from(read);
        wrong |= room.read(data, count);
        write(room, seq, WAITING, count);
        buffer = field(buffer, o::FLIP_NEXT);
    }
    buffer == 0 && wrong == 0
}

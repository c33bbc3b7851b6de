//! Open terminals, out of the records behind those of their descriptors.

use ebpf_common::{
    FileRecord, InputState, KIND_FILE, KIND_INPUT, KIND_QUEUE, KIND_TERMINAL, QueueRecord,
    TerminalRecord, queue,
};
use ids::HostPid;
use inventory::terminals::{Input, Modes, Side, Terminal};
use kernel::bpf::IterTarget;
use zerocopy::FromBytes;

use super::BpfError;
use super::programs::What;
use super::records::{device, records};
use crate::OpenFile;

// drivers/tty/tty.h, include/linux/tty.h: bits of `tty_struct.flags`.
const OTHER_CLOSED: u64 = 1 << 2;
const EXCLUSIVE: u64 = 1 << 3;
/// It was bit 16 until the bits were counted through (Linux 6.14); the other one was free then, as this is now.
const PTY_LOCK: u64 = 1 << 6 | 1 << 16;

const ICANON: u32 = 0o2;
const EXTPROC: u32 = 0o200_000;

/// Gives the files that have just been read out of this output their terminals.
pub(super) fn add(output: &[u8], pid: HostPid, files: &mut [OpenFile]) -> Result<(), BpfError> {
    let of = IterTarget::Process(pid);
    let bad = || BpfError::Record { what: What::Files.text(), of };
    let mut last = -1;
    let mut open: Option<Making> = None;
    for record in records(output) {
        let (kind, bytes) = record.ok_or_else(bad)?;
        match kind {
            KIND_FILE => {
                let (record, _) = FileRecord::read_from_prefix(bytes).map_err(|_| bad())?;
                finish(open.take(), files);
                // As in the decoding: a thread with a table of its own follows.
                if record.fd <= last {
                    break;
                }
                last = record.fd;
            }
            KIND_TERMINAL => {
                let (record, _) = TerminalRecord::read_from_prefix(bytes).map_err(|_| bad())?;
                open = Some(Making::new(record));
            }
            KIND_INPUT => {
                let (state, _) = InputState::read_from_prefix(bytes).map_err(|_| bad())?;
                if let Some(open) = &mut open {
                    open.next().states.push(state);
                }
            }
            KIND_QUEUE => {
                let (piece, bytes) = QueueRecord::read_from_prefix(bytes).map_err(|_| bad())?;
                if let Some(open) = &mut open {
                    open.next().add(piece.queue, bytes);
                }
            }
            _ => {}
        }
    }
    finish(open, files);
    Ok(())
}

fn finish(made: Option<Making>, files: &mut [OpenFile]) {
    let Some(made) = made else { return };
    let fd = made.record.state.fd;
    if let Ok(index) = files.binary_search_by_key(&fd, |file| file.fd) {
        files[index].terminal = Some(Box::new(made.terminal()));
    }
}

/// A terminal of which more is to come.
struct Making {
    record: TerminalRecord,
    /// Its own input, and that of the slave that it tells of.
    inputs: [Queues; 2],
}

/// What waits in a terminal, and how it was before and after that was read.
#[derive(Default)]
struct Queues {
    states: Vec<InputState>,
    ring: Vec<u8>,
    ends: Vec<u8>,
    waiting: Vec<u8>,
    is_part: bool,
}

impl Making {
    fn new(record: TerminalRecord) -> Self {
        Self { record, inputs: Default::default() }
    }

    /// Those of which not all has come.
    fn next(&mut self) -> &mut Queues {
        let [own, slave] = &mut self.inputs;
        if own.states.len() < 2 { own } else { slave }
    }
}

impl Queues {
    fn add(&mut self, queue: u32, bytes: &[u8]) {
        match queue {
            queue::INPUT => self.ring = bytes.to_vec(),
            queue::LINE_ENDS => self.ends = bytes.to_vec(),
            queue::WAITING => self.waiting.extend(bytes),
            _ => self.is_part = true,
        }
    }
}

impl Making {
    fn terminal(self) -> Terminal {
        let TerminalRecord { state, modes } = self.record;
        let side = match state.side {
            1 => Side::Master,
            2 => Side::Slave,
            _ => Side::Line,
        };
        let is_canonical = modes.modes[3] & (ICANON | EXTPROC) == ICANON;
        // The queue is the line discipline's own affair.
        let is_told = state.discipline == 0 && state.hung_up == 0;
        let [own, slave] = self.inputs;
        Terminal {
            side,
            device: libc::makedev(state.major, state.minor),
            instance: match state.instance {
                0 => 0,
                instance => device(instance),
            },
            hung_up: state.hung_up != 0,
            // Of a slave one is the pair's own.
            opens: u32::try_from(state.opens - i32::from(side == Side::Slave)).ok(),
            other_closed: side == Side::Master && state.flags & OTHER_CLOSED != 0,
            discipline: state.discipline,
            exclusive: state.flags & EXCLUSIVE != 0,
            locked: side == Side::Master && state.flags & PTY_LOCK != 0,
            packets: side == Side::Master && state.packets != 0,
            packet_status: if side == Side::Master && state.packets != 0 {
                state.packet_status
            } else {
                0
            },
            stopped: state.stopped != 0,
            stopped_by_call: state.stopped_by_call != 0,
            modes: decode_modes(&modes.modes),
            locked_modes: decode_modes(&modes.locked),
            window: modes.window,
            input: own.input(is_canonical && side != Side::Master).filter(|_| is_told),
            input_of_slave: slave.input(is_canonical).filter(|_| is_told),
        }
    }
}

impl Queues {
    /// What waits, if all of it was written out.
    fn input(&self, is_canonical: bool) -> Option<Input> {
        let [before, after] = self.states[..] else { return None };
        let moves = before.is_moving != 0
            || after.is_moving != 0
            || (before.head, before.tail, before.canonical)
                != (after.head, after.tail, after.canonical)
            || (before.buffer, before.taken) != (after.buffer, after.taken);
        let count = after.head.wrapping_sub(after.tail).min(queue::RING_BYTES as u64);
        let place = |nth: u64| (after.tail.wrapping_add(nth) % queue::RING_BYTES as u64) as usize;
        let byte = |nth: u64| self.ring.get(place(nth)).copied().unwrap_or(0);
        let is_end = |nth: &u64| {
            let place = place(*nth);
            is_canonical
                && self.ends.get(place / 8).is_some_and(|bits| bits >> (place % 8) & 1 != 0)
        };
        let whole = match is_canonical {
            true => after.canonical.wrapping_sub(after.tail).min(count),
            false => count,
        };
        Some(Input {
            taken: (0..count).map(byte).collect(),
            line_ends: (0..whole).filter(is_end).map(|nth| nth as u32).collect(),
            whole: whole as u32,
            waiting: self.waiting.clone(),
            column: after.column,
            literal_next: after.literal_next != 0,
            echoes: after.echoes != 0,
            moves,
            is_part: self.is_part,
        })
    }
}

fn decode_modes(words: &[u32; 11]) -> Modes {
    let mut bytes = [0; 20];
    for (place, word) in bytes.chunks_exact_mut(4).zip(&words[4..9]) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    let mut modes = Modes {
        flags: [words[0], words[1], words[2], words[3]],
        line: bytes[0],
        speeds: [words[9], words[10]],
        ..Modes::default()
    };
    modes.characters.copy_from_slice(&bytes[1..]);
    modes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn making(head: u64, canonical: u64, tail: u64, text: &[u8], ends: &[u64]) -> Queues {
        let mut made = Queues::default();
        let state = InputState { head, canonical, tail, ..InputState::default() };
        made.states = vec![state, state];
        made.ring = vec![0; queue::RING_BYTES];
        made.ends = vec![0; queue::RING_BYTES / 8];
        for (nth, byte) in text.iter().enumerate() {
            made.ring[(tail as usize + nth) % queue::RING_BYTES] = *byte;
        }
        for end in ends {
            let place = *end as usize % queue::RING_BYTES;
            made.ends[place / 8] |= 1 << (place % 8);
        }
        made
    }

    #[test]
    fn a_ring_goes_round() {
        let made = making(4101, 4099, 4094, b"ab\nc\0de", &[4096, 4098]);
        let input = made.input(true).unwrap();
        assert_eq!((&input.taken[..], &input.line_ends[..]), (&b"ab\nc\0de"[..], &[2, 4][..]));
        assert_eq!((input.whole, input.moves), (5, false));
        let raw = made.input(false).unwrap();
        assert_eq!((raw.whole, raw.line_ends.len()), (7, 0));
    }

    #[test]
    fn what_moves_is_told() {
        let mut made = making(3, 3, 0, b"abc", &[]);
        made.states[1].tail = 1;
        assert!(made.input(false).unwrap().moves);
        made.states[1].tail = 0;
        made.states[0].is_moving = 1;
        assert!(made.input(false).unwrap().moves);
        made.states.pop();
        assert!(made.input(false).is_none());
    }
}

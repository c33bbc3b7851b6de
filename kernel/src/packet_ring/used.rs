//! What is in the ring of a packet socket: where the kernel goes on, and what the program has not read.

use super::{BLOCKS, BY_TIME, FIRST, FOR_PROGRAM, MappedRings, at, count, place};
use crate::packet_diag::{PacketSocket, Ring};

/// What is in a ring to receive by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// The frame, or the block where the ring has such (`TPACKET_V3`), that the kernel goes on with.
    pub next: u32,
    /// What the program has not read, in the order in which it came: frames or blocks, with their heads.
    pub unread: Vec<(u32, Vec<u8>)>,
    /// There is more that it has not read.
    pub left_behind: bool,
}

/// What cannot be told of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// Where the kernel goes on: the program has read in another order, or its clock was set.
    Place,
    /// Where the kernel goes on in a ring to send by.
    Sending,
    /// What the program has written into its own parts of the blocks.
    Private,
}

/// The most of what has not been read that is carried of a ring.
const MOST: u64 = 16 << 20;

impl MappedRings {
    /// Finds out what is in the rings of a socket. The kernel may write to them meanwhile: what it has given to the
    /// program it does not touch.
    ///
    /// # Errors
    /// If that cannot be told.
    pub fn used(&self, socket: &PacketSocket) -> Result<Used, Unclear> {
        let receive = socket.receive_ring.as_ref();
        let sending = receive.map_or(0, Ring::bytes);
        if (sending / 4..self.bytes / 4).any(|index| self.word(index * 4) != 0) {
            return Err(Unclear::Sending);
        }
        match receive {
            None => Ok(Used::default()),
            Some(ring) if socket.version == BLOCKS => self.blocks(ring),
            Some(ring) => self.frames(ring, socket.version),
        }
    }

    fn frames(&self, ring: &Ring, version: u32) -> Result<Used, Unclear> {
        let all = count(ring, version);
        let layout = if version == FIRST { at::FIRST } else { at::SECOND };
        let start = |index: u32| place(ring, version, index);
        let look = || run(all, |index| self.has_packet(start(index), version));
        let second = if version == FIRST { 1_000_000 } else { 1_000_000_000 };
        let time = |index: u32| {
            let time = start(index) + layout.time;
            u64::from(self.word(time)) * second + u64::from(self.word(time + 4))
        };
        let (whole, (first, next)) = standing(look, |whole| match whole {
            Run::Part(first, next) => Ok((first, next)),
            Run::None | Run::All => behind_the_last(all, time).map(|next| (next, next)),
        })?;
        if whole == Run::All {
            return Ok(Used { next, unread: Vec::new(), left_behind: true });
        }
        let bytes = |index: u32| {
            let head = start(index);
            let begins = u64::from(self.half(head + layout.begins));
            let kept = u64::from(self.word(head + layout.kept));
            (begins + kept).clamp(layout.time + 8, ring.frame_size.into())
        };
        let unread = (0..all).map(|step| (first + step) % all).take_while(|index| *index != next);
        Ok(self.taken(unread.map(|index| (index, start(index), bytes(index))), (first, next)))
    }

    fn blocks(&self, ring: &Ring) -> Result<Used, Unclear> {
        let all = count(ring, BLOCKS);
        let start = |index: u32| place(ring, BLOCKS, index);
        let number = |index: &u32| self.long(start(*index) + at::NUMBER);
        let current = (0..all).max_by_key(number).unwrap_or(0);
        let is_used = number(&current) > 1 || self.word(start(current) + at::PACKETS) > 0;
        if ring.private != 0 && is_used {
            return Err(Unclear::Private);
        }
        let is_unread = |index: u32| self.word(start(index) + at::STATUS) != 0;
        let (first, next) = match run(all, is_unread)? {
            Run::Part(first, next) if next == current => (first, next),
            Run::None => (current, current),
            // The kernel waits until there is room, with the block behind the last one.
            Run::All => {
                let next = (current + 1) % all;
                return Ok(Used { next, unread: Vec::new(), left_behind: true });
            }
            Run::Part(..) => return Err(Unclear::Place),
        };
        let bytes = |index: u32| {
            let length = u64::from(self.word(start(index) + at::LENGTH));
            length.clamp(at::PACKETS_BEGIN, ring.block_size.into())
        };
        let unread = (0..all).map(|step| (first + step) % all).take_while(|index| *index != next);
        let unread = unread.map(|index| (index, start(index), bytes(index)));
        let mut found = self.taken(unread, (first, next));
        if found.left_behind || self.word(start(current) + at::PACKETS) == 0 {
            return Ok(found);
        }
        // What has come into the block that the kernel writes to is handed over with the next one.
        let behind = (current + 1) % all;
        match handed_over(self.copy(start(current), bytes(current))) {
            Some(block) if behind != first => {
                found.unread.push((current, block));
                found.next = behind;
            }
            _ => found.left_behind = true,
        }
        Ok(found)
    }

    /// Copies what has not been read from `first` to `next`, or leaves all of it behind.
    fn taken(
        &self,
        unread: impl Iterator<Item = (u32, u64, u64)> + Clone,
        (first, next): (u32, u32),
    ) -> Used {
        if unread.clone().map(|(.., bytes)| bytes).sum::<u64>() > MOST {
            return Used { next: first, unread: Vec::new(), left_behind: true };
        }
        let unread = unread.map(|(index, start, bytes)| (index, self.copy(start, bytes))).collect();
        Used { next, unread, left_behind: false }
    }
}

/// The frame behind the one that came last, by the times at which they came. Time goes back there, to the oldest frame or
/// to one that has not been used; and a little where two processors had packets at once.
fn behind_the_last(all: u32, time: impl Fn(u32) -> u64) -> Result<u32, Unclear> {
    const APART: u64 = 4;
    let back = |index: u32| time(index).saturating_sub(time((index + 1) % all));
    let last = (0..all).max_by_key(|index| back(*index)).unwrap_or(0);
    let most = back(last);
    let others = (0..all).filter(|index| *index != last).map(back).max().unwrap_or(0);
    match most {
        0 => Ok(0),
        most if others.saturating_mul(APART) < most => Ok((last + 1) % all),
        _ => Err(Unclear::Place),
    }
}

/// What of a ring has not been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    None,
    All,
    /// From the one to before the other.
    Part(u32, u32),
}

/// How often a ring is looked at until packets come to it in the right order.
const TRIES: usize = 16;

/// What a look has found, and what `learn` makes of it, when the next look finds that it began there. A packet that comes to a
/// frame that the look has passed is not seen, and one behind it is; but the first that has not been read stays the
/// first, as the program does not run.
fn standing<T>(
    look: impl Fn() -> Result<Run, Unclear>,
    learn: impl Fn(Run) -> Result<T, Unclear>,
) -> Result<(Run, T), Unclear> {
    let mut seen = look()?;
    for _ in 0..TRIES {
        let learned = learn(seen);
        let again = look()?;
        let stands = match (seen, again) {
            (Run::Part(first, _), Run::Part(then, _)) => first == then,
            (seen, again) => seen == again,
        };
        if stands {
            return learned.map(|learned| (seen, learned));
        }
        seen = again;
    }
    Err(Unclear::Place)
}

fn run(all: u32, is_unread: impl Fn(u32) -> bool) -> Result<Run, Unclear> {
    let mut starts = None;
    let mut ends = None;
    let mut before = all > 0 && is_unread(all - 1);
    let last = before;
    for index in 0..all {
        let now = if index == all - 1 { last } else { is_unread(index) };
        let edge = match (before, now) {
            (false, true) => &mut starts,
            (true, false) => &mut ends,
            _ => continue,
        };
        if edge.replace(index).is_some() {
            return Err(Unclear::Place);
        }
        before = now;
    }
    Ok(match (starts, ends) {
        (Some(first), Some(next)) => Run::Part(first, next),
        _ if last => Run::All,
        _ => Run::None,
    })
}

/// A block that the kernel was writing to, as it hands one over because time has passed; `None` for one that does not hold
/// the packets that it says.
fn handed_over(mut block: Vec<u8>) -> Option<Vec<u8>> {
    let word = |block: &[u8], at: usize| {
        Some(u32::from_ne_bytes(block.get(at..at.checked_add(4)?)?.try_into().ok()?))
    };
    let packets = word(&block, at::PACKETS as usize)?;
    let mut packet = word(&block, at::FIRST_PACKET as usize)? as usize;
    for _ in 1..packets {
        // Of what is without end, or goes back, there is no last one.
        let next = word(&block, packet)?;
        packet = packet.checked_add(next as usize).filter(|_| next > 0)?;
    }
    // The last one leads nowhere, and its time is that of the block's end.
    let time: [u8; 8] =
        block.get(packet.checked_add(4)?..packet.checked_add(12)?)?.try_into().ok()?;
    block.get_mut(packet..packet + 4)?.fill(0);
    let last = at::LAST_TIME as usize;
    block.get_mut(last..last + 8)?.copy_from_slice(&time);
    let status = at::STATUS as usize;
    block.get_mut(status..status + 4)?.copy_from_slice(&(FOR_PROGRAM | BY_TIME).to_ne_bytes());
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(unread: &[bool]) -> Result<Run, Unclear> {
        run(unread.len() as u32, |index| unread[index as usize])
    }

    #[test]
    fn what_is_unread_is_one_part_of_a_ring() {
        assert_eq!(found(&[false, true, true, false]), Ok(Run::Part(1, 3)));
        assert_eq!(found(&[true, false, false, true]), Ok(Run::Part(3, 1)));
        assert_eq!(found(&[false; 4]), Ok(Run::None));
        assert_eq!(found(&[true; 4]), Ok(Run::All));
        assert_eq!(found(&[true, false, true, false]), Err(Unclear::Place));
        assert_eq!(found(&[]), Ok(Run::None));
        assert_eq!(found(&[true]), Ok(Run::All));
    }

    #[test]
    fn a_look_that_packets_overtake_is_taken_again() {
        let by = |looks: &[Run]| {
            let looks = std::cell::RefCell::new(looks.iter().copied());
            let found = standing(|| looks.borrow_mut().next().ok_or(Unclear::Sending), Ok);
            found.map(|(seen, _)| seen)
        };
        assert_eq!(by(&[Run::None, Run::None]), Ok(Run::None));
        assert_eq!(by(&[Run::Part(1, 2), Run::Part(1, 3)]), Ok(Run::Part(1, 2)));
        let overtaken = [Run::Part(4, 5), Run::Part(3, 5), Run::Part(3, 6)];
        assert_eq!(by(&overtaken), Ok(Run::Part(3, 5)));
        assert_eq!(by(&[Run::None, Run::Part(3, 4), Run::Part(3, 4)]), Ok(Run::Part(3, 4)));
        let never: Vec<Run> = (0..40).map(|first| Run::Part(first, 41)).collect();
        assert_eq!(by(&never), Err(Unclear::Place));
    }

    #[test]
    fn times_tell_what_came_last() {
        let behind =
            |times: &[u64]| behind_the_last(times.len() as u32, |index| times[index as usize]);
        assert_eq!(behind(&[0, 0, 0]), Ok(0));
        assert_eq!(behind(&[500, 510, 0, 0]), Ok(2));
        assert_eq!(behind(&[500, 510, 200, 300]), Ok(2));
        assert_eq!(behind(&[500, 490, 510, 200, 300]), Ok(3), "two that came at once");
        assert_eq!(behind(&[200, 300, 400]), Ok(0));
        assert_eq!(behind(&[500, 200, 510, 300]), Err(Unclear::Place));
    }

    fn block(packets: u32, first: u32, behind: &[(usize, u32)]) -> Vec<u8> {
        let mut block = vec![0; 200];
        let mut put = |at: usize, word: u32| block[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        put(at::PACKETS as usize, packets);
        put(at::FIRST_PACKET as usize, first);
        behind.iter().for_each(|(at, next)| put(*at, *next));
        block
    }

    #[test]
    fn a_block_that_is_written_to_is_closed() {
        let two = handed_over(block(2, 48, &[(48, 64), (112, 64), (116, 7)])).unwrap();
        assert_eq!(two[112..116], [0; 4], "the last one leads nowhere");
        assert_eq!(two[48..52], 64_u32.to_ne_bytes());
        assert_eq!(two[40..44], 7_u32.to_ne_bytes());
        assert_eq!(two[8..12], 33_u32.to_ne_bytes());
        assert_eq!(handed_over(block(3, 48, &[(48, 64), (112, 0)])), None);
        assert_eq!(handed_over(block(u32::MAX, 48, &[(48, 1 << 31)])), None);
        assert_eq!(handed_over(block(1, u32::MAX, &[])), None);
        assert_eq!(handed_over(vec![0; 9]), None);
    }
}

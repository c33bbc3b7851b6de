//! Ways to look into pipes and fifos.

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use kernel::descriptors::{pipe_capacity, set_pipe_capacity};
use kernel::tty::bytes_waiting;
use nix::fcntl::{OFlag, SpliceFFlags, splice, tee};

use super::problem::{Doing, Problem};

/// What is known of the pipes and fifos of a tree in a look.
#[derive(Debug, Default)]
pub(super) struct Taps {
    pub(super) scratch: Scratch,
    /// Those whose contents have been read, by device and inode.
    pub(super) emptied: HashSet<(u64, u64)>,
}

/// A way to look into one pipe or fifo: an end of the target's own that reads.
///
/// A new one would count as another reader, which writers can notice. An end that only writes
/// will not do, and need not: with no reader in the tree, what is in the pipe is not the tree's.
#[derive(Debug)]
pub(super) struct Tap(pub(super) OwnedFd);

/// What is in a pipe.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct In {
    /// Of its buffer, in bytes.
    pub(super) capacity: u32,
    /// Lengths of the packets that the bytes begin with.
    pub(super) packets: Vec<u32>,
    pub(super) bytes: Vec<u8>,
}

impl Tap {
    /// What is in it. The pipe keeps it all.
    pub(super) fn look(&self, scratch: &mut Scratch) -> Result<In, Problem> {
        let capacity = pipe_capacity(&self.0).doing("get capacity of")?;
        let waiting = bytes_waiting(&self.0).doing("get contents of")?;
        if waiting == 0 {
            return Ok(In { capacity, ..In::default() });
        }
        let waiting = waiting as usize;
        if let Some(bytes) = scratch.copy(&self.0, waiting, capacity)? {
            return Ok(In { capacity, packets: Vec::new(), bytes });
        }
        let (packets, bytes) = packets(&self.0, waiting, capacity)?;
        Ok(In { capacity, packets, bytes })
    }
}

/// A pipe of our own, into which others are copied.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    ends: Option<Ends>,
    capacity: u32,
}

impl Scratch {
    /// The bytes, unless there are packets among them, or it does not show.
    ///
    /// A read goes as far as the first packet's end. So a byte is put behind the copy: who gets that as well has met no
    /// packet. In a pipe of which every buffer is in use there is no room for it.
    fn copy(
        &mut self,
        from: impl AsFd,
        bytes: usize,
        capacity: u32,
    ) -> Result<Option<Vec<u8>>, Problem> {
        let ends = match &mut self.ends {
            Some(ends) => ends,
            none => none.insert(Ends::new(0)?),
        };
        if self.capacity < capacity {
            set_pipe_capacity(&ends.write, capacity).doing("make a pipe as large as")?;
            self.capacity = capacity;
        }
        ends.take_copy(from, bytes)?;
        let mut contents = vec![0; bytes + 1];
        let only_bytes = ends.mark()? && ends.read(&mut contents)? == bytes + 1;
        if !only_bytes {
            // The pipe is dropped with what is left in it.
            *self = Self::default();
            return Ok(None);
        }
        contents.truncate(bytes);
        Ok(Some(contents))
    }
}

/// Both ends of a pipe of our own, which do not wait.
#[derive(Debug)]
struct Ends {
    read: File,
    write: File,
}

impl Ends {
    /// Of a pipe with at least this capacity.
    fn new(capacity: u32) -> Result<Self, Problem> {
        let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let (read, write) = nix::unistd::pipe2(flags).doing("make a pipe for")?;
        if capacity != 0 {
            set_pipe_capacity(&write, capacity).doing("make a pipe as large as")?;
        }
        Ok(Self { read: read.into(), write: write.into() })
    }

    /// Copies so many bytes, with what their buffers are. They stay where they are.
    fn take_copy(&self, from: impl AsFd, bytes: usize) -> Result<(), Problem> {
        let copied = tee(from, &self.write, bytes, SpliceFFlags::SPLICE_F_NONBLOCK);
        all(copied.doing("copy contents of")?, bytes)
    }

    /// Moves so many bytes from another one here.
    fn take(&self, from: &Self, bytes: usize) -> Result<(), Problem> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        let moved = splice(&from.read, None, &self.write, None, bytes, flags);
        all(moved.doing("sort contents of")?, bytes)
    }

    /// Puts one byte behind all, if there is room.
    fn mark(&self) -> Result<bool, Problem> {
        match (&self.write).write(&[0]) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error).doing("mark contents of"),
        }
    }

    fn read(&self, into: &mut [u8]) -> Result<usize, Problem> {
        (&self.read).read(into).doing("read copied contents of")
    }

    /// Whether the one byte in it is a packet, or the beginning of one; the byte is taken.
    fn is_packet(&self) -> Result<(bool, u8), Problem> {
        let mut two = [0; 2];
        let read = self.mark()?.then(|| self.read(&mut two)).transpose()?;
        if read == Some(1) {
            // The mark.
            self.read(&mut [0])?;
        }
        Ok((read != Some(2), two[0]))
    }
}

fn all(done: usize, bytes: usize) -> Result<(), Problem> {
    let short = || std::io::Error::other(format!("{done} of {bytes} bytes were copied"));
    (done == bytes).then_some(()).ok_or_else(short).doing("copy contents of")
}

/// Lengths of the packets that a pipe's contents begin with, and all its bytes.
fn packets(from: impl AsFd, bytes: usize, capacity: u32) -> Result<(Vec<u32>, Vec<u8>), Problem> {
    let (copy, one) = (Ends::new(capacity)?, Ends::new(0)?);
    copy.take_copy(from, bytes)?;
    let (mut lengths, mut contents) = (Vec::new(), vec![0; bytes]);
    let mut at = 0;
    while at < bytes {
        one.take_copy(&copy.read, 1)?;
        if !one.is_packet()?.0 {
            break;
        }
        let length = copy.read(&mut contents[at..])?;
        at += length;
        lengths.push(length as u32);
    }
    let Some(last) = (bytes - at).checked_sub(1) else { return Ok((lengths, contents)) };
    // Bytes up to the end, then: a packet would end a read early, or be at the end.
    let rest = Ends::new(capacity)?;
    if last > 0 {
        rest.take(&copy, last)?;
    }
    let (is_packet, byte) = copy.is_packet()?;
    let whole = last == 0 || rest.read(&mut contents[at..at + last])? == last;
    if is_packet || !whole {
        return Err(Problem::Refused(support::files::PACKETS_WAIT));
    }
    contents[bytes - 1] = byte;
    Ok((lengths, contents))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_copied_and_stay() {
        let (read, write) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&write, b"first ").unwrap();
        nix::unistd::write(&write, b"second").unwrap();
        let mut scratch = Scratch::default();
        let tap = Tap(read);
        for _ in 0..2 {
            let seen = tap.look(&mut scratch).unwrap();
            assert_eq!((seen.capacity, &seen.bytes[..]), (65536, &b"first second"[..]));
            assert!(seen.packets.is_empty());
        }
        set_pipe_capacity(&write, 1 << 20).unwrap();
        let filler = vec![7; 900_000];
        nix::unistd::write(&write, &filler).unwrap();
        let seen = tap.look(&mut scratch).unwrap();
        assert_eq!((seen.capacity, seen.bytes.len()), (1 << 20, 900_012));
    }

    fn set_packets(end: impl AsFd, on: bool) {
        let flags = if on { libc::O_DIRECT } else { 0 } | libc::O_NONBLOCK;
        kernel::descriptors::set_status_flags(end, flags.cast_unsigned()).unwrap();
    }

    /// Also when the flag that made them has been taken away since.
    #[test]
    fn packets_are_told_from_bytes() {
        let mut scratch = Scratch::default();
        let mut look = |written: &[(bool, &[u8])]| {
            let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK).unwrap();
            for (packet, bytes) in written {
                set_packets(&write, *packet);
                assert_eq!(nix::unistd::write(&write, bytes).unwrap(), bytes.len());
            }
            let tap = Tap(read);
            let (first, second) = (tap.look(&mut scratch), tap.look(&mut scratch));
            let seen = first.ok().map(|seen| (seen.packets, seen.bytes));
            assert_eq!(seen, second.ok().map(|seen| (seen.packets, seen.bytes)));
            seen
        };
        let (packet, plain) = (true, false);
        let page = [7; 4096];
        assert_eq!(look(&[(packet, b"one"), (packet, b"t")]), Some((vec![3, 1], b"onet".to_vec())));
        assert_eq!(look(&[(packet, b"o")]), Some((vec![1], b"o".to_vec())));
        assert_eq!(look(&[(packet, b"o"), (plain, b"rest")]), Some((vec![1], b"orest".to_vec())));
        assert_eq!(look(&[(packet, b"o"), (plain, b"r")]), Some((vec![1], b"or".to_vec())));
        // What goes into a buffer of bytes becomes some of them.
        assert_eq!(look(&[(plain, b"one"), (packet, b"two")]), Some((vec![], b"onetwo".to_vec())));
        assert_eq!(look(&[(plain, &page), (packet, b"two")]), None);
        assert_eq!(look(&[(plain, &page), (packet, b"t")]), None);
        assert_eq!(look(&[(plain, &page), (packet, b"two"), (plain, b"rest")]), None);
        assert_eq!(look(&[(packet, b"o"), (plain, &page), (packet, b"t")]), None);
        // All sixteen buffers are in use.
        for (kind, packets) in [(packet, vec![4096; 16]), (plain, vec![])] {
            assert_eq!(look(&[(kind, &page[..]); 16]), Some((packets, vec![7; 16 * 4096])));
        }
        let mut mixed = [(plain, &page[..]); 16];
        mixed[15].0 = packet;
        assert_eq!(look(&mixed), None);
        // A write that is larger is several packets.
        let large = [3; 5000];
        assert_eq!(look(&[(packet, &large)]), Some((vec![4096, 904], large.to_vec())));
    }
}

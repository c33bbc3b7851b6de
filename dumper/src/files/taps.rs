//! Ways to look into pipes and fifos.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use kernel::descriptors::{pipe_capacity, set_pipe_capacity};
use kernel::tty::bytes_waiting;
use nix::fcntl::{OFlag, SpliceFFlags, tee};

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

impl Tap {
    /// The capacity, and what is in it. The pipe keeps it all.
    pub(super) fn look(&self, scratch: &mut Scratch) -> Result<(u32, Vec<u8>), Problem> {
        let capacity = pipe_capacity(&self.0).doing("get capacity of")?;
        let waiting = bytes_waiting(&self.0).doing("get contents of")?;
        if waiting == 0 {
            return Ok((capacity, Vec::new()));
        }
        Ok((capacity, scratch.copy(&self.0, waiting as usize, capacity)?))
    }
}

/// A pipe of our own, into which others are copied.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    ends: Option<(File, File)>,
    capacity: u32,
}

impl Scratch {
    fn copy(&mut self, from: impl AsFd, bytes: usize, capacity: u32) -> Result<Vec<u8>, Problem> {
        let (read, write) = match &mut self.ends {
            Some(ends) => ends,
            none => {
                let (read, write) =
                    nix::unistd::pipe2(OFlag::O_CLOEXEC).doing("make a pipe for")?;
                none.insert((read.into(), write.into()))
            }
        };
        if self.capacity < capacity {
            set_pipe_capacity(&*write, capacity).doing("make a pipe as large as")?;
            self.capacity = capacity;
        }
        let copied =
            tee(from, &*write, bytes, SpliceFFlags::SPLICE_F_NONBLOCK).doing("copy contents of")?;
        let mut contents = vec![0; copied];
        let at_once = read.read(&mut contents).doing("read copied contents of")?;
        if at_once < copied {
            // The pipe is dropped with what is left in it.
            self.ends = None;
            self.capacity = 0;
            return Err(Problem::Refused(support::files::PACKETS_WAIT));
        }
        if copied < bytes {
            return Err(Problem::Kernel {
                operation: "copy contents of",
                source: std::io::Error::other(format!("{copied} of {bytes} bytes were copied")),
            });
        }
        Ok(contents)
    }
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
            let (capacity, contents) = tap.look(&mut scratch).unwrap();
            assert_eq!((capacity, &contents[..]), (65536, &b"first second"[..]));
        }
        set_pipe_capacity(&write, 1 << 20).unwrap();
        let filler = vec![7; 900_000];
        nix::unistd::write(&write, &filler).unwrap();
        let (capacity, contents) = tap.look(&mut scratch).unwrap();
        assert_eq!((capacity, contents.len()), (1 << 20, 900_012));
    }

    /// Also when the flag that made them has been taken away since.
    #[test]
    fn packets_are_refused() {
        let (read, write) = nix::unistd::pipe2(OFlag::O_DIRECT).unwrap();
        nix::unistd::write(&write, b"one").unwrap();
        nix::unistd::write(&write, b"two").unwrap();
        let mut scratch = Scratch::default();
        let tap = Tap(read);
        assert!(matches!(tap.look(&mut scratch), Err(Problem::Refused { .. })));
        let (read, write) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&write, b"bytes").unwrap();
        assert_eq!(Tap(read).look(&mut scratch).unwrap().1, b"bytes");
    }
}

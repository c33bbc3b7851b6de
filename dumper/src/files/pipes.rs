//! Pipes: how much they hold, and what is in them; fifos are the same with a name.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use collector::{OpenFile, Process};
use images::messages::{FileEntry, PipeDataEntry, PipeEntry, fd_type};
use images::{Image, ImageWriter, names};
use kernel::descriptors::{pipe_capacity, set_pipe_capacity};
use kernel::tty::bytes_waiting;
use nix::fcntl::{OFlag, SpliceFFlags, tee};

use super::Captured;
use super::file_kind::FileKind;
use super::kept::Keeping;
use super::problem::{Doing, Problem};
use super::socket_options::inode;
use super::survey::Survey;

const O_DIRECT: u32 = libc::O_DIRECT.cast_unsigned();

/// An end of a pipe.
#[derive(Debug)]
pub(super) struct Pipe;

/// What is in pipes, or in fifos.
pub(super) type Contents = Vec<(PipeDataEntry, Vec<u8>)>;

impl FileKind for Pipe {
    fn types(&self) -> &'static [u32] {
        &[fd_type::PIPE]
    }

    fn is(&self, file: &OpenFile) -> bool {
        file.mode & libc::S_IFMT == libc::S_IFIFO && file.target.as_bytes().starts_with(b"pipe:[")
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        no_packets(file)?;
        let pid = process.pid;
        let fown = survey.owner(pid, file)?;
        let contents = survey.contents(pid, file)?;
        survey.out.beside.pipes.extend(contents);
        let end = survey.memory.borrow(pid, file.fd)?;
        let inode = inode(end.as_fd(), 0o600)?;
        let pipe = PipeEntry {
            id: entry.id,
            pipe_id: file.inode as u32,
            flags: file.flags,
            fown,
            boot: survey.context.joined.get(&file.inode).copied(),
            inode,
        };
        Ok(FileEntry { r#type: fd_type::PIPE, pipe: Some(pipe), ..entry })
    }

    fn holds(
        &self,
        survey: &mut Survey<'_>,
        pid: i32,
        file: &OpenFile,
        _keeping: &mut Keeping,
    ) -> Result<bool, Problem> {
        let contents = survey.contents(pid, file)?;
        survey.out.beside.pipes.extend(contents);
        Ok(true)
    }

    fn update(&self, entry: &mut FileEntry, keeping: &Keeping) {
        if let Some(pipe) = &mut entry.pipe {
            pipe.flags = keeping.flags;
        }
    }

    fn encode(&self, captured: &Captured, writer: &ImageWriter) -> Result<(), images::Error> {
        let standing = captured.standing_contents(fd_type::PIPE);
        write_contents(writer, &names::pipes_data(), &captured.beside.pipes, &standing)
    }
}

/// Refuses an end of a pipe or fifo that writes packets.
pub(super) fn no_packets(file: &OpenFile) -> Result<(), Problem> {
    if file.flags & O_DIRECT == 0 {
        return Ok(());
    }
    Err(Problem::refused(
        "pipes in packet mode (O_DIRECT) are not supported yet",
        "open the pipe without O_DIRECT",
    ))
}

/// Writes what was read now, and what stands as it was found; with none of it there is no image.
pub(super) fn write_contents(
    writer: &ImageWriter,
    image: &Image<PipeDataEntry>,
    read: &Contents,
    standing: &[(&PipeDataEntry, &[u8])],
) -> Result<(), images::Error> {
    if read.is_empty() && standing.is_empty() {
        return Ok(());
    }
    let mut sink = writer.image(image)?;
    let read = read.iter().map(|(entry, bytes)| (entry, &bytes[..]));
    for (entry, bytes) in read.chain(standing.iter().copied()) {
        sink.put(entry)?;
        sink.payload(bytes)?;
    }
    sink.finish()
}

/// What is known of the pipes and fifos of a tree in a look.
#[derive(Debug, Default)]
pub(super) struct Seen {
    scratch: Scratch,
    /// Those whose contents have been read, by device and inode.
    emptied: HashSet<(u64, u64)>,
}

impl Survey<'_> {
    /// The contents of a pipe or fifo, by the first end that reads. While the target runs they are kept, to
    /// be given when it stands still.
    pub(super) fn contents(
        &mut self,
        pid: i32,
        file: &OpenFile,
    ) -> Result<Option<(PipeDataEntry, Vec<u8>)>, Problem> {
        if file.flags.cast_signed() & libc::O_ACCMODE == libc::O_WRONLY {
            return Ok(None);
        }
        let wanted = self.frozen || self.to_keep;
        if wanted && !self.pipes.emptied.insert((file.device, file.inode)) {
            return Ok(None);
        }
        if self.frozen
            && let Some(contents) = self.kept.take_contents(file)
        {
            return Ok(Some(contents));
        }
        let tap = self.memory.tap(pid, file)?;
        if !wanted {
            return Ok(None);
        }
        let (capacity, contents) = tap.look(&mut self.pipes.scratch)?;
        let entry = PipeDataEntry {
            pipe_id: file.inode as u32,
            bytes: contents.len() as u32,
            size: Some(capacity),
        };
        if self.frozen {
            return Ok(Some((entry, contents)));
        }
        self.kept.put_contents(file, entry, contents);
        Ok(None)
    }
}

/// A way to look into one pipe or fifo: an end of the target's own that reads.
///
/// A new one would count as another reader, which writers can notice. An end that only writes
/// will not do, and need not: with no reader in the tree, what is in the pipe is not the tree's.
#[derive(Debug)]
pub(super) struct Tap(pub(super) OwnedFd);

impl Tap {
    /// The capacity, and what is in it. The pipe keeps it all.
    fn look(&self, scratch: &mut Scratch) -> Result<(u32, Vec<u8>), Problem> {
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
struct Scratch {
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
            return Err(Problem::refused(
                "packets wait in it (written with O_DIRECT), whose boundaries would be lost",
                "try again when they have been read",
            ));
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

//! Pipes: how much they hold, and what is in them; fifos are the same with a name.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use collector::{OpenFile, Process};
use ids::HostPid;
use images::messages::{FileEntry, PipeDataEntry, PipeEntry, fd_type};
use images::{Image, ImageWriter, names};

use super::Captured;
use super::beside::Part;
use super::file_cache::Keeping;
use super::file_kind::FileKind;
use super::problem::Problem;
use super::socket_options::inode;
use super::survey::Survey;
use super::taps::In;

/// An end of a pipe.
#[derive(Debug)]
pub(super) struct Pipe;

/// What is in pipes.
#[derive(Debug, Default)]
struct InPipes(Vec<(PipeDataEntry, Vec<u8>)>);

impl Part for InPipes {}

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
        let pid = process.pid;
        let fown = survey.owner(pid, file)?;
        let contents = survey.contents(pid, file)?;
        survey.out.beside.of::<InPipes>().0.extend(contents);
        let end = survey.held.borrow(pid, file.fd)?;
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
        pid: HostPid,
        file: &OpenFile,
        _keeping: &mut Keeping,
    ) -> Result<bool, Problem> {
        let contents = survey.contents(pid, file)?;
        survey.out.beside.of::<InPipes>().0.extend(contents);
        Ok(true)
    }

    fn update(&self, entry: &mut FileEntry, keeping: &Keeping) {
        if let Some(pipe) = &mut entry.pipe {
            pipe.flags = keeping.flags;
        }
    }

    fn is_steady(&self, _entry: &FileEntry, _size: Option<u64>) -> bool {
        true
    }

    fn encode(&self, captured: &Captured, writer: &ImageWriter) -> Result<(), images::Error> {
        let unchanged = captured.unchanged_contents(fd_type::PIPE);
        let read = captured.beside.get::<InPipes>().map_or(&[][..], |pipes| &pipes.0);
        write_contents(writer, &names::pipes_data(), read, &unchanged)
    }
}

/// Writes what was read now, and what stands as it was found; with none of it there is no image.
pub(super) fn write_contents(
    writer: &ImageWriter,
    image: &Image<PipeDataEntry>,
    read: &[(PipeDataEntry, Vec<u8>)],
    unchanged: &[(&PipeDataEntry, &[u8])],
) -> Result<(), images::Error> {
    if read.is_empty() && unchanged.is_empty() {
        return Ok(());
    }
    let mut sink = writer.image(image)?;
    let read = read.iter().map(|(entry, bytes)| (entry, &bytes[..]));
    for (entry, bytes) in read.chain(unchanged.iter().copied()) {
        sink.put(entry)?;
        sink.payload(bytes)?;
    }
    sink.finish()
}

impl Survey<'_> {
    /// The contents of a pipe or fifo, by the first end that reads. While the target runs they are kept, to
    /// be given when it stands still.
    pub(super) fn contents(
        &mut self,
        pid: HostPid,
        file: &OpenFile,
    ) -> Result<Option<(PipeDataEntry, Vec<u8>)>, Problem> {
        if file.flags.cast_signed() & libc::O_ACCMODE == libc::O_WRONLY {
            return Ok(None);
        }
        let wanted = self.frozen || self.to_keep;
        if wanted && !self.taps.emptied.insert((file.device, file.inode)) {
            return Ok(None);
        }
        if self.frozen
            && let Some(contents) = self.cache.take_contents(file)
        {
            return Ok(Some(contents));
        }
        let tap = self.held.tap(pid, file)?;
        if !wanted {
            return Ok(None);
        }
        let In { capacity, packets, bytes: contents } = tap.look(&mut self.taps.scratch)?;
        let entry = PipeDataEntry {
            pipe_id: file.inode as u32,
            bytes: contents.len() as u32,
            size: Some(capacity),
            packets,
        };
        if self.frozen {
            return Ok(Some((entry, contents)));
        }
        self.cache.put_contents(file, entry, contents);
        Ok(None)
    }
}

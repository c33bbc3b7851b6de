//! Fifos: pipes that are found by their path.

use collector::{OpenFile, Process};
use ids::HostPid;
use images::messages::{FifoEntry, FileEntry, PipeDataEntry, fd_type};
use images::{ImageWriter, names};

use super::Captured;
use super::beside::Part;
use super::file_cache::Keeping;
use super::file_kind::FileKind;
use super::pipes::write_contents;
use super::problem::Problem;
use super::survey::Survey;

/// What is in fifos.
#[derive(Debug, Default)]
struct InFifos(Vec<(PipeDataEntry, Vec<u8>)>);

impl Part for InFifos {}

/// An open fifo.
#[derive(Debug)]
pub(super) struct Fifo;

impl FileKind for Fifo {
    fn types(&self) -> &'static [u32] {
        &[fd_type::FIFO]
    }

    fn is(&self, file: &OpenFile) -> bool {
        let handle = file.flags & libc::O_PATH.cast_unsigned() != 0;
        !handle && file.mode & libc::S_IFMT == libc::S_IFIFO
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let pid = process.pid;
        let regf_id = survey.new_id();
        let path = FileEntry { id: regf_id, ..FileEntry::default() };
        let path = survey.path_file(pid, file, path)?;
        survey.out.files.push(path);
        let contents = survey.contents(pid, file)?;
        survey.out.beside.of::<InFifos>().0.extend(contents);
        let fifo = FifoEntry { id: entry.id, pipe_id: file.inode as u32, regf_id: Some(regf_id) };
        Ok(FileEntry { r#type: fd_type::FIFO, fifo: Some(fifo), ..entry })
    }

    fn holds(
        &self,
        survey: &mut Survey<'_>,
        pid: HostPid,
        file: &OpenFile,
        _keeping: &mut Keeping,
    ) -> Result<bool, Problem> {
        let contents = survey.contents(pid, file)?;
        survey.out.beside.of::<InFifos>().0.extend(contents);
        Ok(true)
    }

    fn is_steady(&self, _entry: &FileEntry, _size: Option<u64>) -> bool {
        true
    }

    fn encode(&self, captured: &Captured, writer: &ImageWriter) -> Result<(), images::Error> {
        let unchanged = captured.unchanged_contents(fd_type::FIFO);
        let read = captured.beside.get::<InFifos>().map_or(&[][..], |fifos| &fifos.0);
        write_contents(writer, &names::fifo_data(), read, &unchanged)
    }
}

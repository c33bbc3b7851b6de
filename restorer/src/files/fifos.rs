//! Fifos: pipes that are found by their path.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use images::messages::{FifoEntry, FileEntry, RegFileEntry, fd_type};
use images::{Checkpoint, names};
use nix::fcntl::OFlag;

use support::Refusal;

use super::Error;
use super::approve::{Approved, Purpose};
use super::beside::{Beside, Part};
use super::file_kind::{FileKind, missing};
use super::opener::Opener;
use super::opening::{Opening, flagged};
use super::pipes::{Contents, O_DIRECT, contents, fill};
use super::reopen::{reopen, shown};
use super::user::User;

const O_RDWR: u32 = libc::O_RDWR.cast_unsigned();

/// What is in fifos.
#[derive(Debug, Default)]
struct InFifos(Contents);

impl Part for InFifos {}

/// An open fifo.
#[derive(Debug)]
pub(super) struct Fifo;

impl FileKind for Fifo {
    fn r#type(&self) -> u32 {
        fd_type::FIFO
    }

    fn load(&self, checkpoint: &Checkpoint, beside: &mut Beside) -> Result<(), Error> {
        let read = &checkpoint.fifos;
        beside.of::<InFifos>().0 = contents(&checkpoint.images, &names::fifo_data(), read)?;
        Ok(())
    }

    fn beyond(&self, _file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        None
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        let mut by_pipe: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for file in files {
            let entry = file.fifo.as_ref().ok_or_else(|| missing(file))?;
            // In old images the path is in the entry with its own id.
            let path = opening.files.get(&entry.regf_id.unwrap_or(file.id));
            let path = path.and_then(|path| path.reg.as_ref()).ok_or_else(|| missing(file))?;
            by_pipe.entry(entry.pipe_id).or_default().push((entry, path));
        }
        for entries in by_pipe.values() {
            opening.have_room_for(entries.len() + 2, "ends of a fifo")?;
            let contents = &opening.beside.of::<InFifos>().0;
            let ends = open(entries, contents, &mut opening.opener)?;
            for ((entry, _), fd) in entries.iter().zip(ends) {
                opening.add(entry.id, fd)?;
            }
        }
        Ok(())
    }
}

/// The open files of one fifo, in the order of `entries`.
fn open(
    entries: &[(&FifoEntry, &RegFileEntry)],
    contents: &Contents,
    opener: &mut Opener,
) -> Result<Vec<OwnedFd>, Error> {
    let Some((fifo, path)) = entries.first() else { return Ok(Vec::new()) };
    let approved =
        entries.iter().map(|(_, path)| opener.approve(path, Purpose::Access(path.flags)));
    let approved = approved.collect::<Result<Vec<_>, _>>()?;
    let Some(file) = approved.first() else { return Ok(Vec::new()) };
    // Whoever opens one end waits for the other, unless somebody has both. They are ours, not a task's.
    let failed = |errno| Error::kernel(format!("open {}", shown(path)), errno);
    let both = reopen(&file.handle, O_RDWR | libc::O_NONBLOCK.cast_unsigned()).map_err(failed)?;
    fill(&both, OFlag::O_NONBLOCK, contents.get(&fifo.pipe_id), &shown(path))?;
    let each = entries.iter().zip(&approved);
    let open = |((_, path), file): (&(_, &RegFileEntry), &Approved)| {
        let opened = opener.open_again(path, file, path.flags & !O_DIRECT)?;
        match path.flags & O_DIRECT {
            0 => Ok(opened),
            _ => flagged(opened, path.flags, &shown(path)),
        }
    };
    each.map(open).collect()
}

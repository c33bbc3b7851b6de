//! Pipes: made once, filled, and opened once for each open file. Fifos are filled in the same way.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use images::checkpoint::{PayloadReader, PipeContents};
use images::messages::{FileEntry, PipeDataEntry, PipeEntry, fd_type};
use images::{Checkpoint, Image, Images, names};
use kernel::descriptors::{change_status_flags, set_pipe_capacity, set_status_flags};
use nix::fcntl::OFlag;

use super::beside::{Beside, Part};
use super::file_kind::{FileKind, missing};
use super::images::LONGEST;
use super::opening::{Opening, flagged};
use super::reopen::reopen;
use super::{Error, socket_options};

/// What is in pipes.
#[derive(Debug, Default)]
struct InPipes(Contents);

impl Part for InPipes {}

/// An end of a pipe.
#[derive(Debug)]
pub(super) struct Pipe;

impl FileKind for Pipe {
    fn r#type(&self) -> u32 {
        fd_type::PIPE
    }

    fn load(&self, checkpoint: &Checkpoint, beside: &mut Beside) -> Result<(), Error> {
        let read = &checkpoint.pipes;
        beside.of::<InPipes>().0 = contents(&checkpoint.images, &names::pipes_data(), read)?;
        Ok(())
    }

    fn name(&self, file: &FileEntry, _beside: &Beside) -> Option<Vec<u8>> {
        Some(format!("pipe:[{}]", file.pipe.as_ref()?.pipe_id).into_bytes())
    }

    /// What waited in the pipe is in that of whoever handed it over, or with them.
    fn inherit(
        &self,
        _opening: &mut Opening<'_>,
        file: &FileEntry,
        handed: &OwnedFd,
    ) -> Result<OwnedFd, Error> {
        let entry = file.pipe.as_ref().ok_or_else(|| missing(file))?;
        let what = format!("pipe {}", entry.pipe_id);
        let opened = reopen(handed, entry.flags | libc::O_NONBLOCK.cast_unsigned())
            .map_err(|errno| Error::kernel(format!("open {what} again"), errno))?;
        flagged(opened, entry.flags, &what)
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        let mut by_pipe: BTreeMap<u32, Vec<&PipeEntry>> = BTreeMap::new();
        for file in files {
            let entry = file.pipe.as_ref().ok_or_else(|| missing(file))?;
            by_pipe.entry(entry.pipe_id).or_default().push(entry);
        }
        for entries in by_pipe.values() {
            opening.have_room_for(entries.len() + 2, "ends of a pipe")?;
            let ends = open(entries, &opening.beside.of::<InPipes>().0)?;
            for (entry, fd) in entries.iter().zip(ends) {
                opening.add(entry.id, fd)?;
            }
        }
        Ok(())
    }
}

/// Reads the contents of pipes, or of fifos.
pub(super) fn contents(
    dir: &Images,
    image: &Image<PipeDataEntry>,
    pipes: &[PipeContents],
) -> Result<Contents, Error> {
    let mut contents = BTreeMap::new();
    if pipes.is_empty() {
        return Ok(contents);
    }
    let mut reader = PayloadReader::open(dir, image)?;
    for PipeContents { entry, payload } in pipes {
        if entry.bytes > LONGEST {
            return Err(Error::image(
                format!("pipe {} of {}", entry.pipe_id, image.name()),
                format!("it holds {} bytes, more than a pipe can", entry.bytes),
            ));
        }
        let bytes = reader.read(*payload)?;
        contents.insert(entry.pipe_id, (entry.size, bytes));
    }
    Ok(contents)
}

/// Capacity and contents of pipes, by `pipe_id`.
pub(super) type Contents = BTreeMap<u32, (Option<u32>, Vec<u8>)>;

const O_ACCMODE: u32 = libc::O_ACCMODE.cast_unsigned();
const O_RDONLY: u32 = libc::O_RDONLY.cast_unsigned();
const O_WRONLY: u32 = libc::O_WRONLY.cast_unsigned();
const O_RDWR: u32 = libc::O_RDWR.cast_unsigned();
const O_ASYNC: u32 = libc::O_ASYNC.cast_unsigned();

/// Capacity and bytes, put in by the end that writes.
pub(super) fn fill(
    write: &OwnedFd,
    contents: Option<&(Option<u32>, Vec<u8>)>,
    what: &str,
) -> Result<(), Error> {
    let Some((capacity, bytes)) = contents else { return Ok(()) };
    if let Some(capacity) = capacity {
        set_pipe_capacity(write, *capacity).map_err(|source| Error::Kernel {
            operation: format!("set capacity of {what} to {capacity}"),
            source,
        })?;
    }
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let count = nix::unistd::write(write, rest)
            .map_err(|errno| Error::kernel(format!("fill {what}"), errno))?;
        rest = &rest[count..];
    }
    Ok(())
}

/// The open files of a pipe that others have kept as it was, if it is there still.
fn join(entries: &[&PipeEntry]) -> Result<Option<Vec<OwnedFd>>, Error> {
    let Some(first) = entries.first().filter(|first| first.boot.is_some()) else { return Ok(None) };
    if first.boot != kernel::boot::boot() {
        return Ok(None);
    }
    let Some(path) = held_elsewhere(&format!("pipe:[{}]", first.pipe_id)) else {
        tracing::warn!(
            pipe = first.pipe_id,
            "nobody holds a pipe any more that was shared: it is made anew"
        );
        return Ok(None);
    };
    let what = format!("pipe {} again ({path})", first.pipe_id);
    let open = |entry: &&PipeEntry| {
        let mode = (entry.flags & O_ACCMODE).cast_signed();
        let flags = OFlag::from_bits_truncate(mode) | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(&*path, flags, nix::sys::stat::Mode::empty())
            .map_err(|errno| Error::kernel(format!("open {what}"), errno))?;
        set_status_flags(&fd, entry.flags & !O_ASYNC).map_err(|source| Error::Kernel {
            operation: format!("set flags of {what}"),
            source,
        })?;
        Ok(fd)
    };
    entries.iter().map(open).collect::<Result<_, Error>>().map(Some)
}

/// A way to get at what some process has open, by the text of its link.
fn held_elsewhere(target: &str) -> Option<String> {
    for pid in kernel::procfs::processes().ok()? {
        let Ok(dir) = kernel::procfs::Dir::open(pid) else { continue };
        let fds = dir.descriptors().unwrap_or_default();
        let same = |fd: &&i32| dir.link(&format!("fd/{fd}")).is_ok_and(|link| link == target);
        if let Some(fd) = fds.iter().find(same) {
            return Some(format!("/proc/{pid}/fd/{fd}"));
        }
    }
    None
}

/// The open files of one pipe, in the order of `entries`.
fn open(entries: &[&PipeEntry], contents: &Contents) -> Result<Vec<OwnedFd>, Error> {
    let Some(first) = entries.first() else { return Ok(Vec::new()) };
    let what = format!("pipe {}", first.pipe_id);
    if let Some(joined) = join(entries)? {
        return Ok(joined);
    }
    let contents = contents.get(&first.pipe_id);
    // Not blocking, so that a pipe that cannot hold what it held is an error and no hang.
    let made = match contents.is_some_and(|(_, bytes)| !bytes.is_empty()) {
        true => OFlag::O_NONBLOCK,
        false => OFlag::empty(),
    };
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | made)
        .map_err(|errno| Error::kernel(format!("make {what}"), errno))?;
    fill(&write, contents, &what)?;
    socket_options::inode(&write, first.inode.as_ref(), &what)?;
    // Only what is opened again needs an end that stays for that.
    let ends = |mode| entries.iter().filter(|entry| entry.flags & O_ACCMODE == mode).count();
    let enough = ends(O_RDONLY) <= 1 && ends(O_WRONLY) <= 1 && ends(O_RDWR) == 0;
    let spare = (!enough).then(|| read.try_clone()).transpose();
    let spare =
        spare.map_err(|source| Error::Kernel { operation: format!("copy {what}"), source })?;
    let (mut read, mut write) = (Some(read), Some(write));
    entries
        .iter()
        .map(|entry| {
            let own = match entry.flags & O_ACCMODE {
                O_RDONLY => read.take(),
                O_WRONLY => write.take(),
                _ => None,
            };
            let flags = entry.flags & !O_ASYNC;
            let failed =
                |source| Error::Kernel { operation: format!("set flags of {what}"), source };
            match (own, &spare) {
                (Some(fd), _) => {
                    change_status_flags(&fd, made.bits().cast_unsigned(), flags).map_err(failed)?;
                    Ok(fd)
                }
                (None, Some(spare)) => {
                    let fd = reopen(spare, entry.flags)
                        .map_err(|errno| Error::kernel(format!("open {what} again"), errno))?;
                    set_status_flags(&fd, flags).map_err(failed)?;
                    Ok(fd)
                }
                (None, None) => Err(Error::image(&what, "it has no end")),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn ends_and_contents() {
        let entry = |id, flags: i32| PipeEntry {
            id,
            pipe_id: 7,
            flags: flags.cast_unsigned(),
            ..PipeEntry::default()
        };
        let entries = [
            entry(1, libc::O_WRONLY),
            entry(2, libc::O_RDONLY),
            entry(3, libc::O_RDONLY | libc::O_NONBLOCK),
        ];
        let contents = Contents::from([(7, (Some(4096), b"waiting".to_vec()))]);
        let fds = open(&entries.each_ref(), &contents).unwrap();
        assert_eq!(kernel::descriptors::pipe_capacity(&fds[0]).unwrap(), 4096);
        let mut fds = fds.into_iter();
        let (write, read, again) = (fds.next().unwrap(), fds.next().unwrap(), fds.next().unwrap());
        let mut three = [0; 3];
        std::fs::File::from(again).read_exact(&mut three).unwrap();
        assert_eq!(&three, b"wai");
        drop(write);
        let mut rest = Vec::new();
        std::fs::File::from(read).read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"ting");
    }
}

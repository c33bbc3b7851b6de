//! Pipes: made once, filled, and opened once for each open file. Fifos are filled in the same way.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use images::checkpoint::{PayloadReader, PipeContents};
use images::messages::{FileEntry, PipeDataEntry, PipeEntry, fd_type};
use images::{Checkpoint, Image, Images, PAGE_SIZE, names};
use kernel::descriptors::{change_status_flags, set_pipe_capacity, set_status_flags};
use nix::fcntl::OFlag;

use support::Refusal;

use super::beside::{Beside, Part};
use super::file_kind::{FileKind, missing};
use super::images::LONGEST;
use super::opening::{Opening, flagged};
use super::reopen::reopen;
use super::user::User;
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

    /// Nothing is written into it: what waited is in the pipe that was handed over, or has been read from it.
    fn inherit(
        &self,
        _opening: &mut Opening<'_>,
        file: &FileEntry,
        handed: &OwnedFd,
    ) -> Result<OwnedFd, Error> {
        let entry = file.pipe.as_ref().ok_or_else(|| missing(file))?;
        let what = format!("pipe {}", entry.pipe_id);
        let flags = entry.flags & !O_DIRECT | libc::O_NONBLOCK.cast_unsigned();
        let opened = reopen(handed, flags)
            .map_err(|errno| Error::kernel(format!("open {what} again"), errno))?;
        flagged(opened, entry.flags, &what)
    }

    fn beyond(&self, _file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        None
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
        let within = |length: &u32| (1..=PAGE_SIZE).contains(&u64::from(*length));
        let packets: u64 = entry.packets.iter().map(|length| u64::from(*length)).sum();
        if packets > u64::from(entry.bytes) || !entry.packets.iter().all(within) {
            return Err(Error::image(
                format!("pipe {} of {}", entry.pipe_id, image.name()),
                "its packets are not those of its bytes",
            ));
        }
        let bytes = reader.read(*payload)?;
        let waiting = Waiting { capacity: entry.size, packets: entry.packets.clone(), bytes };
        contents.insert(entry.pipe_id, waiting);
    }
    Ok(contents)
}

/// What pipes hold, by `pipe_id`.
pub(super) type Contents = BTreeMap<u32, Waiting>;

/// What a pipe holds.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    capacity: Option<u32>,
    /// Lengths of the packets that the bytes begin with.
    packets: Vec<u32>,
    bytes: Vec<u8>,
}

const O_ACCMODE: u32 = libc::O_ACCMODE.cast_unsigned();
const O_RDONLY: u32 = libc::O_RDONLY.cast_unsigned();
const O_WRONLY: u32 = libc::O_WRONLY.cast_unsigned();
const O_RDWR: u32 = libc::O_RDWR.cast_unsigned();
const O_ASYNC: u32 = libc::O_ASYNC.cast_unsigned();
/// Of a pipe: each write is a packet.
pub(super) const O_DIRECT: u32 = libc::O_DIRECT.cast_unsigned();

/// Capacity and bytes, put in by the end that writes; it has the status flags `now`.
pub(super) fn fill(
    write: &OwnedFd,
    now: OFlag,
    contents: Option<&Waiting>,
    what: &str,
) -> Result<(), Error> {
    let Some(Waiting { capacity, packets, bytes }) = contents else { return Ok(()) };
    if let Some(capacity) = capacity {
        set_pipe_capacity(write, *capacity).map_err(|source| Error::Kernel {
            operation: format!("set capacity of {what} to {capacity}"),
            source,
        })?;
    }
    let set = |flags: OFlag| {
        set_status_flags(write, flags.bits().cast_unsigned())
            .map_err(|source| Error::Kernel { operation: format!("set flags of {what}"), source })
    };
    let put = |bytes| {
        nix::unistd::write(write, bytes)
            .map_err(|errno| Error::kernel(format!("fill {what}"), errno))
    };
    let mut rest = &bytes[..];
    if !packets.is_empty() {
        set(now | OFlag::O_DIRECT)?;
        for length in packets {
            let (packet, behind) = rest.split_at_checked(*length as usize).unwrap_or((rest, &[]));
            put(packet)?;
            rest = behind;
        }
        set(now)?;
    }
    while !rest.is_empty() {
        rest = &rest[put(rest)?..];
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
            "a pipe that was shared is made anew: nobody holds it any more, or who does may not be looked into; hand one over \
             (--inherit-fd fd[N]:pipe:[NUMBER])"
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
    let made = match contents.is_some_and(|waiting| !waiting.bytes.is_empty()) {
        true => OFlag::O_NONBLOCK,
        false => OFlag::empty(),
    };
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | made)
        .map_err(|errno| Error::kernel(format!("make {what}"), errno))?;
    fill(&write, made, contents, &what)?;
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
                    // Packets are asked for afterwards: the kernel takes the flag for one of files here.
                    let fd = reopen(spare, entry.flags & !O_DIRECT)
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
        let bytes = b"waiting".to_vec();
        let waiting = Waiting { capacity: Some(4096), packets: Vec::new(), bytes };
        let contents = Contents::from([(7, waiting)]);
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

    #[test]
    fn packets_stay_apart() {
        let flags = (libc::O_WRONLY | libc::O_DIRECT).cast_unsigned();
        let write = PipeEntry { id: 1, pipe_id: 7, flags, ..PipeEntry::default() };
        let flags = (libc::O_RDONLY | libc::O_NONBLOCK).cast_unsigned();
        let read = PipeEntry { id: 2, flags, ..write };
        let again = PipeEntry { id: 3, ..write };
        let bytes = b"onetwo and more".to_vec();
        let waiting = Waiting { capacity: None, packets: vec![3, 3], bytes };
        let contents = Contents::from([(7, waiting)]);
        let mut ends = open(&[&write, &read, &again], &contents).unwrap().into_iter();
        let (write, read, again) = (ends.next().unwrap(), ends.next().unwrap(), ends.next());
        for end in [&write, &again.unwrap()] {
            let flags = nix::fcntl::fcntl(end, nix::fcntl::FcntlArg::F_GETFL).unwrap();
            assert_eq!(flags & libc::O_DIRECT, libc::O_DIRECT);
            nix::unistd::write(end, b"new").unwrap();
        }
        let mut found = Vec::new();
        let mut buffer = [0; 100];
        while let Ok(length) = nix::unistd::read(&read, &mut buffer) {
            found.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        // A buffer of bytes takes more of them, whoever writes.
        assert_eq!(found, ["one", "two", " and morenewnew"]);
    }
}

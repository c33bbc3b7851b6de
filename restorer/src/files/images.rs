//! What the images say of files, in memory.
//!
//! Loading reads images and does nothing else; what cannot be restored is refused here, before
//! anything is made.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use images::messages::{
    FdinfoEntry, FileEntry, FownEntry, PipeDataEntry, REMAP_GHOST, RemapFilePathEntry,
    TtyInfoEntry, fd_type,
};
use images::{Image, ImageDir, names};

use super::Error;
use super::ghosts::GhostImage;
use super::pipes::Contents;

/// Most bytes that a pipe or a message may hold: a pipe's largest size by default.
const LONGEST: u32 = 64 << 20;

/// All that the images say of files.
#[derive(Debug, Default)]
pub struct FileImages {
    /// Entries of `files.img` by id.
    pub files: BTreeMap<u32, Box<FileEntry>>,
    /// Entries of `fdinfo-ID.img` by the id of the descriptor table.
    pub tables: BTreeMap<u32, Vec<FdinfoEntry>>,
    /// What is in pipes, by `pipe_id`: capacity and bytes.
    pub(super) pipes: Contents,
    /// The same of fifos.
    pub(super) fifos: Contents,
    /// What is queued in sockets, by the socket's file id, oldest first.
    pub(super) queues: BTreeMap<u32, Vec<Vec<u8>>>,
    /// The ghost that each file with a lost name is.
    pub(super) remaps: BTreeMap<u32, u32>,
    pub(super) ghosts: BTreeMap<u32, GhostImage>,
    pub(super) terminals: BTreeMap<u32, TtyInfoEntry>,
}

impl FileImages {
    /// Reads what a tree needs beside the open files and descriptor tables, `found`, which a
    /// checkpoint has.
    ///
    /// # Errors
    ///
    /// When an image is missing or wrong in itself, or holds what this restore does not do.
    pub fn load(dir: &ImageDir, found: ::images::checkpoint::Files) -> Result<Self, Error> {
        let mut images = Self { files: found.entries, tables: found.tables, ..Self::default() };
        if !dir.read_all(&names::file_locks())?.is_empty() {
            return Err(Error::refused(
                names::file_locks().name(),
                "file locks are not supported yet",
                "release them before the dump",
            ));
        }
        images.pipes = pipes(dir, &names::pipes_data())?;
        images.fifos = pipes(dir, &names::fifo_data())?;
        images.queues = queues(dir)?;
        for remap in found.remaps.values() {
            images.remap(dir, remap)?;
        }
        for info in dir.read_all(&names::tty_info())? {
            images.terminals.insert(info.id, info);
        }
        images.check()?;
        Ok(images)
    }

    fn remap(&mut self, dir: &ImageDir, remap: &RemapFilePathEntry) -> Result<(), Error> {
        if remap.remap_type != Some(REMAP_GHOST) {
            return Err(Error::refused(
                format!("file {}", remap.orig_id),
                "its name was gone, and the images refer to another one (link remap)",
                "give the file its name back before the dump",
            ));
        }
        let id = remap.remap_id;
        self.remaps.insert(remap.orig_id, id);
        if let Entry::Vacant(entry) = self.ghosts.entry(id) {
            entry.insert(GhostImage::read(dir, id)?);
        }
        Ok(())
    }

    /// The ids that descriptors refer to.
    pub(super) fn wanted(&self) -> BTreeSet<u32> {
        self.tables.values().flatten().map(|entry| entry.id).collect()
    }

    /// Every descriptor's file is there and of the kind that the descriptor says.
    fn check(&self) -> Result<(), Error> {
        for (table, entries) in &self.tables {
            for entry in entries {
                let object =
                    || format!("descriptor {} of {}", entry.fd, names::fdinfo(*table).name());
                if i32::try_from(entry.fd).is_err() {
                    return Err(Error::image(object(), "there is no such descriptor"));
                }
                match self.files.get(&entry.id) {
                    Some(file) if file.r#type == entry.r#type => supported(file)?,
                    Some(_) => return Err(Error::image(object(), "its file is of another kind")),
                    None => {
                        let reason = format!("its file {} is not in the images", entry.id);
                        return Err(Error::image(object(), reason));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Refuses kinds of file that are not restored.
fn supported(file: &FileEntry) -> Result<(), Error> {
    let what = match file.r#type {
        fd_type::REG
        | fd_type::PIPE
        | fd_type::FIFO
        | fd_type::INETSK
        | fd_type::UNIXSK
        | fd_type::EVENTFD
        | fd_type::EVENTPOLL
        | fd_type::SIGNALFD
        | fd_type::TIMERFD
        | fd_type::TTY => return Ok(()),
        fd_type::INOTIFY => "inotify instances are",
        fd_type::FANOTIFY => "fanotify groups are",
        fd_type::PACKETSK => "packet sockets are",
        fd_type::NETLINKSK => "netlink sockets are",
        fd_type::NS => "open namespaces are",
        fd_type::TUNF => "tun devices are",
        fd_type::EXT => "files that a plugin restores are",
        fd_type::MEMFD => "open memfds are",
        fd_type::BPFMAP => "BPF maps are",
        fd_type::PIDFD => "pidfds are",
        _ => "files of this kind are",
    };
    Err(Error::refused(
        format!("file {}", file.id),
        format!("{what} not supported yet"),
        "close it before the dump",
    ))
}

fn pipes(dir: &ImageDir, image: &Image<PipeDataEntry>) -> Result<Contents, Error> {
    let mut contents = BTreeMap::new();
    let Some(mut reader) = dir.reader(image)? else { return Ok(contents) };
    while let Some(entry) = reader.next_entry()? {
        if entry.bytes > LONGEST {
            return Err(Error::image(
                format!("pipe {} of {}", entry.pipe_id, image.name()),
                format!("it holds {} bytes, more than a pipe can", entry.bytes),
            ));
        }
        let bytes = reader.bytes(entry.bytes.into())?;
        contents.insert(entry.pipe_id, (entry.size, bytes));
    }
    Ok(contents)
}

fn queues(dir: &ImageDir) -> Result<BTreeMap<u32, Vec<Vec<u8>>>, Error> {
    let mut queues: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
    let image = names::sk_queues();
    let Some(mut reader) = dir.reader(&image)? else { return Ok(queues) };
    while let Some(entry) = reader.next_entry()? {
        let object = || format!("a message for socket {} of {}", entry.id_for, image.name());
        if entry.length > LONGEST {
            return Err(Error::image(object(), "it is longer than a message can be"));
        }
        if !entry.scm.is_empty() {
            return Err(Error::refused(
                object(),
                "descriptors travel with it (SCM_RIGHTS), which is not supported yet",
                "dump again when they have been received",
            ));
        }
        let bytes = reader.bytes(entry.length.into())?;
        queues.entry(entry.id_for).or_default().push(bytes);
    }
    Ok(queues)
}

/// The file's owner, and its flags as the images have them.
pub(super) fn owner_and_flags(file: &FileEntry) -> Option<(&FownEntry, u32)> {
    None.or_else(|| file.reg.as_ref().map(|it| (&it.fown, it.flags)))
        .or_else(|| file.pipe.as_ref().map(|it| (&it.fown, it.flags)))
        .or_else(|| file.isk.as_ref().map(|it| (&it.fown, it.flags)))
        .or_else(|| file.usk.as_ref().map(|it| (&it.fown, it.flags)))
        .or_else(|| file.efd.as_ref().map(|it| (&it.fown, it.flags)))
        .or_else(|| file.epfd.as_ref().map(|it| (&it.fown, it.flags)))
        .or_else(|| file.sgfd.as_ref().map(|it| (&it.fown, it.flags)))
        .or_else(|| file.tfd.as_ref().map(|it| (&it.fown, it.flags)))
        .or_else(|| file.tty.as_ref().map(|it| (&it.fown, it.flags)))
}

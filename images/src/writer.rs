//! Writing a checkpoint that is complete or absent.
//!
//! Images are written to where nobody looks for them, and appear only by [`ImageWriter::commit`]. How that is done
//! is the store's to know ([`crate::store`]).

mod folder;
mod signing;
mod sink;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;

use crate::error::Error;
use crate::messages::{DIGEST_WHOLE, ManifestEntry, PIECE_BYTES};
use crate::names::{self, Image};
use crate::pieces::{self, Written};
use crate::store::{
    Committed, ImageOutput, NewCheckpoint, Opened, PageSink, Safe, Staging, WriteOptions,
};
use crate::{encryption, manifest};

pub use folder::Folder;
pub use sink::{ImageSink, encode};
pub(crate) use sink::{framed, head};
pub use whole::{make_safe, sign};

/// A checkpoint being written. Several threads may write different images at once.
#[derive(Debug)]
pub struct ImageWriter {
    new: Box<dyn NewCheckpoint>,
    names: Mutex<BTreeSet<String>>,
    next_pages: AtomicU32,
    /// The same for pages that were copied while the processes ran.
    next_early_pages: AtomicU32,
    unfinished: AtomicU32,
    /// Of what need not be read for it: images that were digested while they were written, and the parent.
    entries: Mutex<BTreeMap<String, ManifestEntry>>,
    /// Of pages files: what is known of their pieces since they were written.
    written: Mutex<BTreeMap<String, Arc<Written>>>,
}

impl ImageWriter {
    /// Begins a checkpoint that will be in `directory`, whose parent must exist.
    pub fn create(directory: &Path, options: WriteOptions) -> Result<Self, Error> {
        Ok(Self::of(Box::new(Staging::create(directory, options)?)))
    }

    /// Begins a checkpoint in a store.
    #[must_use]
    pub fn of(new: Box<dyn NewCheckpoint>) -> Self {
        Self {
            new,
            names: Mutex::default(),
            next_pages: AtomicU32::new(1),
            next_early_pages: AtomicU32::new(1),
            unfinished: AtomicU32::new(0),
            entries: Mutex::default(),
            written: Mutex::default(),
        }
    }

    /// The checkpoint itself, as a place for page maps and pages.
    pub fn here(&self) -> Folder<'_> {
        Folder::new(self, None)
    }

    /// The directories inside it for pages that are copied while the processes still run, so many of
    /// [`names::PRE_COPIES`]. [`ImageWriter::link_parent`] has to lead to the last, and [`Folder::link_parent`]
    /// from each to the one before.
    pub fn pre_copies(&self, count: usize) -> Result<Vec<Folder<'_>>, Error> {
        let names = names::PRE_COPIES.iter().take(count);
        let folder = |name: &&'static str| {
            self.new.create_directory(name)?;
            Ok(Folder::new(self, Some(name)))
        };
        names.map(folder).collect()
    }

    /// Writes an image of one message.
    pub fn write_one<M: Message>(&self, image: &Image<M>, entry: &M) -> Result<(), Error> {
        self.here().write_one(image, entry)
    }

    /// Writes an image of many messages; with none there is no file.
    pub fn write_all<'e, M: Message + 'e>(
        &self,
        image: &Image<M>,
        entries: impl IntoIterator<Item = &'e M>,
    ) -> Result<(), Error> {
        let mut entries = entries.into_iter().peekable();
        if entries.peek().is_none() {
            return Ok(());
        }
        let mut sink = self.image(image)?;
        for entry in entries {
            sink.put(entry)?;
        }
        sink.finish()
    }

    /// Begins an image, to be written message by message. It must be [finished](ImageSink::finish).
    pub fn image<M: Message>(&self, image: &Image<M>) -> Result<ImageSink<'_, M>, Error> {
        self.here().image(image)
    }

    /// Begins a pages file under the next free number (they count from 1). Several threads may write to it; when the
    /// writer commits, its length must be what the page map says.
    pub fn pages(&self) -> Result<(u32, Arc<dyn PageSink>), Error> {
        self.here().pages()
    }

    /// Begins a file that has no messages.
    pub fn raw(&self, name: &str) -> Result<Box<dyn ImageOutput>, Error> {
        self.claim(name)?;
        self.new.create(name)
    }

    /// Links the checkpoint that holds the pages marked as being in the parent. A relative path counts from the
    /// finished directory.
    pub fn link_parent(&self, parent: &Path) -> Result<(), Error> {
        self.here().link_parent(parent)
    }

    /// Where the finished checkpoint will be, by its real path.
    pub fn target(&self) -> &Path {
        self.new.target()
    }

    /// Whether all that is written is encrypted.
    pub fn encrypts(&self) -> bool {
        self.new.encrypts()
    }

    /// Whether pages that are copied early stay apart from the others, in directories of their own.
    pub fn keeps_early_apart(&self) -> bool {
        self.new.keeps_early_apart()
    }

    fn claim(&self, name: &str) -> Result<(), Error> {
        let new = self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        match new {
            true => Ok(()),
            false => Err(Error::Misuse { name: name.into(), what: "it was written already" }),
        }
    }

    /// Makes the checkpoint appear, which is safe then.
    pub fn commit(self) -> Result<Committed, Error> {
        self.commit_as(Safe::AtOnce)
    }

    /// Makes the checkpoint appear.
    pub fn commit_as(self, safe: Safe) -> Result<Committed, Error> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let inventory = names::inventory().name().to_owned();
        if !names.contains(&inventory) {
            return Err(Error::Misuse { name: inventory, what: "it was not written" });
        }
        if self.unfinished.load(Ordering::Acquire) > 0 {
            let name = self.new.target().display().to_string();
            return Err(Error::Misuse { name, what: "an image in it was not finished" });
        }
        let kept = self.new.kept(&names)?;
        self.rename_entries(&kept);
        names = kept.into_values().collect();
        // The parent of each is the one before.
        let mut parent = None;
        for folder in names::PRE_COPIES.map(Some).into_iter().chain([None]) {
            if self.new.encrypts() {
                parent = self.bind(folder, &names, parent)?;
            }
            names.extend(self.write_manifest(folder, &names, safe)?);
        }
        self.new.commit(&names, safe)
    }

    /// Writes what a folder consists of, if there is anything in it; how that is called.
    fn write_manifest(
        &self,
        folder: Option<&'static str>,
        names: &BTreeSet<String>,
        safe: Safe,
    ) -> Result<Vec<String>, Error> {
        let mut entries = Vec::new();
        for path in names {
            let (inside, name) = match path.rsplit_once('/') {
                Some((inside, name)) => (Some(inside), name),
                None => (None, path.as_str()),
            };
            let is_known = name != names::PARENT_LINK || self.has_entry(path);
            if inside == folder && is_known && !names::is_service(name) {
                entries.push(self.entry(path, name, safe)?);
            }
        }
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let (manifest, folder) = (names::manifest(), Folder::new(self, folder));
        let mut sink = folder.image(&manifest)?;
        entries.iter().try_for_each(|entry| sink.put(entry))?;
        sink.finish()?;
        let mut written = vec![folder.path(manifest.name())];
        if self.new.encrypts() {
            let seal = names::seal();
            folder.write_one(&seal, &encryption::seal(&entries))?;
            written.push(folder.path(seal.name()));
        }
        Ok(written)
    }

    /// Has the manifest of a folder say which its parent is, where that is in the same checkpoint: else a seal would not cover it. What it is
    /// known by as a parent.
    fn bind(
        &self,
        folder: Option<&'static str>,
        names: &BTreeSet<String>,
        parent: Option<ManifestEntry>,
    ) -> Result<Option<ManifestEntry>, Error> {
        let folder = Folder::new(self, folder);
        let link = folder.path(names::PARENT_LINK);
        if names.contains(&link)
            && !self.has_entry(&link)
            && let Some(parent) = &parent
        {
            self.note(&link, parent.clone());
        }
        let inventory = folder.path(names::inventory().name());
        // There are fewer folders than there may be.
        if !names.contains(&inventory) {
            return Ok(parent);
        }
        manifest::parent_entry(self.new.read(&inventory)?).map(Some)
    }

    /// What is known of files goes by what these are called from now on.
    fn rename_entries(&self, kept: &BTreeMap<String, String>) {
        fn renamed<T>(all: &Mutex<BTreeMap<String, T>>, kept: &BTreeMap<String, String>) {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            let before = std::mem::take(&mut *all).into_iter();
            *all = before.filter_map(|(name, it)| Some((kept.get(&name)?.clone(), it))).collect();
        }
        renamed(&self.entries, kept);
        renamed(&self.written, kept);
    }

    fn has_entry(&self, path: &str) -> bool {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).contains_key(path)
    }

    /// The entry of a file that has been written; what was not digested then is read: of a long one all that is not known, or, if something
    /// waits that is to run on, samples.
    fn entry(&self, path: &str, name: &str, safe: Safe) -> Result<ManifestEntry, Error> {
        let noted = self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        // What is encrypted has other bytes than those that were digested.
        if let Some(entry) = noted.filter(|_| !self.new.encrypts() || name == names::PARENT_LINK) {
            return Ok(ManifestEntry { name: name.to_owned(), ..entry });
        }
        let Opened { content, size } = self.new.read(path)?;
        let digest = manifest::digest(content, size).map_err(Error::io("read", path))?;
        let open = || self.new.read(path).map(|opened| opened.content).map_err(io::Error::other);
        let known = self.known_pieces(path, size);
        let pieces = match safe {
            _ if size <= DIGEST_WHOLE => None,
            Safe::Later if known.len() as u64 != size.div_ceil(PIECE_BYTES) => None,
            _ => Some(pieces::the_rest(open, size, &known).map_err(Error::io("read", path))?),
        };
        Ok(ManifestEntry { pieces, ..manifest::entry(name, size, digest) })
    }

    fn known_pieces(&self, path: &str, size: u64) -> pieces::Known {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.get(path).map(|written| written.known(size)).unwrap_or_default()
    }

    /// Takes note of what the manifest has to say of a file.
    fn note(&self, path: &str, entry: ManifestEntry) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), entry);
    }
}

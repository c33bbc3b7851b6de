//! A checkpoint's directory, or the one inside it for pages that were copied early: what both hold
//! in the same form.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use prost::Message;

use super::{ImageSink, ImageWriter};
use crate::error::Error;
use crate::messages::ManifestEntry;
use crate::names::{self, Image};
use crate::store::PageSink;

/// A directory of a checkpoint that is being written.
#[derive(Clone, Copy, Debug)]
pub struct Folder<'w> {
    writer: &'w ImageWriter,
    /// The directory inside; `None` for the checkpoint itself.
    inside: Option<&'static str>,
}

impl<'w> Folder<'w> {
    pub(super) fn new(writer: &'w ImageWriter, inside: Option<&'static str>) -> Self {
        Self { writer, inside }
    }

    pub(super) fn path(&self, name: &str) -> String {
        match self.inside {
            None => name.to_owned(),
            Some(directory) => format!("{directory}/{name}"),
        }
    }

    /// Begins an image, to be written message by message. It must be [finished](ImageSink::finish).
    pub fn image<M: Message>(&self, image: &Image<M>) -> Result<ImageSink<'w, M>, Error> {
        let path = self.path(image.name());
        let output = self.writer.raw(&path)?;
        ImageSink::begin(self.writer, image, path, output)
    }

    /// Writes an image of one message.
    pub fn write_one<M: Message>(&self, image: &Image<M>, entry: &M) -> Result<(), Error> {
        let mut sink = self.image(image)?;
        sink.put(entry)?;
        sink.finish()
    }

    /// Begins a pages file under the next free number of this directory.
    pub fn pages(&self) -> Result<(u32, Arc<dyn PageSink>), Error> {
        let next = match self.inside {
            None => &self.writer.next_pages,
            Some(_) => &self.writer.next_early_pages,
        };
        let id = next.fetch_add(1, Ordering::Relaxed);
        let name = self.path(&names::pages(id));
        self.writer.claim(&name)?;
        let sink = self.writer.new.create_pages(&name)?;
        if let Some(written) = sink.written() {
            self.writer
                .written
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(name, written);
        }
        Ok((id, sink))
    }

    /// Links another checkpoint as the parent of this directory, which is what `entry` says of it
    /// ([`Images::as_parent`](crate::Images::as_parent)): a reader knows then whether it still is that. Else as
    /// [`Folder::link_parent`].
    pub fn link_checkpoint(&self, parent: &Path, entry: ManifestEntry) -> Result<(), Error> {
        self.link_parent(parent)?;
        self.writer.note(&self.path(names::PARENT_LINK), entry);
        Ok(())
    }

    /// Links the parent of this directory, which is in the same checkpoint. A relative path counts from the directory, once it
    /// is finished.
    pub fn link_parent(&self, parent: &Path) -> Result<(), Error> {
        let name = self.path(names::PARENT_LINK);
        self.writer.claim(&name)?;
        self.writer.new.link(&name, parent)
    }
}

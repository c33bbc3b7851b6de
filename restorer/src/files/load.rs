//! Reads what the images say of files. What cannot be restored is refused here, before anything is made.

use std::collections::BTreeSet;

use ids::ImagePid;
use images::Checkpoint;
use images::checkpoint::Files;
use images::messages::{
    FileEntry, REMAP_GHOST, REMAP_LINKED, REMAP_PROCFS, RemapFilePathEntry, fd_type,
};

use super::file_kind::FileKind;
use super::ghosts::GhostImage;
use super::images::{FileImages, FileMemory, Remap};
use super::user::User;
use super::{Error, links, table};

impl FileImages {
    /// Takes the files out of a checkpoint, and of what kinds of file have in images of their own the bytes.
    ///
    /// # Errors
    ///
    /// When something is wrong in itself, or what this restore does not do.
    pub(crate) fn load(
        checkpoint: &mut Checkpoint,
        pids: BTreeSet<ImagePid>,
        memory: FileMemory,
    ) -> Result<Self, Error> {
        let Files { entries, tables, remaps, ghosts } = std::mem::take(&mut checkpoint.files);
        let mut images = Self { files: entries, tables, pids, ..Self::default() };
        *images.beside.of::<FileMemory>() = memory;
        for kind in table::all() {
            kind.load(checkpoint, &mut images.beside)?;
        }
        for (to, sent) in table::all().flat_map(|kind| kind.sent(&images.beside)) {
            images.sent.entry(to).or_default().insert(sent);
        }
        for remap in remaps.values() {
            images.remap(remap)?;
        }
        for (id, ghost) in ghosts {
            images.ghosts.insert(id, GhostImage::read(&checkpoint.images, id, ghost)?);
        }
        Ok(images)
    }

    fn remap(&mut self, remap: &RemapFilePathEntry) -> Result<(), Error> {
        let object = || format!("file {}", remap.orig_id);
        let found = match remap.remap_type() {
            REMAP_GHOST => Remap::Ghost(remap.remap_id),
            REMAP_LINKED => {
                let link = self.files.get(&remap.remap_id).and_then(|file| file.reg.as_ref());
                let link = link.filter(|_| remap.remap_id != remap.orig_id);
                if !link.is_some_and(|link| links::is_name(&link.name)) {
                    let what = "what stands in for its lost name is no link_remap.N";
                    return Err(Error::image(object(), what));
                }
                Remap::Link(remap.remap_id)
            }
            REMAP_PROCFS => {
                let pid = ImagePid::try_from(remap.remap_id)
                    .map_err(|error| Error::image(object(), error.to_string()))?;
                self.dead.insert(pid);
                return Ok(());
            }
            other => return Err(Error::image(object(), format!("a remap of kind {other}"))),
        };
        self.remaps.insert(remap.orig_id, found);
        Ok(())
    }

    /// The files that descriptors refer to, and those on their way, are of kinds that are restored.
    ///
    /// # Errors
    ///
    /// The first that is not, or where something is missing.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for entry in self.tables.values().flatten() {
            if let Some(file) = self.files.get(&entry.id) {
                supported(file)?.check(file, self)?;
            }
        }
        for id in self.sent.values().flatten() {
            if let Some(file) = self.files.get(id) {
                supported(file)?.check(file, self)?;
            }
        }
        Ok(())
    }

    /// No file is beyond a user.
    ///
    /// # Errors
    ///
    /// The first that is.
    pub(crate) fn check_user(&self, user: &User<'_>) -> Result<(), Error> {
        for file in self.files.values() {
            let kind = table::of_type(file.r#type);
            if let Some((refusal, object)) = kind.and_then(|kind| kind.beyond(file, user)) {
                return Err(Error::refused(file.id, refusal, object));
            }
        }
        Ok(())
    }
}

/// The kind of a file; what is not restored is refused.
fn supported(file: &FileEntry) -> Result<&'static dyn FileKind, Error> {
    table::of_type(file.r#type).ok_or_else(|| {
        let refusal = support::images::unknown_file(fd_type::name(file.r#type));
        Error::refused(file.id, refusal, format!("file {}", file.id))
    })
}

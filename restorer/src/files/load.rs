//! Reads what the images say of files. What cannot be restored is refused here, before anything is made.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use ids::ImagePid;
use images::messages::{FileEntry, REMAP_GHOST, RemapFilePathEntry, fd_type};
use images::{ImageDir, names};

use super::file_kind::FileKind;
use super::ghosts::GhostImage;
use super::images::{FileImages, FileMemory};
use super::{Error, table};

impl FileImages {
    /// Reads what a tree of these processes needs beside the open files and descriptor tables, `found`,
    /// which a checkpoint has.
    ///
    /// # Errors
    ///
    /// When an image is missing or wrong in itself, or holds what this restore does not do.
    pub(crate) fn load(
        dir: &ImageDir,
        found: ::images::checkpoint::Files,
        pids: BTreeSet<ImagePid>,
        memory: FileMemory,
    ) -> Result<Self, Error> {
        let (files, tables) = (found.entries, found.tables);
        let mut images = Self { files, tables, pids, ..Self::default() };
        if !dir.read_all(&names::file_locks())?.is_empty() {
            return Err(Error::refused(
                support::images::FILE_LOCKS.of(0, names::file_locks().name()),
            ));
        }
        *images.beside.of::<FileMemory>() = memory;
        for kind in table::all() {
            kind.load(dir, &mut images.beside)?;
        }
        for remap in found.remaps.values() {
            images.remap(dir, remap)?;
        }
        images.check()?;
        Ok(images)
    }

    fn remap(&mut self, dir: &ImageDir, remap: &RemapFilePathEntry) -> Result<(), Error> {
        if remap.remap_type != Some(REMAP_GHOST) {
            return Err(Error::refused(
                support::images::LINK_REMAP.of(0, format!("file {}", remap.orig_id)),
            ));
        }
        let id = remap.remap_id;
        self.remaps.insert(remap.orig_id, id);
        if let Entry::Vacant(entry) = self.ghosts.entry(id) {
            entry.insert(GhostImage::read(dir, id)?);
        }
        Ok(())
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
                    Some(file) if file.r#type == entry.r#type => {
                        supported(file)?.check(file, self)?;
                    }
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

/// The kind of a file; what is not restored is refused.
fn supported(file: &FileEntry) -> Result<&'static dyn FileKind, Error> {
    table::of_type(file.r#type).ok_or_else(|| {
        Error::refused(
            support::images::unknown_file(fd_type::name(file.r#type))
                .of(0, format!("file {}", file.id)),
        )
    })
}

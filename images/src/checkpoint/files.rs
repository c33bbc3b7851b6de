//! Open files, descriptor tables and lost names, checked against each other.

use std::collections::{BTreeMap, BTreeSet};

use super::Process;
use super::contents::{self, Ghost};
use super::unique::unique;
use crate::error::Error;
use crate::images::Images;
use crate::messages::{
    FdinfoEntry, FileBody, FileEntry, REMAP_GHOST, REMAP_LINKED, REMAP_PROCFS, RemapFilePathEntry,
    fd_type,
};
use crate::names;

/// Highest descriptor there can be: the kernel's limit on open files is below it.
const FD_MAX: u32 = 1 << 30;

/// Open files and descriptor tables.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Open file descriptions, and everything else that has a file id, by id. The member that `type` names is there.
    /// An entry has room for every kind of file, which makes it too large to be moved about: hence the boxes.
    pub entries: BTreeMap<u32, Box<FileEntry>>,
    /// Descriptor tables by the id that [`TaskKobjIdsEntry::files_id`](crate::messages::TaskKobjIdsEntry) gives.
    pub tables: BTreeMap<u32, Vec<FdinfoEntry>>,
    /// Files whose names are gone, by file id. `remap_type` is there.
    pub remaps: BTreeMap<u32, RemapFilePathEntry>,
    /// Contents of files without a name, by the number that remaps give.
    pub ghosts: BTreeMap<u32, Ghost>,
}

impl Files {
    pub(super) fn load(images: &Images, processes: &[Process]) -> Result<Self, Error> {
        let mut files = Self { entries: entries(images)?, ..Default::default() };

        let ids: BTreeSet<u32> = processes
            .iter()
            .filter_map(|process| Some(process.body.as_ref()?.ids.files_id))
            .collect();
        for id in ids {
            files.tables.insert(id, table(images, id)?);
        }

        let image = names::remap_fpath();
        let remaps =
            images.read_all(&image)?.into_iter().map(|remap| (remap.orig_id, typed(remap)));
        files.remaps = unique(image.name(), "remap of file", remaps)?;
        for remap in files.remaps.values() {
            let id = remap.remap_id;
            if remap.remap_type == Some(REMAP_GHOST) && !files.ghosts.contains_key(&id) {
                files.ghosts.insert(id, contents::ghost(images, id)?);
            }
        }
        Ok(files)
    }

    /// The file with number `id`, which `object` of the image `image` refers to.
    pub(super) fn require(&self, id: u32, image: &str, object: &str) -> Result<&FileEntry, Error> {
        self.entries.get(&id).map(Box::as_ref).ok_or_else(|| {
            let files = names::files();
            Error::invalid(
                image,
                format!("{object} is file {id}, which is not in {}", files.name()),
            )
        })
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        for file in self.entries.values() {
            self.check_file(file)?;
        }
        for (id, table) in &self.tables {
            let image = names::fdinfo(*id);
            for info in table {
                let right = |file: &FileEntry| file.r#type == info.r#type;
                if self.entries.get(&info.id).is_some_and(|file| right(file)) {
                    continue;
                }
                let object = format!("descriptor {}", info.fd);
                self.require(info.id, image.name(), &object)?;
                let what = format!("{object} is of another kind than file {}", info.id);
                return Err(Error::invalid(image.name(), what));
            }
        }
        for remap in self.remaps.values() {
            self.check_remap(remap)?;
        }
        Ok(())
    }

    fn check_file(&self, file: &FileEntry) -> Result<(), Error> {
        let image = names::files();
        let invalid =
            |what: &str| Err(Error::invalid(image.name(), format!("file {}: {what}", file.id)));
        let Some(body) = file.body().filter(|body| body.id() == file.id) else {
            return invalid("what its kind needs is missing, or has another id");
        };
        if let Some(path) = body.path() {
            self.require(path, image.name(), "the path of a file")?;
        }
        Ok(())
    }

    fn check_remap(&self, remap: &RemapFilePathEntry) -> Result<(), Error> {
        let image = names::remap_fpath();
        self.require(remap.orig_id, image.name(), "what has lost its name")?;
        match remap.remap_type() {
            REMAP_LINKED => {
                self.require(remap.remap_id, image.name(), "what stands in for it").map(|_| ())
            }
            REMAP_GHOST | REMAP_PROCFS => Ok(()),
            other => {
                let what = format!("remap of file {}: kind {other} is not known", remap.orig_id);
                Err(Error::invalid(image.name(), what))
            }
        }
    }
}

fn entries(images: &Images) -> Result<BTreeMap<u32, Box<FileEntry>>, Error> {
    let image = names::files();
    let mut entries = Vec::new();
    if let Some(mut reader) = images.reader(&image)? {
        while let Some(file) = reader.next_entry()? {
            entries.push((file.id, Box::new(file)));
        }
    }
    join_paths(&mut entries);
    unique(image.name(), "file", entries)
}

/// Gives files the paths that they were opened by, where these have entries of their own with the same ids.
fn join_paths(entries: &mut Vec<(u32, Box<FileEntry>)>) {
    let is_without = |file: &FileEntry| file.body().is_some_and(FileBody::has_path_apart);
    let without: BTreeSet<u32> =
        entries.iter().filter(|(_, file)| is_without(file)).map(|(id, _)| *id).collect();
    if without.is_empty() {
        return;
    }
    let is_path = |file: &FileEntry| file.r#type == fd_type::REG;
    let mut paths = BTreeMap::new();
    entries.retain_mut(|(id, file)| {
        // Of two entries of one kind the second is told of as one too many.
        let joins = is_path(file) && without.contains(id) && !paths.contains_key(id);
        if joins {
            paths.insert(*id, file.reg.take());
        }
        !joins
    });
    for (id, file) in entries.iter_mut().filter(|(_, file)| is_without(file)) {
        file.reg = paths.remove(id).flatten();
    }
}

/// A remap that says of which kind it is: in old images, the top bit of the number does.
fn typed(mut remap: RemapFilePathEntry) -> RemapFilePathEntry {
    if remap.remap_type.is_none() {
        let ghost = remap.remap_id >> 31 == 1;
        remap.remap_type = Some(if ghost { REMAP_GHOST } else { REMAP_LINKED });
        remap.remap_id &= !(1 << 31);
    }
    remap
}

fn table(images: &Images, id: u32) -> Result<Vec<FdinfoEntry>, Error> {
    let image = names::fdinfo(id);
    let mut entries = images.read_all(&image)?;
    entries.sort_by_key(|info| info.fd);
    if let Some(info) = entries.iter().find(|info| info.fd > FD_MAX) {
        return Err(Error::invalid(image.name(), format!("descriptor {} cannot be", info.fd)));
    }
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].fd == pair[1].fd) {
        return Err(Error::invalid(
            image.name(),
            format!("descriptor {} is there twice", pair[0].fd),
        ));
    }
    Ok(entries)
}

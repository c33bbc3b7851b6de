//! Files that the caller hands over: each has the name that CRIU has for it, and takes the place of the open file of
//! the tree that is called so. Nothing is made or compared of that one.
//!
//! | file | name |
//! |---|---|
//! | pipe | `pipe:[INODE]` |
//! | Unix socket | `socket:[INODE]` |
//! | terminal | `tty[RDEV:DEV]`, in hexadecimal digits |
//! | file with a path | the path without its first slash; of one that was dumped as external, its key |

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use images::messages::FileEntry;

use super::file_kind::FileKind;
use super::images::FileImages;
use super::opening::Opening;
use super::{Error, Refused, table};

/// A descriptor that is handed over.
#[derive(Clone, Debug)]
pub struct Inherited {
    /// What is called so comes from it.
    pub key: Vec<u8>,
    /// It.
    pub file: Arc<OwnedFd>,
}

impl FileImages {
    /// Finds the open files that come from what is handed over.
    ///
    /// # Errors
    /// A file that the dump has left to the outside is not handed over.
    pub(crate) fn inherit(&mut self, handed: &[Inherited]) -> Result<(), Error> {
        self.find_inherited(handed);
        let missing = |file: &&FileEntry| {
            let is_external = file.reg.as_ref().is_some_and(|reg| reg.ext == Some(true));
            is_external && !self.inherited.contains_key(&file.id)
        };
        let wanted = self.wanted();
        let files = wanted.iter().filter_map(|id| self.files.get(id)).map(AsRef::as_ref);
        let refused = files.filter(missing).filter_map(|file| {
            let name = String::from_utf8_lossy(&file.reg.as_ref()?.name).into_owned();
            Some(Refused::new(file.id, support::host::not_handed(&name).of(0, name)))
        });
        match refused.collect::<Vec<_>>() {
            refused if refused.is_empty() => Ok(()),
            refused => Err(Error::Refused(refused)),
        }
    }

    fn find_inherited(&mut self, handed: &[Inherited]) {
        if handed.is_empty() {
            return;
        }
        let mut used = BTreeSet::new();
        let wanted = self.wanted();
        for file in wanted.iter().filter_map(|id| self.files.get(id)) {
            let kind = table::of_type(file.r#type);
            let Some(name) = kind.and_then(|kind| kind.name(file, &self.beside)) else { continue };
            if let Some(found) = handed.iter().find(|handed| handed.key == name) {
                self.inherited.insert(file.id, found.file.clone());
                used.insert(name);
            }
        }
        for Inherited { key, .. } in handed {
            let key = String::from_utf8_lossy(key);
            match used.contains(key.as_bytes()) {
                true => tracing::info!("{key} comes from a descriptor that is handed over"),
                false => tracing::info!("no open file of the tree is {key}"),
            }
        }
    }
}

/// Takes those of `files` that are handed over; the others are returned.
pub(super) fn take<'f>(
    opening: &mut Opening<'_>,
    kind: &'static dyn FileKind,
    files: &[&'f FileEntry],
    inherited: &BTreeMap<u32, Arc<OwnedFd>>,
) -> Result<Vec<&'f FileEntry>, Error> {
    let mut rest = Vec::with_capacity(files.len());
    for file in files {
        match inherited.get(&file.id) {
            Some(handed) => {
                let taken = kind.inherit(opening, file, handed)?;
                opening.add(file.id, taken)?;
            }
            None => rest.push(*file),
        }
    }
    Ok(rest)
}

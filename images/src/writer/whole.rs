//! What is done to a checkpoint when nobody waits any more that is to run on.

use std::cell::Cell;
use std::io;
use std::path::Path;

use super::encode;
use super::signing::sign_store;
use crate::error::Error;
use crate::keys::Signer;
use crate::messages::DIGEST_WHOLE;
use crate::store::{Destination, Directory, ImageStore};
use crate::{manifest, names, pieces};

/// Makes a checkpoint safe that was committed as [`crate::Safe::Later`], and its manifest whole, and has it signed. One that cannot be is
/// no checkpoint any more.
///
/// # Errors
/// If it cannot be read, or not be written to the disk.
pub fn make_safe(destination: &dyn Destination, signer: Option<&Signer>) -> Result<(), Error> {
    let is_signed = Cell::new(false);
    destination.make_safe(&|store| {
        complete(store)?;
        if let Some(signer) = signer {
            sign_store(store, signer)?;
            is_signed.set(true);
        }
        Ok(())
    })?;
    match signer.is_some() && !is_signed.get() {
        false => Ok(()),
        true => {
            let name = destination.path().display().to_string();
            Err(Error::Misuse { name, what: "a checkpoint in such a place cannot be signed" })
        }
    }
}

/// Signs a checkpoint that is there, in the place of all that had signed it. It is not read for that: [`crate::verify`] does.
///
/// # Errors
/// If it has no manifest, or cannot be written.
pub fn sign(path: &Path, signer: &Signer) -> Result<(), Error> {
    let store = Directory::open(path)?;
    complete(&store)?;
    sign_store(&store, signer)
}

/// Reads all of the files of which the manifests of a checkpoint know samples alone, and adds what is in them. Who is
/// killed before leaves manifests with samples.
fn complete(store: &dyn ImageStore) -> Result<(), Error> {
    for folder in [None].into_iter().chain(names::PRE_COPIES.map(Some)) {
        let inside =
            |name: &str| folder.map_or_else(|| name.to_owned(), |it| format!("{it}/{name}"));
        let path = inside(names::manifest().name());
        let Some(mut entries) = manifest::entries(store, &path)? else { continue };
        let mut lacking = entries
            .iter_mut()
            .filter(|it| it.bytes > DIGEST_WHOLE && it.pieces.is_none())
            .peekable();
        if lacking.peek().is_none() {
            continue;
        }
        for entry in lacking {
            let path = inside(&entry.name);
            let open = || {
                let opened = store.open(&path).map_err(io::Error::other)?;
                opened.map(|opened| opened.content).ok_or_else(|| io::ErrorKind::NotFound.into())
            };
            let pieces = pieces::digests(open, entry.bytes).map_err(Error::io("read", &path))?;
            entry.pieces = Some(pieces);
        }
        store.replace(&path, &encode(&names::manifest(), &entries))?;
    }
    Ok(())
}

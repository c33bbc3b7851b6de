//! What is done to a checkpoint when nobody waits any more that is to run on.

use std::io;

use super::encode;
use crate::error::Error;
use crate::messages::DIGEST_WHOLE;
use crate::store::{Destination, ImageStore};
use crate::{manifest, names, pieces};

/// Makes a checkpoint safe that was committed as [`crate::Safe::Later`], and its manifest whole. One that cannot be is no checkpoint
/// any more.
///
/// # Errors
/// If it cannot be read, or not be written to the disk.
pub fn make_safe(destination: &dyn Destination) -> Result<(), Error> {
    destination.make_safe(&complete)
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

//! Who vouches for a checkpoint: signatures by ed25519 over what it consists of.
//!
//! What is signed is the manifest, byte for byte, which has digests of all images, and which checkpoint its pages are left to. So a
//! signature binds everything that a restore reads; labels, statistics and logs, of which a restore makes nothing, stand outside of it.
//! A directory inside for pages that were copied early is signed by itself, as each parent is: whoever opens one
//! ([`Images::open_as`](crate::Images::open_as)) has checked it, and its parent is opened the same way and compared with what
//! the child's signature says of it.

use std::io::BufReader;

use crate::error::Error;
use crate::keys::{Distrust, KeyId, TrustedKeys};
use crate::manifest::Manifest;
use crate::messages::{ManifestEntry, SignatureEntry, SignedParent};
use crate::names;
use crate::reader::ImageReader;
use crate::store::{ImageStore, Opened};

/// The longest file of signatures that is read.
const LONGEST: u64 = 16 << 10;

/// What all that is signed begins with: a signature of something else is none of a checkpoint.
const PURPOSE: &[u8] = b"stasis: signature of a checkpoint, 1\n";

/// What a checkpoint was opened with that had to be signed.
#[derive(Debug)]
pub(crate) struct Vouched {
    /// Whose signature it is.
    pub(crate) key: KeyId,
    parent: Option<SignedParent>,
}

impl Vouched {
    /// Compares the parent that was found with the one that was signed.
    pub(crate) fn check_parent(&self, found: Option<ManifestEntry>) -> Result<(), Distrust> {
        match signed_parent(found) == self.parent {
            true => Ok(()),
            false => Err(Distrust::OtherParent),
        }
    }
}

pub(crate) fn signed_parent(entry: Option<ManifestEntry>) -> Option<SignedParent> {
    entry.map(|ManifestEntry { bytes, digest, .. }| SignedParent { bytes, digest })
}

/// The bytes that are signed.
pub(crate) fn statement(manifest: &blake3::Hash, parent: Option<&SignedParent>) -> Vec<u8> {
    let mut statement = [PURPOSE, manifest.as_bytes()].concat();
    if let Some(parent) = parent {
        statement.extend(parent.bytes.to_le_bytes());
        statement.extend(&parent.digest);
    }
    statement
}

/// The signatures of a checkpoint, of which nothing has been checked; none where there is no file.
pub(crate) fn read(store: &dyn ImageStore) -> Result<Vec<SignatureEntry>, Error> {
    let image = names::signature();
    let Some(Opened { content, size }) = store.open(image.name())? else { return Ok(Vec::new()) };
    if size > LONGEST {
        return Err(Error::invalid(image.name(), format!("it is longer than {LONGEST} bytes")));
    }
    ImageReader::new(&image, BufReader::new(content), size, true)?.entries()
}

/// Checks that one of the keys has signed what was read: a manifest, of these bytes.
pub(crate) fn check(
    keys: &TrustedKeys,
    signatures: &[SignatureEntry],
    (manifest, digest): (&Manifest, Option<&blake3::Hash>),
) -> Result<Vouched, Distrust> {
    if signatures.is_empty() {
        return Err(Distrust::Unsigned);
    }
    let ids = signatures.iter().filter_map(|it| KeyId::of_bytes(&it.key)).collect();
    let known = |it: &&SignatureEntry| KeyId::of_bytes(&it.key).is_some_and(|id| keys.has(&id));
    let mut refused = Distrust::UnknownKey(ids);
    for entry in signatures.iter().filter(known) {
        let Some(id) = KeyId::of_bytes(&entry.key) else { continue };
        let fits = digest.is_some_and(|digest| {
            keys.fits(&id, &statement(digest, entry.parent.as_ref()), &entry.signature)
        });
        if fits {
            let vouched = Vouched { key: id, parent: entry.parent.clone() };
            return match manifest.not_covered() {
                Some(name) => Err(Distrust::NotCovered(name)),
                None => Ok(vouched),
            };
        }
        refused = Distrust::DoesNotFit(id);
    }
    Err(refused)
}

//! Signing a checkpoint: what is signed, `signatures.rs` says.

use std::sync::Arc;

use super::encode;
use crate::error::Error;
use crate::keys::Signer;
use crate::messages::SignatureEntry;
use crate::signatures::{signed_parent, statement};
use crate::store::ImageStore;
use crate::{manifest, names};

/// Signs a checkpoint and the directories inside it.
pub(super) fn sign_store(store: &dyn ImageStore, signer: &Signer) -> Result<(), Error> {
    let manifest = names::manifest();
    let mut early = 0;
    for folder in names::PRE_COPIES {
        early += usize::from(store.open(&format!("{folder}/{}", manifest.name()))?.is_some());
    }
    let mut above = sign_one(store, signer)?;
    for _ in 0..early {
        let Some(level) = above else {
            return Err(Error::invalid(
                names::PARENT_LINK,
                "it leads to no pages that were copied early",
            ));
        };
        above = sign_one(&*level, signer)?;
    }
    Ok(())
}

/// Signs one directory; its parent.
fn sign_one(store: &dyn ImageStore, signer: &Signer) -> Result<Option<Arc<dyn ImageStore>>, Error> {
    let missing = |name: &str| Error::Missing { name: name.to_owned() };
    let manifest = names::manifest();
    let read = manifest::read(store, manifest.name())?;
    let (_, digest) = read.ok_or_else(|| missing(manifest.name()))?;
    let above = store.parent()?;
    let inventory = names::inventory();
    let parent = match &above {
        None => None,
        Some(above) => {
            let opened = above.open(inventory.name())?.ok_or_else(|| missing(inventory.name()))?;
            Some(manifest::parent_entry(opened)?)
        }
    };
    let parent = signed_parent(parent);
    let signature = signer.sign(&statement(&digest, parent.as_ref()));
    let entry = SignatureEntry { key: signer.id().bytes().to_vec(), signature, parent };
    let image = names::signature();
    store.replace(image.name(), &encode(&image, &[entry]))?;
    Ok(above)
}

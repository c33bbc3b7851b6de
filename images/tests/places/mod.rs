//! The kinds of store that there are, as places for checkpoints: what holds of one holds of all.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use stasis_images::store::{Memory, MemoryStore};
use stasis_images::{Error, ImageWriter, Images, WriteOptions};

/// A place for checkpoints.
#[derive(Debug)]
pub(crate) enum StoreKind {
    Directories(tempfile::TempDir),
    Memory(Memory),
}

impl StoreKind {
    /// An empty one of each kind.
    pub(crate) fn all() -> [Self; 2] {
        [Self::Directories(tempfile::tempdir().unwrap()), Self::Memory(Memory::default())]
    }

    pub(crate) fn write(&self, name: &str, options: WriteOptions) -> Result<ImageWriter, Error> {
        match self {
            Self::Directories(place) => ImageWriter::create(&place.path().join(name), options),
            Self::Memory(memory) => {
                Ok(ImageWriter::of(Box::new(memory.create(name.as_ref(), options)?)))
            }
        }
    }

    pub(crate) fn open(&self, name: &str) -> Result<Images, Error> {
        match self {
            Self::Directories(place) => Images::open(&place.path().join(name)),
            Self::Memory(memory) => memory.open(name.as_ref()).and_then(of),
        }
    }

    /// What is in a file of a checkpoint.
    pub(crate) fn bytes(&self, name: &str, file: &str) -> Vec<u8> {
        read(&self.open(name).unwrap(), file)
    }

    /// Changes a file of a checkpoint on purpose: nothing is compared after that.
    pub(crate) fn replace(&self, name: &str, file: &str, bytes: &[u8]) {
        const MANIFEST: &str = "stasis-manifest";
        match self {
            Self::Directories(place) => {
                std::fs::remove_file(place.path().join(name).join(MANIFEST)).ok();
                std::fs::write(place.path().join(name).join(file), bytes).unwrap();
            }
            Self::Memory(memory) => {
                let there = self.open(name).unwrap();
                let others = there.files().unwrap().into_iter();
                let others = others.filter(|other| other.name != file && other.name != MANIFEST);
                let others = others.map(|other| (other.name.clone(), read(&there, &other.name)));
                let changed = (file.to_owned(), bytes.to_vec());
                memory.put(Path::new(name), others.chain([changed]));
            }
        }
    }
}

fn of(store: MemoryStore) -> Result<Images, Error> {
    Images::of(Arc::new(store))
}

fn read(images: &Images, file: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    images.raw(file).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

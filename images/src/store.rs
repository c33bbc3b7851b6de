//! Where a checkpoint's images are: a directory, memory, and what is to come beside them.
//!
//! [`ImageStore`] is read from, [`NewCheckpoint`] written to; [`PageSource`] and [`PageSink`] are their pages. The
//! rest of the crate, and everybody who uses it, knows these and not where the bytes are. A new kind of store is a
//! module here that implements its traits.

mod directory;
mod encrypted;
mod memory;
mod nowhere;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::pieces::Written;

pub(crate) use directory::{Arriving, Staging};
pub use directory::{
    Directory, InGroup, NewDirectory, NewGroup, Unfinished, clear, parents_of, remove, unfinished,
};
pub use encrypted::{DirectoryKind, EncryptedDirectory, EncryptedOutput, Encrypts};
pub use memory::{Memory, MemoryDestination, MemoryStore, NewInMemory};
pub use nowhere::Nowhere;
pub(crate) use wanted::Wanted;

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFile {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
}

/// What tells a store from all others that are open: device and inode of a directory.
pub type Identity = (u64, u64);

/// The content of an image that is open.
pub trait Content: Read + Seek + Send + Debug {}

impl<T: Read + Seek + Send + Debug> Content for T {}

/// An image that is open.
#[derive(Debug)]
pub struct Opened {
    /// What is in it.
    pub content: Box<dyn Content>,
    /// How long it is.
    pub size: u64,
}

/// A checkpoint to read from. Names are those of [`crate::names`]; those in the directories for pages that were
/// copied early ([`crate::names::PRE_COPIES`]) have these in front.
pub trait ImageStore: Debug + Send + Sync {
    /// What errors call it. A path, whether or not a file system has it.
    fn path(&self) -> &Path;

    /// Opens an image; `None` if there is none of that name.
    fn open(&self, name: &str) -> Result<Option<Opened>, Error>;

    /// Opens a pages file; `None` if there is none of that name.
    fn pages(&self, name: &str) -> Result<Option<Arc<dyn PageSource>>, Error>;

    /// All images, in any order.
    fn list(&self) -> Result<Vec<ImageFile>, Error>;

    /// The store that holds the pages marked as being in the parent; `None` if no link leads to one.
    fn parent(&self) -> Result<Option<Arc<dyn ImageStore>>, Error>;

    /// Whether there is a link to a parent that leads nowhere.
    fn parent_is_lost(&self) -> bool;

    /// Gives back the room of these bytes of a pages file, each from an offset on, which nobody will read any more. Of none it only fails
    /// where others would.
    fn give_back(&self, name: &str, places: &[(u64, u64)]) -> Result<(), Error>;

    /// Puts other contents in the place of an image, all at once.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error>;

    /// By which it is known if it is met twice.
    fn identity(&self) -> Result<Identity, Error>;
}

/// Pages that were stored, one behind the other. Several threads may read at once.
pub trait PageSource: Debug + Send + Sync {
    /// How long they are together.
    fn bytes(&self) -> u64;

    /// Fills the buffer with what begins at `offset`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// The file that they are in, offset by offset, where there is one: it can be handed to another process.
    fn file(&self) -> Option<&File>;
}

/// How a checkpoint is to be written.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// Replace a checkpoint that is there already (CRIU does; else that is refused).
    pub overwrite: bool,
    /// Keep the directory itself if it exists, even if empty: whoever holds it open sees the images arrive.
    pub in_place: bool,
    /// Have everything on the disk before the checkpoint appears.
    pub sync: bool,
    /// Page maps and pages come from somewhere else, into the same directory it may be: those that have come since the checkpoint
    /// was begun stay when it appears.
    pub pages_elsewhere: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { overwrite: false, in_place: false, sync: true, pages_elsewhere: false }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// How many files.
    pub files: usize,
    /// How long they are together.
    pub bytes: u64,
}

/// When a checkpoint is to outlast the end of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safe {
    /// Before anybody sees it.
    AtOnce,
    /// When [`crate::make_safe`] is called. Should the machine end before, its manifest tells what is missing, of long files by
    /// samples.
    Later,
}

/// A checkpoint that is being written: nobody sees it before it is committed. Several threads may write different
/// images at once. Dropping it leaves nothing.
pub trait NewCheckpoint: Debug + Send + Sync {
    /// Where the finished checkpoint will be. Relative links count from there.
    fn target(&self) -> &Path;

    /// Where it is until then, if that is a directory: it can be read there, and compared.
    fn place(&self) -> Option<&Path> {
        None
    }

    /// Begins an image.
    fn create(&self, name: &str) -> Result<Box<dyn ImageOutput>, Error>;

    /// Begins a pages file.
    fn create_pages(&self, name: &str) -> Result<Arc<dyn PageSink>, Error>;

    /// Makes one of [`crate::names::PRE_COPIES`], if it is not there yet.
    fn create_directory(&self, name: &str) -> Result<(), Error>;

    /// Links the parent, by the name [`crate::names::PARENT_LINK`] or one in a directory inside.
    fn link(&self, name: &str, to: &Path) -> Result<(), Error>;

    /// Opens an image or pages file that has been written, to read it.
    fn read(&self, name: &str) -> Result<Opened, Error>;

    /// Whether all that is written is encrypted on its way. What is read back is what came of it then, and pages had better not be written
    /// while somebody waits: they come to their place in the order of their offsets.
    fn encrypts(&self) -> bool {
        false
    }

    /// Whether pages that are copied early stay apart from the others.
    fn keeps_early_apart(&self) -> bool {
        true
    }

    /// Says, when all is written, which of these names will be in the checkpoint, and what they are called there. What is to be
    /// elsewhere is there then.
    fn kept(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, String>, Error> {
        Ok(names.iter().map(|name| (name.clone(), name.clone())).collect())
    }

    /// Makes the checkpoint appear. It consists of what was created and linked, which is `names`, and exists from
    /// the moment on that its `inventory.img`, which is among them, does.
    fn commit(self: Box<Self>, names: &BTreeSet<String>, safe: Safe) -> Result<Committed, Error>;
}

/// Adds to a checkpoint what was left for later.
pub type Complete<'c> = dyn Fn(&dyn ImageStore) -> Result<(), Error> + 'c;

/// A place in which a checkpoint may be begun, as often as it takes. Nothing is there before.
pub trait Destination: Debug + Send + Sync {
    /// What errors and hooks call it. A path, whether or not a file system has it.
    fn path(&self) -> &Path;

    /// Whether checkpoints there are encrypted.
    fn encrypts(&self) -> bool {
        false
    }

    /// Begins a checkpoint there.
    fn begin(&self) -> Result<Box<dyn NewCheckpoint>, Error>;

    /// Makes a checkpoint there safe that has appeared before it was ([`Safe::Later`]), after `complete` has added to it what was left
    /// for later. One that cannot be is no checkpoint any more: its inventory goes.
    fn make_safe(&self, complete: &Complete<'_>) -> Result<(), Error>;
}

/// An image that is being written, from its beginning to its end.
pub trait ImageOutput: Write + Send + Debug {
    /// The file that it goes to, at its end so far, where there is one: the kernel can copy into it.
    fn file(&mut self) -> Option<&mut File>;
}

/// A pages file that is being written. It grows in the order in which pages are captured, and no byte is written
/// twice, so that it may as well be a stream. Several threads may fill the room that was taken.
pub trait PageSink: Debug + Send + Sync {
    /// Takes room for so many bytes behind all that was taken before; says where it begins.
    fn reserve(&self, bytes: u64) -> io::Result<u64>;

    /// Writes into the room that was taken.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// The file that it goes to, where there is one that is to be on the disk in the end.
    fn file(&self) -> Option<&File>;

    /// Says that nobody will read these bytes, which were written: the room may be had for others.
    fn give_back(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Digests of what is written, if they are made on the way, and of what is in the file.
    fn written(&self) -> Option<Arc<Written>> {
        None
    }
}

//! The checkpoint image format, byte-compatible with CRIU's.
//!
//! - [`messages`]: what images say; [`names`]: which file says what; [`magic`]: how files begin.
//! - [`Images`] reads a checkpoint, [`ImageWriter`] writes one that is complete or absent.
//! - [`store`]: where checkpoints are: in directories, in memory.
//! - [`Checkpoint`]: a whole directory, read and checked against itself.
//! - [`Signer`] and [`TrustedKeys`]: who vouches for a checkpoint.
//! - [`encryption`]: checkpoints that only the holders of keys can read.
//! - [`build_id`]: what tells a program or library from all others.
//! - [`page_server`]: a dump's pages sent over a connection, and taken.
//! - [`Progress`]: how a dump or a restore tells how far it is.
//!
//! Nothing here asks the kernel for more than files, so that all of it can be tested and fuzzed anywhere.

#![warn(missing_docs)]

pub mod archives;
pub mod attribute_ids;
pub mod build_id;
mod cancel;
pub mod checkpoint;
pub mod encryption;
mod error;
pub mod file_systems;
mod held;
pub mod id_map;
mod images;
pub mod keys;
mod lineage;
pub mod magic;
mod manifest;
mod mapping_kind;
pub mod messages;
pub mod names;
pub mod network_devices;
pub mod network_settings;
pub mod page_server;
mod pagemap;
mod pieces;
mod progress;
mod reader;
mod signatures;
pub mod store;
mod verify;
mod writer;

pub use cancel::Cancel;
pub use checkpoint::Checkpoint;
pub use error::Error;
pub use held::{Held, HeldRun};
pub use images::{Access, Images, StoredReader};
pub use keys::{Distrust, KeyError, KeyId, Signer, TrustedKeys};
pub use lineage::Lineage;
pub use mapping_kind::MappingKind;
pub use names::Image;
pub use pagemap::{PAGE_SIZE, PageMap, PageRun, RunPlace};
pub use pieces::Written;
pub use progress::{Progress, Quiet};
pub use reader::{ImageReader, MAX_MESSAGE};
pub use store::{
    Committed, Destination, DirectoryKind, EncryptedDirectory, ImageFile, ImageStore, InGroup,
    NewDirectory, NewGroup, Nowhere, PageSink, PageSource, Safe, Unfinished, WriteOptions, clear,
    parents_of, remove, unfinished,
};
pub use verify::{Damage, Verified, verify};
pub use writer::{Folder, ImageSink, ImageWriter, encode, make_safe, sign};

//! Mount namespaces: what is mounted where (mount_namespaces(7)). They are built all together, when the others are there.

use std::io;
use std::os::fd::OwnedFd;

use images::messages::MntEntry;
use images::{Checkpoint, names};

use super::{Given, Kind, Making};
use crate::error::Error;

/// The kind.
pub(super) const KIND: Kind = Kind { name: "mnt", load };

/// What is to be mounted.
#[derive(Debug)]
struct Mnt(Vec<MntEntry>);

fn load(checkpoint: &Checkpoint, number: u32) -> Result<Box<dyn Making>, Error> {
    let image = names::mountpoints(number);
    let entries = checkpoint.images.read_all(&image)?;
    match entries.is_empty() {
        true => Err(images::Error::Missing { name: image.name().into() }.into()),
        false => Ok(Box::new(Mnt(entries))),
    }
}

impl Making for Mnt {
    fn make(&self, number: u32, _given: &Given) -> Result<OwnedFd, Error> {
        let together = io::Error::from(io::ErrorKind::Unsupported);
        Err(Error::kernel(format!("make mount namespace {number} alone"))(together))
    }

    fn mounts(&self) -> Option<&[MntEntry]> {
        Some(&self.0)
    }
}

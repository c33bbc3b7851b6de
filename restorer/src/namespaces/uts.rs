//! UTS namespaces: the name of the host and that of its domain (uts_namespaces(7)).

use std::os::fd::OwnedFd;

use images::{Checkpoint, names};
use kernel::namespaces::{LONGEST_UTS_NAME, UtsNames, new_uts};

use super::{Given, Kind, Making};
use crate::error::Error;

/// The kind.
pub(super) const KIND: Kind = Kind { name: "uts", load };

/// What the names of the host are to be.
#[derive(Debug)]
struct Uts(UtsNames);

fn load(checkpoint: &Checkpoint, number: u32) -> Result<Box<dyn Making>, Error> {
    let image = names::utsns(number);
    let missing = || images::Error::Missing { name: image.name().into() };
    let entry = checkpoint.uts_namespaces.get(&number).ok_or_else(missing)?;
    match entry.nodename.len().max(entry.domainname.len()) {
        0..=LONGEST_UTS_NAME => Ok(Box::new(Uts(UtsNames {
            node: entry.nodename.clone(),
            domain: entry.domainname.clone(),
        }))),
        long => Err(Error::image(image.name(), format!("a name of {long} bytes"))),
    }
}

impl Making for Uts {
    fn make(&self, number: u32, _given: &Given) -> Result<OwnedFd, Error> {
        new_uts(&self.0).map_err(Error::kernel(format!("make UTS namespace {number}")))
    }
}

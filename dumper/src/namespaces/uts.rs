//! UTS namespaces: the name of the host and that of its domain (uts_namespaces(7)).

use std::io;

use images::messages::UtsnsEntry;
use images::{ImageWriter, names};
use kernel::namespaces::{of_process, uts_names};

use super::{Described, Namespace};
use crate::error::Error;

/// What a UTS namespace says of itself.
#[derive(Debug)]
struct Uts(UtsnsEntry);

/// Reads the names in a namespace.
pub(super) fn read(namespace: &Namespace<'_>) -> Result<Box<dyn Described>, Error> {
    let pid = namespace.member;
    let failed = |source: io::Error| Error::Process {
        operation: "read the host name in the namespace of",
        pid,
        source,
    };
    let names = of_process(pid, "uts").and_then(uts_names).map_err(failed)?;
    Ok(Box::new(Uts(UtsnsEntry { nodename: names.node, domainname: names.domain })))
}

impl Described for Uts {
    fn encode(&self, number: u32, writer: &ImageWriter) -> Result<(), images::Error> {
        writer.write_one(&names::utsns(number), &self.0)
    }
}

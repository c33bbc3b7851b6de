//! Pid namespaces: what numbers processes have (pid_namespaces(7)). All that there is to say of one is who is in
//! it with which number, and the process tree says that ([`crate::numbers`]).

use images::ImageWriter;

use super::{Described, Namespace};
use crate::error::Error;

/// What a pid namespace says of itself.
#[derive(Debug)]
struct Pids;

/// There is nothing to be read.
#[allow(clippy::unnecessary_wraps, reason = "other kinds can fail")]
pub(super) fn read(_: &Namespace) -> Result<Box<dyn Described>, Error> {
    Ok(Box::new(Pids))
}

impl Described for Pids {
    fn encode(&self, _: u32, _: &ImageWriter) -> Result<(), images::Error> {
        Ok(())
    }
}

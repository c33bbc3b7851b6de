//! Pid namespaces: what numbers processes have (pid_namespaces(7)). All that there is to say of one is who is in
//! it with which number, and the process tree says that ([`crate::numbers`]). Of one that a restore is given its name is said.

use images::messages::PidnsEntry;
use images::{ImageWriter, names};

use super::{Described, Namespace};
use crate::error::Error;

/// What a pid namespace says of itself.
#[derive(Debug)]
struct Pids {
    /// By which a restore is given it.
    name: Option<String>,
}

#[allow(clippy::unnecessary_wraps, reason = "other kinds can fail")]
pub(super) fn read(namespace: &Namespace) -> Result<Box<dyn Described>, Error> {
    Ok(Box::new(Pids { name: namespace.external_pids.get(&namespace.id).cloned() }))
}

impl Described for Pids {
    fn encode(&self, number: u32, writer: &ImageWriter) -> Result<(), images::Error> {
        match &self.name {
            Some(name) => {
                writer.write_one(&names::pidns(number), &PidnsEntry { ext_key: Some(name.clone()) })
            }
            None => Ok(()),
        }
    }
}

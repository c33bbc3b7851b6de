//! User namespaces: which ids there are in it (user_namespaces(7)), which are looked at before the freeze ([`crate::users`]), and how many
//! of something their users may have, which whoever asks enters them for: when the target runs again.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ids::HostPid;
use images::messages::{NamedSysctl, UsernsEntry};
use images::{ImageWriter, names};
use kernel::namespaces::of_process;
use kernel::user_namespaces::limits;

use super::{Described, Namespace};
use crate::error::Error;

/// What a user namespace says of itself.
#[derive(Debug)]
struct User {
    entry: UsernsEntry,
    namespace: Arc<OwnedFd>,
    member: HostPid,
}

/// Describes the one that all of the tree are in, or one below.
pub(super) fn read(namespace: &Namespace<'_>) -> Result<Box<dyn Described>, Error> {
    let Namespace { member, id, users, numbers, .. } = *namespace;
    let nested = users.nested.entry(id, numbers);
    let opened = match users.nested.empty(id) {
        Some(namespace) => Ok(namespace),
        None => {
            of_process(member, "user").and_then(|found| match kernel::namespaces::id(&found)? {
                found_id if found_id == id => Ok(Arc::new(found)),
                // Who was in it has gone.
                _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            })
        }
    };
    Ok(Box::new(User {
        entry: nested.unwrap_or_else(|| users.entry(numbers)),
        namespace: opened.map_err(failed(member))?,
        member,
    }))
}

fn failed(pid: HostPid) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Process { operation: "look into the user namespace of", pid, source }
}

impl Described for User {
    fn read_later(&mut self) -> Result<Vec<String>, Error> {
        let limits = match limits(&*self.namespace) {
            // Who may not enter it says so.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let what = "the limits of its user namespace (/proc/sys/user) cannot be seen by who dumps it, and are not in the images";
                return Ok(vec![format!("process {}: {what}", self.member)]);
            }
            limits => limits.map_err(failed(self.member))?,
        };
        let named = |(name, limit): (&str, i64)| NamedSysctl {
            name: name.to_owned(),
            value: limit.to_string(),
        };
        self.entry.limits = limits.into_iter().map(named).collect();
        Ok(Vec::new())
    }

    fn encode(&self, number: u32, writer: &ImageWriter) -> Result<(), images::Error> {
        writer.write_one(&names::userns(number), &self.entry)
    }
}

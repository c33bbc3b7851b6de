//! File locks and leases of the images, each with the process and the descriptor that have it.

use std::collections::BTreeMap;

use images::messages::{FdinfoEntry, FileLockEntry, lock_kind};
use images::names;

use super::Process;
use crate::error::Error;
use crate::files::Leases;
use crate::locks::{Locks, is_possible};

/// Checks them: a lock has a living process that has its descriptor, in one of the `tables`.
pub(super) fn load(
    entries: Vec<FileLockEntry>,
    processes: &[Process],
    tables: &BTreeMap<u32, Vec<FdinfoEntry>>,
) -> Result<(Locks, Leases), Error> {
    let (mut locks, mut leases) = (Locks::default(), Leases::default());
    for entry in entries {
        let wrong = |what: &str| {
            let object =
                format!("a lock of process {} in {}", entry.pid, names::file_locks().name());
            Error::image(object, what)
        };
        let process = processes.iter().find(|process| process.pid.get() == entry.pid);
        let Some((process, body)) = process.and_then(|it| Some((it, it.body.as_ref()?))) else {
            return Err(wrong("there is no such process"));
        };
        let table = tables.get(&body.ids.files_id).map_or(&[][..], Vec::as_slice);
        let Some(info) = table.iter().find(|info| info.fd.cast_signed() == entry.fd) else {
            return Err(wrong(&format!("it has no descriptor {}", entry.fd)));
        };
        if !is_possible(&entry) {
            return Err(wrong("it is none that there can be"));
        }
        if entry.flag == lock_kind::LEASE {
            leases.add(info.id, body.ids.files_id, &entry);
        } else {
            locks.add(process.pid, entry);
        }
    }
    Ok((locks, leases))
}

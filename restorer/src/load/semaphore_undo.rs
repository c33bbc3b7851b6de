//! What the end of threads undoes in sets of System V semaphores, by the images: each set of a namespace that is made is there.

use std::collections::BTreeMap;

use images::checkpoint::IpcNamespace;
use images::names;

use super::Process;
use crate::Joined;
use crate::error::Error;
use crate::semaphore_undo::{OfThread, operations_of};

/// Takes up what the images say, of processes in these IPC namespaces. `own` is the number of the dumper's.
pub(super) fn load(
    processes: &[Process],
    namespaces: &BTreeMap<u32, IpcNamespace>,
    own: Option<u32>,
    joined: Joined,
) -> Result<Vec<OfThread>, Error> {
    let mut found = Vec::new();
    for (process, body) in processes.iter().filter_map(|it| Some((it, it.body.as_ref()?))) {
        let number = body
            .ids
            .ipc_ns_id
            .filter(|number| !joined.ipc && own.is_some_and(|own| own != *number));
        let made = number.map(|number| namespaces.get(&number));
        for thread in &body.threads {
            let is_own = thread.core.own_semaphore_undo == Some(true);
            let sets = thread.core.semaphore_undo.clone();
            if sets.is_empty() && !is_own {
                continue;
            }
            let wrong =
                |what: String| Error::image(names::core(thread.tid.unsigned()).name(), what);
            let mut operations = Vec::new();
            for entry in &sets {
                let values = match made {
                    None => None,
                    Some(namespace) => {
                        let set = namespace.and_then(|it| it.sets.get(&entry.set));
                        let missing = || {
                            wrong(format!("set {} of semaphores is not in the images", entry.set))
                        };
                        Some(&set.ok_or_else(missing)?.values)
                    }
                };
                let of_set = operations_of(entry, values.map(Vec::as_slice));
                operations.extend(of_set.map_err(wrong)?);
            }
            let (process, tid, is_made) = (process.pid, thread.tid, made.is_some());
            found.push(OfThread { process, tid, is_own, is_made, sets, operations });
        }
    }
    Ok(found)
}

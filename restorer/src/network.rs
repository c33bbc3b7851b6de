//! The last steps before a restored tree runs: the network is unlocked, and its connections go on.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ids::ImagePid;
use images::Images;
use images::messages::FileEntry;
use kernel::namespaces::within_network;
use kernel::netfilter::{Ends, Lock, Method, unlock_namespace_by_iptables};
use kernel::pidfd::PidFd;

use crate::error::Error;
use crate::files::{Connections, Networks, OpenFiles, Repaired};
use crate::load::Checkpoint;
use crate::options::RestoreOptions;
use crate::pids::Pids;

/// What has been done to connections until the tree runs.
#[derive(Debug)]
pub(crate) struct Network {
    /// What a dump has left locked, or was locked while the tree is built, with the network namespace that it is
    /// in, if that is not our own.
    locks: Vec<(Option<Arc<OwnedFd>>, Lock)>,
    /// Where our own network namespace was, if this process has joined another.
    before: Option<Arc<OwnedFd>>,
    repaired: Vec<(ImagePid, Repaired)>,
}

/// What becomes of connections: those that were dumped as closed come back so.
pub(crate) fn connections(options: &RestoreOptions, dir: &Images) -> Connections {
    match dir.inventory().tcp_close {
        Some(true) => Connections::Closed,
        _ => options.connections,
    }
}

/// The locks that the dump has left, with the locks of namespaces that have been made or `joined`.
pub(crate) fn locks<'f>(
    dir: &Images,
    root: Option<i32>,
    files: impl Iterator<Item = &'f FileEntry>,
    (networks, joined): (&Networks, bool),
) -> Vec<(Option<Arc<OwnedFd>>, Lock)> {
    let mut ends: BTreeMap<Option<u32>, Vec<Ends>> = BTreeMap::new();
    ends.insert(networks.usual, Vec::new());
    for body in files.filter_map(|file| file.body()) {
        let number = body.network().or(networks.usual);
        let number = number.filter(|number| networks.made.contains_key(number));
        ends.entry(number).or_default().extend(body.connections());
    }
    let of = |(number, ends): (Option<u32>, _)| {
        let namespace = number.and_then(|number| networks.made.get(&number).cloned());
        // In a new namespace the lock may have come with the images' tables, or be our own; in one that is joined it is the dump's, if
        // the tree was there before.
        let method = (number.is_some() || joined).then(Method::here).flatten();
        Some((namespace, lock(dir, root, ends, method)?))
    };
    ends.into_iter().filter_map(of).collect()
}

/// The lock of connections, as the images have it, or by a method where these have none.
fn lock(
    dir: &Images,
    root: Option<i32>,
    ends: Vec<Ends>,
    otherwise: Option<Method>,
) -> Option<Lock> {
    let inventory = dir.inventory();
    let told = inventory.network_lock_method.and_then(Method::of_number);
    let method = told.filter(|method| *method != Method::Skip).or(otherwise)?;
    let is_one = match method {
        // It is one table, whatever is in it.
        Method::Nftables => true,
        // In a namespace of its own CRIU locks all of it.
        Method::Iptables => otherwise.is_some() || !ends.is_empty(),
        Method::Skip => false,
    };
    // Of images without an id CRIU calls it by the root.
    let of_root = || root.map(|root| root.to_string());
    let id = inventory.dump_criu_run_id.clone().or_else(of_root)?;
    is_one.then(|| Lock::new(method, &id, ends)).flatten()
}

/// What [`unlock`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unlocked {
    /// A lock of this name, which is gone now.
    Taken(String),
    /// There is no lock of this name.
    Gone(String),
    /// The dump has locked nothing.
    Never,
}

/// Takes away what the dump of a checkpoint has left locked, without a restore.
///
/// # Errors
/// When the images cannot be read, or the lock stays.
pub fn unlock(images: &Images) -> Result<Unlocked, Error> {
    let checkpoint = images::Checkpoint::load(images.clone())?;
    let root = checkpoint.processes.first().map(|process| process.pid.cast_signed());
    let files = checkpoint.files.entries.values().map(|file| &**file);
    // Those of namespaces that are gone went with them.
    let own = locks(images, root, files, (&Networks::default(), false)).pop();
    let Some((_, lock)) = own else { return Ok(Unlocked::Never) };
    let name = lock.name();
    let taken = lock.take_away().map_err(Error::kernel(format!("take away {name}")))?;
    Ok(if taken { Unlocked::Taken(name) } else { Unlocked::Gone(name) })
}

impl Network {
    /// What there is to be undone for a tree that has these open files.
    pub(crate) fn of(
        checkpoint: &Checkpoint,
        locks: Vec<(Option<Arc<OwnedFd>>, Lock)>,
        before: Option<Arc<OwnedFd>>,
        files: &OpenFiles,
    ) -> Self {
        let tables: BTreeMap<u32, ImagePid> =
            checkpoint.living().map(|(process, body)| (body.ids.files_id, process.pid)).collect();
        let repaired = files.repaired().into_iter();
        let with_pid = |one: Repaired| Some((*tables.get(&one.table)?, one));
        Self { locks, before, repaired: repaired.filter_map(with_pid).collect() }
    }

    /// Takes away what the dump has left locked. It is no error if it stays: the tree can live with it for a
    /// while, and who reads the log takes it away.
    pub(crate) fn unlock(&self) {
        for (namespace, lock) in &self.locks {
            let with_whole = || {
                if lock.method() == Method::Iptables {
                    unlock_namespace_by_iptables()?;
                }
                lock.take_away()
            };
            let taken = match (namespace, &self.before) {
                (None, None) => lock.take_away(),
                // The dump's lock is where the tree was: in `before`, or in the namespace that has been joined.
                (None, Some(before)) => {
                    let before = within_network(&**before, || lock.take_away()).flatten();
                    before.and_then(|_| with_whole())
                }
                (Some(namespace), _) => within_network(&**namespace, with_whole).flatten(),
            };
            if let Err(error) = taken {
                let name = lock.name();
                tracing::error!("connections stay locked ({name}), take that away: {error}");
            }
        }
    }

    /// Lets all connections go on. The tree is built, and about to run.
    pub(crate) fn let_go(&self, pids: &Pids) -> Result<(), Error> {
        let mut last: Option<(ImagePid, PidFd)> = None;
        for (pid, one) in &self.repaired {
            let failed = || Error::kernel("let a TCP connection go on");
            let opened = match last.take() {
                Some((of, opened)) if of == *pid => opened,
                _ => PidFd::open(pids.host(*pid)?).map_err(failed())?,
            };
            one.end(&opened).map_err(failed())?;
            last = Some((*pid, opened));
        }
        Ok(())
    }
}

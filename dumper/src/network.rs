//! What a dump does to the network of a tree, and how it is undone.
//!
//! Connections with an end outside the tree go on without it: what comes for them while it is away would be
//! answered by the kernel, and end them. So for a tree that is to end it is dropped, from before the freeze until
//! a restore ([`kernel::netfilter`]). To read connections they are put into repair mode, each for as long as that
//! takes; and those of a tree that ends are put into it for good, so that they end without a word.
//!
//! All of that the kernel keeps. So it is written down before, and undone when this is dropped, after the target
//! runs again; should this process be killed, by whatever starts next ([`freezer::Undo`]).

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use collector::Inventory;
use freezer::{Deed, LockedNetwork, LockedTree, RepairedSocket, Undo};
use hooks::{Hooks, Moment, Point};
use ids::HostPid;
use kernel::namespaces::within_network;
use kernel::netfilter::{Ends, Lock, Method};
use kernel::tcp;

use crate::error::Error;
use crate::files::Connections;
use crate::files::{Connection, Queued};
use crate::options::DumpOptions;

/// A network namespace that is not our own, with the kernel's id of it.
pub(crate) type OtherNetwork = (u64, Arc<OwnedFd>);

/// Connections with the namespace that they are in, if that is not our own.
type InNetwork = (Option<Arc<OwnedFd>>, Vec<Ends>);

/// What a lock is set for: the namespace that it is in, if that is not our own, its ends, and whether one is outside of the tree.
type Lockable<'a> = (Option<&'a OtherNetwork>, Ends, bool);

/// What has been done, and is undone when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// Where the checkpoint is to be.
    images: PathBuf,
    locks: Vec<Undo>,
    /// With the kernel's ids of the network namespaces that they are in, beside our own.
    locked: HashSet<(Option<u64>, Ends)>,
    /// The namespaces in which a lock has been set.
    begun: HashSet<Option<u64>>,
    /// The namespace in which everything is locked.
    whole: Option<u64>,
    method: Option<Method>,
    repairs: Vec<Undo>,
    /// Sockets, by process and descriptor, that may be put into repair mode.
    written_down: HashSet<(HostPid, i32, u64)>,
    /// Who locks the network of a tree that has one of its own has been told to.
    told: bool,
}

impl Network {
    /// Nothing has been done, for a checkpoint that is to be at `images`.
    pub(crate) fn new(images: &Path) -> Self {
        // Whoever undoes what is left works in another directory.
        let images = std::path::absolute(images).unwrap_or_else(|_| images.to_owned());
        Self { images, ..Self::default() }
    }

    /// How connections are locked, as the images have it.
    pub(crate) fn method(&self) -> Method {
        self.method.unwrap_or(Method::Skip)
    }

    /// Makes ready for the connections that a tree has: the network is locked for it, if it is to end, and
    /// what may be put into repair mode is written down. (What waits to be accepted has no descriptor.) What is known already takes no time. Of a tree whose root
    /// is in a network namespace that is not `own` all of that is locked where the way of locking is asked for.
    pub(crate) fn prepare(
        &mut self,
        options: &DumpOptions,
        id: &str,
        inventory: &Inventory,
        (connections, waiting): (&[Connection], &[Queued]),
        other: Option<OtherNetwork>,
    ) -> Result<(), Error> {
        let is_locked = options.is_away() && options.network_lock != Some(Method::Skip);
        if options.connections != Connections::Closed {
            self.write_down(options, inventory, connections)?;
        }
        if !is_locked {
            return Ok(());
        }
        if let Some(other) = other.filter(|_| options.lock_namespace) {
            self.lock_namespace(options, id, inventory, other)?;
        }
        if options.connections == Connections::Closed {
            return Ok(());
        }
        let wanted = |(network, _, outside): &Lockable<'_>| {
            let place = network.map(|(id, _)| *id);
            let is_locked = place.is_some() && place == self.whole;
            !is_locked && (*outside || options.lock_inside)
        };
        let held = connections.iter().map(|it| (it.network.as_ref(), it.ends, it.outside));
        let waiting = waiting.iter().map(|it| (it.network.as_ref(), it.ends, it.outside));
        let mut new: BTreeMap<Option<u64>, InNetwork> = BTreeMap::new();
        for (network, (local, peer), _) in held.chain(waiting).filter(wanted) {
            let place = network.map(|(id, _)| *id);
            let is_locked = |ends| self.locked.contains(&(place, ends));
            if !is_locked((local, peer)) && !is_locked((peer, local)) {
                let namespace = network.map(|(_, it)| Arc::clone(it));
                new.entry(place).or_insert((namespace, Vec::new())).1.push((local, peer));
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let tree = self.tree(options, inventory);
        for (place, (namespace, ends)) in new {
            let of = |method| Lock::new(method, id, ends.iter().copied());
            match namespace {
                None => self.lock(options, &of, place, &tree)?,
                Some(namespace) => {
                    within_network(&*namespace, || self.lock(options, &of, place, &tree))
                        .map_err(Error::Lock)??;
                }
            }
            self.locked.extend(ends.into_iter().map(|ends| (place, ends)));
        }
        Ok(())
    }

    /// Locks all of a network namespace, once.
    fn lock_namespace(
        &mut self,
        options: &DumpOptions,
        id: &str,
        inventory: &Inventory,
        (place, namespace): OtherNetwork,
    ) -> Result<(), Error> {
        if self.whole == Some(place) {
            return Ok(());
        }
        let tree = self.tree(options, inventory);
        let of = |method| Lock::of_namespace(method, id);
        within_network(&*namespace, || self.lock(options, &of, Some(place), &tree))
            .map_err(Error::Lock)??;
        self.whole = Some(place);
        Ok(())
    }

    /// Whom a lock is for.
    fn tree(&self, options: &DumpOptions, inventory: &Inventory) -> LockedTree {
        let root = inventory.processes.get(&options.pid);
        let leader = root.and_then(|root| root.threads.get(&options.pid));
        LockedTree {
            root: options.pid,
            start_time: leader.map_or(0, |leader| leader.start_time),
            images: self.images.clone(),
        }
    }

    /// Tells who is to lock the network of a tree that has one of its own.
    pub(crate) fn tell_to_lock(
        &mut self,
        hooks: &mut dyn Hooks,
        root: HostPid,
    ) -> Result<(), Error> {
        // Who refuses may have begun.
        self.told = true;
        Ok(hooks::call(hooks, Moment::of(Point::NetworkLock, Some(root), &self.images))?)
    }

    /// Tells who was told to lock to unlock.
    pub(crate) fn tell_to_unlock(&mut self, hooks: &mut dyn Hooks, root: HostPid) {
        if std::mem::take(&mut self.told) {
            let moment = Moment::of(Point::NetworkUnlock, Some(root), &self.images);
            // What it says is logged: no failure of this point ends anything.
            drop(hooks::call(hooks, moment));
        }
    }

    fn write_down(
        &mut self,
        options: &DumpOptions,
        inventory: &Inventory,
        connections: &[Connection],
    ) -> Result<(), Error> {
        let new = connections.iter().filter(|connection| {
            self.written_down.insert((connection.pid, connection.fd, connection.inode))
        });
        let sockets: Vec<RepairedSocket> = new
            .filter_map(|connection| {
                let process = inventory.processes.get(&connection.pid)?;
                Some(RepairedSocket {
                    pid: connection.pid,
                    start_time: process.threads.get(&connection.pid)?.start_time,
                    fd: connection.fd,
                    inode: connection.inode,
                    reuse: connection.reuse,
                })
            })
            .collect();
        if !sockets.is_empty() {
            let deed = Deed::RepairedSockets { sockets };
            self.repairs.push(Undo::before(&options.undo, deed).map_err(Error::Undo)?);
        }
        Ok(())
    }

    /// Locks connections of the namespace that this thread is in, or all of it, by what is asked for or what this
    /// machine has.
    fn lock(
        &mut self,
        options: &DumpOptions,
        of: &dyn Fn(Method) -> Option<Lock>,
        place: Option<u64>,
        tree: &LockedTree,
    ) -> Result<(), Error> {
        let any = [Method::Nftables, Method::Iptables];
        let asked = self.method.or(options.network_lock);
        let methods = any.into_iter().filter(|method| asked.is_none_or(|asked| asked == *method));
        let mut failed = None;
        for method in methods {
            let begun = self.begun.contains(&place);
            let deed = |lock| LockedNetwork::here(lock, tree.clone()).map(Deed::LockedNetwork);
            let lock = of(method).ok_or_else(|| Error::Lock(io::ErrorKind::InvalidInput.into()))?;
            let deed = deed(lock.clone()).map_err(Error::Lock)?;
            let undo = Undo::before(&options.undo, deed).map_err(Error::Undo)?;
            let held = Some(undo.as_fd());
            match if begun { lock.add(held) } else { lock.set(held) } {
                Ok(()) => {
                    self.method = Some(method);
                    self.begun.insert(place);
                    self.locks.push(undo);
                    return Ok(());
                }
                // Dropped, it takes away what may have been done.
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Lock(error)),
            _ => {
                let found = vec![support::sockets::NO_LOCK.of(options.pid, "TCP connections")];
                Err(Error::Refused { root: options.pid, found })
            }
        }
    }

    /// The tree has ended, or stays stopped, and its connections are to end without a word with those who hold `sockets`.
    pub(crate) fn end(&mut self, sockets: &[OwnedFd]) {
        for socket in sockets {
            if let Err(error) = tcp::repair(socket) {
                tracing::warn!("a TCP connection ends with a word to its peer: {error}");
            }
        }
    }

    /// The tree has ended: a restore takes the lock away.
    pub(crate) fn keep(&mut self) {
        self.told = false;
        self.locks.drain(..).for_each(Undo::keep);
        self.repairs.drain(..).for_each(Undo::keep);
    }
}

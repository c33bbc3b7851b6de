//! The network namespaces that the sockets of a tree are in. Each socket is looked at from inside of its own: what
//! the kernel tells of sockets, interfaces and groups it tells of the namespace of who asks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use collector::Process;
use images::messages::{FileBody, FileEntry};
use kernel::namespaces::{id, of_flag, of_process, own, within_network};
use kernel::sockets::network_namespace;

use super::problem::{Doing, Problem};

/// The open files that are attached to devices of programs in namespaces other than the dumper's, by those and the names of
/// the devices.
pub(crate) type Attached = BTreeMap<(u64, String), BTreeSet<u64>>;

/// What is known of them, from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Networks {
    /// This process's own; `None` where there is no telling.
    own: Option<u64>,
    /// The others, by the kernel's ids.
    others: BTreeMap<u64, Arc<OwnedFd>>,
    /// Which of the others a socket is in, by its inode; `None` of one that is in our own.
    of: HashMap<u64, Option<u64>>,
    /// What is attached to devices of programs in the others.
    pub(super) attached: Attached,
}

impl Networks {
    /// The namespaces that are not this process's own, by the kernel's ids.
    pub(super) const fn others(&self) -> &BTreeMap<u64, Arc<OwnedFd>> {
        &self.others
    }

    /// The namespace of a socket, if it is not this process's own.
    pub(super) fn of(&self, inode: u64) -> Option<(u64, &Arc<OwnedFd>)> {
        let (id, namespace) = self.others.get_key_value(&(*self.of.get(&inode)?)?)?;
        Some((*id, namespace))
    }

    /// Whether it is known which namespace a socket is in.
    pub(super) fn knows(&self, inode: u64) -> bool {
        self.of.contains_key(&inode)
    }

    /// All of them, if there is another than this process's own.
    pub(super) fn all(&self) -> All {
        let own = own("net").ok().map(Arc::new).filter(|_| !self.others.is_empty());
        All(own.into_iter().chain(self.others.values().cloned()).collect())
    }

    fn find_own(&mut self) -> Option<u64> {
        if self.own.is_none() {
            self.own = own("net").and_then(id).ok();
        }
        self.own
    }

    /// Notes down the namespace of a process, and returns its number if it is not the dumper's.
    pub(super) fn add_process(&mut self, process: &Process) -> Option<u64> {
        let number = *process.namespaces.get("net")?;
        if Some(number) == self.find_own() {
            return None;
        }
        if !self.others.contains_key(&number) {
            let namespace = of_process(process.pid, "net").ok()?;
            self.others.insert(id(&namespace).ok()?, Arc::new(namespace));
        }
        Some(number)
    }

    /// Notes down the namespace of a socket; `usual` is that of the process that has it open.
    pub(super) fn add(
        &mut self,
        inode: u64,
        socket: BorrowedFd<'_>,
        usual: Option<u64>,
    ) -> Result<(), Problem> {
        let number = self.of_opened(socket, usual)?;
        self.of.insert(inode, number);
        Ok(())
    }

    /// The network namespace of an open socket or device, if it is not the dumper's own. `usual` is the namespace of the process that has it
    /// open.
    pub(super) fn of_opened(
        &mut self,
        opened: BorrowedFd<'_>,
        usual: Option<u64>,
    ) -> Result<Option<u64>, Problem> {
        Ok(match network_namespace(opened) {
            Ok(namespace) => {
                let number = id(&namespace).doing("tell the network namespace of")?;
                let other = Some(number).filter(|number| Some(*number) != self.find_own());
                if let Some(number) = other {
                    self.others.entry(number).or_insert_with(|| Arc::new(namespace));
                }
                other
            }
            // A dumper without the right to ask takes it for the namespace of the process.
            Err(_) => usual,
        })
    }
}

/// Every namespace in which the tree has sockets, if there are several.
#[derive(Clone, Debug, Default)]
pub(super) struct All(Vec<Arc<OwnedFd>>);

impl All {
    /// Gathers what `ask` gives in each of them.
    pub(super) fn each<T>(&self, mut ask: impl FnMut() -> io::Result<T>) -> io::Result<Vec<T>> {
        if self.0.is_empty() {
            return Ok(vec![ask()?]);
        }
        self.0.iter().map(|namespace| within_network(&**namespace, &mut ask)?).collect()
    }
}

/// Notes which namespace the socket of an entry is in.
pub(super) fn set(entry: &mut FileEntry, number: u32) {
    if let Some(place) = entry.body_mut().and_then(FileBody::network_mut) {
        *place = Some(number);
    }
}

/// Gives an entry the numbers that its network namespace, or the namespace that it stands for, has in the images; `own` is that
/// of the dumper's network.
pub(super) fn renumber(
    entry: &mut FileEntry,
    numbers: &BTreeMap<(&'static str, u64), u32>,
    own: u32,
) {
    let known = |name, number: u32| numbers.get(&(name, u64::from(number))).copied();
    let Some(body) = entry.body_mut() else { return };
    if let Some(place) = body.network_mut() {
        *place = Some(place.and_then(|number| known("net", number)).unwrap_or(own));
    }
    if let Some((flag, number)) = body.namespace_mut()
        && let Some(new) = of_flag(flag).and_then(|name| known(name, *number))
    {
        *number = new;
    }
}

//! Who makes internet sockets. A socket is of the control group (version 2) of the process that made it, for good: by that the firewall
//! (`socket cgroupv2` of nftables) and the programs of control groups (`IPAddressDeny=` of systemd) decide what it may send and receive. So
//! each is made by a process that is born in the group of who has it (`CLONE_INTO_CGROUP`), and handed over.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ids::HostPid;
use images::messages::InetSkEntry;
use kernel::passing;
use kernel::process::{Fork, exit_now, fork_into, send_signal, wait_status};
use kernel::sockets::create_pair;

use super::ping;

/// The groups of sockets, and the processes in them that make some.
#[derive(Debug, Default)]
pub struct Makers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The directories of groups, by the files whose sockets are of others than this process's.
    groups: HashMap<u32, Arc<File>>,
    /// Numbers of processes that nobody of the tree has, nor anybody who acts for it.
    numbers: Vec<HostPid>,
    /// By the numbers of the group's directory and of the network namespace; `None` where there can be none.
    started: BTreeMap<(u64, Option<u32>), Option<Maker>>,
}

impl Makers {
    /// Those for these files, which have some of these numbers.
    pub(crate) fn of(groups: HashMap<u32, Arc<File>>, numbers: Vec<HostPid>) -> Self {
        Self(Mutex::new(State { groups, numbers, started: BTreeMap::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new socket of an entry, in the network namespace that this process is in, which is the entry's.
    pub(super) fn create(&self, entry: &InetSkEntry) -> io::Result<OwnedFd> {
        let kind = [entry.family, entry.r#type, entry.proto].map(u32::cast_signed);
        let mut state = self.lock();
        let State { groups, numbers, started } = &mut *state;
        let Some(group) = groups.get(&entry.id) else { return create(kind) };
        let place = (group.metadata()?.ino(), entry.ns_id);
        let maker = started.entry(place).or_insert_with(|| match Maker::start(group, numbers) {
            Ok(maker) => Some(maker),
            Err(error) => {
                tracing::warn!("sockets are made in the control group of the restore: {error}");
                None
            }
        });
        match maker {
            Some(maker) => maker.make(kind),
            None => create(kind),
        }
    }

    /// Ends the processes, and lets go of the groups: there is nothing more to be made.
    pub(crate) fn end(&self) {
        drop(std::mem::take(&mut *self.lock()));
    }
}

fn create([family, kind, protocol]: [i32; 3]) -> io::Result<OwnedFd> {
    ping::create(family, kind, protocol)
}

/// A process that makes sockets.
#[derive(Debug)]
struct Maker {
    pid: HostPid,
    channel: OwnedFd,
}

impl Maker {
    fn start(group: &File, numbers: &[HostPid]) -> io::Result<Self> {
        let (channel, theirs) = create_pair(libc::SOCK_SEQPACKET)?;
        let maker = HostPid::own();
        match fork_into(group.as_fd(), numbers.iter().copied())? {
            None => return Err(io::ErrorKind::AlreadyExists.into()),
            Some((pid, Fork::Parent)) => return Ok(Self { pid, channel }),
            Some((_, Fork::Child)) => {}
        }
        drop(channel);
        exit_now(i32::from(super::actors::ends_with(maker).and_then(|()| work(&theirs)).is_err()))
    }

    fn make(&self, kind: [i32; 3]) -> io::Result<OwnedFd> {
        let asked: Vec<u8> = kind.iter().flat_map(|number| number.to_ne_bytes()).collect();
        passing::send(&self.channel, &asked, &[] as &[OwnedFd])?;
        let mut errno = [0; 4];
        let made = passing::receive(&self.channel, &mut errno)?.pop();
        made.ok_or_else(|| match i32::from_ne_bytes(errno) {
            0 => io::Error::other("the process that was to make it has ended"),
            errno => io::Error::from_raw_os_error(errno),
        })
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        // Others that were started since hold its channel, too.
        drop(send_signal(self.pid, libc::SIGKILL));
        drop(wait_status(self.pid));
    }
}

/// The life of a maker.
fn work(channel: &OwnedFd) -> io::Result<()> {
    loop {
        let mut asked = [0; 12];
        passing::receive(channel, &mut asked)?;
        let number = |at: usize| {
            i32::from_ne_bytes([asked[at], asked[at + 1], asked[at + 2], asked[at + 3]])
        };
        match create([number(0), number(4), number(8)]) {
            Ok(made) => passing::send(channel, &0_i32.to_ne_bytes(), &[made])?,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes();
                passing::send(channel, &errno, &[] as &[OwnedFd])?;
            }
        }
    }
}

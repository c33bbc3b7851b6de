//! Leases on open files (`fcntl(F_SETLEASE)`), those that are being broken included.
//!
//! Who may take one is the owner of the file, and who has CAP_LEASE. A program may have given that away since it took the lease, so
//! the restore takes it as the owner; on behalf of a user it takes none on files of others.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use ids::HostPid;
use images::messages::{FdinfoEntry, FileLockEntry, LEASE_BREAKING};
use kernel::credentials::keeping_dumpable;
use kernel::descriptors::{Owner, set_lease, set_owner};
use nix::sys::stat::fstat;
use nix::unistd::{Uid, setfsuid};
use support::host::LEASE_OF_ANOTHER;

use super::beside::Part;
use super::keepers::is_late;
use super::{Error, InstallTask, OpenFiles};
use crate::locks::{in_the_way, name};

/// The leases of a tree, by the open file.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_file: BTreeMap<u32, Lease>,
    /// The user on whose behalf they are taken, if not anybody may have them.
    user: Option<u32>,
}

/// A lease, with the descriptor table in which it is taken.
#[derive(Debug)]
struct Lease {
    table: u32,
    entry: FileLockEntry,
}

impl Part for Leases {}

impl Leases {
    /// Notes the lease on a file.
    pub(crate) fn add(&mut self, file: u32, table: u32, entry: &FileLockEntry) {
        self.by_file.insert(file, Lease { table, entry: *entry });
    }

    /// Only those on files of this user are taken.
    pub(crate) fn restrict(&mut self, user: Option<u32>) {
        self.user = user;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_file.is_empty()
    }

    /// The table in which each file with a lease belongs.
    pub(super) fn tables(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.by_file.iter().map(|(file, lease)| (*file, lease.table))
    }
}

impl OpenFiles {
    /// Takes the lease on a file, if there was one: by the number that it was taken by, which the kernel tells
    /// with the signal of its breaking.
    pub(super) fn lease(&self, info: &FdinfoEntry, task: &InstallTask) -> Result<(), Error> {
        let Some(leases) = self.beside.get::<Leases>() else { return Ok(()) };
        let Some(Lease { entry, .. }) = leases.by_file.get(&info.id) else { return Ok(()) };
        let file = self.opened(info.id, task)?;
        let number = if is_late(info, self.base) { file.as_fd().as_raw_fd() } else { entry.fd };
        let object = format!("{} by descriptor {}", name(entry), entry.fd);
        let failed = |doing: &str, source| Error::Kernel {
            operation: format!("{doing} the {object} of process {}", task.pid),
            source,
        };
        let owner = fstat(file.as_fd()).map_err(|errno| failed("look at", errno.into()))?.st_uid;
        if leases.user.is_some_and(|user| user != owner) {
            return Err(Error::refused_of_task(LEASE_OF_ANOTHER.of(task.pid.get(), object)));
        }
        match take(file.as_fd(), number, owner, entry) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let refusal = in_the_way(entry, HostPid::own(), number);
                Err(Error::refused_of_task(refusal.of(task.pid.get(), object)))
            }
            Err(error) => Err(failed("take", error)),
        }
    }
}

/// Takes a lease, and breaks it if it was being broken. Nobody is told.
fn take(file: BorrowedFd<'_>, number: RawFd, owner: u32, entry: &FileLockEntry) -> io::Result<()> {
    let target = (entry.r#type & !LEASE_BREAKING).cast_signed();
    let is_broken = entry.r#type & LEASE_BREAKING != 0;
    let flags = nix::fcntl::fcntl(file, nix::fcntl::F_GETFL)?;
    // Of one that is being broken it is not told what it was. One to write is broken in any case by who writes;
    // one to read can be had by who only reads.
    let before = match (is_broken, target, flags & libc::O_ACCMODE) {
        (false, kind, _) => kind,
        (true, libc::F_UNLCK, libc::O_RDONLY) => libc::F_RDLCK,
        (true, ..) => libc::F_WRLCK,
    };
    keeping_dumpable(|| {
        let us = setfsuid(Uid::from_raw(owner));
        let taken = set_lease(number, before);
        setfsuid(us);
        taken
    })?;
    // With a lease the file has an owner, which is told of its breaking: the images say whom that shall be.
    set_owner(file, Owner { kind: 0, pid: None })?;
    if is_broken {
        break_it(number, target)?;
    }
    Ok(())
}

/// Opens the file as whoever waits for it does, without waiting.
fn break_it(number: RawFd, target: i32) -> io::Result<()> {
    let mut open = OpenOptions::new();
    let open = if target == libc::F_RDLCK { open.read(true) } else { open.write(true) };
    let opened = open.custom_flags(libc::O_NONBLOCK).open(format!("/proc/self/fd/{number}"));
    match opened {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("it could be opened in spite of the lease")),
    }
}

//! Who stands for the root of the tree at `setup-namespaces`, when its namespaces are there and nothing has been restored in them.
//!
//! A hook at that point finds the namespaces by a process (`/proc/PID/ns`): engines bring the devices of an empty network up there,
//! and sockets are bound and connected only then. The root itself is born when all files are open. So a process that
//! does nothing is in its namespaces meanwhile, and has its number, which the root gets afterwards where it may be chosen.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use hooks::{Hooks, Moment, Point};
use ids::{HostPid, ImagePid, ImagePids};
use kernel::process::{exit_now, fork_any, fork_as, fork_beside, wait_status};

use crate::error::Error;
use crate::namespaces::Made;

/// Calls who hangs on `setup-namespaces`; which number the process had that stood for the root.
pub(crate) fn tell(
    hooks: &mut dyn Hooks,
    images: &std::path::Path,
    namespaces: &Made<'_>,
    root: ImagePid,
) -> Result<Option<HostPid>, Error> {
    if !hooks.hang_on(Point::SetupNamespaces) {
        return Ok(None);
    }
    let failed = Error::kernel("make a process in the namespaces of the tree");
    let stand_in = StandIn::make(namespaces, root).map_err(failed)?;
    let pid = Some(stand_in.pid);
    hooks::call(hooks, Moment::of(Point::SetupNamespaces, pid, images))?;
    Ok(pid)
}

/// The process, which ends when this does, or the process that has it.
struct StandIn {
    pid: HostPid,
    /// It ends when this is closed.
    tie: Option<File>,
}

impl StandIn {
    /// Makes it by a process that enters the namespaces and ends: a pid namespace belongs to the user namespace of who makes it.
    fn make(namespaces: &Made<'_>, root: ImagePid) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let (mut ours, mut theirs) =
            (File::from(OwnedFd::from(ours)), File::from(OwnedFd::from(theirs)));
        let Some(passing) = fork_any()? else {
            drop(ours);
            let made = namespaces.enter_empty().and_then(|()| bear(namespaces, root));
            let made = match made {
                Ok(None) => wait_in(namespaces, &mut theirs),
                made => made.and_then(|made| made.ok_or(io::ErrorKind::InvalidData.into())),
            };
            let failed = |error: io::Error| -error.raw_os_error().unwrap_or(libc::EIO);
            let told = theirs.write_all(&made.map_or_else(failed, HostPid::get).to_ne_bytes());
            exit_now(i32::from(told.is_err()))
        };
        drop(theirs);
        let waited = wait_status(passing);
        let mut number = [0; 4];
        let told = ours.read_exact(&mut number);
        waited?;
        told?;
        let number = i32::from_ne_bytes(number);
        let failed = || io::Error::from_raw_os_error(number.saturating_neg());
        let pid = HostPid::new(number).ok_or_else(failed)?;
        let mut errno = [0; 4];
        let entered = ours.write_all(&[GO]).and_then(|()| ours.read_exact(&mut errno));
        // From here on it is waited for.
        let stand_in = Self { pid, tie: Some(ours) };
        entered?;
        match i32::from_ne_bytes(errno) {
            0 => Ok(stand_in),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        drop(self.tie.take());
        if let Err(error) = wait_status(self.pid) {
            tracing::warn!("wait for the process that stood for the root: {error}");
        }
    }
}

/// Makes a child of the caller's parent, with the number of the root, or as the first of a pid namespace.
fn bear(namespaces: &Made<'_>, root: ImagePid) -> io::Result<Option<HostPid>> {
    namespaces.born_with_root(|flags| match fork_as(&ImagePids::single(root), true, flags) {
        // Whoever has the number is named when the tree is made.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fork_beside(true),
        made => made,
    })
}

/// The process that passes has told who this one is.
const GO: u8 = b'g';

/// The life of the process.
fn wait_in(namespaces: &Made<'_>, tie: &mut File) -> ! {
    let mut word = [0];
    if tie.read_exact(&mut word).is_ok() {
        let entered = namespaces.enter_nested_users();
        let errno = entered.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
        if tie.write_all(&errno.to_ne_bytes()).is_ok() {
            // Nothing more is said: it returns when the other end is closed.
            drop(tie.read(&mut word));
        }
    }
    exit_now(0)
}

//! `/dev/tty`: the terminal that controls whoever opens it.

use std::fs::File as Opened;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use ids::{HostPid, ImagePid};
use images::messages::RegFileEntry;
use kernel::passing;
use kernel::process::{exit_now, fork_any, set_signal_mask, wait_status};
use kernel::sockets::create_pair;
use kernel::tty;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use super::super::Error;
use super::super::approve::{Approved, Purpose};
use super::super::opening::Opening;
use super::super::reopen::shown;
use super::known::File;

/// Nobody waits for the carrier of a line, and no terminal comes to control who opens it.
const WITHOUT_WAITING: u32 = (libc::O_NONBLOCK | libc::O_NOCTTY).cast_unsigned();

/// The file of a path, if the tasks may have it and it is a device: what opening another one does, nobody knows.
fn approve(opening: &mut Opening<'_>, path: &RegFileEntry) -> Result<Approved, Error> {
    let approved = opening.opener.approve(path, Purpose::Access(path.flags))?;
    match approved.attributes.mode & libc::S_IFMT {
        libc::S_IFCHR => Ok(approved),
        _ => Err(Error::refused(path.id, support::changed::NO_TERMINAL, shown(path))),
    }
}

/// Opens a line or a console by its path. It is non-blocking.
pub(super) fn open_now(opening: &mut Opening<'_>, path: &RegFileEntry) -> Result<OwnedFd, Error> {
    let approved = approve(opening, path)?;
    opening.opener.open_again(path, &approved, path.flags | WITHOUT_WAITING)
}

/// Opens a file again that was opened as `/dev/tty`, of the terminal `slave`, which controls nobody yet: in a
/// process that has a session of its own for that time.
pub(super) fn open(
    opening: &mut Opening<'_>,
    slave: &OwnedFd,
    file: &File<'_>,
) -> Result<OwnedFd, Error> {
    let path = file.path()?;
    let approved = approve(opening, path)?;
    let open = || {
        let opened = opening.opener.open_again(path, &approved, file.entry.flags | WITHOUT_WAITING);
        opened.map_err(|error| match error {
            Error::Kernel { source, .. } => source,
            other => io::Error::other(other),
        })
    };
    in_own_session(slave, open).map_err(|source| Error::Kernel {
        operation: format!("open the {} by way of its session", file.what()),
        source,
    })
}

/// What `open` gives in a session that a terminal controls.
fn in_own_session(
    slave: &OwnedFd,
    open: impl FnOnce() -> io::Result<OwnedFd>,
) -> io::Result<OwnedFd> {
    let (ours, theirs) = create_pair(libc::SOCK_SEQPACKET)?;
    let maker = HostPid::own();
    let Some(pid) = fork_any()? else {
        let done = || {
            // Who gives up its terminal is sent a signal for that.
            set_signal_mask(u64::MAX)?;
            set_pdeathsig(Signal::SIGKILL)?;
            if getppid().as_raw() != maker.get() {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            nix::unistd::setsid()?;
            tty::make_controlling(slave)?;
            let opened = open()?;
            passing::send(&theirs, b".", &[&opened])?;
            tty::give_up(slave)
        };
        exit_now(match done() {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        });
    };
    drop(theirs);
    let opened = passing::receive(&ours, &mut [0]);
    let status = wait_status(pid)?;
    match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 0) => {}
        (true, errno) => return Err(io::Error::from_raw_os_error(errno)),
        (false, _) => {
            return Err(io::Error::other("the process that was to do it has been killed"));
        }
    }
    let missing = || io::Error::other("the process that was to do it has ended");
    opened?.pop().ok_or_else(missing)
}

/// Gives up the controlling terminal, as this process did before; it leads no session.
pub(super) fn give_up(pid: ImagePid) -> Result<(), Error> {
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    let opened = match Opened::options().read(true).custom_flags(flags).open("/dev/tty") {
        // It has none.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(()),
        opened => opened,
    };
    opened.and_then(|opened| tty::give_up(&opened)).map_err(|source| Error::Kernel {
        operation: format!("give up the terminal of process {pid}"),
        source,
    })
}

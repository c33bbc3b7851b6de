//! `criu service`: whoever connects is served by a worker of his own.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use hooks::{Hooks, Moment, Point};
use ids::HostPid;
use kernel::descriptors::{close_range, duplicate_number, place, standard_streams_only};
use kernel::process::{exit_now, fork_any};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket,
};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use tracing::{debug, info, warn};

use crate::error::ServiceError;
use crate::options::Options;
use crate::pidfile::Pidfile;
use crate::{Directories, Done, Error};

/// The hidden command by which a service starts a worker: the connection is its standard input.
pub(crate) const SERVE: &str = "serve-connection";

/// Where a service listens that is not told.
const ADDRESS: &str = "criu_service.socket";

/// How many clients of one user are served at once. Of root's there may be any number.
const MOST: usize = 64;

/// How many clients may wait.
const WAITING: i32 = 16;

fn failed<E: Into<Box<dyn StdError + Send + Sync>>>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> Error {
    let what = what.into();
    move |source| Error::Service(ServiceError { what, source: source.into() })
}

/// Listens until it is ended.
pub(crate) fn run(
    options: &Options,
    directories: &Directories,
    hooks: &mut dyn Hooks,
) -> Result<Done, Error> {
    let address = directories.work.join(options.address.as_deref().unwrap_or(Path::new(ADDRESS)));
    let listener =
        listener(&address).map_err(failed(format!("listen at {}", address.display())))?;
    info!("The service socket is bound to {}", address.display());
    let pidfile = options.pidfile.as_ref().map(|file| directories.work.join(file));
    let pidfile = pidfile.map(|file| Pidfile::reserve(&file)).transpose();
    let pidfile = pidfile.map_err(failed("say which process listens"))?;
    if options.detach {
        leave().map_err(failed("go into the background"))?;
    }
    if let Some(mut pidfile) = pidfile {
        pidfile.write(HostPid::own()).map_err(failed("say which process listens"))?;
        pidfile.keep();
    }
    let ended = ended().map_err(failed("wait for workers"))?;
    if let Some(number) = options.status_fd {
        say_ready(number).map_err(failed(format!("write to status descriptor {number}")))?;
    }
    let moment = Moment::of(Point::StatusReady, None, &directories.images);
    hooks::call(hooks, moment).map_err(failed("say that it listens"))?;
    let mut workers = Workers::default();
    loop {
        await_any(&listener, &ended).map_err(failed("wait for clients"))?;
        workers.reap(&ended);
        match kernel::sockets::accept(&listener) {
            Ok(client) => workers.start(client),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It is that client's misfortune, or a moment's.
            Err(error) => warn!("Can't accept connection: {error}"),
        }
    }
}

/// A socket that anybody may connect to: what a client may have done, its worker decides.
fn listener(address: &Path) -> io::Result<OwnedFd> {
    match std::fs::symlink_metadata(address) {
        // That of a service which is no longer there.
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(address)?,
        Ok(_) => return Err(io::Error::other("a file is there that is no socket")),
        Err(_) => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(address)?)?;
    std::fs::set_permissions(address, Permissions::from_mode(0o666))?;
    listen(&listener, Backlog::new(WAITING)?)?;
    Ok(listener)
}

/// Goes on as a child that belongs to no session of the caller's.
fn leave() -> io::Result<()> {
    if fork_any()?.is_some() {
        exit_now(0);
    }
    nix::unistd::setsid()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    (0..=2).try_for_each(|number| place(&null, number, false))
}

/// A descriptor that tells of children that have ended.
fn ended() -> io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Tells who started the service that it listens, as CRIU does: by a byte of 0.
pub(crate) fn say_ready(number: RawFd) -> io::Result<()> {
    let status = duplicate_number(number)?.ok_or(Errno::EBADF)?;
    File::from(status).write_all(&[0])?;
    // Who reads it to its end is not to wait for the service's.
    if number > 2 { close_range(number, number) } else { Ok(()) }
}

fn await_any(listener: &OwnedFd, ended: &SignalFd) -> io::Result<()> {
    let wanted = |fd| PollFd::new(fd, PollFlags::POLLIN);
    match poll(&mut [wanted(listener.as_fd()), wanted(ended.as_fd())], PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The workers, each with the user whom it serves.
///
/// Anybody may connect, and a client who says nothing has a worker all the same: nobody fills the machine with them.
#[derive(Debug, Default)]
struct Workers(BTreeMap<i32, u32>);

impl Workers {
    /// Takes away those that have ended.
    fn reap(&mut self, ended: &SignalFd) {
        while let Ok(Some(_)) = ended.read_signal() {}
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(status) => {
                    debug!("worker: {status:?}");
                    if let Some(pid) = status.pid() {
                        self.0.remove(&pid.as_raw());
                    }
                }
            }
        }
    }

    /// Whether a user may have one more.
    fn has_room_for(&self, uid: u32) -> bool {
        uid == 0 || self.0.values().filter(|of| **of == uid).count() < MOST
    }

    /// Starts one, which has the connection as its standard input and no other descriptor of ours.
    fn start(&mut self, client: OwnedFd) {
        let uid = match getsockopt(&client, PeerCredentials) {
            Ok(peer) => peer.uid(),
            Err(error) => return warn!("Can't tell whose connection it is: {error}"),
        };
        if !self.has_room_for(uid) {
            return warn!("user {uid} has {MOST} connections: another is turned away");
        }
        let mut worker = Command::new("/proc/self/exe");
        worker.arg0("criu").arg(SERVE).stdin(Stdio::from(client));
        standard_streams_only(&mut worker);
        match worker.spawn() {
            Ok(worker) => {
                self.0.insert(worker.id().cast_signed(), uid);
            }
            Err(error) => warn!("Can't start a worker: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_fills_the_machine() {
        let mut workers = Workers((1..64).map(|pid| (pid, 1000)).collect());
        assert!(workers.has_room_for(1000));
        workers.0.insert(64, 1000);
        assert!(!workers.has_room_for(1000) && workers.has_room_for(1001));
        workers.0.extend((100..200).map(|pid| (pid, 0)));
        assert!(workers.has_room_for(0));
    }
}

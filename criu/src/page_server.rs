//! `criu page-server`, and the way of a dump to one (`--page-server`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hooks::{Hooks, Moment, Point};
use ids::HostPid;
use images::Images;
use images::page_server::{self, Client, Ending, Serving, Wire};
use kernel::descriptors::{duplicate_number, place};
use kernel::process::{exit_now, fork_any};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use tracing::{debug, error, info};

use crate::error::PageServerError;
use crate::options::Options;
use crate::pidfile::Pidfile;
use crate::{Directories, Done, Error, Failure, service};

/// How long a dump tries to connect.
const CONNECTING: Duration = Duration::from_secs(30);
/// Seconds after which it is asked whether a silent side is still there, between questions, and how many go unanswered.
const SILENT: u32 = 60;
const BETWEEN: u32 = 15;
const QUESTIONS: u32 = 8;

/// A connection: TCP's, or a socket that was handed over.
#[derive(Debug)]
struct Connection(TcpStream);

impl Connection {
    fn new(stream: TcpStream) -> Self {
        // Of a Unix socket none of it can be said, nor is there need to.
        let said = stream
            .set_nodelay(true)
            .and_then(|()| Ok(setsockopt(&stream, sockopt::KeepAlive, &true)?))
            .and_then(|()| Ok(setsockopt(&stream, sockopt::TcpKeepIdle, &SILENT)?))
            .and_then(|()| Ok(setsockopt(&stream, sockopt::TcpKeepInterval, &BETWEEN)?))
            .and_then(|()| Ok(setsockopt(&stream, sockopt::TcpKeepCount, &QUESTIONS)?));
        if let Err(error) = said {
            debug!(%error, "the connection is taken as it is");
        }
        Self(stream)
    }

    /// The socket that has a number in our table.
    fn of_number(number: RawFd) -> io::Result<Self> {
        let socket = duplicate_number(number)?.ok_or(io::Error::from_raw_os_error(libc::EBADF))?;
        let stream = TcpStream::from(socket);
        // It may be no socket at all.
        stream.read_timeout()?;
        stream.set_nonblocking(false)?;
        Ok(Self::new(stream))
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for Connection {
    fn wait_for(&mut self, time: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(time))?;
        self.0.set_write_timeout(Some(time))
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> PageServerError {
    let what = what.into();
    move |source| PageServerError { what, source }
}

/// Where a server is that is told by name or number; `default` for one that is told by neither.
fn name<'o>(options: &'o Options, default: &'o str) -> Result<(&'o str, u16), PageServerError> {
    let host = match &options.address {
        None => default,
        Some(address) => address.to_str().ok_or_else(|| {
            failed("connect to the page server")(io::Error::other("its address is no text"))
        })?,
    };
    Ok((host, options.port.unwrap_or(0)))
}

fn connect(options: &Options) -> Result<Connection, PageServerError> {
    if let Some(number) = options.ps_socket {
        let what = format!("use descriptor {number} as the connection to the page server");
        return Connection::of_number(number).map_err(failed(what));
    }
    let (host, port) = name(options, "localhost")?;
    let what = format!("connect to the page server at {host}, port {port}");
    let mut last = io::Error::other("it has no address");
    let addresses = (host, port).to_socket_addrs();
    for address in addresses.map_err(failed(what.clone()))? {
        match TcpStream::connect_timeout(&address, CONNECTING) {
            Ok(stream) => return Ok(Connection::new(stream)),
            Err(error) => last = error,
        }
    }
    Err(failed(what)(last))
}

/// Connects to the page server that a dump is to send its pages to; `None` of one that has none. A server without the parent that
/// pages are to be left to is refused.
pub(crate) fn client(
    options: &Options,
    parent: Option<&Images>,
) -> Result<Option<Arc<Client>>, Failure> {
    if !options.page_server {
        return Ok(None);
    }
    let ending = match options.ps_socket {
        Some(_) => Ending::OfServer,
        None => Ending::OfConnection,
    };
    let client = Client::new(Box::new(connect(options)?), ending)?;
    info!("Connected to the page server");
    if let Some(parent) = parent {
        client.require_parent(parent)?;
    }
    Ok(Some(Arc::new(client)))
}

/// The link by which a server in the dump's own directory finds the parent before the dump is there, and its inode. It goes, unless the
/// dump has put its own in its place.
#[derive(Debug)]
pub(crate) struct EarlyLink(Option<(PathBuf, u64)>);

impl EarlyLink {
    pub(crate) fn make(directory: &Path, options: &Options) -> io::Result<Self> {
        let link = directory.join(images::names::PARENT_LINK);
        match options.previous.as_ref().filter(|_| options.page_server) {
            Some(parent) if link.symlink_metadata().is_err() => {
                std::os::unix::fs::symlink(parent, &link)?;
                let inode = link.symlink_metadata()?.ino();
                Ok(Self(Some((link, inode))))
            }
            _ => Ok(Self(None)),
        }
    }
}

impl Drop for EarlyLink {
    fn drop(&mut self) {
        let Some((link, inode)) = &self.0 else { return };
        if link.symlink_metadata().is_ok_and(|there| there.ino() == *inode)
            && let Err(error) = std::fs::remove_file(link)
        {
            debug!(%error, link = %link.display(), "a link to a parent stays");
        }
    }
}

/// What a server takes its pages from.
enum Source {
    /// The first who connects.
    Listener(TcpListener),
    /// Whoever is at the other end already.
    Connection(Connection),
}

impl Source {
    fn open(options: &Options) -> Result<Self, PageServerError> {
        if let Some(number) = options.ps_socket {
            let what = format!("use descriptor {number} as the connection of a page server");
            info!("Reusing ps socket {number}");
            return Connection::of_number(number).map(Self::Connection).map_err(failed(what));
        }
        let (host, port) = name(options, "0.0.0.0")?;
        info!("Starting page server on port {port}");
        let what = format!("listen at {host}, port {port}");
        let listener = TcpListener::bind((host, port)).map_err(failed(what))?;
        if port == 0 {
            info!("Using {} port", port_of(&listener));
        }
        Ok(Self::Listener(listener))
    }

    /// The port where it listens, as a client of the RPC is told it.
    fn port(&self, options: &Options) -> u16 {
        match self {
            Self::Listener(listener) => port_of(listener),
            Self::Connection(_) => options.port.unwrap_or(0),
        }
    }

    fn accept(self) -> Result<Connection, PageServerError> {
        match self {
            Self::Connection(connection) => Ok(connection),
            Self::Listener(listener) => loop {
                match listener.accept() {
                    Ok((stream, from)) => {
                        info!("Accepted connection from {from}");
                        return Ok(Connection::new(stream));
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(failed("accept a connection")(error)),
                }
            },
        }
    }
}

fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().map_or(0, |address| address.port())
}

/// Goes on as a child that belongs to no session of the caller's, whose number is in the pidfile when the caller goes on.
fn go_into_background(pidfile: Option<Pidfile>) -> io::Result<()> {
    if let Some(child) = fork_any()? {
        let Some(mut pidfile) = pidfile else { exit_now(0) };
        match pidfile.write(child) {
            Ok(()) => exit_now(0),
            Err(error) => {
                error!("{}", Failure::from(error));
                drop(pidfile);
                let ended = kill(Pid::from_raw(child.get()), Signal::SIGKILL);
                debug!(?ended, "the page server is ended");
                exit_now(1)
            }
        }
    }
    if let Some(pidfile) = pidfile {
        pidfile.keep();
    }
    nix::unistd::setsid()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    (0..=2).try_for_each(|number| place(&null, number, false))
}

/// Serves one dump.
pub(crate) fn run(
    options: &Options,
    directories: &Directories,
    hooks: &mut dyn Hooks,
) -> Result<Done, Error> {
    serve(options, directories, hooks).map_err(Error::PageServer)
}

fn serve(
    options: &Options,
    directories: &Directories,
    hooks: &mut dyn Hooks,
) -> Result<Done, Failure> {
    if let Some(parent) = &options.previous {
        std::fs::read_dir(directories.images.join(parent))
            .map_err(failed(format!("open the parent checkpoint {}", parent.display())))?;
        page_server::link_parent(&directories.images, parent)?;
    }
    let source = Source::open(options)?;
    let port = source.port(options);
    let pidfile = options.pidfile.as_ref().map(|file| directories.work.join(file));
    let pidfile = pidfile.map(|file| Pidfile::reserve(&file)).transpose()?;
    match options.detach {
        true => go_into_background(pidfile).map_err(failed("go into the background"))?,
        false => {
            if let Some(mut pidfile) = pidfile {
                pidfile.write(HostPid::own())?;
                pidfile.keep();
            }
        }
    }
    if let Some(client) = options.tells {
        tell(client, port).map_err(failed("tell the client where the page server listens"))?;
    }
    if let Some(number) = options.status_fd {
        service::say_ready(number)
            .map_err(failed(format!("write to status descriptor {number}")))?;
    }
    hooks::call(hooks, Moment::of(Point::StatusReady, None, &directories.images))?;
    let serving = Serving {
        awaits_end: options.ps_socket.is_none(),
        deduplicates: options.auto_dedup,
        ..Serving::into_directory(directories.images.clone())
    };
    let mut connection = source.accept()?;
    let received = page_server::receive(&mut connection, &serving)?;
    info!("Session over: {} page maps, {} pages", received.maps, received.pages);
    Ok(Done::Served)
}

/// Tells the worker of a client that the server listens: who it is, and at which port.
fn tell(number: RawFd, port: u16) -> io::Result<()> {
    let pipe = duplicate_number(number)?.ok_or(io::Error::from_raw_os_error(libc::EBADF))?;
    File::from(pipe).write_all(format!("{} {port}\n", HostPid::own()).as_bytes())
}

//! The Unix socket of a service.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};

use crate::Error;
use crate::peers::{Connection, Peer};

/// A Unix socket that is bound, which may take privileges that are dropped before it is served.
/// Dropping it takes its name away, if it was made here.
#[derive(Debug)]
pub struct BoundSocket {
    listener: std::os::unix::net::UnixListener,
    name: Name,
}

/// A listening Unix socket; dropping it takes its name away, if it was made here.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    _name: Name,
}

/// The name of a socket, taken away when dropped, unless it is another's.
#[derive(Debug)]
struct Name {
    path: PathBuf,
    ours: bool,
}

impl BoundSocket {
    /// Binds a socket to a path. What a dead instance left there is taken away; where a living one
    /// answers, this fails. Anybody may connect: who may ask is decided by credentials, which
    /// permissions of a path cannot express.
    pub fn bind(path: &Path) -> Result<Self, Error> {
        let listen = |source| Error::Listen { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .map_err(|source| Error::Directory { path: directory.to_owned(), source })?;
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(Error::Taken(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(listen)?;
            }
            Err(_) => {}
        }
        let listener = std::os::unix::net::UnixListener::bind(path).map_err(listen)?;
        let name = Name { path: path.to_owned(), ours: true };
        let all = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(path, all).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        Ok(Self { listener, name })
    }

    /// One that somebody else has bound, and who may take it away.
    pub(crate) fn handed(listener: std::os::unix::net::UnixListener, path: &Path) -> Self {
        Self { listener, name: Name { path: path.to_owned(), ours: false } }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.name.path
    }

    /// Listens, within a runtime.
    pub fn listen(self) -> Result<Socket, Error> {
        let listener = UnixListener::from_std(self.listener)
            .map_err(|source| Error::Listen { path: self.name.path.clone(), source })?;
        Ok(Socket { listener, _name: self.name })
    }
}

impl Socket {
    /// Binds a socket and listens, as [`BoundSocket::bind`].
    pub fn bind(path: &Path) -> Result<Self, Error> {
        BoundSocket::bind(path)?.listen()
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            // Who has become another user may have no right to it; the next start takes it away.
            tracing::warn!("remove {}: {error}", self.path.display());
        }
    }
}

impl Listener for Socket {
    type Io = Stream;
    type Addr = Peer;

    async fn accept(&mut self) -> (Stream, Peer) {
        loop {
            let (stream, _) = Listener::accept(&mut self.listener).await;
            match stream.peer_cred() {
                Ok(credentials) => {
                    let connection = Connection::default();
                    let peer = Peer {
                        uid: credentials.uid(),
                        gid: credentials.gid(),
                        pid: credentials.pid(),
                        connection: connection.clone(),
                    };
                    return (Stream { stream, connection }, peer);
                }
                // Nothing can be decided about a peer without credentials: hang up.
                Err(error) => tracing::warn!("read the credentials of a peer: {error}"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a service is no peer of itself"))
    }
}

/// A connection that tells its [`Connection`] when it is gone.
#[derive(Debug)]
pub struct Stream {
    stream: UnixStream,
    connection: Connection,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.close();
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

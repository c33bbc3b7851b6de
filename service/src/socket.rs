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

/// A listening Unix socket; dropping it takes its name away.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens on a path. What a dead instance left there is taken away; where a living one
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
        let listener = UnixListener::bind(path).map_err(listen)?;
        let all = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(path, all).map_err(listen)?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
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

//! Sockets that whoever has started us hands over (socket activation: `LISTEN_FDS`), so that a
//! service can be asked before it runs and while it is started anew, and needs no right to make them.
//!
//! They have the names of the options whose places they take: `socket` and `listen`. They must be
//! what these say: nobody is to look for a service where it is not.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use listenfd::ListenFd;
use nix::sys::socket::{Backlog, listen};

use crate::{BoundSocket, Error};

/// Sockets that were handed over and not taken yet.
pub struct Handed {
    names: Vec<String>,
    sockets: ListenFd,
}

impl fmt::Debug for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handed").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Handed {
    /// What was handed to this process. To be called while there is one thread: it takes the
    /// variables away, so that no child believes itself to be meant.
    #[must_use]
    pub fn from_environment() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.split(':').map(str::to_owned).collect();
        Self { names, sockets: ListenFd::from_env() }
    }

    /// The Unix socket at a path: as handed over, or bound here.
    ///
    /// # Errors
    /// If what was handed over is another one, or it cannot be bound.
    pub fn unix(&mut self, path: &Path) -> Result<BoundSocket, Error> {
        let strange = |source| Error::Handed { name: "socket", source };
        let Some(index) = self.index("socket") else { return BoundSocket::bind(path) };
        let taken = self.sockets.take_unix_listener(index).map_err(strange)?;
        let Some(listener) = taken else { return BoundSocket::bind(path) };
        let address = listener.local_addr().map_err(strange)?;
        if address.as_pathname() != Some(path) {
            let there = address.as_pathname().unwrap_or(Path::new("?")).display().to_string();
            return Err(Error::HandedOther {
                name: "socket",
                there,
                said: path.display().to_string(),
            });
        }
        listener.set_nonblocking(true).map_err(strange)?;
        Ok(BoundSocket::handed(listener, path))
    }

    /// The TCP socket at an address: as handed over, or bound here.
    ///
    /// # Errors
    /// If what was handed over is another one, or it cannot be bound.
    pub fn tcp(&mut self, address: SocketAddr) -> Result<TcpListener, Error> {
        let strange = |source| Error::Handed { name: "listen", source };
        let taken = match self.index("listen") {
            Some(index) => self.sockets.take_tcp_listener(index).map_err(strange)?,
            None => None,
        };
        let listener = match taken {
            Some(listener) => {
                let there = listener.local_addr().map_err(strange)?;
                if there != address {
                    let (there, said) = (there.to_string(), address.to_string());
                    return Err(Error::HandedOther { name: "listen", there, said });
                }
                listener
            }
            None => bind(address)?,
        };
        listener.set_nonblocking(true).map_err(strange)?;
        Ok(listener)
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }
}

/// Binds an address, where as many may wait to be accepted as the kernel lets: a flood of them should
/// not delay the next.
fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    let failed = |source| Error::ListenTcp { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listen(&listener, Backlog::MAXCONN).map_err(|errno| failed(errno.into()))?;
    Ok(listener)
}

//! CRIU's RPC: requests come as messages over a socket, and each is carried out as a command line would be.
//!
//! | started as | by | for |
//! |---|---|---|
//! | `criu swrk FD` | a client, which is at the other end of FD | its requests; what of them has to do with being a child is allowed |
//! | `criu service` | anybody | whoever connects; a worker each |
//!
//! A worker is a process of its own with one thread: a restore forks, and makes its process part of what it makes.
//! What a client names by the number of a descriptor is that of the client (`/proc/PID/fd/N`), but for descriptors
//! to be inherited, which the worker has.
//!
//! Whoever is served gets what the worker's rights allow. So a worker does what reads or makes processes for
//! its own user and for root alone ([`worker`]).

mod connection;
mod fields;
mod messages;
mod notifications;
mod page_server;
mod worker;

use std::os::fd::RawFd;

use connection::Connection;
use fields::Origin;
use worker::Worker;

use crate::log::Log;
use crate::reading::Reading;
use crate::{Error, Host};

/// Carries out the requests that come by descriptor `number`; whether all of them were.
///
/// # Errors
/// If that is no socket with a client at its end.
pub(crate) fn work(number: RawFd, base: &Reading, host: &Host) -> Result<bool, Error> {
    serve(number, base, host, Origin::Client)
}

/// The same for the worker of a service.
///
/// # Errors
/// As [`work`].
pub(crate) fn serve_connection(base: &Reading, host: &Host) -> Result<bool, Error> {
    serve(0, base, host, Origin::Service)
}

fn serve(number: RawFd, base: &Reading, host: &Host, origin: Origin) -> Result<bool, Error> {
    let connection = Connection::adopt(number).map_err(Error::Connection)?;
    let log = Log::open(None, 2).map_err(|source| Error::Log { path: "-".into(), source })?;
    Ok(log.during(|| Worker { connection, base, host, origin }.work()))
}

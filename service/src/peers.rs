//! Who may ask: peers are known by the credentials that the kernel attests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::{Gid, Group, Uid, User, geteuid};
use tokio::sync::Notify;

use crate::{Error, Settings};

/// Who is at the other end of a connection, and whether it is still there.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its user, at the time it connected.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// Its process; `None` when that is outside our pid namespace.
    pub pid: Option<i32>,
    /// The connection.
    pub connection: Connection,
}

/// A connection that can be outlived: whoever holds this learns when it has closed.
#[derive(Clone, Debug, Default)]
pub struct Connection(Arc<State>);

#[derive(Debug, Default)]
struct State {
    closed: AtomicBool,
    event: Notify,
}

impl Connection {
    /// Returns when the connection has closed.
    pub async fn closed(&self) {
        let event = self.0.event.notified();
        tokio::pin!(event);
        // Registered before the flag is read, so that a close between the two is not missed.
        event.as_mut().enable();
        if !self.0.closed.load(Ordering::Acquire) {
            event.await;
        }
    }

    pub(crate) fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.event.notify_waiters();
    }
}

/// Who may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    uids: Vec<u32>,
    gids: Vec<u32>,
}

impl Allowed {
    /// Root, our own user, and whom the settings name.
    pub fn by(settings: &Settings) -> Result<Self, Error> {
        let mut allowed = Self { uids: vec![0, geteuid().as_raw()], gids: Vec::new() };
        for name in &settings.allow_user {
            allowed.uids.push(user(name)?.as_raw());
        }
        for name in &settings.allow_group {
            allowed.gids.push(group(name)?.as_raw());
        }
        Ok(allowed)
    }

    /// Whether a user with a primary group may ask.
    #[must_use]
    pub fn admits(&self, uid: u32, gid: u32) -> bool {
        self.uids.contains(&uid) || self.gids.contains(&gid)
    }
}

fn user(name: &str) -> Result<Uid, Error> {
    if let Ok(uid) = name.parse() {
        return Ok(Uid::from_raw(uid));
    }
    let found = User::from_name(name)
        .map_err(|source| Error::LookUp { name: name.to_owned(), source })?
        .map(|user| user.uid);
    found.ok_or_else(|| Error::UnknownName { kind: "user", name: name.to_owned() })
}

fn group(name: &str) -> Result<Gid, Error> {
    if let Ok(gid) = name.parse() {
        return Ok(Gid::from_raw(gid));
    }
    let found = Group::from_name(name)
        .map_err(|source| Error::LookUp { name: name.to_owned(), source })?
        .map(|group| group.gid);
    found.ok_or_else(|| Error::UnknownName { kind: "group", name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_are_admitted() {
        let allowed = Allowed { uids: vec![0, 1000], gids: vec![50] };
        assert!(allowed.admits(0, 0) && allowed.admits(1000, 9) && allowed.admits(7, 50));
        assert!(!allowed.admits(7, 0) && !allowed.admits(1001, 1000));
    }

    #[tokio::test]
    async fn a_closed_connection_is_noticed_before_and_after() {
        let connection = Connection::default();
        let waiting = tokio::spawn({
            let connection = connection.clone();
            async move { connection.closed().await }
        });
        tokio::task::yield_now().await;
        connection.close();
        waiting.await.unwrap();
        connection.closed().await;
    }
}

//! Listening TCP sockets, and the connections that wait at them.
//!
//! A server at work takes such a connection within a moment. So where some wait that are not to be carried ([`super::waiting`]) the tree is told to
//! stop when none does; and what comes from then on, from outside, has come after the moment that is dumped.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use kernel::tcp;

use super::beside::Part;
use super::held::HeldFiles;

/// For so long a moment is waited for in which no connection waits.
const PATIENCE: Duration = Duration::from_millis(100);
const NAP: Duration = Duration::from_micros(50);

/// Those of a tree, by inode: whether none waited when it was told to stop.
#[derive(Debug, Default)]
pub(super) struct Listeners(BTreeMap<u64, bool>);

impl Part for Listeners {}

impl Listeners {
    /// Takes one down, of a tree that runs.
    pub(super) fn meet(&mut self, inode: u64) {
        self.0.insert(inode, false);
    }

    /// What waits at one is carried in any case.
    pub(super) fn forget(&mut self, inode: u64) {
        self.0.remove(&inode);
    }

    /// Whether what waits at one has come since the tree was told to stop.
    pub(super) fn was_quiet(&self, inode: u64) -> bool {
        self.0.get(&inode) == Some(&true)
    }
}

/// Waits until no connection waits, or for as long as that may take; the tree is told to stop at once.
pub(super) fn await_quiet(held: &mut HeldFiles) {
    let since = Instant::now();
    while !look(held, |_, is_quiet| is_quiet) && since.elapsed() < PATIENCE {
        std::thread::sleep(NAP);
    }
}

/// Looks at a tree that has just been stopped: what waited when it was told to may have been accepted since.
pub(super) fn look_again(held: &mut HeldFiles) {
    look(held, |was_quiet, is_quiet| was_quiet || is_quiet);
}

/// Looks at all; whether each is quiet, as `judge` says by what it was and is.
fn look(held: &mut HeldFiles, judge: impl Fn(bool, bool) -> bool) -> bool {
    let mut listeners = std::mem::take(held.beside.of::<Listeners>());
    for (inode, was_quiet) in &mut listeners.0 {
        *was_quiet = judge(*was_quiet, held.held_socket(*inode).is_some_and(is_quiet));
    }
    let all = listeners.0.values().all(|was_quiet| *was_quiet);
    *held.beside.of() = listeners;
    all
}

fn is_quiet(socket: &OwnedFd) -> bool {
    tcp::state(socket).is_ok_and(|(_, waiting, _)| waiting == 0)
}

//! The kinds of open file that are restored: a line for each, here and nowhere else.

use images::ImageDir;

use super::Error;
use super::epoll::Epoll;
use super::eventfd::Eventfd;
use super::fifos::Fifo;
use super::file_kind::FileKind;
use super::images::FileMemory;
use super::inet_sockets::InetSocket;
use super::keep::Keep;
use super::memfd::{self, Memfd};
use super::pidfd::Pidfd;
use super::pipes::{self, Pipe};
use super::regular::Regular;
use super::signalfd::Signalfd;
use super::terminals::{self, OpenTerminal};
use super::timerfd::Timerfd;
use super::unix_sockets::{self, UnixSocket};

/// In the order in which they are opened.
static KINDS: &[&dyn FileKind] = &[
    &Regular,
    &Pipe,
    &Fifo,
    &Memfd,
    &Eventfd,
    &Timerfd,
    &Signalfd,
    &Epoll,
    &Pidfd,
    &OpenTerminal,
    &InetSocket,
    // Last, because they leave names in file systems, which no error must leave behind.
    &UnixSocket,
];

/// What kinds have beside the entries of files, in images of their own.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub(super) pipes: pipes::Contents,
    pub(super) fifos: pipes::Contents,
    pub(super) queues: unix_sockets::Queues,
    pub(super) terminals: terminals::Infos,
    pub(super) memfds: memfd::Inodes,
}

impl Beside {
    /// Reads them.
    pub(super) fn load(dir: &ImageDir, memory: FileMemory) -> Result<Self, Error> {
        Ok(Self {
            pipes: pipes::load(dir, &images::names::pipes_data())?,
            fifos: pipes::load(dir, &images::names::fifo_data())?,
            queues: unix_sockets::load(dir)?,
            terminals: terminals::load(dir)?,
            memfds: memfd::Inodes::load(dir, memory)?,
        })
    }

    /// Moves what has been made of them out of the way of the tasks.
    pub(super) fn keep(&mut self, keep: Keep) -> std::io::Result<()> {
        self.memfds.keep(keep)
    }
}

/// The kind whose entries are of this type.
pub(super) fn of_type(r#type: u32) -> Option<&'static dyn FileKind> {
    all().find(|kind| kind.r#type() == r#type)
}

/// All of them, in the order in which they are opened.
pub(super) fn all() -> impl Iterator<Item = &'static dyn FileKind> {
    KINDS.iter().copied()
}

//! The kinds of open file that are restored: a line for each, here and nowhere else.

use super::bpfmap::BpfMap;
use super::epoll::Epoll;
use super::eventfd::Eventfd;
use super::fanotify::Fanotify;
use super::fifos::Fifo;
use super::file_kind::FileKind;
use super::inet_sockets::InetSocket;
use super::inotify::Inotify;
use super::io_uring::IoUring;
use super::memfd::Memfd;
use super::mqueue::MessageQueue;
use super::netlink_sockets::NetlinkSocket;
use super::nsfs::Namespace;
use super::packet_sockets::PacketSocket;
use super::pidfd::Pidfd;
use super::pipes::Pipe;
use super::regular::Regular;
use super::signalfd::Signalfd;
use super::terminals::OpenTerminal;
use super::timerfd::Timerfd;
use super::tun::Tun;
use super::unix_sockets::UnixSocket;
use super::userfault::Userfault;

/// In the order in which they are opened.
static KINDS: &[&dyn FileKind] = &[
    &Regular,
    &Pipe,
    &Fifo,
    &Memfd,
    &MessageQueue,
    &BpfMap,
    &Eventfd,
    &Timerfd,
    &Signalfd,
    &Epoll,
    &Pidfd,
    &Inotify,
    &Fanotify,
    &Namespace,
    &OpenTerminal,
    &InetSocket,
    &NetlinkSocket,
    &PacketSocket,
    &Tun,
    &IoUring,
    &Userfault,
    // Last, because they leave names in file systems, which no error must leave behind.
    &UnixSocket,
];

/// The kind whose entries are of this type.
pub(super) fn of_type(r#type: u32) -> Option<&'static dyn FileKind> {
    all().find(|kind| kind.r#type() == r#type)
}

/// All of them, in the order in which they are opened.
pub(super) fn all() -> impl Iterator<Item = &'static dyn FileKind> {
    KINDS.iter().copied()
}

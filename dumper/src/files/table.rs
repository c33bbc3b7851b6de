//! The kinds of open file that are carried: a line for each, here and nowhere else.

use std::ffi::OsStr;

use collector::OpenFile;

use super::bpfmap::BpfMap;
use super::devices::Device;
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

/// In the order in which they are asked whether a file is theirs.
static KINDS: &[&dyn FileKind] = &[
    &Eventfd,
    &Epoll,
    &Timerfd,
    &Signalfd,
    &Inotify,
    &Fanotify,
    &Namespace,
    &Pidfd,
    &IoUring,
    &Userfault,
    &BpfMap,
    &Memfd,
    &MessageQueue,
    &UnixSocket,
    &InetSocket,
    &NetlinkSocket,
    &PacketSocket,
    &Pipe,
    &Fifo,
    &Device,
    &Tun,
    &OpenTerminal,
    // Whatever has a path.
    &Regular,
];

/// The kind of an open file that is neither a socket nor a device, by what the inventory says.
pub(super) fn of(file: &OpenFile) -> Option<&'static dyn FileKind> {
    all().find(|kind| kind.is(file))
}

/// The kind whose entries are of this type.
pub(super) fn of_type(r#type: u32) -> Option<&'static dyn FileKind> {
    all().find(|kind| kind.types().contains(&r#type))
}

/// The kind of character devices with this number, if it is one of its own.
pub(super) fn of_device(device: u64) -> Option<&'static dyn FileKind> {
    all().find(|kind| kind.is_device(device))
}

/// The kind of the sockets of a family.
pub(super) fn of_family(family: i32) -> Option<&'static dyn FileKind> {
    all().find(|kind| kind.families().contains(&family))
}

/// The kind of a file that is mapped or run, if it is another than one that is found by its path.
pub(super) fn of_mapped(inode: u64, name: &OsStr) -> Option<&'static dyn FileKind> {
    all().find(|kind| kind.is_mapped(inode, name))
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static dyn FileKind> {
    KINDS.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(target: &str, mode: u32, flags: u32) -> OpenFile {
        OpenFile {
            fd: 3,
            close_on_exec: false,
            description: 1,
            position: 0,
            flags,
            mode,
            device: 1,
            inode: 1,
            target: target.into(),
            owned: None,
            locked: None,
            linkable: None,
            uncorked: false,
            terminal: None,
            mark: None,
        }
    }

    #[test]
    fn each_kind_by_its_link_and_mode() {
        let handle = libc::O_PATH.cast_unsigned();
        for (target, mode, flags, expected) in [
            ("/etc/passwd", libc::S_IFREG, 0, "Regular"),
            ("/tmp (deleted)", libc::S_IFDIR, 0, "Regular"),
            ("/dev/null", libc::S_IFCHR, handle, "Regular"),
            ("/run/socket", libc::S_IFSOCK, handle, "Regular"),
            ("pipe:[1]", libc::S_IFIFO, 0, "Pipe"),
            ("/tmp/pipe:[1]", libc::S_IFIFO, 0, "Fifo"),
            ("anon_inode:[eventfd]", 0, 0, "Eventfd"),
            ("anon_inode:[eventpoll]", libc::S_IFREG, 0, "Epoll"),
            ("anon_inode:[timerfd]", 0, 0, "Timerfd"),
            ("anon_inode:[signalfd]", 0, 0, "Signalfd"),
            ("anon_inode:inotify", 0, 0, "Inotify"),
            ("net:[4026531840]", libc::S_IFREG, 0, "Namespace"),
            ("anon_inode:[fanotify]", 0, 0, "Fanotify"),
            ("anon_inode:[pidfd]", 0, 0, "Pidfd"),
            ("anon_inode:[io_uring]", 0, 0, "IoUring"),
            ("pidfd:[77]", libc::S_IFREG, 0, "Pidfd"),
            ("/memfd:x (deleted)", libc::S_IFREG, 0, "Memfd"),
            ("/memfd:x (deleted)", libc::S_IFREG, handle, "Memfd"),
        ] {
            let kind = of(&file(target, mode, flags)).unwrap();
            assert_eq!(format!("{kind:?}"), expected, "{target}");
        }
    }

    #[test]
    fn no_type_is_that_of_two_kinds() {
        let mut types: Vec<u32> = all().flat_map(|kind| kind.types()).copied().collect();
        let number = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), number);
    }
}

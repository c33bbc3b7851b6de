//! Marks of open files change when what they cover does, and only then.

#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use ids::{HostPid, ImagePid};
use kernel::descriptors::Owner;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{setsockopt, sockopt};
use stasis_collector::{Collector, FileMark};

/// What the kernel tells of this process's own files.
struct Eye(Collector);

impl Eye {
    fn open() -> Self {
        let mut collector = Collector::with_bpf().unwrap();
        collector.watch();
        Self(collector)
    }

    fn mark(&mut self, file: &impl AsFd) -> Option<FileMark> {
        let pid = HostPid::own();
        let fd = file.as_fd().as_raw_fd();
        let inventory = self.0.inventory(&[pid]).unwrap();
        let files = &inventory.processes[&pid].files;
        files.iter().find(|file| file.fd == fd).unwrap().mark
    }

    /// The mark is there and stays what it is.
    fn still(&mut self, file: &impl AsFd) -> FileMark {
        let mark = self.mark(file).expect("a mark");
        assert_eq!(self.mark(file), Some(mark));
        mark
    }
}

/// Does one thing after the other, each of which must change the mark of `file`.
fn each_changes(eye: &mut Eye, file: &impl AsFd, steps: &[(&str, &dyn Fn())]) {
    let mut last = eye.still(file);
    for (what, step) in steps {
        step();
        let mark = eye.still(file);
        assert_ne!(last, mark, "{what}");
        last = mark;
    }
}

#[test]
fn pipes() {
    let mut eye = Eye::open();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let (mut reader, mut writer) = (File::from(reader), File::from(writer));
    assert_eq!(eye.still(&reader).print, eye.still(&writer).print);
    assert_eq!(eye.still(&reader).size, Some(16));
    let write = |bytes: &[u8]| (&writer).write_all(bytes).unwrap();
    let read = |count: usize| (&reader).read_exact(&mut vec![0; count]).unwrap();
    each_changes(
        &mut eye,
        &reader,
        &[
            ("write", &|| write(b"1234")),
            ("write more into the same page", &|| write(b"5678")),
            ("read some", &|| read(2)),
            ("read the rest", &|| read(6)),
            ("write again", &|| write(b"1234")),
            ("read and write again", &|| {
                read(4);
                write(b"4321");
            }),
            ("read, and leave it empty", &|| read(4)),
            ("capacity, and back", &|| {
                fcntl(&writer, FcntlArg::F_SETPIPE_SZ(8192)).unwrap();
                fcntl(&writer, FcntlArg::F_SETPIPE_SZ(65536)).unwrap();
            }),
            ("capacity", &|| {
                fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
            }),
        ],
    );
    assert_eq!(eye.still(&reader).size, Some(1));
    // Another's page: its bytes can change where they lie.
    let file = tempfile::tempfile().unwrap();
    (&file).write_all(b"page").unwrap();
    nix::fcntl::splice(&file, Some(&mut 0), &writer, None, 4, nix::fcntl::SpliceFFlags::empty())
        .unwrap();
    assert_eq!(eye.mark(&reader), None);
    reader.read_exact(&mut [0; 4]).unwrap();
    eye.still(&reader);
    // More than is looked at.
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(1 << 20)).unwrap();
    writer.write_all(&[7; 17 * 4096]).unwrap();
    assert_eq!(eye.mark(&reader), None);
}

#[test]
fn sockets_and_pipes_that_are_not_watched_have_none() {
    let mut eye = Eye(Collector::with_bpf().unwrap());
    let (a, _b) = UnixStream::pair().unwrap();
    let (reader, _writer) = nix::unistd::pipe().unwrap();
    assert_eq!((eye.mark(&a), eye.mark(&reader)), (None, None));
    eye.0.watch();
    eye.still(&a);
    eye.still(&reader);
}

#[test]
fn sockets() {
    let mut eye = Eye::open();
    let (a, b) = UnixStream::pair().unwrap();
    assert_ne!(eye.still(&a).print, eye.still(&b).print);
    assert_eq!(eye.still(&b).size, Some(0));
    let second = Some(std::time::Duration::from_secs(1));
    each_changes(
        &mut eye,
        &b,
        &[
            ("option", &|| setsockopt(&b, sockopt::PassCred, &true).unwrap()),
            ("option set and set back", &|| {
                setsockopt(&b, sockopt::PassCred, &false).unwrap();
                setsockopt(&b, sockopt::PassCred, &true).unwrap();
            }),
            ("time-out", &|| b.set_read_timeout(second).unwrap()),
            ("message", &|| (&a).write_all(b"to b").unwrap()),
            ("another message", &|| (&a).write_all(b"to b").unwrap()),
        ],
    );
    assert_eq!(eye.still(&b).size, Some(2));
    each_changes(
        &mut eye,
        &b,
        &[
            ("read", &|| (&b).read_exact(&mut [0; 8]).unwrap()),
            ("shutdown", &|| a.shutdown(std::net::Shutdown::Write).unwrap()),
        ],
    );
    let before = eye.still(&b);
    drop(a);
    assert_ne!(eye.still(&b), before);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let idle = eye.still(&listener);
    let client = UnixStream::connect(&path).unwrap();
    assert_ne!(eye.still(&listener), idle);
    assert_eq!(eye.still(&listener).size, Some(1));
    // Nothing of the client's own changes when it is accepted, but its peer is another.
    let waiting = eye.still(&client);
    let _accepted = listener.accept().unwrap();
    assert_ne!(eye.still(&client), waiting);

    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    each_changes(
        &mut eye,
        &server,
        &[
            ("linger", &|| {
                let on = libc::linger { l_onoff: 1, l_linger: 5 };
                setsockopt(&server, sockopt::Linger, &on).unwrap();
            }),
            ("TCP option", &|| setsockopt(&server, sockopt::TcpNoDelay, &true).unwrap()),
            ("time to live", &|| server.set_ttl(7).unwrap()),
            ("IPv4 option", &|| setsockopt(&server, sockopt::Ipv4PacketInfo, &true).unwrap()),
        ],
    );
    // A connection that waits may be another one the next time, at the same address.
    std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
    assert_eq!(eye.mark(&server), None);
    drop(server.accept().unwrap());
    eye.still(&server);
    let udp = std::net::UdpSocket::bind("[::1]:0").unwrap();
    each_changes(
        &mut eye,
        &udp,
        &[
            ("connect", &|| udp.connect(udp.local_addr().unwrap()).unwrap()),
            ("IPv6 option", &|| setsockopt(&udp, sockopt::Ipv6RecvPacketInfo, &true).unwrap()),
        ],
    );
    udp.send(b"").unwrap();
    assert_eq!(eye.mark(&udp), None);
    udp.recv(&mut [0]).unwrap();
    eye.still(&udp);
}

/// Needs root, as packet and raw sockets do.
#[test]
fn sockets_of_other_families() {
    use kernel::socket_filter;
    use kernel::sockets::{Address, bind, connect, create, set_option};
    let mut eye = Eye::open();
    let netlink = create(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE).unwrap();
    let name = |groups: u32| {
        let port = 0x6000_0000 | std::process::id();
        let data = [&[0, 0][..], &port.to_ne_bytes(), &groups.to_ne_bytes()].concat();
        Address::new(libc::AF_NETLINK as u16, &data).unwrap()
    };
    each_changes(
        &mut eye,
        &netlink,
        &[
            ("port and a group", &|| bind(&netlink, &name(1)).unwrap()),
            ("another group in its place", &|| bind(&netlink, &name(2)).unwrap()),
            ("no group", &|| bind(&netlink, &name(0)).unwrap()),
            ("option", &|| set_option(&netlink, 270, 11, 1).unwrap()),
        ],
    );
    let packet = create(libc::AF_PACKET, libc::SOCK_DGRAM, 0).expect("needs root");
    let loopback = [&0x88b5_u16.to_be_bytes()[..], &1_u32.to_ne_bytes(), &[0; 12]].concat();
    let loopback = Address::new(libc::AF_PACKET as u16, &loopback).unwrap();
    let filter = |code: u64| socket_filter::attach(&packet, &[6 << 48 | code]).unwrap();
    each_changes(
        &mut eye,
        &packet,
        &[
            ("interface", &|| bind(&packet, &loopback).unwrap()),
            ("PACKET_AUXDATA", &|| set_option(&packet, libc::SOL_PACKET, 8, 1).unwrap()),
            ("filter", &|| filter(0xffff)),
            ("another filter", &|| filter(0x7fff)),
        ],
    );
    let raw = create(libc::AF_INET, libc::SOCK_RAW, 253).expect("needs root");
    let peer = Address::new(libc::AF_INET as u16, &[0, 0, 127, 0, 0, 83, 0, 0, 0, 0, 0, 0, 0, 0]);
    let peer = peer.unwrap();
    each_changes(
        &mut eye,
        &raw,
        &[
            ("peer", &|| connect(&raw, &peer).unwrap()),
            ("IP_HDRINCL", &|| set_option(&raw, libc::SOL_IP, libc::IP_HDRINCL, 1).unwrap()),
        ],
    );
}

#[test]
fn files_with_a_name() {
    let mut eye = Eye::open();
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("file");
    let mut file = File::create(&path).unwrap();
    let first = eye.still(&file);
    assert_eq!(first.size, Some(0));
    file.write_all(b"longer").unwrap();
    let longer = eye.still(&file);
    assert_eq!((longer.print, longer.size), (first.print, Some(6)));
    let other = folder.path().join("other");
    each_changes(
        &mut eye,
        &file,
        &[
            ("mode", &|| {
                file.set_permissions(std::fs::Permissions::from_mode(0o640)).unwrap();
            }),
            ("owner", &|| std::os::unix::fs::fchown(&file, Some(1), None).unwrap()),
            ("link", &|| std::fs::hard_link(&path, &other).unwrap()),
            ("unlink", &|| std::fs::remove_file(&other).unwrap()),
        ],
    );
    let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockShared).unwrap();
    assert_eq!(eye.mark(&lock.as_fd()), None);
    let file = lock.unlock().unwrap();
    let unlocked = eye.still(&file);
    fcntl(&file, FcntlArg::F_SETFL(nix::fcntl::OFlag::O_APPEND)).unwrap();
    assert_eq!(eye.still(&file), unlocked, "flags are in the inventory");
    let own = HostPid::own();
    kernel::descriptors::set_owner(&file, Owner { kind: 1, pid: ImagePid::new(own.get()) })
        .unwrap();
    assert_eq!(eye.mark(&file), None);
    drop(file);
    let again = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path).unwrap();
    assert_eq!(eye.still(&again).print, unlocked.print);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(eye.mark(&again), None);
    assert!(eye.mark(&File::open("/dev/null").unwrap()).is_some());
    assert_eq!(eye.mark(&nix::sys::eventfd::EventFd::new().unwrap()), None);

    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fifo = OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    each_changes(&mut eye, &fifo, &[("write", &|| (&fifo).write_all(b"x").unwrap())]);
}

/// What a dump does to look at a target is no change of it.
#[test]
fn looking_changes_nothing() {
    let mut eye = Eye::open();
    let (a, b) = UnixStream::pair().unwrap();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    (&a).write_all(b"to b").unwrap();
    nix::unistd::write(&writer, b"bytes").unwrap();
    let before = [eye.still(&a), eye.still(&b), eye.still(&reader)];
    kernel::sock_diag::unix_sockets().unwrap();
    kernel::queues::peek(b.as_fd(), &mut [0; 64]).unwrap().unwrap();
    let (copy, into) = nix::unistd::pipe().unwrap();
    nix::fcntl::tee(&reader, &into, 5, nix::fcntl::SpliceFFlags::empty()).unwrap();
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    assert_eq!(before, [eye.still(&a), eye.still(&b), eye.still(&reader)]);
    assert_eq!(eye.mark(&copy), None, "the copy has another's page");
}

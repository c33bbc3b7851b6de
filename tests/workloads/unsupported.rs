//! Programs that hold one thing each that cannot be checkpointed: a dump must refuse them by name
//! before it stops them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::stage::{Findings, Outcome, Stage, check};

fn holding(stage: &Stage, fd: libc::c_long, what: &str) -> Outcome {
    let fd = RawFd::try_from(fd).expect("a descriptor");
    assert!(fd >= 0, "{what}: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    let held = unsafe { OwnedFd::from_raw_fd(fd) };
    stage.ready_then_wait();
    drop(held);
    Ok(())
}

pub(crate) fn inotify(stage: &Stage) -> Outcome {
    // SAFETY: takes an integer.
    holding(stage, unsafe { libc::inotify_init1(0) }.into(), "inotify")
}

pub(crate) fn io_uring(stage: &Stage) -> Outcome {
    let mut parameters = [0_u8; 120];
    // SAFETY: the parameters are a zeroed struct io_uring_params of 120 bytes.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) };
    holding(stage, fd, "io_uring")
}

pub(crate) fn userfaultfd(stage: &Stage) -> Outcome {
    // SAFETY: takes an integer.
    holding(stage, unsafe { libc::syscall(libc::SYS_userfaultfd, 0) }, "userfaultfd")
}

/// A file that has lost the name by which it was opened, and has another.
pub(crate) fn lost_name(stage: &Stage) -> Outcome {
    let (name, other) = (stage.path("a name"), stage.path("other"));
    let mut file =
        std::fs::File::options().read(true).write(true).create_new(true).open(&name).expect("make");
    file.write_all(b"one").expect("write");
    std::fs::hard_link(&name, &other).expect("link");
    std::fs::remove_file(&name).expect("unlink");
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.works("write", file.write_all(b" two"));
    found.same("contents", &"one two".to_owned(), &std::fs::read_to_string(&other).expect("read"));
    found.outcome()
}

/// A file of `/proc` about the program itself.
pub(crate) fn proc_self(stage: &Stage) -> Outcome {
    let held = std::fs::File::open("/proc/self/stat").expect("open");
    stage.ready_then_wait();
    drop(held);
    Ok(())
}

pub(crate) fn netlink(stage: &Stage) -> Outcome {
    // SAFETY: takes integers.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE) };
    // Bound, as every one in use is: before that the kernel lists it nowhere.
    // SAFETY: a zeroed sockaddr_nl is valid, and of the size that is given.
    unsafe {
        let mut address: libc::sockaddr_nl = std::mem::zeroed();
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        let bytes = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        check(libc::bind(fd, (&raw const address).cast(), bytes)).expect("bind");
    }
    holding(stage, fd.into(), "netlink socket")
}

pub(crate) fn packet(stage: &Stage) -> Outcome {
    // SAFETY: takes integers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0) };
    holding(stage, fd.into(), "packet socket")
}

/// A directory whose changes are told by a signal.
pub(crate) fn dnotify(stage: &Stage) -> Outcome {
    // include/uapi/linux/fcntl.h
    const F_SETSIG: i32 = 10;
    const DN_CREATE: i32 = 4;
    const DN_MULTISHOT: i32 = i32::MIN;
    let directory = std::fs::File::open(stage.dir()).expect("open");
    // SAFETY: takes integers; the signal is ignored by default.
    unsafe {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&directory);
        check(libc::fcntl(fd, F_SETSIG, libc::SIGWINCH)).expect("F_SETSIG");
        check(libc::fcntl(fd, libc::F_NOTIFY, DN_CREATE | DN_MULTISHOT)).expect("F_NOTIFY");
    }
    stage.ready_then_wait();
    drop(directory);
    Ok(())
}

/// A socket that sends multicast by an interface that it knows by number alone.
pub(crate) fn multicast_interface(stage: &Stage) -> Outcome {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    let any = libc::in_addr { s_addr: 0 };
    let request = libc::ip_mreqn { imr_multiaddr: any, imr_address: any, imr_ifindex: 1 };
    set(&socket, libc::SOL_IP, libc::IP_MULTICAST_IF, &request);
    stage.ready_then_wait();
    drop(socket);
    Ok(())
}

/// A listener whose connections are signed.
pub(crate) fn signed_tcp(stage: &Stage) -> Outcome {
    const KEY_BYTES: usize = 2;
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    // `struct tcp_md5sig`: an address, flags, prefix and length of the key, interface, the key.
    let mut request = [0_u8; 128 + 8 + 80];
    request[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    request[4..8].copy_from_slice(&[127, 0, 0, 1]);
    request[130] = KEY_BYTES as u8;
    request[136..138].copy_from_slice(b"ab");
    set(&listener, libc::SOL_TCP, libc::TCP_MD5SIG, &request);
    stage.ready_then_wait();
    drop(listener);
    Ok(())
}

fn set<T>(socket: &impl std::os::fd::AsRawFd, level: i32, option: i32, value: &T) {
    let bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads the value, whose size is given.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), bytes)
    };
    check(done).expect("setsockopt");
}

/// A segment of its own.
pub(crate) fn segments(stage: &Stage) -> Outcome {
    // struct user_desc: entry 0, base 0, limit of one page, a 32-bit data segment.
    let descriptor = [0_u32, 0, 0xfff, 1];
    // SAFETY: the descriptor is alive for the call, which no code depends on.
    let set = unsafe { libc::syscall(libc::SYS_modify_ldt, 0x11, descriptor.as_ptr(), 16_usize) };
    assert!(set == 0, "modify_ldt: {}", std::io::Error::last_os_error());
    stage.ready_then_wait();
    Ok(())
}

/// An established TCP connection.
pub(crate) fn tcp(stage: &Stage) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let mut client = TcpStream::connect(address).expect("connect");
    let (mut server, _) = listener.accept().expect("accept");
    client.write_all(b"queued").expect("write");
    stage.ready_then_wait();
    let mut found = Findings::default();
    let mut bytes = [0; 6];
    found.works("read", server.read_exact(&mut bytes));
    found.same("connection", b"queued", &bytes);
    found.outcome()
}

//! Programs that hold one thing each that cannot be checkpointed: a dump must refuse them by name
//! before it stops them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

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

/// A pipe that is watched: it has no name to be found by.
pub(crate) fn inotify(stage: &Stage) -> Outcome {
    let (reader, _writer) = nix::unistd::pipe().expect("pipe");
    let path = std::ffi::CString::new(format!("/proc/self/fd/{}", reader.as_raw_fd()));
    let path = path.expect("a path");
    // SAFETY: takes an integer.
    let instance = check(unsafe { libc::inotify_init1(0) }).expect("inotify");
    // SAFETY: the path is a string.
    check(unsafe { libc::inotify_add_watch(instance, path.as_ptr(), libc::IN_ACCESS) })
        .expect("watch");
    holding(stage, instance.into(), "inotify")
}

/// A file that has lost the name by which it was opened, and has another in another directory.
pub(crate) fn lost_name(stage: &Stage) -> Outcome {
    std::fs::create_dir(stage.path("elsewhere")).expect("make a directory");
    let (name, other) = (stage.path("a name"), stage.path("elsewhere/other"));
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

/// A file of `/proc` about a thread.
pub(crate) fn proc_thread(stage: &Stage) -> Outcome {
    let opened = std::thread::spawn(|| std::fs::File::open("/proc/thread-self/fdinfo/1"));
    let held = opened.join().expect("a thread").expect("open");
    stage.ready_then_wait();
    drop(held);
    Ok(())
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
        let fd = AsRawFd::as_raw_fd(&directory);
        check(libc::fcntl(fd, F_SETSIG, libc::SIGWINCH)).expect("F_SETSIG");
        check(libc::fcntl(fd, libc::F_NOTIFY, DN_CREATE | DN_MULTISHOT)).expect("F_NOTIFY");
    }
    stage.ready_then_wait();
    drop(directory);
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

fn set<T>(socket: &impl AsRawFd, level: i32, option: i32, value: &T) {
    let bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads the value, whose size is given.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), bytes)
    };
    check(done).expect("setsockopt");
}

/// A UDP socket that sends with a flow label.
pub(crate) fn flow_label(stage: &Stage) -> Outcome {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn6, connect, socket};
    const IPV6_FLOWINFO_SEND: i32 = 33;
    let kind = (AddressFamily::Inet6, SockType::Datagram, SockFlag::empty());
    let socket = socket(kind.0, kind.1, kind.2, None).expect("socket");
    set(&socket, libc::SOL_IPV6, IPV6_FLOWINFO_SEND, &1_i32);
    let label = 0x1_2345_u32.to_be();
    let there = std::net::SocketAddrV6::new(std::net::Ipv6Addr::LOCALHOST, 9, label, 0);
    connect(AsRawFd::as_raw_fd(&socket), &SockaddrIn6::from(there)).expect("connect");
    stage.ready_then_wait();
    drop(socket);
    Ok(())
}

/// A NUMA policy.
pub(crate) fn numa_policy(stage: &Stage) -> Outcome {
    const MPOL_BIND: i32 = 2;
    let nodes = 1_u64;
    // SAFETY: the kernel reads one word of nodes.
    let set =
        unsafe { libc::syscall(libc::SYS_set_mempolicy, MPOL_BIND, &raw const nodes, 64_usize) };
    assert!(set == 0, "set_mempolicy: {}", std::io::Error::last_os_error());
    stage.ready_then_wait();
    Ok(())
}

/// A program that traces another.
pub(crate) fn tracing(stage: &Stage) -> Outcome {
    let mut sleep = std::process::Command::new("sleep").arg("600").spawn().expect("sleep");
    let pid = nix::unistd::Pid::from_raw(sleep.id().cast_signed());
    nix::sys::ptrace::seize(pid, nix::sys::ptrace::Options::empty()).expect("seize");
    stage.ready_then_wait();
    sleep.kill().expect("kill");
    sleep.wait().expect("wait");
    Ok(())
}

/// A child whose end is told by another signal.
pub(crate) fn exit_signal(stage: &Stage) -> Outcome {
    let flags = libc::c_long::from(libc::SIGUSR1);
    // SAFETY: as fork: the child has a copy of everything, and only waits for its end.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if child == 0 {
        loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        }
    }
    stage.ready_then_wait();
    // SAFETY: takes integers; the signal of the child's end is ignored, and the child is collected.
    unsafe {
        libc::signal(libc::SIGUSR1, libc::SIG_IGN);
        check(libc::kill(child as i32, libc::SIGKILL)).expect("kill");
        let collected = libc::waitpid(child as i32, std::ptr::null_mut(), libc::__WALL);
        assert_eq!(i64::from(collected), child);
    }
    Ok(())
}

/// A socket that has not been asked yet what became of what it sent.
pub(crate) fn socket_error(stage: &Stage) -> Outcome {
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.connect(nobody.local_addr().expect("address")).expect("connect");
    drop(nobody);
    socket.send(b"to nobody").expect("send");
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.must("the error", socket.take_error().is_ok_and(|error| error.is_some()));
    found.outcome()
}

/// A stream with an urgent byte in it.
pub(crate) fn urgent_byte(stage: &Stage) -> Outcome {
    use std::os::fd::AsRawFd;
    let (mut one, other) = std::os::unix::net::UnixStream::pair().expect("pair");
    one.write_all(b"before").expect("write");
    // SAFETY: one byte is read.
    check(unsafe { libc::send(one.as_raw_fd(), c"!".as_ptr().cast(), 1, libc::MSG_OOB) } as i32)
        .expect("send");
    stage.ready_then_wait();
    let mut byte = 0_u8;
    // SAFETY: one byte is written.
    let count = unsafe { libc::recv(other.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_OOB) };
    let mut found = Findings::default();
    found.same("urgent byte", &(1, b'!'), &(count, byte));
    found.outcome()
}

/// A fifo in which packets wait behind bytes that are none.
pub(crate) fn packet_fifo(stage: &Stage) -> Outcome {
    use std::os::fd::AsRawFd;
    let path = stage.path("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let mut options = std::fs::File::options();
    let mut fifo = options.read(true).write(true).open(&path).expect("open");
    let mode = |flags| crate::files::fcntl(fifo.as_raw_fd(), libc::F_SETFL, flags);
    // All of a buffer, which would take more.
    (&fifo).write_all(&[7; 4096]).expect("write");
    check(mode(libc::O_DIRECT)).expect("F_SETFL");
    (&fifo).write_all(b"one").expect("write");
    (&fifo).write_all(b"two").expect("write");
    check(mode(0)).expect("F_SETFL");
    stage.ready_then_wait();
    let mut bytes = [0; 5000];
    let mut found = Findings::default();
    found.same("bytes and a packet", &Some(4099), &fifo.read(&mut bytes).ok());
    found.outcome()
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
    server.write_all(b"queued").expect("write");
    // The kernel has the other end from here on.
    drop(server);
    stage.ready_then_wait();
    let mut found = Findings::default();
    let mut bytes = [0; 6];
    found.works("read", client.read_exact(&mut bytes));
    found.same("connection", b"queued", &bytes);
    found.outcome()
}

/// A landlock domain, in a second thread only.
pub(crate) fn landlock(stage: &Stage) -> Outcome {
    const MAKE_BLOCK: u64 = 1 << 11;
    let (ready, restricted) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let handled = [MAKE_BLOCK];
        // SAFETY: the attribute is one word long; the others take integers only.
        unsafe {
            let call = libc::SYS_landlock_create_ruleset;
            let rules = libc::syscall(call, handled.as_ptr(), size_of_val(&handled), 0);
            assert!(rules >= 0, "landlock: {}", std::io::Error::last_os_error());
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)).expect("no new privileges");
            assert_eq!(libc::syscall(libc::SYS_landlock_restrict_self, rules, 0), 0);
            libc::close(rules as i32);
        }
        ready.send(()).expect("say so");
        loop {
            std::thread::park();
        }
    });
    restricted.recv().expect("the thread restricts itself");
    stage.ready_then_wait();
    Ok(())
}

fn add_key(keyring: i32) {
    let (kind, name, secret) = (c"user", c"stasis-test", b"secret");
    // SAFETY: the strings and the secret outlive the call.
    let key = unsafe {
        let (kind, name) = (kind.as_ptr(), name.as_ptr());
        libc::syscall(libc::SYS_add_key, kind, name, secret.as_ptr(), secret.len(), keyring)
    };
    assert!(key > 0, "add_key: {}", std::io::Error::last_os_error());
}

/// A key in a session keyring of its own.
pub(crate) fn keyring(stage: &Stage) -> Outcome {
    const JOIN_SESSION_KEYRING: i32 = 1;
    const SESSION_KEYRING: i32 = -3;
    // SAFETY: the name outlives the call.
    let made =
        unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, c"stasis-test".as_ptr()) };
    assert!(made > 0, "keyctl: {}", std::io::Error::last_os_error());
    add_key(SESSION_KEYRING);
    stage.ready_then_wait();
    Ok(())
}

pub(crate) fn thread_keyring(stage: &Stage) -> Outcome {
    const THREAD_KEYRING: i32 = -1;
    add_key(THREAD_KEYRING);
    stage.ready_then_wait();
    Ok(())
}

pub(crate) fn secret_memory(stage: &Stage) -> Outcome {
    // SAFETY: takes an integer.
    holding(stage, unsafe { libc::syscall(libc::SYS_memfd_secret, 0) }, "memfd_secret")
}

pub(crate) fn message_queue(stage: &Stage) -> Outcome {
    let name = std::ffi::CString::new(format!("/stasis-{}", std::process::id())).expect("a name");
    let flags = libc::O_RDWR | libc::O_CREAT;
    // SAFETY: the name is a C string; no attributes are given.
    let queue = unsafe {
        libc::mq_open(name.as_ptr(), flags, 0o600, std::ptr::null_mut::<libc::mq_attr>())
    };
    // SAFETY: as above; the message has a byte.
    unsafe {
        check(libc::mq_send(queue, c"x".as_ptr(), 1, 0)).expect("send a message");
        check(libc::mq_unlink(name.as_ptr())).expect("remove the queue's name");
    }
    holding(stage, queue.into(), "message queue")
}

/// Nothing is dispatched, for the selector says so each time.
pub(crate) fn system_calls(stage: &Stage) -> Outcome {
    const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;
    static ALLOW: u8 = 0;
    // SAFETY: the selector lives as long as the program.
    check(unsafe {
        libc::prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, 0usize, 0usize, &raw const ALLOW)
    })
    .expect("dispatch system calls");
    stage.ready_then_wait();
    Ok(())
}

/// A thread in namespaces of its own.
pub(crate) fn foreign_thread(stage: &Stage) -> Outcome {
    let (there, is_there) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS).expect("unshare");
        there.send(()).expect("tell");
        loop {
            std::thread::park();
        }
    });
    is_there.recv().expect("a thread");
    stage.ready_then_wait();
    Ok(())
}

/// A pipe that signals one thread.
pub(crate) fn thread_owner(stage: &Stage) -> Outcome {
    #[repr(C)]
    struct Owner {
        kind: i32,
        pid: i32,
    }
    const F_SETOWN_EX: i32 = 15;
    let (there, is_there) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        there.send(nix::unistd::gettid().as_raw()).expect("tell");
        loop {
            std::thread::park();
        }
    });
    let owner = Owner { kind: 0, pid: is_there.recv().expect("a thread") };
    let (reader, _writer) = nix::unistd::pipe().expect("pipe");
    let fd = AsRawFd::as_raw_fd(&reader);
    // SAFETY: the structure is the one that the command reads, and outlives the call.
    check(unsafe { libc::fcntl(fd, F_SETOWN_EX, &raw const owner) }).expect("F_SETOWN_EX");
    stage.ready_then_wait();
    Ok(())
}

/// The file of a socket, opened as a place.
pub(crate) fn socket_path(stage: &Stage) -> Outcome {
    use std::os::unix::fs::OpenOptionsExt;
    let path = stage.path("socket");
    let socket = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    let mut options = std::fs::File::options();
    let place = options.read(true).custom_flags(libc::O_PATH).open(&path).expect("open");
    stage.ready_then_wait();
    drop((socket, place));
    Ok(())
}

/// A message of no bytes between others: the kernel shows it to the first who looks.
pub(crate) fn empty_message(stage: &Stage) -> Outcome {
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
    use std::os::fd::AsRawFd;
    let (kind, flags) = (SockType::SeqPacket, SockFlag::empty());
    let (a, b) = socketpair(AddressFamily::Unix, kind, None, flags).expect("pair");
    for message in [&b"one"[..], b"", b"three"] {
        send(a.as_raw_fd(), message, MsgFlags::empty()).expect("send");
    }
    stage.ready_then_wait();
    let mut found = Findings::default();
    for length in [3, 0, 5] {
        let got = recv(b.as_raw_fd(), &mut [0; 8], MsgFlags::MSG_DONTWAIT);
        found.same("message", &Ok(length), &got);
    }
    found.outcome()
}

/// An error in a Unix socket that is received before the message in it: whoever looks at that receives the error.
pub(crate) fn error_before_message(stage: &Stage) -> Outcome {
    use nix::errno::Errno;
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
    let (kind, flags) = (SockType::SeqPacket, SockFlag::empty());
    let (a, b) = socketpair(AddressFamily::Unix, kind, None, flags).expect("pair");
    send(a.as_raw_fd(), b"unread", MsgFlags::empty()).expect("send");
    send(b.as_raw_fd(), b"last", MsgFlags::empty()).expect("send");
    drop(b);
    stage.ready_then_wait();
    let mut found = Findings::default();
    for expected in [Err(Errno::ECONNRESET), Ok(4)] {
        let got = recv(a.as_raw_fd(), &mut [0; 8], MsgFlags::MSG_DONTWAIT);
        found.same("received", &expected, &got);
    }
    found.outcome()
}

/// A file that is watched by two numbers, of which one was closed.
pub(crate) fn watched_twice(stage: &Stage) -> Outcome {
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    let (reader, writer) = nix::unistd::pipe().expect("pipe");
    let again = reader.try_clone().expect("dup");
    epoll.add(&reader, EpollEvent::new(EpollFlags::EPOLLIN, 1)).expect("watch");
    epoll.add(&again, EpollEvent::new(EpollFlags::EPOLLIN, 2)).expect("watch");
    drop(reader);
    nix::unistd::write(&writer, b"x").expect("write");
    stage.ready_then_wait();
    let mut found = Findings::default();
    let mut events = [EpollEvent::empty(); 4];
    found.same("events", &Ok(2), &epoll.wait(&mut events, EpollTimeout::ZERO));
    drop(again);
    found.outcome()
}

//! What belongs to things without a name: owner and mode of sockets and pipes, attributes of deleted
//! files, and who is at the other end of a Unix socket.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket, socketpair};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{Gid, Uid, fchown, pipe};

use crate::stage::{Findings, Outcome, Stage, check};

/// Gives away what is open: to user 1000 and group 1001, who may read and write.
fn give_away(file: &impl AsFd) {
    fchown(file, Some(Uid::from_raw(1000)), Some(Gid::from_raw(1001))).expect("chown");
    fchmod(file, Mode::from_bits_truncate(0o660)).expect("chmod");
}

fn owner(file: &impl AsFd) -> (u32, u32, u32) {
    let stat = fstat(file).expect("stat");
    (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777)
}

fn open(family: AddressFamily, kind: SockType) -> OwnedFd {
    socket(family, kind, SockFlag::empty(), None).expect("socket")
}

/// What `SO_PEERCRED` tells.
fn peer(socket: &impl AsFd) -> (i32, u32, u32) {
    let told = nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::PeerCredentials);
    let told = told.expect("SO_PEERCRED");
    (told.pid(), told.uid(), told.gid())
}

fn as_user<T>(uid: u32, work: impl FnOnce() -> T) -> T {
    nix::unistd::seteuid(Uid::from_raw(uid)).expect("seteuid");
    let done = work();
    nix::unistd::seteuid(Uid::from_raw(0)).expect("seteuid");
    done
}

/// Connections and pairs of several users, and of a process that has ended.
pub(crate) fn peers(stage: &Stage) -> Outcome {
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    let this = nix::unistd::getpid().as_raw();
    let path = stage.path("listener");
    let listener = as_user(0, || UnixListener::bind(&path)).expect("listen");
    nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        &path,
        Mode::from_bits_truncate(0o777),
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )
    .expect("chmod");
    let client = as_user(1000, || UnixStream::connect(&path)).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    let pair = as_user(1001, UnixStream::pair).expect("pair");
    // SAFETY: the program has one thread here, so the child may use everything.
    let child = match unsafe { nix::unistd::fork() }.expect("fork") {
        nix::unistd::ForkResult::Parent { child } => child,
        nix::unistd::ForkResult::Child => {
            let connected = as_user(1002, || UnixStream::connect(&path));
            std::process::exit(i32::from(connected.is_err()));
        }
    };
    let ended = nix::sys::wait::waitpid(child, None).expect("wait");
    assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(child, 0));
    let (gone, _) = listener.accept().expect("accept");
    let waiting = UnixStream::connect(&path).expect("connect");
    // Datagram sockets that were aimed in an order that is not that of their numbers.
    let self_aimed = stage.path("self");
    let first = UnixDatagram::bind(&self_aimed).expect("bind");
    let second = UnixDatagram::unbound().expect("socket");
    second.connect(&self_aimed).expect("connect");
    first.connect(&self_aimed).expect("connect to itself");
    let expected = [
        (this, 0, 0),
        (this, 1000, 0),
        (this, 1001, 0),
        (this, 1001, 0),
        (child.as_raw(), 1002, 0),
        (this, 0, 0),
    ];
    stage.ready_then_wait();
    let mut found = Findings::default();
    let told =
        [peer(&client), peer(&server), peer(&pair.0), peer(&pair.1), peer(&gone), peer(&listener)];
    found.same("who is at the other end", &expected, &told);
    let (accepted, _) = listener.accept().expect("accept");
    found.same("who has connected", &(this, 0, 0), &peer(&accepted));
    found.same("to whom", &(this, 0, 0), &peer(&waiting));
    let fresh = UnixStream::connect(&path).expect("connect");
    found.same("who listens", &(this, 0, 0), &peer(&fresh));
    let mut bytes = [0; 8];
    let aim = second.peer_addr().expect("a peer");
    found.same("aimed", &Some(&*self_aimed), &aim.as_pathname());
    // Who is aimed at itself hears nobody else.
    let refused = second.send(b"one").expect_err("heard").kind();
    found.same("not heard", &std::io::ErrorKind::PermissionDenied, &refused);
    found.same("aimed at itself", &Some(2), &first.send(b"me").ok());
    found.same("arrived", &Some(2), &first.recv(&mut bytes).ok());
    found.outcome()
}

/// A deleted file with attributes, an access list, and times to the nanosecond.
fn deleted(stage: &Stage) -> std::fs::File {
    // One user more than owner and group (include/uapi/linux/posix_acl_xattr.h).
    const ACCESS_LIST: [u8; 44] = [
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 6, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255,
        255, 255, 16, 0, 6, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
    ];
    let path = stage.path("deleted");
    let file = std::fs::File::create_new(&path).expect("create");
    set_attribute(&file, c"trusted.note", b"a note");
    set_attribute(&file, c"system.posix_acl_access", &ACCESS_LIST);
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 123_456_789);
    file.set_times(std::fs::FileTimes::new().set_modified(time)).expect("set times");
    let no_dump = 0x40_u32;
    // SAFETY: the kernel reads one int.
    let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const no_dump) };
    check(set).expect("set a flag");
    std::fs::remove_file(path).expect("remove");
    file
}

pub(crate) fn set_attribute(file: &impl AsRawFd, name: &std::ffi::CStr, value: &[u8]) {
    let (fd, bytes) = (file.as_raw_fd(), value.as_ptr().cast());
    // SAFETY: a string that ends in 0, and bytes with their length.
    let set = unsafe { libc::fsetxattr(fd, name.as_ptr(), bytes, value.len(), 0) };
    check(set).expect("set an attribute");
}

pub(crate) fn attribute(file: &impl AsRawFd, name: &std::ffi::CStr) -> Vec<u8> {
    let mut value = vec![0; 256];
    let (fd, bytes) = (file.as_raw_fd(), value.as_mut_ptr().cast());
    // SAFETY: a string that ends in 0, and a buffer with its length.
    let length = unsafe { libc::fgetxattr(fd, name.as_ptr(), bytes, value.len()) };
    value.truncate(length.try_into().unwrap_or(0));
    value
}

type Attributes = (Vec<u8>, Vec<u8>, Option<std::time::SystemTime>, u64);

fn attributes(file: &std::fs::File) -> Attributes {
    let changed = file.metadata().and_then(|metadata| metadata.modified()).ok();
    let list = attribute(file, c"system.posix_acl_access");
    let mut flags = 0_u64;
    // SAFETY: there is room for a long.
    let got = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) };
    check(got).expect("ask for the flags");
    (attribute(file, c"trusted.note"), list, changed, flags & 0x40)
}

/// Makes a file without a name.
fn make_unnamed(stage: &Stage, flags: i32) -> std::fs::File {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::File::options();
    options.read(true).write(true).custom_flags(libc::O_TMPFILE | flags);
    options.open(stage.dir()).expect("open")
}

/// A file that was made without a name, may be given one, and is open twice.
fn linkable(stage: &Stage) -> (std::fs::File, std::fs::File) {
    use std::io::Write;
    let made = make_unnamed(stage, libc::O_APPEND);
    let again = std::fs::File::open(format!("/proc/self/fd/{}", made.as_raw_fd())).expect("again");
    (&made).write_all(b"text").expect("write");
    (made, again)
}

fn flags(file: &impl AsRawFd) -> i32 {
    // SAFETY: it takes no argument.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) }
}

/// Gives a file a name, and reads it by that.
fn named(file: &impl AsRawFd, path: &std::path::Path) -> std::io::Result<String> {
    use std::os::unix::ffi::OsStrExt;
    let from = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let to = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let (here, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
    // SAFETY: two strings that end in 0.
    check(unsafe { libc::linkat(here, from.as_ptr(), here, to.as_ptr(), follow) })?;
    std::fs::read_to_string(path)
}

/// One that was made so that it never gets a name, and one that has had one: the flags of both are the same as
/// those of one that may be given one.
fn never_named(stage: &Stage) -> [std::fs::File; 2] {
    let once_named = make_unnamed(stage, 0);
    let name = stage.path("a name for a while");
    named(&once_named, &name).expect("link");
    std::fs::remove_file(name).expect("unlink");
    [make_unnamed(stage, libc::O_EXCL), once_named]
}

fn stay_without_name(stage: &Stage, files: &[std::fs::File; 2], found: &mut Findings) {
    for (file, what) in files.iter().zip(["the exclusive file", "the file that was named once"]) {
        let name = stage.path(what);
        let refused = named(file, &name).map_err(|error| error.kind());
        found.same(what, &Err(std::io::ErrorKind::NotFound), &refused);
    }
}

/// Files of `O_TMPFILE` that may not be given a name.
pub(crate) fn never_linked(stage: &Stage) -> Outcome {
    let files = never_named(stage);
    stage.ready_then_wait();
    let mut found = Findings::default();
    stay_without_name(stage, &files, &mut found);
    found.outcome()
}

/// Files of `O_TMPFILE`, of which one may be given a name.
pub(crate) fn unnamed(stage: &Stage) -> Outcome {
    let (made, again) = linkable(stage);
    let of_made = (flags(&made), flags(&again));
    let others = never_named(stage);
    stage.ready_then_wait();
    let mut found = Findings::default();
    stay_without_name(stage, &others, &mut found);
    found.same("flags of the unnamed file", &of_made, &(flags(&made), flags(&again)));
    let text = named(&again, &stage.path("a name at last")).map_err(|error| error.kind());
    found.same("given a name", &Ok("text".to_owned()), &text);
    let numbers =
        |file: &std::fs::File| std::os::unix::fs::MetadataExt::ino(&file.metadata().expect("stat"));
    found.same("it is one file", &numbers(&made), &numbers(&again));
    found.outcome()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let deleted = deleted(stage);
    let of_deleted = attributes(&deleted);
    let (reader, writer) = pipe().expect("pipe");
    let unix = SockFlag::empty();
    let (one, other) = socketpair(AddressFamily::Unix, SockType::Stream, None, unix).expect("pair");
    let files = [
        ("pipe", reader),
        ("one of a pair", one),
        ("TCP", open(AddressFamily::Inet, SockType::Stream)),
        ("UDP", open(AddressFamily::Inet6, SockType::Datagram)),
        ("Unix", open(AddressFamily::Unix, SockType::Datagram)),
    ];
    for (_, file) in &files {
        give_away(file);
    }
    let usual = owner(&other);
    stage.ready_then_wait();
    let mut found = Findings::default();
    for (what, file) in &files {
        found.same(what, &(1000, 1001, 0o660), &owner(file));
    }
    found.same("the other end of the pipe", &(1000, 1001, 0o660), &owner(&writer));
    found.same("the other of the pair", &usual, &owner(&other));
    found.same("the deleted file", &of_deleted, &attributes(&deleted));
    found.outcome()
}

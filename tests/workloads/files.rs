//! Regular files, directories and device nodes: position, flags, sharing by dup and by fork.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

use nix::sys::wait::{WaitStatus, waitpid};

use crate::stage::{Findings, Outcome, Stage, check, pattern};

// From the kernel's asm-generic/fcntl.h; the libc crate lacks them.
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;

/// Everything a descriptor answers for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    fd: RawFd,
    target: std::path::PathBuf,
    inode: u64,
    position: i64,
    flags: i32,
    close_on_exec: i32,
    owner: i32,
    signal: i32,
}

pub(crate) fn fcntl(fd: RawFd, command: i32, argument: i32) -> i32 {
    // SAFETY: the commands used here take an integer or nothing.
    unsafe { libc::fcntl(fd, command, argument) }
}

impl Descriptor {
    /// The same, whatever the number of its file is.
    pub(crate) fn of_any_inode(self) -> Self {
        Self { inode: 0, ..self }
    }

    pub(crate) fn of(fd: RawFd) -> Self {
        let target = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
        Self {
            fd,
            inode: fs::metadata(format!("/proc/self/fd/{fd}")).map_or(0, |m| m.ino()),
            target,
            // SAFETY: seeks nowhere.
            position: unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) },
            flags: fcntl(fd, libc::F_GETFL, 0),
            close_on_exec: fcntl(fd, libc::F_GETFD, 0),
            owner: fcntl(fd, libc::F_GETOWN, 0),
            signal: fcntl(fd, F_GETSIG, 0),
        }
    }
}

/// Moves an open file to a number of its own.
fn at(fd: RawFd, file: File) -> File {
    let old = file.into_raw_fd();
    // SAFETY: `old` was just given up, and `fd` is not in use.
    unsafe {
        check(libc::dup2(old, fd)).expect("dup2");
        libc::close(old);
        File::from_raw_fd(fd)
    }
}

/// A child that shares the file's position: asked to, it reads 10 bytes on.
fn child_sharing(file: &mut File, stage: &Stage) -> nix::unistd::Pid {
    // SAFETY: the program has one thread here, so the child may use everything.
    match unsafe { nix::unistd::fork() }.expect("fork") {
        nix::unistd::ForkResult::Parent { child } => child,
        nix::unistd::ForkResult::Child => {
            stage.wait();
            let mut bytes = [0; 10];
            let read = file.read_exact(&mut bytes).is_ok();
            let right = bytes == pattern(31, 4096)[1000..1010];
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(i32::from(!(read && right))) }
        }
    }
}

fn devices() -> Vec<File> {
    let open = |path: &str, write: bool| {
        OpenOptions::new().read(!write).write(write).open(path).expect("open device")
    };
    vec![
        at(60, open("/dev/null", true)),
        at(61, open("/dev/zero", false)),
        at(62, open("/dev/urandom", false)),
        at(63, open("/dev/full", true)),
    ]
}

fn verify_devices(found: &mut Findings, devices: &mut [File]) {
    let [null, zero, random, full] = devices else { unreachable!("four devices") };
    found.works("write to null", null.write_all(b"x"));
    let mut bytes = [1; 64];
    found.works("read zero", zero.read_exact(&mut bytes));
    found.same("zeros", &[0; 64], &bytes);
    found.works("read random", random.read_exact(&mut bytes));
    found.must("random bytes", bytes != [0; 64]);
    found.must("full is full", full.write_all(b"x").is_err());
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let path = stage.path("shared");
    fs::write(&path, pattern(31, 4096)).expect("write");
    let read_write = || OpenOptions::new().read(true).write(true).clone();
    let mut shared = at(40, read_write().open(&path).expect("open"));
    shared.seek(SeekFrom::Start(1000)).expect("seek");
    let duplicate = at(500, shared.try_clone().expect("dup"));
    let mut independent = at(41, File::open(&path).expect("open"));
    independent.seek(SeekFrom::Start(1 << 33)).expect("seek beyond the end");
    let mut append = OpenOptions::new().append(true).open(&path).expect("open");
    append.write_all(b"tail").expect("append");
    let nonblocking =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOATIME).open(&path);
    let nonblocking = at(42, nonblocking.expect("open"));
    let executable = File::open("/proc/self/exe").expect("open the program");
    let kept = fcntl(executable.as_raw_fd(), libc::F_DUPFD, 70);
    fs::create_dir(stage.path("directory")).expect("mkdir");
    let directory = at(43, File::open(stage.path("directory")).expect("open directory"));
    // The root, which has no name to be opened by, in the ways of programs that follow no links.
    let root = |fd, flags| {
        let open = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | flags).open("/");
        at(fd, open.expect("open the root"))
    };
    let _roots = [root(45, 0), root(46, libc::O_PATH)];
    // Whom and how to tell of readiness. The thread is this process.
    fcntl(duplicate.as_raw_fd(), libc::F_SETOWN, nix::unistd::getpid().as_raw());
    fcntl(duplicate.as_raw_fd(), F_SETSIG, libc::SIGRTMIN() + 1);
    nix::unistd::mkfifo(&stage.path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let fifo = at(47, read_write().open(stage.path("fifo")).expect("open the fifo"));
    fcntl(fifo.as_raw_fd(), libc::F_SETOWN, nix::unistd::getpid().as_raw());
    fcntl(fifo.as_raw_fd(), F_SETSIG, libc::SIGWINCH);
    let flags = fcntl(fifo.as_raw_fd(), libc::F_GETFL, 0);
    fcntl(fifo.as_raw_fd(), libc::F_SETFL, flags | libc::O_ASYNC);
    let mut devices = devices();
    let child = child_sharing(&mut shared, stage);

    let mut numbers = vec![40, 500, 41, 42, 43, 45, 46, 47, 60, 61, 62, 63, kept, 0, 1, 2];
    numbers.push(append.as_raw_fd());
    let state = |numbers: &[i32]| numbers.iter().map(|fd| Descriptor::of(*fd)).collect::<Vec<_>>();
    let before = state(&numbers);
    let open_before = count_open();

    stage.ready_then_wait();

    // The child reads 10 bytes through the shared position; then so does the parent.
    let mut found = Findings::default();
    let status = waitpid(child, None);
    found.same("child read on", &Ok(WaitStatus::Exited(child, 0)), &status);
    let mut expected = before;
    for one in expected.iter_mut().filter(|d| d.fd == 40 || d.fd == 500) {
        one.position = 1020;
    }
    let moved = shared.stream_position().unwrap_or_default();
    found.same("the child moved the shared position", &1010, &moved);
    found.works("read on", shared.read_exact(&mut [0; 10]));
    found.same("descriptors", &expected, &state(&numbers));
    found.same("number of open descriptors", &open_before, &count_open());
    verify_devices(&mut found, &mut devices);
    found.works("append", append.write_all(b"more"));
    let end = fs::read(&path).unwrap_or_default();
    found.must("appended at the end", end.ends_with(b"tailmore"));
    let node = fs::metadata("/proc/self/fd/61").map(|m| m.file_type().is_char_device());
    found.same("zero is a device", &Some(true), &node.ok());
    found.must("non-blocking file stays", nonblocking.as_raw_fd() == 42);
    found.must("directory", directory.metadata().is_ok_and(|m| m.is_dir()));
    found.outcome()
}

pub(crate) fn count_open() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

//! Open files that change in every way there is, all the while: files are written, cut, renamed,
//! deleted and opened anew, pipes and sockets filled, emptied, set otherwise and replaced, so that
//! whatever was learned of them a moment ago may be wrong.
//!
//! What each must be is kept beside it, and compared before each step and at the end.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::unistd::pipe2;

use crate::files::fcntl;
use crate::stage::{Findings, Outcome, Stage, pattern};

/// How many there are of each.
const EACH: usize = 24;

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let count = self.below(most) as usize + 1;
        pattern(self.0, count)
    }
}

/// Puts a new file in the place of an old one, under its number.
fn replace(old: &impl AsRawFd, new: &impl AsRawFd) {
    // SAFETY: `old` goes on to own its number, which means another file now.
    let got = unsafe { libc::dup3(new.as_raw_fd(), old.as_raw_fd(), 0) };
    assert_eq!(got, old.as_raw_fd(), "dup3: {}", std::io::Error::last_os_error());
}

trait Thing {
    fn verify(&mut self, found: &mut Findings);
    fn change(&mut self, dice: &mut Dice);
}

struct Named {
    file: File,
    folder: PathBuf,
    /// `None` when it has been deleted.
    path: Option<PathBuf>,
    content: Vec<u8>,
    position: u64,
    mode: u32,
    flags: i32,
}

fn create(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).expect("create")
}

impl Named {
    fn new(folder: &Path, dice: &mut Dice) -> Self {
        let path = fresh(folder, dice);
        let file = create(&path);
        file.set_permissions(Permissions::from_mode(0o600)).expect("chmod");
        let flags = fcntl(file.as_raw_fd(), libc::F_GETFL, 0);
        let (content, folder) = (Vec::new(), folder.to_owned());
        Self { file, folder, path: Some(path), content, position: 0, mode: 0o600, flags }
    }

    fn reopen(&mut self, dice: &mut Dice) {
        let other = Self::new(&self.folder, dice);
        let old = self.path.take();
        replace(&self.file, &other.file);
        if let Some(old) = old {
            fs::remove_file(old).expect("remove");
        }
        (self.path, self.content) = (other.path, Vec::new());
        (self.position, self.mode, self.flags) = (0, 0o600, other.flags);
    }
}

fn fresh(folder: &Path, dice: &mut Dice) -> PathBuf {
    folder.join(format!("file-{:016x}", dice.below(u64::MAX)))
}

impl Thing for Named {
    fn verify(&mut self, found: &mut Findings) {
        let stat = self.file.metadata().expect("stat");
        found.same("size", &(self.content.len() as u64), &stat.len());
        found.same("mode", &self.mode, &(stat.mode() & 0o7777));
        found.same("position", &self.position, &self.file.stream_position().expect("seek"));
        found.same("flags", &self.flags, &fcntl(self.file.as_raw_fd(), libc::F_GETFL, 0));
        let mut bytes = vec![0; self.content.len()];
        found.works("read", self.file.read_exact_at(&mut bytes, 0));
        found.must("content", bytes == self.content);
        match &self.path {
            Some(path) => {
                let by_name = found.works("find by name", fs::metadata(path));
                found.same("inode", &Some(stat.ino()), &by_name.map(|by_name| by_name.ino()));
            }
            None => found.same("links", &0, &stat.nlink()),
        }
    }

    fn change(&mut self, dice: &mut Dice) {
        match dice.below(8) {
            0 | 1 if self.content.len() < 20_000 => {
                let bytes = dice.bytes(700);
                self.file.seek(SeekFrom::End(0)).expect("seek");
                self.file.write_all(&bytes).expect("write");
                self.content.extend(&bytes);
                self.position = self.content.len() as u64;
            }
            2 => {
                let length = dice.below(self.content.len() as u64 + 1);
                self.file.set_len(length).expect("truncate");
                self.content.truncate(length as usize);
            }
            3 => {
                self.position = dice.below(5000);
                self.file.seek(SeekFrom::Start(self.position)).expect("seek");
            }
            4 => {
                if let Some(path) = &mut self.path {
                    let other = fresh(&self.folder, dice);
                    fs::rename(&*path, &other).expect("rename");
                    *path = other;
                }
            }
            5 => {
                if let Some(path) = self.path.take() {
                    fs::remove_file(path).expect("remove");
                }
            }
            6 => {
                self.mode ^= 0o040;
                self.file.set_permissions(Permissions::from_mode(self.mode)).expect("chmod");
                let flags = self.flags ^ libc::O_NONBLOCK;
                fcntl(self.file.as_raw_fd(), libc::F_SETFL, flags);
                self.flags = flags;
            }
            _ => self.reopen(dice),
        }
    }
}

struct Pipe {
    reader: File,
    writer: File,
    holds: VecDeque<u8>,
    capacity: i32,
}

impl Pipe {
    fn new() -> Self {
        let (reader, writer) = pipe2(OFlag::O_NONBLOCK).expect("pipe");
        let (reader, writer) = (reader.into(), writer.into());
        Self { reader, writer, holds: VecDeque::new(), capacity: 65536 }
    }

    fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).expect("read");
        bytes
    }
}

impl Thing for Pipe {
    fn verify(&mut self, found: &mut Findings) {
        let capacity = fcntl(self.writer.as_raw_fd(), libc::F_GETPIPE_SZ, 0);
        found.same("capacity", &self.capacity, &capacity);
        let waiting = waiting(&self.reader);
        found.same("bytes in the pipe", &self.holds.len(), &waiting);
    }

    fn change(&mut self, dice: &mut Dice) {
        match dice.below(5) {
            0 | 1 if self.holds.len() < 3000 => {
                let bytes = dice.bytes(700);
                self.writer.write_all(&bytes).expect("write");
                self.holds.extend(&bytes);
            }
            2 => {
                let count = dice.below(self.holds.len() as u64 + 1) as usize;
                let bytes = self.read(count);
                let expected: Vec<u8> = self.holds.drain(..count).collect();
                assert!(bytes == expected, "a pipe's content");
            }
            3 => {
                let other = self.capacity ^ 65536 ^ 32768;
                if fcntl(self.writer.as_raw_fd(), libc::F_SETPIPE_SZ, other) > 0 {
                    self.capacity = other;
                }
            }
            _ => {
                let rest = self.read(self.holds.len());
                assert!(self.holds == rest, "a pipe's content");
                let other = Self::new();
                replace(&self.reader, &other.reader);
                replace(&self.writer, &other.writer);
                (self.holds, self.capacity) = (VecDeque::new(), other.capacity);
            }
        }
    }
}

fn waiting(of: &impl AsRawFd) -> usize {
    let mut count = 0;
    // SAFETY: FIONREAD writes one number.
    unsafe { libc::ioctl(of.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    count as usize
}

struct Pair {
    near: UnixStream,
    far: UnixStream,
    holds: VecDeque<u8>,
    patience: u64,
    keeps_alive: bool,
    priority: i32,
}

impl Pair {
    fn new() -> Self {
        let (near, far) = UnixStream::pair().expect("pair");
        near.set_read_timeout(Some(Duration::from_secs(1))).expect("time-out");
        let holds = VecDeque::new();
        Self { near, far, holds, patience: 1, keeps_alive: false, priority: 0 }
    }
}

impl Thing for Pair {
    fn verify(&mut self, found: &mut Findings) {
        let patience = self.near.read_timeout().expect("time-out");
        found.same("time-out", &Some(Duration::from_secs(self.patience)), &patience);
        let keeps_alive = getsockopt(&self.near, sockopt::KeepAlive).expect("getsockopt");
        found.same("SO_KEEPALIVE", &self.keeps_alive, &keeps_alive);
        let priority = getsockopt(&self.far, sockopt::Priority).expect("getsockopt");
        found.same("SO_PRIORITY", &self.priority, &priority);
        found.same("bytes in the socket", &self.holds.len(), &waiting(&self.far));
    }

    fn change(&mut self, dice: &mut Dice) {
        match dice.below(8) {
            0 | 1 if self.holds.len() < 5000 => {
                let bytes = dice.bytes(300);
                self.near.write_all(&bytes).expect("write");
                self.holds.extend(&bytes);
            }
            2 => {
                let count = dice.below(self.holds.len() as u64 + 1) as usize;
                let mut bytes = vec![0; count];
                self.far.read_exact(&mut bytes).expect("read");
                let expected: Vec<u8> = self.holds.drain(..count).collect();
                assert!(bytes == expected, "a socket's content");
            }
            3 | 4 => {
                let patience = self.patience ^ 3;
                self.near.set_read_timeout(Some(Duration::from_secs(patience))).expect("time-out");
                self.patience = patience;
            }
            5 => {
                let keeps = !self.keeps_alive;
                setsockopt(&self.near, sockopt::KeepAlive, &keeps).expect("setsockopt");
                self.keeps_alive = keeps;
            }
            6 => {
                let other = self.priority ^ 5;
                setsockopt(&self.far, sockopt::Priority, &other).expect("setsockopt");
                self.priority = other;
            }
            _ => {
                let other = Self::new();
                replace(&self.near, &other.near);
                replace(&self.far, &other.far);
                (self.holds, self.patience) = (other.holds, other.patience);
                (self.keeps_alive, self.priority) = (other.keeps_alive, other.priority);
            }
        }
    }
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let folder = stage.path("folder");
    fs::create_dir(&folder).expect("make a folder");
    let mut dice = Dice(0x5eed_f11e_5eed_f11e);
    let mut things: Vec<Box<dyn Thing>> = Vec::new();
    for _ in 0..EACH {
        things.push(Box::new(Named::new(&folder, &mut dice)));
        things.push(Box::new(Pipe::new()));
        things.push(Box::new(Pair::new()));
    }
    let mut found = Findings::default();
    let go = stage.path("go");
    stage.publish("ready", &std::process::id().to_string());
    while !go.exists() && !found.any() {
        for _ in 0..50 {
            let thing = &mut things[dice.below(EACH as u64 * 3) as usize];
            thing.verify(&mut found);
            thing.change(&mut dice);
        }
    }
    for thing in &mut things {
        thing.verify(&mut found);
        thing.change(&mut dice);
        thing.verify(&mut found);
    }
    found.outcome()
}

/// Numbers that mean a new file of another kind every few microseconds.
pub(crate) fn kinds(stage: &Stage) -> Outcome {
    const NUMBERS: usize = 6;
    let owned = |fd: libc::c_long| {
        let fd = crate::stage::check(i32::try_from(fd).expect("a descriptor")).expect("open");
        // SAFETY: the call has just returned it.
        unsafe { OwnedFd::from_raw_fd(fd) }
    };
    let ends = pipe2(OFlag::empty()).expect("pipe");
    let numbers: Vec<OwnedFd> = (0..NUMBERS).map(|_| ends.0.try_clone().expect("a copy")).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for number in &numbers {
                    replace(number, &ends.0);
                    // SAFETY: these take integers.
                    let (process, timer, event) = unsafe {
                        (
                            owned(libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0)),
                            owned(libc::timerfd_create(libc::CLOCK_MONOTONIC, 0).into()),
                            owned(libc::eventfd(0, 0).into()),
                        )
                    };
                    [process, timer, event].iter().for_each(|kind| replace(number, kind));
                }
            }
        });
        stage.ready_then_wait();
        stop.store(true, Ordering::Relaxed);
    });
    let mut found = Findings::default();
    let name = |fd: &OwnedFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
    for number in &numbers {
        let last = Some(PathBuf::from("anon_inode:[eventfd]"));
        found.same("what a number means", &last, &name(number));
    }
    found.outcome()
}

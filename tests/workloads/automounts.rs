//! An automounter, and who looks for what it mounts: below directories, over a root, and where nobody is asked any more.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;

use crate::mounts::{attach, await_file, enter_root, table};
use crate::stage::{Findings, Outcome, Stage};
use crate::tree::child;

/// `_IO(0x93, 0x60)` and `_IOWR(0x93, 0x64, unsigned long)`.
const READY: libc::Ioctl = 0x9360;
const SETTIMEOUT: libc::Ioctl = 0xC008_9364;

/// `struct autofs_v5_packet`.
const PACKET: usize = 304;

pub(crate) fn run(stage: &Stage) -> Outcome {
    enter_root(stage, "automounts_inside")
}

pub(crate) fn of_init(stage: &Stage) -> Outcome {
    enter_root(stage, "automounts_of_init_inside")
}

pub(crate) fn of_init_inside(stage: &Stage) -> Outcome {
    let proc = || attach("proc", Path::new("/proc"), "proc", MsFlags::MS_NOSUID, "");
    let inside = || {
        proc();
        inside(stage)
    };
    crate::init::inside(nix::sched::CloneFlags::CLONE_NEWPID, || {}, inside)
}

/// What an automounter has mounted.
struct Automount {
    place: PathBuf,
    root: File,
    requests: File,
}

impl Automount {
    /// Mounts it; the caller leads its process group.
    fn new(place: &str, kind: &str, seconds: u64, keeps: bool) -> Self {
        let (requests, asks) = nix::unistd::pipe().expect("a pipe");
        let group = nix::unistd::getpgrp();
        let number = asks.as_raw_fd();
        let options = format!("fd={number},pgrp={group},minproto=5,maxproto=5,{kind}");
        attach("map", Path::new(place), "autofs", MsFlags::empty(), &options);
        let root = File::open(place).expect("open the root");
        let mut seconds = seconds;
        // SAFETY: the request reads and writes the number.
        let set =
            unsafe { libc::ioctl(root.as_raw_fd(), SETTIMEOUT, std::ptr::from_mut(&mut seconds)) };
        assert_eq!(set, 0, "set the timeout");
        if keeps {
            let _kept = asks.into_raw_fd();
        }
        Self { place: place.into(), root, requests: requests.into() }
    }

    /// Mounts what is asked for next.
    fn serve(&mut self) {
        let mut packet = [0; PACKET];
        self.requests.read_exact(&mut packet).expect("a request");
        let number =
            |at: usize| u32::from_ne_bytes(packet[at..at + 4].try_into().expect("a number"));
        let name = &packet[44..44 + number(40) as usize];
        let place = match number(4) {
            3 => self.place.join(std::str::from_utf8(name).expect("a name")),
            5 => self.place.clone(),
            other => panic!("a request of type {other}"),
        };
        fs::create_dir_all(&place).expect("mkdir");
        attach("mounted", &place, "tmpfs", MsFlags::empty(), "size=1m");
        fs::write(place.join("file"), "of the automounter").expect("write");
        // SAFETY: takes a number.
        let told = unsafe { libc::ioctl(self.root.as_raw_fd(), READY, number(8)) };
        assert_eq!(told, 0, "say that it is mounted");
    }
}

/// Mounts `place`, and what is asked for there.
fn automounter(stage: &Stage, name: &str, place: &'static str, kind: &str, keeps: bool) -> Pid {
    let pid = child(stage, name, || {
        nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).expect("a group");
        let mut automount = Automount::new(place, kind, 77, keeps);
        if kind == "indirect" {
            fs::create_dir(Path::new(place).join("waits")).expect("mkdir");
            let private = fs::Permissions::from_mode(0o700);
            fs::set_permissions(Path::new(place).join("waits"), private).expect("chmod");
            std::os::unix::fs::symlink("first", Path::new(place).join("link")).expect("symlink");
        }
        stage.publish(name, "");
        loop {
            automount.serve();
        }
    });
    await_file(stage, name);
    pid
}

/// The mounts, without the inodes of pipes, and the group that was once asked.
fn mounts() -> Vec<String> {
    let without = |line: String| {
        let is_quiet = line.contains("fd=-1,");
        let is_told =
            |part: &&str| !(part.starts_with("pipe_ino=") || is_quiet && part.starts_with("pgrp="));
        line.split(',').filter(is_told).collect::<Vec<_>>().join(",")
    };
    table().into_iter().map(without).collect()
}

fn told(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| error.to_string())
}

/// What is in a directory, and how, without looking for anything.
fn listed(place: &str) -> Vec<(PathBuf, u32, Option<PathBuf>)> {
    let entries = fs::read_dir(place).expect("list").map(|entry| entry.expect("entry").path());
    let seen = entries.map(|path| {
        // Not by the call that has something mounted there.
        let mode = nix::sys::stat::lstat(&path).expect("stat").st_mode;
        (path.clone(), mode, fs::read_link(&path).ok())
    });
    let mut seen: Vec<_> = seen.collect();
    seen.sort();
    seen
}

pub(crate) fn inside(stage: &Stage) -> Outcome {
    fs::create_dir_all("/dev").expect("mkdir");
    mknod("/dev/autofs", SFlag::S_IFCHR, Mode::S_IRUSR, makedev(10, 235)).expect("mknod");
    let below = automounter(stage, "below", "/over", "indirect", true);
    let above = automounter(stage, "above", "/covered", "direct", false);
    let waiting = automounter(stage, "waiting", "/peer", "direct", false);
    let ended = automounter(stage, "ended", "/bound", "direct", false);
    kill(ended, Signal::SIGKILL).expect("kill");
    nix::sys::wait::waitpid(ended, None).expect("wait");
    let of_quiet = told("/bound/file");
    assert_eq!(told("/over/first/file"), "of the automounter");
    assert_eq!(told("/covered/file"), "of the automounter");
    let mut open = File::options().append(true).read(true).open("/over/first/file").expect("open");
    let (before, there) = (mounts(), listed("/over"));
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("the mounts", &before, &mounts());
    found.same("what is there", &there, &listed("/over"));
    found.same("how many", &3, &there.len());
    found.works("write", open.write_all(b", and more"));
    found.same(
        "what was open",
        &"of the automounter, and more".to_owned(),
        &told("/over/first/file"),
    );
    found.same(
        "what was mounted over a root",
        &"of the automounter".to_owned(),
        &told("/covered/file"),
    );
    for path in ["/over/second/file", "/over/waits/file", "/over/link/file", "/peer/file"] {
        let text = told(path);
        found.must(path, text.starts_with("of the automounter"));
    }
    found.same("where nobody is asked", &of_quiet, &told("/bound/file"));
    for pid in [below, above, waiting] {
        found.works("it is there", kill(pid, Signal::SIGKILL));
        found.works("and ours", nix::sys::wait::waitpid(pid, None));
    }
    found.outcome()
}

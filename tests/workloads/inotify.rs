//! inotify: watches with their numbers and masks, of directories, files, deleted files and links; and events
//! that nobody has read.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::stage::{Findings, Outcome, Stage, check};

struct Instance(File);

/// Number of the watch, events, name.
type Event = (i32, u32, String);

impl Instance {
    fn new(flags: i32) -> Self {
        // SAFETY: takes an integer.
        let fd = check(unsafe { libc::inotify_init1(flags) }).expect("inotify_init1");
        // SAFETY: the kernel has just given us this descriptor.
        Self(unsafe { File::from_raw_fd(fd) })
    }

    fn watch(&self, path: &Path, mask: u32) -> i32 {
        let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
        // SAFETY: the path is a string.
        check(unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), path.as_ptr(), mask) })
            .expect("inotify_add_watch")
    }

    fn unwatch(&self, number: i32) {
        // SAFETY: takes two integers.
        check(unsafe { libc::inotify_rm_watch(self.0.as_raw_fd(), number) }).expect("unwatch");
    }

    /// All events that wait.
    fn events(&self) -> Vec<Event> {
        let mut found = Vec::new();
        let mut bytes = [0; 1 << 14];
        let read = match (&self.0).read(&mut bytes) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return found,
            Err(error) => panic!("read events: {error}"),
        };
        let mut rest = &bytes[..read];
        while let Some((head, tail)) = rest.split_at_checked(16) {
            let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().expect("a word"));
            let (name, tail) = tail.split_at(word(12) as usize);
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            found.push((
                word(0).cast_signed(),
                word(4),
                String::from_utf8_lossy(name).into_owned(),
            ));
            rest = tail;
        }
        found
    }

    /// Number, inode and events of each watch, as the kernel tells them.
    fn watches(&self) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()));
        let text = text.expect("fdinfo");
        let lines = text.lines().filter(|line| line.starts_with("inotify "));
        let mut watches: Vec<String> = lines
            .map(|line| {
                let words = line.split(' ').filter(|word| !word.starts_with("f_handle"));
                words.take(5).collect::<Vec<_>>().join(" ")
            })
            .collect();
        watches.sort();
        watches
    }
}

fn make(path: PathBuf) -> PathBuf {
    fs::write(&path, "").expect("make a file");
    path
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let dir = stage.path("watched");
    fs::create_dir(&dir).expect("mkdir");
    let (file, other) = (make(dir.join("file")), make(stage.path("other")));

    let instance = Instance::new(libc::IN_NONBLOCK | libc::IN_CLOEXEC);
    let empty = Instance::new(libc::IN_NONBLOCK);
    let of_dir = instance.watch(&dir, libc::IN_ALL_EVENTS);
    let gone = instance.watch(&other, libc::IN_MODIFY);
    let of_file = instance.watch(&file, libc::IN_CLOSE_WRITE);
    instance.unwatch(gone);
    let of_other = instance.watch(&other, libc::IN_MODIFY | libc::IN_ATTRIB);
    instance.events();

    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
    epoll.add(instance.0.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 7)).expect("watch");
    let same = instance.0.try_clone().expect("dup");
    let before = (instance.watches(), empty.watches());
    stage.ready_then_wait();

    let mut found = Findings::default();
    let mut ready = [EpollEvent::empty(); 2];
    found.same("nothing happened", &Vec::new(), &instance.events());
    found.same("watches", &before.0, &instance.watches());
    found.same("no watches", &before.1, &empty.watches());

    drop(File::create(dir.join("new")).expect("make a file"));
    let named = |mask| (of_dir, mask, "new".to_owned());
    let expected = vec![named(libc::IN_CREATE), named(libc::IN_OPEN), named(libc::IN_CLOSE_WRITE)];
    let waiting = epoll.wait(&mut ready, EpollTimeout::ZERO);
    found.same("epoll", &(Ok(1), 7), &(waiting, ready[0].data()));
    found.same("events in the directory", &expected, &Instance(same).events());
    drop(File::options().write(true).open(&file).expect("open"));
    let closed = instance.events();
    let is_closed = |event: &Event| event.0 == of_file && event.1 == libc::IN_CLOSE_WRITE;
    found.must("the file was closed", closed.iter().any(is_closed));
    fs::write(&other, "text").expect("write");
    let plain = |number, mask| (number, mask, String::new());
    found.same("other", &vec![plain(of_other, libc::IN_MODIFY)], &instance.events());
    let next = instance.watch(&stage.path("."), libc::IN_DELETE_SELF);
    found.same("the next number", &(of_other + 1), &next);
    found.outcome()
}

/// What CRIU does not carry: events that nobody has read, flags of watches, links, deleted files.
pub(crate) fn lost(stage: &Stage) -> Outcome {
    let (file, once) = (make(stage.path("file")), make(stage.path("once")));
    let link = stage.path("link");
    std::os::unix::fs::symlink("nowhere", &link).expect("link");
    let instance = Instance::new(libc::IN_NONBLOCK);
    let of_link = instance.watch(&link, libc::IN_DONT_FOLLOW | libc::IN_DELETE_SELF);
    let of_file = instance.watch(&file, libc::IN_ATTRIB);
    let deleted = make(stage.path("deleted"));
    let mut deleted_file = File::options().write(true).open(&deleted).expect("open");
    let of_deleted = instance.watch(&deleted, libc::IN_MODIFY);
    fs::remove_file(&deleted).expect("unlink");
    let of_once = instance.watch(&once, libc::IN_MODIFY | libc::IN_ONESHOT);
    let mode = fs::metadata(&file).expect("stat").permissions();
    fs::set_permissions(&file, mode.clone()).expect("chmod");
    stage.ready_then_wait();

    let mut found = Findings::default();
    let events = instance.events();
    let kept = vec![(of_file, libc::IN_ATTRIB, String::new())];
    let told = vec![(-1, libc::IN_Q_OVERFLOW, String::new())];
    found.must(&format!("lost in silence: {events:?}"), events == kept || events == told);
    fs::set_permissions(&file, mode).expect("chmod");
    found.same("goes on", &kept, &instance.events());
    deleted_file.write_all(b"text").expect("write");
    let expected = vec![(of_deleted, libc::IN_MODIFY, String::new())];
    found.same("deleted", &expected, &instance.events());
    fs::remove_file(&link).expect("unlink");
    let expected = [libc::IN_DELETE_SELF, libc::IN_IGNORED];
    let expected = expected.map(|mask| (of_link, mask, String::new()));
    found.same("link", &expected.to_vec(), &instance.events());
    fs::write(&once, "text").expect("write");
    let expected = [libc::IN_MODIFY, libc::IN_IGNORED].map(|mask| (of_once, mask, String::new()));
    found.same("once", &expected.to_vec(), &instance.events());
    let next = instance.watch(&once, libc::IN_MODIFY);
    found.same("the next number", &(of_once + 1), &next);
    found.outcome()
}

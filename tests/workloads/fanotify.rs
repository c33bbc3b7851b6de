//! fanotify: a group with marks on a file, on a directory and its children, and on a mount; what it ignores.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::stage::{Findings, Outcome, Stage, check};

fn mark(group: &File, flags: u32, events: u64, path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
    // SAFETY: the path is a string.
    let done = unsafe {
        libc::fanotify_mark(
            group.as_raw_fd(),
            libc::FAN_MARK_ADD | flags,
            events,
            libc::AT_FDCWD,
            path.as_ptr(),
        )
    };
    check(done).expect("fanotify_mark");
}

/// What the kernel tells of the group, without the handles.
fn told(group: &File) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", group.as_raw_fd()));
    let text = text.expect("fdinfo");
    let mut lines: Vec<_> =
        text.lines().filter(|line| line.starts_with("fanotify ")).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The events that wait, with the names of their files.
fn events(group: &File) -> Vec<(u64, std::path::PathBuf)> {
    let mut bytes = vec![0; 1 << 14];
    let Ok(read) = nix::unistd::read(group, &mut bytes) else { return Vec::new() };
    let mut found = Vec::new();
    let mut rest = &bytes[..read];
    while rest.len() >= 24 {
        let length = u32::from_ne_bytes(rest[..4].try_into().expect("a word")) as usize;
        let mask = u64::from_ne_bytes(rest[8..16].try_into().expect("a word"));
        let fd = i32::from_ne_bytes(rest[16..20].try_into().expect("a word"));
        // SAFETY: the kernel has just given us this descriptor.
        let file = unsafe { File::from_raw_fd(fd) };
        let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        found.push((mask, link.expect("a name")));
        rest = &rest[length..];
    }
    found
}

/// A group that tells of a file and of a mount, in a mount namespace.
pub(crate) struct Watch {
    group: File,
    file: std::path::PathBuf,
    mount: std::path::PathBuf,
}

impl Watch {
    pub(crate) fn of(file: &Path, mount: &Path) -> Self {
        let flags = libc::FAN_CLASS_NOTIF | libc::FAN_NONBLOCK;
        let events_flags = (libc::O_RDONLY | libc::O_LARGEFILE).cast_unsigned();
        // SAFETY: takes integers.
        let group = check(unsafe { libc::fanotify_init(flags, events_flags) }).expect("a group");
        // SAFETY: the kernel has just given us this descriptor.
        let group = unsafe { File::from_raw_fd(group) };
        mark(&group, 0, libc::FAN_MODIFY, file);
        mark(&group, libc::FAN_MARK_MOUNT, libc::FAN_OPEN, mount);
        Self { group, file: file.to_owned(), mount: mount.to_owned() }
    }

    /// `in_mount` is a file there.
    pub(crate) fn check(&self, in_mount: &str, found: &mut Findings) {
        found.works(
            "write",
            File::options()
                .append(true)
                .open(&self.file)
                .and_then(|mut it| std::io::Write::write_all(&mut it, b"x")),
        );
        found.same(
            "what fanotify tells",
            &vec![(libc::FAN_MODIFY, self.file.clone())],
            &events(&self.group),
        );
        let inside = self.mount.join(in_mount);
        found.works("open", File::open(&inside));
        found.same(
            "what it tells of a mount",
            &vec![(libc::FAN_OPEN, inside)],
            &events(&self.group),
        );
    }
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let (file, dir) = (stage.path("file"), stage.path("dir"));
    fs::write(&file, "").expect("make");
    fs::create_dir(&dir).expect("mkdir");
    let flags = libc::FAN_CLASS_NOTIF | libc::FAN_NONBLOCK | libc::FAN_UNLIMITED_MARKS;
    let events_flags = (libc::O_RDONLY | libc::O_LARGEFILE).cast_unsigned();
    // SAFETY: takes integers.
    let group = check(unsafe { libc::fanotify_init(flags, events_flags) }).expect("fanotify_init");
    // SAFETY: the kernel has just given us this descriptor.
    let group = unsafe { File::from_raw_fd(group) };
    mark(&group, 0, libc::FAN_MODIFY, &file);
    mark(&group, 0, libc::FAN_OPEN | libc::FAN_ONDIR | libc::FAN_EVENT_ON_CHILD, &dir);
    let ignore = libc::FAN_MARK_IGNORED_MASK | libc::FAN_MARK_IGNORED_SURV_MODIFY;
    mark(&group, ignore, libc::FAN_CLOSE_WRITE, &dir);
    // Hardly anybody writes there.
    mark(&group, libc::FAN_MARK_MOUNT, libc::FAN_CLOSE_WRITE, "/proc".as_ref());
    let before = told(&group);
    stage.ready_then_wait();

    let mut found = Findings::default();
    let spurious: Vec<_> =
        events(&group).into_iter().filter(|(_, path)| path.starts_with(stage.dir())).collect();
    found.same("nothing happened", &Vec::new(), &spurious);
    found.same("marks", &before, &told(&group));
    fs::write(&file, "text").expect("write");
    let of = |path: &Path| -> Vec<u64> {
        let found = events(&group).into_iter().filter(|(_, name)| name == path);
        found.map(|(mask, _)| mask).collect()
    };
    found.same("written", &vec![libc::FAN_MODIFY], &of(&file));
    let child = dir.join("child");
    fs::write(&child, "").expect("make");
    found.same("made", &vec![libc::FAN_OPEN], &of(&child));
    drop(fs::read_dir(&dir).expect("open"));
    found.same("directory", &vec![libc::FAN_OPEN], &of(&dir));
    found.outcome()
}

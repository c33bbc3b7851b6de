//! A disk that is mounted in a mount namespace of its own, and a part of it elsewhere.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::mounts::{attach, bind, enter_root, table};
use crate::stage::{Findings, Outcome, Stage};

/// The device has the number that the file `disk` of the stage tells.
pub(crate) fn run(stage: &Stage) -> Outcome {
    enter_root(stage, "disks_inside")
}

pub(crate) fn inside(stage: &Stage) -> Outcome {
    let number = fs::read_to_string(stage.path("disk")).expect("the disk");
    let number = number.trim().parse().expect("a number");
    mknod("/tmp/disk", SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, number).expect("mknod");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOATIME;
    attach("/tmp/disk", Path::new("/shared"), "ext4", flags, "errors=remount-ro");
    fs::create_dir_all("/shared/directory").expect("mkdir");
    bind(Path::new("/shared/directory"), Path::new("/bound"));
    let mut open = File::options().create(true).append(true).open("/bound/file").expect("open");
    open.write_all(b"before").expect("write");
    open.sync_all().expect("sync");
    let before = mounts();
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("the mounts", &before, &mounts());
    found.works("write", open.write_all(b" and after"));
    let mut text = String::new();
    let read = File::open("/shared/directory/file").and_then(|mut it| it.read_to_string(&mut text));
    found.works("read", read);
    found.same("what is in it", &"before and after".to_owned(), &text);
    found.outcome()
}

/// The mounts, without the path of the disk, which is the restore's.
fn mounts() -> Vec<String> {
    let without = |line: String| {
        line.split(' ')
            .filter(|it| !it.contains("/disk") && !it.starts_with("/dev/"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    table().into_iter().map(without).collect()
}

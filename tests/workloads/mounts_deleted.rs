//! Mounts of what has been deleted since.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, umount2};

use crate::mounts::{attach, bind, enter_root};
use crate::stage::{Findings, Outcome, Stage};

/// A root of its own, with mounts of what has been deleted since.
pub(crate) fn deleted(stage: &Stage) -> Outcome {
    enter_root(stage, "mounts_deleted_inside")
}

/// The same, and one of them is open.
pub(crate) fn deleted_open(stage: &Stage) -> Outcome {
    enter_root(stage, "mounts_deleted_open_inside")
}

/// A directory of a file system in memory, and a file of a disk that is mounted twice.
fn make_deleted() {
    attach("tmpfs", Path::new("/tmp"), "tmpfs", MsFlags::empty(), "size=1m");
    for name in ["/tmp/from", "/tmp/to"] {
        fs::create_dir(name).expect("mkdir");
    }
    bind(Path::new("/tmp/from"), Path::new("/tmp/to"));
    fs::remove_dir("/tmp/from").expect("rmdir");
    for name in ["/was", "/at", "/also"] {
        fs::write(name, "what it was").expect("write");
    }
    fs::set_permissions("/was", PermissionsExt::from_mode(0o4640)).expect("chmod");
    bind(Path::new("/was"), Path::new("/at"));
    bind(Path::new("/at"), Path::new("/also"));
    fs::remove_file("/was").expect("remove");
    // Another one, which was called the same.
    for name in ["/was", "/other"] {
        fs::write(name, "another").expect("write");
    }
    bind(Path::new("/was"), Path::new("/other"));
    fs::remove_file("/was").expect("remove");
    fs::write("/tmp/beside", "beside").expect("write");
}

pub(crate) fn deleted_inside(stage: &Stage) -> Outcome {
    make_deleted();
    stage.ready_then_wait();
    let mut found = Findings::default();
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let gone = table.lines().filter(|line| line.contains("//deleted ")).count();
    found.same("mounts of what was deleted", &4, &gone);
    let kind = |path: &str| fs::metadata(path).map(|is| (is.mode(), is.nlink(), is.is_dir())).ok();
    found.same("a file", &Some((libc::S_IFREG | 0o4640, 0, false)), &kind("/at"));
    found.must("a directory", kind("/tmp/to").is_some_and(|(_, names, is)| names == 0 && is));
    found.must("nothing can be in it", File::create("/tmp/to/new").is_err());
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    found.same("its contents", &"what it was".to_owned(), &read("/also"));
    found.works("write", fs::write("/at", "what it is"));
    found.same("one file", &"what it is".to_owned(), &read("/also"));
    found.same("another of its name", &"another".to_owned(), &read("/other"));
    found.same("what is beside", &"beside".to_owned(), &read("/tmp/beside"));
    for place in ["/at", "/also", "/tmp/to"] {
        found.same("umount", &Ok(()), &umount2(place, MntFlags::empty()));
    }
    found.same("what is below", &"what it was".to_owned(), &read("/at"));
    found.outcome()
}

pub(crate) fn deleted_open_inside(stage: &Stage) -> Outcome {
    make_deleted();
    let _open = File::open("/at").expect("open");
    stage.ready_then_wait();
    Findings::default().outcome()
}

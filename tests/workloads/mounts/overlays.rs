//! Overlays in a mount namespace of the program's own: layers on disk and in memory, one among the layers of another, one over its own
//! layer, parts and peers of one.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::mount::MsFlags;

use super::{enter_root, enter_root_with, table};
use crate::mounting::{attach, bind, propagate};
use crate::stage::{Findings, Outcome, Stage, check};

pub(crate) fn run(stage: &Stage) -> Outcome {
    enter_root(stage, "overlays_inside")
}

fn overlay(options: &str, at: &str) {
    attach("layers", Path::new(at), "overlay", MsFlags::empty(), options);
}

// include/uapi/linux/fs.h
const FS_APPEND_FL: i32 = 0x20;
const FS_NODUMP_FL: i32 = 0x40;

/// The flags of a file, if its file system has some.
fn flags(path: &str) -> Option<i32> {
    let (file, mut flags) = (File::open(path).expect("open"), 0);
    // SAFETY: the kernel writes one int, although the call's number says a long.
    let got = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) };
    (got == 0).then_some(flags)
}

/// Gives a file a flag; whether it can have it, as in memory since Linux 6.6.
fn flag(path: &str, flag: i32) -> bool {
    let file = File::open(path).expect("open");
    let flags = flags(path).unwrap_or(0) | flag;
    // SAFETY: the kernel reads one int, although the call's number says a long.
    unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) == 0 }
}

fn kernel_sets(path: &str, name: &str, value: &str) {
    let (path, name) = (CString::new(path).expect("path"), CString::new(name).expect("name"));
    // SAFETY: two strings that end in 0, and bytes with their length.
    let set = unsafe {
        libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    check(set).expect("setxattr");
}

fn kernel_says(path: &str, name: &str) -> Option<String> {
    let (path, name) = (CString::new(path).expect("path"), CString::new(name).expect("name"));
    let mut value = vec![0_u8; 256];
    // SAFETY: two strings that end in 0, and room with its length.
    let length = unsafe {
        libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    value.truncate(usize::try_from(length).ok()?);
    String::from_utf8(value).ok()
}

/// What the files say, and who is not there.
fn contents() -> Vec<String> {
    let files = [
        "/lay/over/low",
        "/lay/over/second",
        "/lay/over/gone",
        "/lay/over/changed",
        "/lay/over/dir/file",
        "/lay/again/file",
        "/lay/again/low",
        "/lay/deeper/than/others/file",
        "/lay/own/old",
        "/lay/own/new",
        "/lay/part/file",
        "/lay/peer/changed",
    ];
    let read = |file: &str| fs::read_to_string(file).map_err(|error| error.kind());
    files.into_iter().map(|file| format!("{file}: {:?}", read(file))).collect()
}

pub(crate) fn inside(stage: &Stage) -> Outcome {
    for directory in ["low", "low/dir", "over", "again", "own", "part", "peer", "memory"] {
        fs::create_dir_all(Path::new("/lay").join(directory)).expect("mkdir");
    }
    attach("memory", Path::new("/lay/memory"), "tmpfs", MsFlags::empty(), "");
    for directory in ["second", "up", "work", "up-own", "work-own"] {
        fs::create_dir(Path::new("/lay/memory").join(directory)).expect("mkdir");
    }
    for (file, text) in [
        ("/lay/low/low", "of the lowest"),
        ("/lay/low/gone", "soon"),
        ("/lay/low/changed", "not yet"),
        ("/lay/low/dir/file", "below"),
        ("/lay/memory/second/second", "of the second"),
        ("/lay/own/old", "of itself"),
    ] {
        fs::write(file, text).expect("write");
    }
    overlay(
        "lowerdir=/lay/memory/second:/lay/low,upperdir=/lay/memory/up,workdir=/lay/memory/work",
        "/lay/over",
    );
    fs::write("/lay/over/changed", "by now").expect("write");
    fs::remove_file("/lay/over/gone").expect("remove");
    overlay("lowerdir=/lay/over/dir:/lay/low", "/lay/again");
    // What is deeper is placed first, and has the other one among its layers all the same.
    fs::create_dir_all("/lay/deeper/than/others").expect("mkdir");
    overlay("lowerdir=/lay/over/dir:/lay/low", "/lay/deeper/than/others");
    overlay(
        "lowerdir=/lay/own,upperdir=/lay/memory/up-own,workdir=/lay/memory/work-own",
        "/lay/own",
    );
    fs::write("/lay/own/new", "above").expect("write");
    bind(Path::new("/lay/over/dir"), Path::new("/lay/part"));
    propagate(Path::new("/lay/over"), MsFlags::MS_SHARED);
    bind(Path::new("/lay/over"), Path::new("/lay/peer"));
    let mut open = OpenOptions::new().append(true).open("/lay/over/changed").expect("open");
    let lower = File::open("/lay/over/low").expect("open");
    std::env::set_current_dir("/lay/over/dir").expect("chdir");
    // In memory: one that is only added to, and a second name of it; a directory that backups leave out.
    fs::write("/lay/memory/log", "first").expect("write");
    fs::hard_link("/lay/memory/log", "/lay/memory/log too").expect("link");
    // Its end of a line is that of no record, whose next one would be of another path.
    let attributes = [("trusted.lines", "a\n17 path=another\nb"), ("trusted.a=b%", "c=d")];
    for (name, value) in attributes {
        kernel_sets("/lay/memory/log", name, value);
    }
    let is_flagged =
        flag("/lay/memory/log", FS_APPEND_FL) && flag("/lay/memory/second", FS_NODUMP_FL);
    let flagged = || (flags("/lay/memory/log"), flags("/lay/memory/second"));
    let before_flags = flagged();
    let before = (table(), contents());
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("the mounts", &before.0, &table());
    found.same("the files", &before.1, &contents());
    found.works("write to what was open", open.write_all(b", and more"));
    let text = fs::read_to_string("/lay/peer/changed").ok();
    found.same("what was written", &Some("by now, and more".to_owned()), &text);
    let text = std::io::read_to_string(lower).ok();
    found.same("what was open of a layer", &Some("of the lowest".to_owned()), &text);
    let text = fs::read_to_string("file").ok();
    found.same("the directory", &Some("below".to_owned()), &text);
    found.works("write above", fs::write("/lay/own/old", "changed"));
    for (name, value) in attributes {
        found.same(name, &Some(value.to_owned()), &kernel_says("/lay/memory/log", name));
    }
    found.same("the flags of files", &before_flags, &flagged());
    let written = fs::write("/lay/memory/log too", "anew");
    found.must("nothing else is written", written.is_err() == is_flagged);
    found.outcome()
}

/// Its layers are told by paths that lead from a directory nobody knows.
pub(crate) fn relative(stage: &Stage) -> Outcome {
    enter_root(stage, "overlays_relative_inside")
}

pub(crate) fn relative_inside(stage: &Stage) -> Outcome {
    for directory in ["/lay/low", "/lay/second", "/lay/over"] {
        fs::create_dir_all(directory).expect("mkdir");
    }
    std::env::set_current_dir("/lay").expect("chdir");
    overlay("lowerdir=low:second", "/lay/over");
    stage.ready_then_wait();
    Ok(())
}

/// Engines mount overlays before they change the root: the paths of layers are those of the outside, and lead elsewhere or nowhere
/// inside.
pub(crate) fn outside(stage: &Stage) -> Outcome {
    let path = |name: &str| stage.path(name).display().to_string();
    for (directory, file, text) in [
        ("low", "low", "of the lowest"),
        ("low", "changed", "not yet"),
        ("second", "second", "of the second"),
        ("same", "first", "of both"),
        ("twin", "which", "of the outside"),
    ] {
        fs::create_dir_all(stage.path(directory)).expect("mkdir");
        fs::write(stage.path(directory).join(file), text).expect("write");
    }
    for directory in ["up", "wk"] {
        fs::create_dir(stage.path(directory)).expect("mkdir");
    }
    enter_root_with(stage, "overlays_outside_inside", MsFlags::MS_PRIVATE, |root| {
        let within = |name: &str| root.join(path(name).trim_start_matches('/'));
        for name in ["same", "twin"] {
            fs::create_dir_all(within(name)).expect("mkdir");
        }
        fs::write(within("twin").join("which"), "of the inside").expect("write");
        bind(&stage.path("same"), &within("same"));
        let [low, second, up, wk] = ["low", "second", "up", "wk"].map(path);
        let options = format!("lowerdir={second}:{low},upperdir={up},workdir={wk}");
        overlay(&options, &root.join("over").display().to_string());
        let options = format!("lowerdir={}:{}", path("same"), path("twin"));
        overlay(&options, &root.join("peer").display().to_string());
        let options = format!("lowerdir={}:{}", path("twin"), path("same"));
        overlay(&options, &root.join("slave").display().to_string());
    })
}

pub(crate) fn outside_inside(stage: &Stage) -> Outcome {
    fs::write("/over/changed", "by now").expect("write");
    let mut open = OpenOptions::new().append(true).open("/over/changed").expect("open");
    let lower = File::open("/peer/which").expect("open");
    let contents = || {
        let files = ["/over/low", "/over/second", "/peer/first", "/peer/which", "/slave/which"];
        let read = |file: &str| fs::read_to_string(file).map_err(|error| error.kind());
        files.map(|file| format!("{file}: {:?}", read(file)))
    };
    let before = (table(), contents());
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("the mounts", &before.0, &table());
    found.same("the files", &before.1, &contents());
    found.works("write to what was open", open.write_all(b", and more"));
    let text = fs::read_to_string("/over/changed").ok();
    found.same("what was written", &Some("by now, and more".to_owned()), &text);
    let text = std::io::read_to_string(lower).ok();
    found.same("what was open of a layer", &Some("of the outside".to_owned()), &text);
    found.outcome()
}

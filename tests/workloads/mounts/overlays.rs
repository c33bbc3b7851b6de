//! Overlays in a mount namespace of the program's own: layers on disk and in memory, one among the layers of another, one over its own
//! layer, parts and peers of one.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use nix::mount::MsFlags;

use super::{enter_root, table};
use crate::mounting::{attach, bind, propagate};
use crate::stage::{Findings, Outcome, Stage};

pub(crate) fn run(stage: &Stage) -> Outcome {
    enter_root(stage, "overlays_inside")
}

fn overlay(options: &str, at: &str) {
    attach("layers", Path::new(at), "overlay", MsFlags::empty(), options);
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

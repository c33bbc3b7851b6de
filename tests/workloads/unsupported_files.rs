//! As [`super::unsupported`]: what only the kernel's structures tell of files.

use std::fs::File;
use std::io::Write;

use crate::stage::{Findings, Outcome, Stage};

/// A file on a file system that has no room for what is written, of which somebody else has been told. The
/// test mounts it at `small`.
pub(crate) fn write_error(stage: &Stage) -> Outcome {
    let path = stage.path("small/file");
    let mut file = File::options().write(true).create_new(true).open(&path).expect("make");
    file.write_all(&vec![1; 10 << 20]).expect("what is written is not on the disk yet");
    let other = File::options().write(true).open(&path).expect("open");
    other.sync_all().expect_err("there is room");
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.must("it is told of the error", file.sync_all().is_err());
    found.outcome()
}

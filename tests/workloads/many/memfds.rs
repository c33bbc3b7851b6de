//! N files in memory of a page each, with names, contents and positions of their own.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;

use super::{count, may_open_many};
use crate::files::Descriptor;
use crate::memfd::make;
use crate::pulse;
use crate::stage::{Findings, Outcome, Stage, pattern};

const LENGTH: usize = 4096;

pub(crate) fn run(stage: &Stage) -> Outcome {
    may_open_many();
    let new = |index: usize| {
        let name = std::ffi::CString::new(format!("many-{index}")).expect("a name");
        let mut file = make(&name, libc::MFD_CLOEXEC);
        file.write_all(&pattern(index as u64, LENGTH)).expect("write");
        file.seek(SeekFrom::Start((index % LENGTH) as u64)).expect("seek");
        file
    };
    let mut files: Vec<File> = (0..count(100)).map(new).collect();
    // A file in memory comes back as another one.
    let state = |files: &[File]| -> Vec<_> {
        let of = |file: &File| Descriptor::of(file.as_raw_fd()).of_any_inode();
        files.iter().map(of).collect()
    };
    let before = state(&files);

    pulse::ready_then_wait(stage)?;

    let mut found = Findings::default();
    for (before, after) in before.iter().zip(&state(&files)) {
        found.same("a file in memory", before, after);
    }
    for (index, file) in files.iter_mut().enumerate() {
        let mut rest = Vec::new();
        found.works("read on", file.read_to_end(&mut rest));
        found.must("contents", rest == pattern(index as u64, LENGTH)[index % LENGTH..]);
    }
    found.outcome()
}

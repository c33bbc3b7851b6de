//! N regular files at positions of their own, N/5 pipes and N/5 pairs of Unix sockets, a tenth of
//! which hold a few bytes: 9 N/5 descriptors.

use std::fs::{self, File, OpenOptions};
use std::io::{PipeReader, PipeWriter, Read, Seek, SeekFrom, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::{count, may_open_many};
use crate::files::{Descriptor, count_open};
use crate::pulse;
use crate::stage::{Findings, Outcome, Stage, check, pattern};

/// Bytes of each regular file.
const LENGTH: usize = 100;

/// What a tenth of the pipes and pairs hold.
fn queued(index: usize) -> Option<Vec<u8>> {
    index.is_multiple_of(10).then(|| pattern(index as u64, 7 + index % 100))
}

fn regular(stage: &Stage, index: usize) -> File {
    let path = stage.path(&format!("files/{index}"));
    fs::write(&path, pattern(index as u64, LENGTH)).expect("write");
    let mut file = OpenOptions::new().read(true).write(true).open(path).expect("open");
    file.seek(SeekFrom::Start((index % LENGTH) as u64)).expect("seek");
    file
}

fn verify_regular(found: &mut Findings, index: usize, mut file: &File) {
    let mut rest = Vec::new();
    found.works("read on", file.read_to_end(&mut rest));
    found.must("contents from here", rest == pattern(index as u64, LENGTH)[index % LENGTH..]);
}

fn verify_pipe(found: &mut Findings, index: usize, reader: &mut PipeReader, writer: &PipeWriter) {
    let mut expected = queued(index).unwrap_or_default();
    let mut waiting = 0;
    // SAFETY: the kernel writes one integer.
    let asked = check(unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIONREAD, &raw mut waiting) });
    found.works("count what waits in a pipe", asked);
    found.same("bytes in a pipe", &expected.len(), &usize::try_from(waiting).unwrap_or_default());
    expected.push(b'.');
    let mut writer = writer;
    found.works("write to a pipe", writer.write_all(b"."));
    let mut bytes = vec![0; expected.len()];
    // What is missing would be waited for; there is enough only if nothing is.
    if usize::try_from(waiting).is_ok_and(|waiting| waiting + 1 == bytes.len()) {
        found.works("read a pipe", reader.read_exact(&mut bytes));
        found.must("contents of a pipe", bytes == expected);
    }
}

fn verify_pair(found: &mut Findings, index: usize, pair: &(UnixStream, UnixStream)) {
    let mut expected = queued(index).unwrap_or_default();
    expected.push(b'.');
    let (mut one, mut other) = (&pair.0, &pair.1);
    found.works("write to a socket", one.write_all(b"."));
    found.works("do not wait", other.set_nonblocking(true));
    let mut bytes = vec![0; expected.len()];
    found.works("read a socket", other.read_exact(&mut bytes));
    found.must("contents of a socket", bytes == expected);
    found.works("write back", other.write_all(b"!"));
    let mut byte = [0];
    found.works("do not wait", one.set_nonblocking(true));
    found.works("read back", one.read_exact(&mut byte));
    found.same("what was written back", b"!", &byte);
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    may_open_many();
    let number = count(250);
    fs::create_dir(stage.path("files")).expect("mkdir");
    let files: Vec<File> = (0..number).map(|index| regular(stage, index)).collect();
    let mut pipes: Vec<(PipeReader, PipeWriter)> =
        (0..number / 5).map(|_| pipe().expect("pipe")).collect();
    let pairs: Vec<_> = (0..number / 5).map(|_| UnixStream::pair().expect("pair")).collect();
    for (index, ((_, pipe), (one, _))) in pipes.iter_mut().zip(&pairs).enumerate() {
        if let Some(bytes) = queued(index) {
            let mut socket = one;
            pipe.write_all(&bytes).and_then(|()| socket.write_all(&bytes)).expect("write");
        }
    }
    let state = || files.iter().map(|file| Descriptor::of(file.as_raw_fd())).collect::<Vec<_>>();
    let (before, open_before) = (state(), count_open());

    pulse::ready_then_wait(stage)?;

    let mut found = Findings::default();
    found.same("number of open descriptors", &open_before, &count_open());
    for (before, after) in before.iter().zip(&state()) {
        found.same("regular file", before, after);
    }
    for (index, file) in files.iter().enumerate() {
        verify_regular(&mut found, index, file);
    }
    for (index, (reader, writer)) in pipes.iter_mut().enumerate() {
        verify_pipe(&mut found, index, reader, writer);
    }
    for (index, pair) in pairs.iter().enumerate() {
        verify_pair(&mut found, index, pair);
    }
    found.outcome()
}

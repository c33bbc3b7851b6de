//! Pipes and fifos with what is in them, shared with a child, with flags and sizes of their own.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::pipe2;

use crate::files::fcntl;
use crate::stage::{Findings, Outcome, Stage, pattern};

struct Pipe {
    reader: fs::File,
    writer: fs::File,
}

impl Pipe {
    fn new(flags: OFlag) -> Self {
        let (reader, writer): (OwnedFd, OwnedFd) = pipe2(flags).expect("pipe");
        Self { reader: reader.into(), writer: writer.into() }
    }

    /// Numbers, flags and capacity of both ends.
    fn settings(&self) -> [(RawFd, i32, i32, i32); 2] {
        [&self.reader, &self.writer].map(|end| {
            let fd = end.as_raw_fd();
            let get = |command| fcntl(fd, command, 0);
            (fd, get(libc::F_GETFL), get(libc::F_GETFD), get(libc::F_GETPIPE_SZ))
        })
    }
}

fn holds(found: &mut Findings, what: &str, reader: &mut fs::File, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    found.works(what, reader.read_exact(&mut bytes));
    found.must(what, bytes == expected);
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let mut full = Pipe::new(OFlag::O_NONBLOCK);
    full.writer.write_all(&pattern(51, 65536)).expect("fill");
    let mut large = Pipe::new(OFlag::O_CLOEXEC);
    fcntl(large.writer.as_raw_fd(), libc::F_SETPIPE_SZ, 512 << 10);
    large.writer.write_all(&pattern(52, 300_000)).expect("fill");
    let mut empty = Pipe::new(OFlag::empty());
    let closed = Pipe::new(OFlag::empty());
    (&closed.writer).write_all(b"last words").expect("write");
    let mut orphan = closed.reader;
    drop(closed.writer);

    let path = stage.path("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("mkfifo");
    let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path);
    let mut fifo = open(0).expect("open fifo");
    fifo.write_all(b"first in").expect("write");
    let mut fifo_reader =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).expect("open");

    let mut ask = Pipe::new(OFlag::empty());
    let mut answer = Pipe::new(OFlag::empty());
    // SAFETY: the program has one thread here, so the child may use everything.
    let child = match unsafe { nix::unistd::fork() }.expect("fork") {
        nix::unistd::ForkResult::Parent { child } => child,
        nix::unistd::ForkResult::Child => {
            let mut byte = [0];
            let echoed = ask.reader.read_exact(&mut byte).is_ok()
                && answer.writer.write_all(&[byte[0] + 1]).is_ok();
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(i32::from(!echoed)) }
        }
    };
    let settings = |pipes: [&Pipe; 3]| pipes.map(Pipe::settings);
    let before = settings([&full, &large, &empty]);

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("settings", &before, &settings([&full, &large, &empty]));
    found.must("a full pipe takes no more", full.writer.write(b"x").is_err());
    holds(&mut found, "full pipe", &mut full.reader, &pattern(51, 65536));
    holds(&mut found, "large pipe", &mut large.reader, &pattern(52, 300_000));
    found.works("write to the empty pipe", empty.writer.write_all(b"now"));
    holds(&mut found, "empty pipe", &mut empty.reader, b"now");
    let mut words = String::new();
    found.works("pipe without a writer ends", orphan.read_to_string(&mut words));
    found.same("its contents", &"last words", &words.as_str());
    holds(&mut found, "fifo", &mut fifo_reader, b"first in");
    found.works("write to the fifo", fifo.write_all(b"second"));
    holds(&mut found, "fifo goes on", &mut fifo_reader, b"second");
    found.works("ask the child", ask.writer.write_all(&[41]));
    holds(&mut found, "the child's answer", &mut answer.reader, &[42]);
    found.same("child", &Ok(WaitStatus::Exited(child, 0)), &waitpid(child, None));
    found.outcome()
}

/// What the reads of an end give, each up to a packet's end, until nothing is left.
fn reads(end: &fs::File) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut buffer = vec![0; 70_000];
    while let Ok(length @ 1..) = { end }.read(&mut buffer) {
        found.push(buffer[..length].to_vec());
    }
    found
}

/// Packet mode (`O_DIRECT`), in which the reader gets what was written by one write, and no more.
pub(crate) fn packets(stage: &Stage) -> Outcome {
    let direct = OFlag::O_DIRECT | OFlag::O_NONBLOCK;
    let several = Pipe::new(direct);
    let single = Pipe::new(direct);
    // Sixteen packets are all that it has buffers for.
    let full = Pipe::new(direct);
    let empty = Pipe::new(direct);
    // The writer has left the mode since.
    let left = Pipe::new(direct);
    let path = stage.path("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("mkfifo");
    let options = || OpenOptions::new().read(true).write(true).clone();
    let fifo = options().custom_flags(libc::O_NONBLOCK).open(&path).expect("open fifo");
    fcntl(fifo.as_raw_fd(), libc::F_SETFL, direct.bits());
    let write = |mut end: &fs::File, what: &[u8]| end.write_all(what).expect("write");
    for part in [&b"one"[..], b"t", b"three"] {
        [&several.writer, &left.writer, &fifo].into_iter().for_each(|end| write(end, part));
    }
    write(&single.writer, b"alone");
    (0..16).for_each(|number| write(&full.writer, &[number]));
    fcntl(left.writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
    write(&left.writer, b" and bytes");
    let pipes = [&several, &single, &full, &empty, &left];
    let before = pipes.map(Pipe::settings);

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("settings", &before, &pipes.map(Pipe::settings));
    found.must("a full pipe takes no more", (&full.writer).write(b"x").is_err());
    let three: Vec<Vec<u8>> = ["one", "t", "three"].map(|part| part.as_bytes().to_vec()).to_vec();
    found.same("packets of a pipe", &three, &reads(&several.reader));
    found.same("packets of a fifo", &three, &reads(&fifo));
    // A packet is read once, however little of it.
    let mut two = [0; 2];
    found.same("part of a packet", &Some(2), &(&single.reader).read(&mut two).ok());
    found.same("the rest has gone", &Vec::new(), &reads(&single.reader));
    let sixteen: Vec<Vec<u8>> = (0..16).map(|number| vec![number]).collect();
    found.same("a full pipe", &sixteen, &reads(&full.reader));
    let mut with_bytes = three;
    with_bytes.push(b" and bytes".to_vec());
    found.same("packets before bytes", &with_bytes, &reads(&left.reader));
    for (what, reader, writer) in [("pipe", &empty.reader, &empty.writer), ("fifo", &fifo, &fifo)] {
        write(writer, b"new");
        write(writer, b"er");
        let expected = vec![b"new".to_vec(), b"er".to_vec()];
        found.same(&format!("packets of a {what} from now on"), &expected, &reads(reader));
    }
    found.outcome()
}

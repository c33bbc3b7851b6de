//! N pairs of pseudo-terminals with sizes of their own.

use std::fs::File;
use std::io::{Read, Write};

use super::{count, may_open_many};
use crate::ptys::{Master, set_window, window};
use crate::pulse;
use crate::stage::{Findings, Outcome, Stage, eventually};

/// Both sides of one.
struct Pair {
    master: File,
    slave: File,
}

impl Pair {
    fn new(index: usize) -> Self {
        let master = Master::unlocked();
        let slave = master.slave();
        let master = master.0;
        set_window(&master, size(index).0, size(index).1);
        Self { master, slave }
    }

    /// What is typed is read and shown, and what is written is shown.
    fn verify(&mut self, found: &mut Findings, index: usize) {
        let now = window(&self.master);
        found.same("size", &size(index), &(now.0, now.1));
        // Canonical mode ends a line, which it echoes.
        found.works("type", self.master.write_all(b"a line\n"));
        found.same("what was typed", &"a line\n".to_owned(), &read(&mut self.slave, 7));
        found.works("write", self.slave.write_all(b"an answer\n"));
        let shown = "a line\r\nan answer\r\n".to_owned();
        found.same("what is shown", &shown, &read(&mut self.master, shown.len()));
    }
}

/// So many bytes, which the kernel brings a moment later than they are written.
fn read(from: &mut File, length: usize) -> String {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    eventually(|| {
        filled += from.read(&mut bytes[filled..]).unwrap_or(0);
        filled == length
    });
    String::from_utf8_lossy(&bytes[..filled]).into_owned()
}

fn size(index: usize) -> (u16, u16) {
    (20 + (index % 50) as u16, 80 + (index % 70) as u16)
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    may_open_many();
    let mut pairs: Vec<Pair> = (0..count(50)).map(Pair::new).collect();

    pulse::ready_then_wait(stage)?;

    let mut found = Findings::default();
    for (index, pair) in pairs.iter_mut().enumerate() {
        pair.verify(&mut found, index);
    }
    found.outcome()
}

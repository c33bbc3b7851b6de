//! N established TCP connections with both ends in the process, a tenth of which have bytes under way.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::{count, may_open_many};
use crate::pulse;
use crate::stage::{Findings, Outcome, Stage, pattern};
use crate::tcp::Pair;

pub(crate) fn run(stage: &Stage) -> Outcome {
    may_open_many();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let new = |_| Pair::new("one of many", &listener, address);
    let mut pairs: Vec<Pair> = (0..count(100)).map(new).collect();
    let sent = |index: usize| index.is_multiple_of(10).then(|| pattern(index as u64, 100));
    for (index, pair) in pairs.iter_mut().enumerate() {
        if let Some(bytes) = sent(index) {
            pair.client.write_all(&bytes).expect("write");
        }
    }

    pulse::ready_then_wait(stage)?;

    let mut found = Findings::default();
    for (index, pair) in pairs.iter_mut().enumerate() {
        if let Some(expected) = sent(index) {
            let mut bytes = vec![0; expected.len()];
            found.works("read what was under way", pair.server.read_exact(&mut bytes));
            found.must("what was under way", bytes == expected);
        }
        pair.works(&mut found);
        // Each that is lost is waited for.
        if found.any() {
            break;
        }
    }
    found.outcome()
}

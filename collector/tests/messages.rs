//! Messages in POSIX queues as the programs tell them. Needs root, and a kernel that lets it load BPF programs.
#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use std::os::fd::{AsFd, OwnedFd};

use kernel::mqueue::{Attributes, make, send, unlink};
use kernel::sysv::limits::Limit;
use stasis_collector::{Collector, Message, Messages};

/// A queue that has lost its name.
fn queue(kind: &str, most: u64, bytes: u64) -> OwnedFd {
    let name = format!("stasis-{kind}-{}", std::process::id()).into_bytes();
    let made = make(&name, &Attributes { most, bytes, waiting: 0 }).unwrap();
    unlink(&name).unwrap();
    made
}

fn text(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|place| (place % 251) as u8 ^ seed).collect()
}

/// What a program would receive.
fn received(sent: &[(u32, Vec<u8>)]) -> Vec<Message> {
    let mut sent: Vec<Message> = sent
        .iter()
        .map(|(priority, bytes)| Message { priority: *priority, bytes: bytes.clone() })
        .collect();
    sent.sort_by_key(|message| std::cmp::Reverse(message.priority));
    sent
}

fn told(collector: &mut Collector, queue: &OwnedFd) -> Option<Messages> {
    collector.messages(queue.as_fd(), 1 << 20).unwrap()
}

#[test]
fn messages_are_told_and_stay() {
    let mut collector = Collector::with_bpf().unwrap();
    let (few, none) = (queue("few", 10, 8192), queue("none", 2, 16));
    // At the borders of segments: of 4,048 bytes the first, of 4,088 the others.
    let lengths = [0, 1, 4047, 4048, 4049, 8135, 8136, 8137, 8192];
    let mut sent = Vec::new();
    for (nth, length) in lengths.into_iter().enumerate() {
        sent.push(([7, 0, 32767][nth % 3], text(length, nth as u8)));
        send(&few, &sent[nth].1, sent[nth].0).unwrap();
    }
    let expected = Messages::All { messages: received(&sent), notifies: false };
    assert_eq!(told(&mut collector, &few), Some(expected.clone()));
    assert_eq!(
        told(&mut collector, &none),
        Some(Messages::All { messages: vec![], notifies: false })
    );
    assert_eq!(told(&mut collector, &few), Some(expected));
    assert_eq!(
        collector.messages(few.as_fd(), 100).unwrap(),
        Some(Messages::More(received(&sent).iter().map(|it| it.bytes.len() as u64).sum()))
    );
    let other = OwnedFd::from(tempfile::tempfile().unwrap());
    assert_eq!(told(&mut collector, &other), None);
}

/// Many turns, through a tree of many priorities.
#[test]
fn many_messages_of_many_priorities_are_told() {
    // A user's queues have 800 KiB in all, those of other tests with them.
    const MANY: u32 = 1500;
    let mut collector = Collector::with_bpf().unwrap();
    let mut made = None;
    // More than the limits of a namespace allow, unless they are raised.
    kernel::namespaces::new("ipc", || {
        Limit::PosixMessages.set(&[MANY.into()])?;
        made = Some(queue("many", MANY.into(), 64));
        Ok(())
    })
    .unwrap();
    let many = made.unwrap();
    let mut sent = Vec::new();
    for nth in 0..MANY {
        let one = (nth * 7919 % 700, text(nth as usize % 65, nth as u8));
        send(&many, &one.1, one.0).unwrap();
        sent.push(one);
    }
    let expected = Messages::All { messages: received(&sent), notifies: false };
    assert_eq!(told(&mut collector, &many), Some(expected));
}

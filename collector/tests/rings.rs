//! What the eBPF programs tell of io_urings. Needs root, and a kernel that lets it load BPF programs.
#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use ids::HostPid;
use inventory::{Registered, RegisteredFile, Requests, Ring};
use kernel::io_uring::{Counts, Ring as Made, Shape, register_eventfd, register_files, setup};
use stasis_collector::{Collector, Parts};

fn look(collector: &mut Collector, fd: &OwnedFd) -> Ring {
    let own = HostPid::own();
    let inventory = collector.parts(&[own], Parts::FILES).unwrap();
    let rings = collector.rings(&inventory.processes[&own]).unwrap().unwrap();
    rings.into_iter().find(|ring| ring.fd == fd.as_raw_fd()).unwrap()
}

#[test]
fn what_the_kernel_keeps_of_a_ring_is_told() {
    let mut collector = Collector::with_bpf().unwrap();
    let shape = Shape { flags: setup::COOP_TASKRUN, submissions: 4, completions: 16 };
    let ring = Made::new(shape).unwrap();
    let mut memory = ring.map().unwrap();
    let counts = Counts { submitted: 70, completed: 50, unread: 3, no_drain: true };
    ring.advance(&mut memory, counts).unwrap();
    let fd = ring.into_fd();
    let found = look(&mut collector, &fd);
    let no_array = 0;
    assert_eq!(found.flags & !no_array, setup::COOP_TASKRUN | setup::CQSIZE, "{found:?}");
    assert_eq!((found.submission_entries, found.completion_entries), (4, 16));
    assert_eq!((found.submitted, found.completed), (70, 50));
    assert_eq!((found.submitter, found.eventfd, found.places, found.buffers), (None, None, 0, 0));
    assert_eq!(found.has, ebpf_common::ring::NO_DRAIN, "{found:?}");
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let event = nix::sys::eventfd::EventFd::new().unwrap();
    register_eventfd(&fd, &event.as_fd(), true).unwrap();
    let gone = nix::unistd::dup(&reader).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let files = [writer.as_raw_fd(), -1, null.as_raw_fd(), gone.as_raw_fd()];
    register_files(&fd, &files, &[0, 0, 7, 0]).unwrap();
    drop((null, gone));
    let found = look(&mut collector, &fd);
    assert!(found.eventfd.is_some() && found.eventfd_async, "{found:?}");
    let descriptor = |fd: &OwnedFd| RegisteredFile::Descriptor(fd.as_raw_fd());
    let expected = [
        (descriptor(&writer), 0),
        (RegisteredFile::None, 0),
        (RegisteredFile::Elsewhere, 7),
        (descriptor(&reader), 0),
    ];
    assert_eq!(found.files, expected.map(|(file, tag)| Registered { file, tag }));
    assert_eq!((found.places, found.free_places), (4, [0, 4]));
}

#[test]
fn requests_in_flight_are_counted() {
    let mut collector = Collector::with_bpf().unwrap();
    let mut own = || -> Requests {
        let found = collector.requests(HostPid::own()).unwrap().unwrap();
        *found.iter().find(|one| one.tid == kernel::process::own_thread()).unwrap()
    };
    let ring = Made::new(Shape { flags: 0, submissions: 8, completions: 16 }).unwrap();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    for waiting in 0..6 {
        let found = own();
        assert_eq!((found.in_flight, found.registered), (Some(waiting), 0));
        ring.poll(&reader).unwrap();
    }
    nix::unistd::write(&writer, b"x").unwrap();
    // This thread completes them when it returns from a call.
    assert_eq!(own().in_flight, Some(0));
}

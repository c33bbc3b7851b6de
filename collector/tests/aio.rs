//! What the eBPF programs tell of asynchronous I/O contexts. Needs root, and a kernel that lets it load BPF programs.
#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use ids::HostPid;
use inventory::AioContext;
use kernel::aio::Context;
use stasis_collector::Collector;

#[test]
fn requests_in_flight_are_told_from_those_that_are_free() {
    let mut collector = Collector::with_bpf().unwrap();
    let mut look = |context: &Context| -> AioContext {
        let found = collector.aio_contexts(HostPid::own()).unwrap().unwrap();
        *found.iter().find(|one| one.start == context.number()).unwrap()
    };
    let (small, large) = (Context::new(1).unwrap(), Context::new(3000).unwrap());
    let (reader, writer) = nix::unistd::pipe().unwrap();
    for (context, requests) in [(&small, 1), (&large, 3000)] {
        let found = look(context);
        assert_eq!((found.context, found.requests, found.tail), (context.number(), requests, 0));
        assert_eq!((found.in_flight, found.owned, found.waiting), (Some(0), true, false));
        assert!(found.events > requests);
        // What is completed at once, of no bytes, stays in the ring.
        let file = nix::sys::memfd::memfd_create(c"empty", nix::sys::memfd::MFdFlags::empty());
        let file = file.unwrap();
        for done in 1..=40 {
            context.read_nothing(&file).unwrap();
            let found = look(context);
            assert_eq!((found.in_flight, found.tail, found.waiting), (Some(0), done, false));
        }
        for waits in 1..=5 {
            context.poll(&reader).unwrap();
            let found = look(context);
            assert_eq!((found.in_flight, found.tail, found.waiting), (Some(waits), 40, true));
        }
        nix::unistd::write(&writer, b"x").unwrap();
        let found = look(context);
        assert_eq!((found.in_flight, found.tail, found.waiting), (Some(0), 45, false));
        nix::unistd::read(&reader, &mut [0]).unwrap();
    }
}

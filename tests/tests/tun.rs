//! Network devices of programs (tun and tap) in the network namespace of the machine: those that stay. Needs root.

use std::fs::File;
use std::process::Command;

use kernel::namespaces::within_network;
use kernel::tun;
use stasis_tests::{Dump, Engine, Machine, Outcome, Scratch, Workload};

fn ip(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip");
    output.status.success()
}

/// A tap that stays; removed when dropped.
struct Tap(String);

impl Tap {
    fn name() -> String {
        format!("st{}", std::process::id())
    }

    fn make(name: &str, more: &str) -> Self {
        assert!(ip(&format!("tuntap add dev {name} mode tap {more}")), "make {name}");
        Self(name.to_owned())
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.0));
    }
}

fn start(scratch: &Scratch, name: &str) -> Workload {
    Workload::start_with("tun_outside", scratch.path("work"), &[("DEVICE", name)])
}

fn dump(workload: &Workload, scratch: &Scratch) -> Outcome {
    Engine::Stasis.dump(workload.pid(), &scratch.path("images"), Dump::ENDING)
}

#[test]
fn a_device_that_stays_is_attached_to_again() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let name = Tap::name();
    let tap = Tap::make(&name, "");
    let workload = start(&scratch, &name);
    dump(&workload, &scratch).must_succeed("dump");
    machine.await_no_children();
    let restore = || Engine::Stasis.restore(&scratch.path("images"), Dump::ENDING);
    drop(tap);
    let refused = restore();
    let says = |word: &str| !refused.success && refused.stderr.contains(word);
    assert!(says("not there") && says("ip tuntap add"), "{}", refused.stderr);
    assert!(!ip(&format!("link show {name}")), "a refused restore made the device");
    let other = Tap::make(&name, "user 7");
    let refused = restore();
    let says = |word: &str| !refused.success && refused.stderr.contains(word);
    assert!(says("another one by now"), "{}", refused.stderr);
    drop(other);
    let _again = Tap::make(&name, "");
    restore().must_succeed("restore");
    workload.check().expect("the program's own check");
}

#[test]
fn a_device_that_goes_with_its_program_is_refused() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let name = Tap::name();
    let workload = start(&scratch, &name);
    let refused = dump(&workload, &scratch);
    let says = |word: &str| !refused.success && refused.stderr.contains(word);
    assert!(says("goes with its program") && says("ip tuntap add"), "{}", refused.stderr);
    workload.check().expect("the program's own check");
}

/// A queue of a device of the tree's namespace that somebody outside has would not be there after a restore.
#[test]
fn a_device_that_others_are_attached_to_is_refused() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("tun", scratch.path("work"));
    let namespace = File::open(format!("/proc/{}/ns/net", workload.pid())).expect("a namespace");
    let attach = || {
        let file = File::options().read(true).write(true).open("/dev/net/tun")?;
        tun::attach(&file, "stays", tun::TUN, None).map(|()| file)
    };
    let held = within_network(&namespace, attach).flatten().expect("attach");
    let refused = dump(&workload, &scratch);
    let says = |word: &str| !refused.success && refused.stderr.contains(word);
    assert!(
        says("network device stays") && says("outside the tree is attached"),
        "{}",
        refused.stderr
    );
    drop(held);
    workload.check().expect("the program's own check");
}

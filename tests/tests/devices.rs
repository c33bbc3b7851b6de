//! Network devices that reach out of the tree: their other ends are outside. These tests need root.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use stasis_tests::{Collector, Dump, Engine, Machine, Outcome, Program, Scratch, wait_until};

/// A tree in a network namespace of its own, in which `eth0` is; its other end is `out0`, in one that stands for the host.
struct Case {
    machine: Machine,
    scratch: Scratch,
    tree: Program,
}

fn run(command: &str) -> Outcome {
    Outcome::of(Command::new("sh").args(["-c", command])).must_succeed(command)
}

impl Case {
    fn new() -> Self {
        let machine = Machine::prepare();
        // Of this thread, and so of all that it starts.
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace that stands for the host");
        let scratch = Scratch::new();
        let mut program = Command::new("unshare");
        let tree = Program::start(program.args(["--net", "sleep", "600"]), &scratch.path("log"));
        let comm = || fs::read_to_string(format!("/proc/{}/comm", tree.pid()));
        let is_there = || comm().is_ok_and(|comm| comm == "sleep\n");
        assert!(wait_until(Duration::from_secs(20), is_there), "it does not start");
        let case = Self { machine, scratch, tree };
        run(&format!(
            "ip link set lo up && ip link add out0 type veth peer name eth0 netns {}",
            case.tree.pid()
        ));
        run("ip addr add 10.77.0.1/24 dev out0 && ip link set out0 up");
        case.inside(
            "ip link set lo up && ip addr add 10.77.0.2/24 dev eth0 && ip link set eth0 up",
        );
        case
    }

    /// A command of its own network.
    fn inside(&self, command: &str) -> Outcome {
        run(&format!("nsenter --net --target {} sh -c '{command}'", self.tree.pid()))
    }

    /// Number and hardware address, as the kernel tells them.
    fn told(&self) -> String {
        let told = self.inside("ip -o link show eth0").stdout;
        let number = told.split(':').next().unwrap_or_default();
        let address = told.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next());
        format!("{number} {}", address.unwrap_or_default())
    }

    fn end(&self) {
        let images = self.scratch.path("images");
        Engine::CriuFace.dump(self.tree.pid(), &images, Dump::ENDING).must_succeed("dump");
        self.machine.await_no_children();
    }

    fn restore(&self, options: &[&str]) -> Outcome {
        let images = self.scratch.path("images");
        let mut restore = Engine::CriuFace.restore_command(&images, Dump::ENDING);
        let outcome = Outcome::of(restore.args(options));
        let log = fs::read_to_string(images.join("restore.log")).unwrap_or_default();
        Outcome { stderr: outcome.stderr + &log, ..outcome }
    }

    /// Packets come through, both ways.
    fn is_connected(&self) {
        let inside = fs::File::open(format!("/proc/{}/ns/net", self.tree.pid())).expect("open");
        let listener = std::thread::spawn(move || {
            setns(inside, CloneFlags::CLONE_NEWNET).expect("go inside");
            TcpListener::bind("10.77.0.2:7").expect("bind")
        });
        let listener = listener.join().expect("a listener");
        let mut out = TcpStream::connect("10.77.0.2:7").expect("connect");
        let mut there = listener.accept().expect("accept").0;
        let mut bytes = [0; 5];
        out.write_all(b"there").and_then(|()| there.read_exact(&mut bytes)).expect("there");
        there.write_all(b"back.").and_then(|()| out.read_exact(&mut bytes)).expect("and back");
        assert_eq!(&bytes, b"back.");
    }
}

#[test]
fn the_other_end_is_made_outside() {
    let case = Case::new();
    case.is_connected();
    let before = case.told();
    case.end();
    let refused = case.restore(&[]);
    assert!(!refused.success && refused.stderr.contains("veth[eth0]:NAME"), "{}", refused.stderr);
    case.machine.await_no_children();
    case.restore(&["--external", "veth[eth0]:again0"]).must_succeed("restore");
    assert_eq!(case.told(), before);
    run("ip addr add 10.77.0.1/24 dev again0 && ip link set again0 up");
    case.is_connected();
}

#[test]
fn a_device_that_is_there_stands_for_it() {
    let case = Case::new();
    let before = case.told();
    case.end();
    // Its number is another one here, and it is up.
    run("ip link add given0 type veth peer name new0 && ip link set given0 up");
    run("ip addr add 10.77.0.1/24 dev new0 && ip link set new0 up");
    let refused = case.restore(&["--external", "netdev[eth0]:none0"]);
    assert!(!refused.success && refused.stderr.contains("none0"), "{}", refused.stderr);
    case.machine.await_no_children();
    case.restore(&["--external", "netdev[eth0]:given0"]).must_succeed("restore");
    assert_eq!(case.told(), before);
    case.is_connected();
}

/// Sends to somebody who never answers who he is: what is sent waits for that in the kernel. Other sockets have sent
/// as a server of DHCP does, which asks whether an address is free.
const TO_NOBODY: &str = "
import socket, time
open('/proc/sys/net/ipv4/ping_group_range', 'w').write('0 0')
to = [(socket.socket(socket.AF_INET, kind, protocol), bytes) for kind, protocol, bytes in [
    (socket.SOCK_DGRAM, 0, b'x' * 100),
    (socket.SOCK_RAW, socket.IPPROTO_ICMP, b'\\x08\\x00\\xf7\\xff' + b'\\x00' * 4),
    (socket.SOCK_DGRAM, socket.IPPROTO_ICMP, b'\\x08' + b'\\x00' * 7),
]]
while True:
    for socket, bytes in to:
        socket.sendto(bytes, ('10.78.0.9', 9))
    time.sleep(0.02)
";

/// What has been sent is not held back by the socket, though it is still accounted to it. Only the programs tell.
#[test]
fn datagrams_to_a_neighbour_that_is_not_there() {
    let machine = Machine::prepare();
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace that stands for the host");
    run("ip link set lo up && ip link add out0 type veth peer name out1 && ip link set out1 up");
    run("ip addr add 10.78.0.1/24 dev out0 && ip link set out0 up");
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let mut program = Command::new("python3");
    let program = Program::start(program.args(["-c", TO_NOBODY]), &scratch.path("log"));
    let waits = || {
        ["udp", "icmp", "raw"].iter().all(|kind| {
            let path = format!("/proc/thread-self/net/{kind}");
            let sockets = fs::read_to_string(path).unwrap_or_default();
            // tx_queue:rx_queue
            let lines = sockets.lines().skip(1);
            lines
                .filter_map(|line| line.split_whitespace().nth(4))
                .any(|queues| !queues.starts_with("00000000:"))
        })
    };
    assert!(wait_until(Duration::from_secs(20), waits), "nothing waits");
    let how = Dump { collector: Some(&collector), ..Dump::RUNNING_ON };
    for name in ["one", "two", "three"] {
        Engine::Stasis.dump(program.pid(), &scratch.path(name), how).must_succeed("dump");
    }
    let images = scratch.path("last");
    let how = Dump { collector: Some(&collector), ..Dump::ENDING };
    Engine::Stasis.dump(program.pid(), &images, how).must_succeed("dump");
    drop(collector);
    machine.await_no_children();
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    assert!(program.is_alive() && wait_until(Duration::from_secs(20), waits), "it goes on");
    machine.end_tree(program.pid());
}

/// Sends multicast, by the number of an interface that has been removed since.
const BY_WHAT_IS_GONE: &str = "
import socket, struct, time
from subprocess import run
run('ip link add gone0 type veth peer name gone1', shell=True, check=True)
to = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
number = socket.if_nametoindex('gone0')
to.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack('=III', 0, 0, number))
run('ip link del gone0', shell=True, check=True)
print('removed', flush=True)
time.sleep(1000)
";

/// The same by an address that has been taken away since.
const BY_WHOSE_ADDRESS_IS_GONE: &str = "
import socket, time
from subprocess import run
run('ip link set lo up; ip address add 192.0.2.7/32 dev lo', shell=True, check=True)
to = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
to.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton('192.0.2.7'))
run('ip address del 192.0.2.7/32 dev lo', shell=True, check=True)
print('removed', flush=True)
time.sleep(1000)
";

/// A restore could find another under its number.
#[test]
fn an_option_names_an_interface_that_is_gone() {
    refused_by_option(BY_WHAT_IS_GONE, "names a network interface that is no more");
}

/// No socket of a restore could be made so.
#[test]
fn an_option_names_an_address_that_is_gone() {
    refused_by_option(BY_WHOSE_ADDRESS_IS_GONE, "by an address that no network interface has");
}

/// A program of Python that has removed what its socket sends by, and says so, is refused in these words, and runs on.
fn refused_by_option(script: &str, said: &str) {
    let machine = Machine::prepare();
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace that stands for the host");
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let mut program = Command::new("python3");
    let log = scratch.path("log");
    let program = Program::start(program.args(["-c", script]), &log);
    let is_gone = || fs::read_to_string(&log).is_ok_and(|said| said.contains("removed"));
    assert!(wait_until(Duration::from_secs(20), is_gone), "it is not removed");
    let how = Dump { collector: Some(&collector), ..Dump::ENDING };
    let outcome = Engine::Stasis.dump(program.pid(), &scratch.path("images"), how);
    assert!(!outcome.success && outcome.stderr.contains(said), "{}", outcome.stderr);
    assert!(program.is_alive());
    drop(collector);
    machine.end_tree(program.pid());
}

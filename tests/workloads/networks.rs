//! Network namespaces: one with all that is carried, and several in one tree, with sockets in each. They are set up by
//! `ip` and `nft`, and seen by them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixListener, UnixStream};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};

use crate::stage::{Findings, Outcome, Stage};
use crate::tcp::{CLOSE, CLOSE_WAIT, LAST_ACK, await_state, info};
use crate::tree::child;

/// Runs a line of words.
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

pub(crate) fn set(setting: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{setting}"), value).expect(setting);
}

/// Without the words that count down, or say how the link is at the moment.
pub(crate) fn plain(text: &str) -> String {
    let mut words: Vec<&str> = text.split_inclusive(char::is_whitespace).collect();
    let is_passing = |word: &&str| {
        let word = word.trim();
        ["state", "qlen"].contains(&word) || word.ends_with("_timer")
    };
    while let Some(at) = words.iter().position(is_passing) {
        // Several blanks may follow a word.
        let value = words[at + 1..].iter().position(|word| !word.trim().is_empty()).unwrap_or(0);
        words.drain(at..(at + value + 2).min(words.len()));
    }
    let text = words.concat();
    let mut lines: Vec<&str> = text.lines().collect();
    // The kernel lists routes of equal worth as they came.
    lines.sort_unstable();
    lines.join("\n")
}

/// All that is to be the same.
fn picture() -> Vec<String> {
    let settings = [
        "ipv4/conf/all/forwarding",
        "ipv4/conf/default/rp_filter",
        "ipv4/conf/lo/arp_ignore",
        "ipv6/conf/default/accept_dad",
        "ipv6/conf/v0/accept_ra",
        "unix/max_dgram_qlen",
        "ipv4/ping_group_range",
    ];
    let read =
        |name: &&str| std::fs::read_to_string(format!("/proc/sys/net/{name}")).expect("read");
    let lines = [
        "ip -o -d link",
        "ip -o address",
        "ip route show table all",
        "ip -6 route show table all",
        "ip rule",
        "ip -6 rule",
        "nft list table inet carried",
    ];
    lines.iter().map(|line| plain(&run(line))).chain(settings.iter().map(read)).collect()
}

/// Makes a namespace, and in it the loopback device with these addresses.
pub(crate) fn enter_new(addresses: &[&str]) {
    unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
    // No address is to be looked for elsewhere.
    set("ipv6/conf/default/accept_dad", "0");
    set("ipv6/conf/all/accept_dad", "0");
    run("ip link set lo up");
    for address in addresses {
        run(&format!("ip address add {address} dev lo"));
    }
}

/// Waits until the kernel has given a device its last address, and has found that nobody else has it.
pub(crate) fn await_address(device: &str) {
    loop {
        let told = run(&format!("ip -o address show dev {device}"));
        if told.contains("fe80:") && !told.contains("tentative") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Sockets of every family, which work among themselves.
struct Sockets {
    listener: TcpListener,
    near: TcpStream,
    far: TcpStream,
    datagrams: UdpSocket,
    name: UnixListener,
    pair: (UnixDatagram, UnixDatagram),
}

impl Sockets {
    fn new(v4: &str, v6: &str) -> Self {
        let listener = TcpListener::bind((v4, 0)).expect("listen");
        let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (far, _) = listener.accept().expect("accept");
        let name = UnixAddress::from_abstract_name("networks").expect("name");
        let sockets = Self {
            listener,
            near,
            far,
            datagrams: UdpSocket::bind((v6, 0)).expect("bind"),
            name: UnixListener::bind_addr(&name).expect("bind"),
            pair: UnixDatagram::pair().expect("pair"),
        };
        (&sockets.near).write_all(b"before").expect("write");
        sockets.pair.0.send(b"waits").expect("send");
        sockets
    }

    fn check(&self, found: &mut Findings) {
        let mut text = [0; 6];
        (&self.far).read_exact(&mut text).expect("read");
        found.same("a connection", b"before", &text);
        (&self.far).write_all(b"after!").expect("write");
        (&self.near).read_exact(&mut text).expect("read");
        found.same("a connection, the other way", b"after!", &text);
        let address = self.listener.local_addr().expect("address");
        let _more = TcpStream::connect(address).expect("connect again");
        let (_, from) = self.listener.accept().expect("accept");
        found.same("who connects", &address.ip(), &from.ip());
        let own = self.datagrams.local_addr().expect("address");
        self.datagrams.send_to(b"x", own).expect("send");
        let mut buffer = [0; 16];
        found.same(
            "a datagram",
            &(1, own),
            &self.datagrams.recv_from(&mut buffer).expect("receive"),
        );
        let name = UnixAddress::from_abstract_name("networks").expect("name");
        let _unix = UnixStream::connect_addr(&name).expect("connect to a name");
        self.name.accept().expect("accept");
        let count = self.pair.1.recv(&mut buffer).expect("receive");
        found.same("a message", &b"waits".to_vec(), &buffer[..count].to_vec());
    }
}

/// One namespace with all that CRIU knows, too.
pub(crate) fn one(stage: &Stage) -> Outcome {
    enter_new(&["10.7.0.1/24", "fd00:7::1/64"]);
    set("ipv4/conf/all/forwarding", "1");
    set("ipv4/conf/default/rp_filter", "2");
    set("ipv4/conf/lo/arp_ignore", "1");
    set("unix/max_dgram_qlen", "33");
    set("ipv4/ping_group_range", "0 77");
    for line in [
        "ip link add v0 type veth peer name v1",
        "ip address add 10.8.0.1/24 dev v0",
        "ip link set v0 up",
        "ip link set v1 up",
        "ip route add 10.9.0.0/16 via 10.8.0.9",
        "ip address add fd00:8::1/64 dev v0",
        "ip -6 route add fd00:9::/32 via fd00:8::9",
        "ip rule add from 10.8.0.0/24 table main pref 100",
        "nft add table inet carried",
        "nft add chain inet carried input { type filter hook input priority 0 ; }",
        "nft add rule inet carried input tcp dport 9999 drop",
    ] {
        run(line);
    }
    set("ipv6/conf/v0/accept_ra", "0");
    await_address("v0");
    await_address("v1");
    let sockets = Sockets::new("10.7.0.1", "fd00:7::1");
    let before = picture();
    stage.ready_then_wait();
    let mut found = Findings::default();
    for (before, after) in before.iter().zip(&picture()) {
        found.same("a namespace", before, after);
    }
    sockets.check(&mut found);
    found.outcome()
}

/// Routes in tables of their own, and devices on top of others: what CRIU leaves out.
pub(crate) fn more(stage: &Stage) -> Outcome {
    enter_new(&["10.7.0.1/24"]);
    for line in [
        "ip link add v0 type veth peer name v1",
        "ip link set v0 mtu 1400 txqueuelen 77",
        "ip link set v0 up",
        "ip link set v1 up",
        "ip link add link v0 name m0 type macvlan mode bridge",
        "ip link set m0 up",
        "ip link add v2 type veth peer name v3",
        "ip link set v2 up",
        "ip link set v3 up",
        "ip address add 10.8.0.1/24 dev m0",
        "ip link add br0 type bridge ageing_time 1000 forward_delay 0",
        "ip link set v3 master br0",
        "ip link set br0 up",
        "ip link add i0 type ifb",
        "ip link set i0 up",
        "ip route add 10.9.0.0/16 via 10.8.0.9 table 77",
        "ip rule add from 10.8.0.0/24 table 77 pref 100",
        "ip -6 rule add from fd00:7::/64 table 78 pref 100",
        "ip -6 rule del pref 32766",
    ] {
        run(line);
    }
    for device in ["v0", "v1", "v2", "v3", "m0", "br0", "i0"] {
        await_address(device);
    }
    // The fourth would not be taken before the second: its bound.
    let values = [
        "777",
        "50000\t50010",
        "2000-2010,2020,2040-2042,2060,2070-3000,3002",
        "40000",
        "123",
        "1300",
    ];
    for (setting, value) in SETTINGS.into_iter().zip(values) {
        set(setting, value);
    }
    let before = picture_of_more();
    let walled = Walled::new();
    stage.ready_then_wait();
    let mut found = Findings::default();
    for (before, after) in before.iter().zip(&picture_of_more()) {
        found.same("a namespace", before, after);
    }
    walled.check(&mut found);
    found.outcome()
}

/// Sockets with what the firewall of by now would not let in.
struct Walled {
    near: TcpStream,
    far: TcpStream,
    datagrams: UdpSocket,
}

impl Walled {
    fn new() -> Self {
        let listener = TcpListener::bind("10.7.0.1:9999").expect("listen");
        let near = TcpStream::connect("10.7.0.1:9999").expect("connect");
        let (far, _) = listener.accept().expect("accept");
        let datagrams = UdpSocket::bind("10.7.0.1:9998").expect("bind");
        let sender = UdpSocket::bind("10.7.0.1:0").expect("bind");
        sender.send_to(b"waits", "10.7.0.1:9998").expect("send");
        near.shutdown(Shutdown::Write).expect("shutdown");
        await_state(&far, CLOSE_WAIT);
        for line in [
            "nft add table inet walled",
            "nft add chain inet walled input { type filter hook input priority 0 ; }",
            "nft add rule inet walled input tcp dport 9999 drop",
            "nft add rule inet walled input udp dport 9998 drop",
        ] {
            run(line);
        }
        // Nobody hears that the peer has heard of it.
        far.shutdown(Shutdown::Write).expect("shutdown");
        await_state(&near, CLOSE);
        Self { near, far, datagrams }
    }

    fn check(mut self, found: &mut Findings) {
        let mut buffer = [0; 16];
        let count = self.datagrams.recv(&mut buffer).expect("receive");
        found.same("a datagram", &b"waits".to_vec(), &buffer[..count].to_vec());
        found.same("states", &(CLOSE, LAST_ACK), &(info(&self.near).0, info(&self.far).0));
        let rules = run("nft list table inet walled");
        found.must("the firewall", rules.contains("9998 drop") && rules.contains("9999 drop"));
        run("nft delete table inet walled");
        await_state(&self.far, CLOSE);
        for end in [&mut self.near, &mut self.far] {
            found.same("the end", &Some(0), &end.read(&mut buffer).ok());
        }
    }
}

fn picture_of_more() -> Vec<String> {
    let lines =
        ["ip -o -d link", "ip -o address", "ip route show table all", "ip rule", "ip -6 rule"];
    let settings = SETTINGS
        .map(|name| format!("{name} {}", crate::sysv::whole(&format!("/proc/sys/net/{name}"))));
    lines.iter().map(|line| plain(&run(line))).chain(settings).collect()
}

/// Settings, but for the last of those that CRIU does not carry.
const SETTINGS: [&str; 6] = [
    "core/somaxconn",
    "ipv4/ip_local_port_range",
    "ipv4/ip_local_reserved_ports",
    "ipv4/ip_unprivileged_port_start",
    "ipv4/tcp_keepalive_time",
    // The kernel sets it anew when the device comes up.
    "ipv6/conf/lo/mtu",
];

/// Two namespaces beside the test's, with a pair of devices between them; a socket of the one in a process of the
/// other, and one of the test's.
pub(crate) fn several(stage: &Stage) -> Outcome {
    let outside = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = outside.local_addr().expect("address").port();
    enter_new(&[]);
    let held = UdpSocket::bind("127.0.0.1:7777").expect("bind");
    let listener_held = held.try_clone().expect("duplicate");
    let inner = child(stage, "inner", || {
        enter_new(&[]);
        stage.publish("inner", "");
        while run("ip -o link").lines().count() < 2 || !stage.path("moved").exists() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        run("ip address add 10.6.0.2/24 dev w1");
        run("ip link set w1 up");
        let listener = TcpListener::bind("10.6.0.2:80").expect("listen");
        stage.publish("listens", "");
        let (far, _) = listener.accept().expect("accept");
        // The same address and port as the parent's, in another namespace.
        let own = UdpSocket::bind("127.0.0.1:7777").expect("bind");
        stage.publish("accepted", "");
        stage.wait();
        let mut found = Findings::default();
        let mut text = [0; 5];
        (&far).read_exact(&mut text).expect("read");
        found.same("a connection between namespaces", b"hello", &text);
        (&far).write_all(b"back!").expect("write");
        let address = SocketAddr::from(([127, 0, 0, 1], 7777));
        own.send_to(b"mine", address).expect("send");
        let mut buffer = [0; 8];
        found.same("own datagram", &4, &own.recv(&mut buffer).expect("receive"));
        listener_held.send_to(b"theirs", address).expect("send");
        found.same(
            "address of w1",
            &true,
            &run("ip -o address show dev w1").contains("10.6.0.2/24"),
        );
        found.outcome()
    });
    let wait = |name: &str| {
        while !stage.path(name).exists() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    };
    wait("inner");
    run(&format!("ip link add w0 type veth peer name w1 netns {inner}"));
    run("ip address add 10.6.0.1/24 dev w0");
    run("ip link set w0 up");
    stage.publish("moved", "");
    wait("listens");
    let near = TcpStream::connect("10.6.0.2:80").expect("connect");
    (&near).write_all(b"hello").expect("write");
    wait("accepted");
    stage.ready_then_wait();
    let mut found = Findings::default();
    let mut text = [0; 5];
    (&near).read_exact(&mut text).expect("read");
    found.same("the other way", b"back!", &text);
    let mut buffer = [0; 8];
    found.same("a socket of another namespace", &6, &held.recv(&mut buffer).expect("receive"));
    found.same("the address outside", &port, &outside.local_addr().expect("address").port());
    // It listens where the test is, and not here.
    found.same("outside", &true, &TcpStream::connect(("127.0.0.1", port)).is_err());
    found.same("end of a child", &Ok(WaitStatus::Exited(inner, 0)), &waitpid(inner, None));
    found.outcome()
}

/// A socket that is the last of its namespace: the thread that has made it is back where the test is.
pub(crate) fn socket(stage: &Stage) -> Outcome {
    let here = std::fs::File::open("/proc/thread-self/ns/net").expect("open");
    enter_new(&["10.7.0.1/24"]);
    let socket = UdpSocket::bind("10.7.0.1:7777").expect("bind");
    nix::sched::setns(&here, CloneFlags::CLONE_NEWNET).expect("go back");
    drop(here);
    stage.ready_then_wait();
    let mut found = Findings::default();
    let own = socket.local_addr().expect("address");
    socket.send_to(b"x", own).expect("send");
    let mut buffer = [0; 8];
    found.same("a datagram", &(1, own), &socket.recv_from(&mut buffer).expect("receive"));
    found.same("its address here", &true, &UdpSocket::bind("10.7.0.1:0").is_err());
    found.outcome()
}

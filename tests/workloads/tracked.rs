//! Connections that are known to the firewall of a network namespace: what it lets through depends on them, and whose addresses
//! it translates.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::networks::{enter_new, run};
use crate::stage::{Findings, Outcome, Stage};

/// The connections that have a mark, each with what does not count.
fn marked() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/net/nf_conntrack").expect("tracked connections");
    let marked = text.lines().filter(|line| line.contains("mark=119"));
    let is_lasting = |word: &&str| word.contains('=') && !word.starts_with("use=");
    let words =
        |line: &str| line.split_whitespace().filter(is_lasting).collect::<Vec<_>>().join(" ");
    let mut lines: Vec<String> = marked.map(words).collect();
    lines.sort_unstable();
    lines
}

pub(crate) fn all(stage: &Stage) -> Outcome {
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(10));
    enter_new(&["10.7.0.1/24", "fd00:7::1/64"]);
    for line in [
        "nft add table inet wall",
        "nft add chain inet wall input { type filter hook input priority 0 ; }",
        "nft add chain inet wall output { type filter hook output priority 0 ; }",
        "nft add rule inet wall output ct mark set 119",
        "nft add table ip turn",
        "nft add chain ip turn output { type nat hook output priority -100 ; }",
        "nft add rule ip turn output udp dport 5353 dnat to 10.7.0.1:5354",
    ] {
        run(line);
    }
    let mut pairs = ["10.7.0.1:7777", "[fd00:7::1]:7777"].map(|address| {
        let listener = TcpListener::bind(address).expect("listen");
        let near = TcpStream::connect(address).expect("connect");
        let far = listener.accept().expect("accept").0;
        far.set_read_timeout(PATIENCE).expect("timeout");
        near.set_read_timeout(PATIENCE).expect("timeout");
        (near, far)
    });
    let served = UdpSocket::bind("10.7.0.1:5354").expect("bind");
    let client = UdpSocket::bind("10.7.0.1:0").expect("bind");
    for socket in [&served, &client] {
        socket.set_read_timeout(PATIENCE).expect("timeout");
    }
    client.connect("10.7.0.1:5353").expect("connect");
    let mut check = |found: &mut Findings| {
        let mut text = [0; 4];
        for (near, far) in &mut pairs {
            found.works("ask", near.write_all(b"ask!"));
            found.works("hear", far.read_exact(&mut text));
            found.works("answer", far.write_all(b"here"));
            found.works("hear the answer", near.read_exact(&mut text));
            found.same("the answer", b"here", &text);
        }
        found.works("send to another address", client.send(b"ask!"));
        let heard = found.works("hear what was turned", served.recv_from(&mut text));
        if let Some((_, from)) = heard {
            found.works("send back", served.send_to(b"back", from));
        }
        found.works("hear from that address", client.recv(&mut text));
        found.same("from that address", b"back", &text);
    };
    let mut found = Findings::default();
    check(&mut found);
    // From now on only what is known passes, and nothing new is turned.
    for line in [
        "nft flush table ip turn",
        "nft flush chain inet wall output",
        "nft add rule inet wall input ct mark 119 ct state established accept",
        "nft add rule inet wall input tcp dport 7777 drop",
        "nft add rule inet wall input tcp sport 7777 drop",
        "nft add rule inet wall input udp dport 5354 drop",
    ] {
        run(line);
    }
    let before = marked();
    found.must("connections are tracked", before.len() >= 3);
    stage.ready_then_wait();
    found.same("what is tracked", &before, &marked());
    check(&mut found);
    found.outcome()
}

//! TCP connections: with both ends in the tree, and with one.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use crate::stage::{Findings, Outcome, Stage, check, pattern};

const PATIENCE: Duration = Duration::from_secs(20);

/// Both ends of a connection over loopback.
pub(crate) struct Pair {
    what: &'static str,
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

impl Pair {
    pub(crate) fn new(what: &'static str, listener: &TcpListener, address: SocketAddr) -> Self {
        let client = TcpStream::connect(address).expect("connect");
        let server = listener.accept().expect("accept").0;
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).expect("timeout");
            end.set_write_timeout(Some(PATIENCE)).expect("timeout");
        }
        Self { what, client, server }
    }

    fn of(what: &'static str, address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("bind");
        let address = listener.local_addr().expect("address");
        Self::new(what, &listener, address)
    }

    /// Bytes go both ways.
    pub(crate) fn works(&mut self, found: &mut Findings) {
        let what = self.what;
        let mut goes = |from: &mut TcpStream, to: &mut TcpStream| {
            found.works(&format!("{what}: write"), from.write_all(b"a question"));
            let mut bytes = [0; 10];
            found.works(&format!("{what}: read"), to.read_exact(&mut bytes));
            found.same(what, b"a question", &bytes);
        };
        goes(&mut self.client, &mut self.server);
        goes(&mut self.server, &mut self.client);
    }

    /// The most that either end sends in one segment.
    fn segments(&self) -> [Option<u32>; 2] {
        [&self.client, &self.server].map(|end| getsockopt(end, sockopt::TcpMaxSeg).ok())
    }

    fn ends(&self) -> [Option<SocketAddr>; 4] {
        let Self { client, server, .. } = self;
        [client.local_addr(), client.peer_addr(), server.local_addr(), server.peer_addr()]
            .map(Result::ok)
    }
}

/// Fills a connection until no more goes in; what went in.
fn fill(end: &mut TcpStream) -> Vec<u8> {
    end.set_nonblocking(true).expect("non-blocking");
    let all = pattern(7, 8 << 20);
    let mut sent = 0;
    while let Ok(count) = end.write(&all[sent..]) {
        sent += count;
    }
    end.set_nonblocking(false).expect("blocking");
    all[..sent].to_vec()
}

/// What is said of the connection: its state, and its options that the kernel negotiated.
pub(crate) fn info(end: &TcpStream) -> (u8, u8, u8) {
    let mut info = [0_u8; 8];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which the array has.
    let value = unsafe {
        libc::getsockopt(
            end.as_raw_fd(),
            libc::SOL_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    check(value).expect("TCP_INFO");
    (info[0], info[5], info[6])
}

pub(crate) fn await_state(end: &TcpStream, state: u8) {
    while info(end).0 != state {
        std::thread::sleep(Duration::from_millis(2));
    }
}

const FIN_WAIT2: u8 = 5;
pub(crate) const CLOSE: u8 = 7;
pub(crate) const CLOSE_WAIT: u8 = 8;
pub(crate) const LAST_ACK: u8 = 9;

/// Both ends are in the tree.
pub(crate) fn both(stage: &Stage) -> Outcome {
    let mut pairs = [Pair::of("IPv4", "127.0.0.1:0"), Pair::of("IPv6", "[::1]:0"), {
        let any = TcpListener::bind("[::]:0").expect("bind");
        let port = any.local_addr().expect("address").port();
        Pair::new("IPv4 in IPv6", &any, SocketAddr::from(([127, 0, 0, 1], port)))
    }];
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    // Its port is that of a socket that listens.
    let mut beside = Pair::new("beside a listener", &listener, address);
    let mut full = Pair::new("full", &listener, address);
    let sent = fill(&mut full.client);
    full.server.write_all(b"the other way").expect("write");
    let mut half = Pair::new("half closed", &listener, address);
    half.server.write_all(b"last words").expect("write");
    half.server.shutdown(Shutdown::Write).expect("shutdown");
    await_state(&half.server, FIN_WAIT2);
    await_state(&half.client, CLOSE_WAIT);
    let mut over = Pair::new("over", &listener, address);
    over.client.write_all(b"late").expect("write");
    over.client.shutdown(Shutdown::Write).expect("shutdown");
    over.server.shutdown(Shutdown::Write).expect("shutdown");
    await_state(&over.client, CLOSE);
    await_state(&over.server, CLOSE);
    let tuned = Pair::new("tuned", &listener, address);
    tuned.client.set_nodelay(true).expect("TCP_NODELAY");
    setsockopt(&tuned.client, sockopt::KeepAlive, &true).expect("SO_KEEPALIVE");
    setsockopt(&tuned.client, sockopt::TcpUserTimeout, &7000).expect("TCP_USER_TIMEOUT");
    setsockopt(&tuned.client, sockopt::TcpCongestion, &"reno".into()).expect("TCP_CONGESTION");
    setsockopt(&tuned.client, sockopt::RcvBuf, &50_000).expect("SO_RCVBUF");
    setsockopt(&tuned.client, sockopt::ReuseAddr, &true).expect("SO_REUSEADDR");
    let settings = |end: &TcpStream| {
        (
            end.nodelay().ok(),
            getsockopt(end, sockopt::KeepAlive).ok(),
            getsockopt(end, sockopt::TcpUserTimeout).ok(),
            getsockopt(end, sockopt::TcpCongestion).ok(),
            getsockopt(end, sockopt::RcvBuf).ok(),
            getsockopt(end, sockopt::ReuseAddr).ok(),
        )
    };
    let before = (settings(&tuned.client), settings(&tuned.server));
    let negotiated = info(&tuned.client);
    let ends = pairs.each_ref().map(Pair::ends);
    let segments = pairs.each_ref().map(Pair::segments);

    stage.ready_then_wait();

    let mut found = Findings::default();
    // Half of the largest window bounds them, which may have grown.
    let now = pairs.each_ref().map(Pair::segments);
    let pairs_of = now.iter().flatten().zip(segments.iter().flatten());
    found.must("segments are as large", pairs_of.into_iter().all(|(now, before)| now >= before));
    for (pair, ends) in pairs.iter_mut().zip(ends) {
        found.same(pair.what, &ends, &pair.ends());
        pair.works(&mut found);
    }
    beside.works(&mut found);
    let mut received = vec![0; sent.len()];
    found.works("read what was on its way", full.server.read_exact(&mut received));
    found.must("what was on its way came", received == sent);
    let mut way = [0; 13];
    found.works("read the other way", full.client.read_exact(&mut way));
    found.same("the other way", b"the other way", &way);
    full.works(&mut found);
    found.same("state of one half", &FIN_WAIT2, &info(&half.server).0);
    found.same("state of the other half", &CLOSE_WAIT, &info(&half.client).0);
    let mut said = String::new();
    found.works("read to the end", half.client.read_to_string(&mut said));
    found.same("last words", &"last words", &said.as_str());
    found.works("write to half", half.client.write_all(b"answer"));
    drop(half.client);
    said.clear();
    found.works("read the answer", half.server.read_to_string(&mut said));
    found.same("answer", &"answer", &said.as_str());
    said.clear();
    found.same("state of what is over", &CLOSE, &info(&over.server).0);
    found.works("read what was late", over.server.read_to_string(&mut said));
    found.same("late", &"late", &said.as_str());
    found.same("options", &before, &(settings(&tuned.client), settings(&tuned.server)));
    found.same("negotiated", &negotiated, &info(&tuned.client));
    let mut again = Pair::new("new", &listener, address);
    again.works(&mut found);
    found.outcome()
}

/// Sockets that have ended receiving themselves (`SHUT_RD`), one of them sending, too: their peers have closed nothing.
pub(crate) fn deaf(stage: &Stage) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let mut deaf = Pair::new("deaf", &listener, address);
    deaf.server.write_all(b"unread").expect("write");
    deaf.client.shutdown(Shutdown::Read).expect("shutdown");
    let both = Pair::new("both ways", &listener, address);
    both.client.shutdown(Shutdown::Both).expect("shutdown");
    await_state(&both.client, FIN_WAIT2);
    let mut open = Pair::new("open", &listener, address);

    stage.ready_then_wait();

    let mut found = Findings::default();
    for pair in [&mut deaf, &mut open] {
        pair.client.set_nonblocking(true).expect("non-blocking");
    }
    let mut said = String::new();
    found.works("read to the end", deaf.client.read_to_string(&mut said));
    found.same("what was unread", &"unread", &said.as_str());
    found.works("write", deaf.client.write_all(b"spoken"));
    let mut heard = [0; 6];
    found.works("hear", deaf.server.read_exact(&mut heard));
    found.same("what it spoke", b"spoken", &heard);
    both.client.set_nonblocking(true).expect("non-blocking");
    found.same("state of both ways", &FIN_WAIT2, &info(&both.client).0);
    found.same("read where both ways are ended", &Some(0), &(&both.client).read(&mut heard).ok());
    found.must("the open one has not ended", open.client.read(&mut heard).is_err());
    open.client.set_nonblocking(false).expect("blocking");
    open.works(&mut found);
    found.outcome()
}

/// Connections that their peers have reset, of which nobody has been told yet: with the peer's side open, closed
/// before, and closed with ours. What came before waits to be read.
pub(crate) fn reset(stage: &Stage) -> Outcome {
    let at_once = |end: &TcpStream| {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(end, sockopt::Linger, &linger).expect("SO_LINGER");
    };
    let mut open = Pair::of("open", "127.0.0.1:0");
    open.client.write_all(b"before").expect("write");
    at_once(&open.client);
    drop(open.client);
    await_state(&open.server, CLOSE);
    let mut of_ipv6 = Pair::of("IPv6", "[::1]:0");
    of_ipv6.client.write_all(b"before").expect("write");
    at_once(&of_ipv6.client);
    drop(of_ipv6.client);
    await_state(&of_ipv6.server, CLOSE);
    let mut half = Pair::of("half closed", "127.0.0.1:0");
    half.client.write_all(b"last words").expect("write");
    half.client.shutdown(Shutdown::Write).expect("shutdown");
    await_state(&half.server, CLOSE_WAIT);
    half.server.write_all(b"not read").expect("write");
    // What closes with something unread in it resets.
    drop(half.client);
    await_state(&half.server, CLOSE);
    let told = Pair::of("told", "127.0.0.1:0");
    at_once(&told.client);
    drop(told.client);
    await_state(&told.server, CLOSE);
    told.server.take_error().expect("take the error").expect("an error");

    stage.ready_then_wait();

    let mut found = Findings::default();
    let number = |error: Option<std::io::Error>| error.and_then(|error| error.raw_os_error());
    let (mut text, mut more) = ([0; 6], [0; 1]);
    for end in [&mut open.server, &mut of_ipv6.server] {
        found.same("state", &CLOSE, &info(end).0);
        found.works("read what came before", end.read_exact(&mut text));
        found.same("before", b"before", &text);
        found.same("reset", &Some(libc::ECONNRESET), &number(end.read(&mut more).err()));
        found.same("then the end", &Some(0), &end.read(&mut more).ok());
        found.same("no way", &Some(libc::EPIPE), &number(end.write(b"x").err()));
    }
    let mut said = String::new();
    found.works("read to the end", half.server.read_to_string(&mut said));
    found.same("last words", &"last words", &said.as_str());
    let error = number(half.server.take_error().expect("take the error"));
    found.same("half closed", &Some(libc::EPIPE), &error);
    found.same("told", &None, &number(told.server.take_error().expect("take the error")));
    found.outcome()
}

/// What CRIU carries as well: connections at rest, with bytes that have arrived and are not read yet.
pub(crate) fn plain(stage: &Stage) -> Outcome {
    let mut pairs = [Pair::of("IPv4", "127.0.0.1:0"), Pair::of("IPv6", "[::1]:0")];
    let (question, answer) = (pattern(7, 3000), pattern(8, 2000));
    for pair in &mut pairs {
        pair.client.write_all(&question).expect("write");
        pair.server.write_all(&answer).expect("write");
    }
    let before = pairs.each_ref().map(Pair::ends);
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("addresses", &before, &pairs.each_ref().map(Pair::ends));
    for pair in &mut pairs {
        let mut bytes = (vec![0; question.len()], vec![0; answer.len()]);
        found.works("read the question", pair.server.read_exact(&mut bytes.0));
        found.works("read the answer", pair.client.read_exact(&mut bytes.1));
        found.must("what waited is what was sent", bytes == (question.clone(), answer.clone()));
        pair.works(&mut found);
    }
    found.outcome()
}

/// Connections to whoever listens at the address in `PEER`, which sends each byte back; and one that comes in.
pub(crate) fn outside(stage: &Stage) -> Outcome {
    let peer: SocketAddr = std::env::var("PEER").expect("PEER").parse().expect("an address");
    let mut connection = TcpStream::connect(peer).expect("connect");
    connection.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut ask = |found: &mut Findings| {
        found.works("write", connection.write_all(b"is anybody there"));
        let mut bytes = [0; 16];
        found.works("read", connection.read_exact(&mut bytes));
        found.same("echo", b"is anybody there", &bytes);
    };
    let mut found = Findings::default();
    ask(&mut found);
    stage.ready_then_wait();
    ask(&mut found);
    found.outcome()
}

/// A connection that is expected to be closed after a restore, as long as there was one.
pub(crate) fn closed(stage: &Stage) -> Outcome {
    let peer: SocketAddr = std::env::var("PEER").expect("PEER").parse().expect("an address");
    let mut connection = TcpStream::connect(peer).expect("connect");
    stage.ready_then_wait();
    let mut found = Findings::default();
    if stage.path("restored").exists() {
        found.must("nothing more comes", matches!(connection.read(&mut [0]), Ok(0)));
        found.must("it is closed", connection.write_all(b"x").is_err());
        found.must("it has no peer", connection.peer_addr().is_err());
    }
    found.outcome()
}

/// A connection that nobody has accepted yet.
pub(crate) fn in_flight(stage: &Stage) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    stage.publish("address", &address.to_string());
    while !stage.path("connected").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    stage.ready_then_wait();
    let mut found = Findings::default();
    if stage.path("restored").exists() {
        found.works("non-blocking", listener.set_nonblocking(true));
        found.must("nobody waits any more", listener.accept().is_err());
        found.works("blocking", listener.set_nonblocking(false));
    }
    Pair::new("new", &listener, address).client.write_all(b"x").expect("write");
    found.outcome()
}

/// An urgent byte that has not been read, in the tree.
pub(crate) fn urgent(stage: &Stage) -> Outcome {
    let mut pair = Pair::of("urgent", "127.0.0.1:0");
    pair.client.write_all(b"before").expect("write");
    // SAFETY: one byte is read.
    let sent =
        unsafe { libc::send(pair.client.as_raw_fd(), c"!".as_ptr().cast(), 1, libc::MSG_OOB) };
    check(sent as i32).expect("send an urgent byte");
    pair.client.write_all(b"after").expect("write");
    stage.ready_then_wait();
    let mut found = Findings::default();
    let mut bytes = [0; 6];
    found.works("read", pair.server.read_exact(&mut bytes));
    found.same("before", b"before", &bytes);
    found.outcome()
}

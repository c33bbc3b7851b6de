//! TCP connections that nobody has accepted yet.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::stage::{Findings, Outcome, Stage, eventually, pattern};
use crate::tcp::{CLOSE_WAIT, info};

const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes that clients have sent, one after the other.
const LENGTHS: [usize; 5] = [0, 1, 700, 4096, 40_000];

fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A socket that does not accept, and whoever has connected to it.
struct Server {
    listener: TcpListener,
    clients: Vec<(TcpStream, Vec<u8>)>,
}

impl Server {
    fn new(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("bind");
        let mut to = listener.local_addr().expect("address");
        if to.ip().is_unspecified() {
            to = SocketAddr::new([127, 0, 0, 1].into(), to.port());
        }
        let connect = |(nth, length): (usize, &usize)| {
            let mut client = TcpStream::connect(to).expect("connect");
            client.set_read_timeout(Some(PATIENCE)).expect("timeout");
            client.set_nodelay(true).expect("TCP_NODELAY");
            let data = pattern(nth as u64, *length);
            for piece in data.chunks(3000) {
                client.write_all(piece).expect("write");
            }
            // Every other has said all that it has to say.
            if nth % 2 == 1 {
                client.shutdown(Shutdown::Write).expect("shutdown");
            }
            (client, data)
        };
        let clients = LENGTHS.iter().enumerate().map(connect).collect();
        Self { listener, clients }
    }

    /// All are accepted in their order, with what they have sent, and go on.
    fn check(&mut self, found: &mut Findings) {
        found.works("do not wait", self.listener.set_nonblocking(true));
        let server = self.listener.local_addr().expect("address");
        for (nth, (client, data)) in self.clients.iter_mut().enumerate() {
            let what = format!("{server} client {nth}");
            let Some((mut end, peer)) = found.works(&what, self.listener.accept()) else { return };
            found.works(&what, end.set_nonblocking(false));
            found.works(&what, end.set_read_timeout(Some(PATIENCE)));
            found.same(&what, &client.local_addr().ok(), &Some(plain(peer)));
            found.same(&what, &client.peer_addr().ok(), &end.local_addr().ok().map(plain));
            let ended = nth % 2 == 1;
            if ended {
                found.must(&what, eventually(|| info(&end).0 == CLOSE_WAIT));
                let mut all = Vec::new();
                found.works(&what, end.read_to_end(&mut all));
                found.must(&format!("{what}: all that it has sent"), all == *data);
            } else {
                found.works(&what, client.write_all(b"more"));
                let mut all = vec![0; data.len() + 4];
                found.works(&what, end.read_exact(&mut all));
                found.must(&format!("{what}: all that it has sent"), all[..data.len()] == *data);
                found.same(&what, &&b"more"[..], &&all[data.len()..]);
            }
            found.works(&what, end.write_all(b"an answer"));
            let mut answer = [0; 9];
            found.works(&what, client.read_exact(&mut answer));
            found.same(&what, b"an answer", &answer);
        }
        found.must("nobody else waits", self.listener.accept().is_err());
    }
}

/// Both ends are in the tree.
pub(crate) fn inside(stage: &Stage) -> Outcome {
    let mut servers = ["127.0.0.1:0", "[::1]:0", "[::]:0"].map(Server::new);
    // It has as many as it takes.
    let full = TcpListener::bind("127.0.0.1:0").expect("bind");
    nix::sys::socket::listen(&full, nix::sys::socket::Backlog::new(1).expect("a number"))
        .expect("listen");
    let to = full.local_addr().expect("address");
    let clients = [(); 2].map(|()| TcpStream::connect(to).expect("connect"));
    stage.ready_then_wait();
    let mut found = Findings::default();
    for server in &mut servers {
        server.check(&mut found);
    }
    found.works("do not wait", full.set_nonblocking(true));
    for client in &clients {
        let peer = full.accept().ok().map(|(_, peer)| peer);
        found.same("who waits at the small queue", &client.local_addr().ok(), &peer);
    }
    found.outcome()
}

/// Whoever connects from elsewhere, before this is told so, is accepted: each is told what it has said, to its end or its first line.
pub(crate) fn from_outside(stage: &Stage) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    stage.publish("address", &listener.local_addr().expect("address").to_string());
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.works("do not wait", listener.set_nonblocking(true));
    let mut told = String::new();
    while let Ok((mut end, peer)) = listener.accept() {
        found.works("wait", end.set_nonblocking(false));
        found.works("timeout", end.set_read_timeout(Some(PATIENCE)));
        let (mut said, mut byte) = (Vec::new(), [0]);
        let ending = loop {
            match end.read(&mut byte) {
                Ok(0) => break "end".to_owned(),
                Ok(_) if byte[0] == b'\n' => break "line".to_owned(),
                Ok(_) => said.push(byte[0]),
                Err(error) => break format!("{:?}", error.kind()),
            }
        };
        let said = String::from_utf8_lossy(&said);
        if ending == "line" || ending == "end" {
            // Who has gone does not hear it.
            end.write_all(said.as_bytes()).ok();
        }
        told.push_str(&format!("{peer} {ending} {}\n", said.len()));
        // It stays open for as long as this is there.
        std::mem::forget(end);
    }
    stage.publish("told", &told);
    found.outcome()
}

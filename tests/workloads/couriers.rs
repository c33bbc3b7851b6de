//! Several programs that know of each other by what they share: each is a tree of its own, and all are dumped together.
//!
//! `couriers`: each knows a number, and writes it into a file of its own. The first counts; each of the others takes over what the one before
//! it has written, and the first hears of the last. So at any moment the first knows the largest number, each other one no larger one
//! than the one before it, and what the first has heard is the smallest. Once `halt` is there nobody learns anything any more, and
//! each says what it knows (`DIR/knows`).
//!
//! `courier_sends` and `courier_receives`: numbers by a TCP connection, as fast as they go. None may be lost, or come twice.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::stage::{Findings, Outcome, Stage, eventually};

fn number(name: &str) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).expect("a number")
}

fn read(file: &File) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 0).expect("read");
    u64::from_le_bytes(bytes)
}

fn write(file: &File, number: u64) {
    file.write_all_at(&number.to_le_bytes(), 0).expect("write");
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let shared: PathBuf = std::env::var_os("STASIS_WORKLOAD_SHARED").expect("a path").into();
    let (rank, count) = (number("STASIS_WORKLOAD_RANK"), number("STASIS_WORKLOAD_COUNT"));
    let open = |rank: u64| {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        options.open(shared.join(rank.to_string())).expect("open")
    };
    let (own, before) = (open(rank), open((rank + count - 1) % count));
    write(&own, 0);
    stage.publish("ready", &std::process::id().to_string());
    let has_begun = || before.metadata().is_ok_and(|found| found.len() == 8);
    assert!(eventually(has_begun), "the one before does not begin");
    let halt = shared.join("halt");
    let (mut knows, mut heard) = (0, 0);
    loop {
        if rank == 0 {
            if halt.exists() {
                break;
            }
            knows += 1;
            write(&own, knows);
        }
        let told = read(&before);
        // What is read now may be of a later time than what it knows.
        if halt.exists() {
            break;
        }
        if rank == 0 {
            heard = told;
        } else {
            knows = told;
            write(&own, knows);
        }
        std::thread::sleep(Duration::from_micros(20));
    }
    stage.publish("knows", &format!("{knows} {heard}"));
    stage.wait();
    Ok(())
}

pub(crate) fn sends(stage: &Stage) -> Outcome {
    let peer = std::env::var("PEER").expect("an address");
    let mut connection = TcpStream::connect(peer).expect("connect");
    stage.publish("ready", &std::process::id().to_string());
    let mut found = Findings::default();
    let (mut sent, go) = (0_u64, stage.path("go"));
    while !go.exists() && !found.any() {
        let numbers: Vec<u8> = (sent..sent + 500).flat_map(u64::to_le_bytes).collect();
        found.works("send", connection.write_all(&numbers));
        sent += 500;
    }
    found.outcome()
}

pub(crate) fn receives(stage: &Stage) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    stage.publish("address", &listener.local_addr().expect("address").to_string());
    stage.publish("ready", &std::process::id().to_string());
    let (mut connection, _) = listener.accept().expect("accept");
    let mut found = Findings::default();
    let (mut expected, mut last, go) = (0_u64, None, stage.path("go"));
    // So many more have to come when it is asked.
    while last.is_none_or(|last| expected < last) && !found.any() {
        let mut bytes = [0; 8];
        found.works("receive", connection.read_exact(&mut bytes));
        found.same("number", &expected, &u64::from_le_bytes(bytes));
        expected += 1;
        if last.is_none() && go.exists() {
            last = Some(expected + 100_000);
        }
    }
    stage.publish("came", "");
    // The other end is to end first.
    found.works("hear the end", std::io::copy(&mut connection, &mut std::io::sink()));
    found.outcome()
}

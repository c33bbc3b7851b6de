//! TCP connections to programs outside of the tree. Needs root, and nftables or iptables.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use stasis_tests::{
    Collector, Dump, Engine, Machine, Outcome, Program, Scratch, Workload, require, stasis_program,
    wait_until,
};

/// Sends each byte of one connection back.
struct Echo {
    address: SocketAddr,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let thread = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept()?;
            let mut bytes = [0; 1024];
            loop {
                let count = connection.read(&mut bytes)?;
                if count == 0 {
                    return Ok(());
                }
                connection.write_all(&bytes[..count])?;
            }
        });
        Self { address, thread }
    }

    /// How the connection ended, as the peer saw it.
    fn end(self) -> std::io::Result<()> {
        self.thread.join().expect("the peer")
    }
}

fn nft(arguments: &[&str]) -> Option<String> {
    let output = Command::new("nft").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn has_iptables() -> bool {
    let mut probe = Command::new("iptables-restore");
    probe.args(["-w", "--noflush", "--test"]).stdin(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// What is locked of connections to an address.
fn locks_of(address: SocketAddr) -> usize {
    let rules = nft(&["list", "ruleset"]).unwrap_or_default();
    let port = format!(" {} ", address.port());
    rules.lines().filter(|line| line.contains(&port)).count()
}

fn dump(pid: i32, images: &Path, options: &[&str]) -> Outcome {
    let mut command = Engine::Stasis.dump_command(pid, images, Dump::ENDING);
    Outcome::of(command.args(options))
}

fn restore(images: &Path, options: &[&str]) -> Outcome {
    let mut command = Engine::Stasis.restore_command(images, Dump::ENDING);
    Outcome::of(command.args(options))
}

fn start(family: &str, scratch: &Scratch, peer: SocketAddr) -> Workload {
    Workload::start_with(family, scratch.path("work"), &[("PEER", &peer.to_string())])
}

/// A connection goes on after a restore, and its peer has not noticed.
fn goes_on(method: &str) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let peer = Echo::start();
    let workload = start("tcp_outside", &scratch, peer.address);
    let images = scratch.path("images");
    let refused = dump(workload.pid(), &images, &[]);
    assert!(!refused.success && refused.stderr.contains("--tcp-established"), "{}", refused.stderr);
    assert_eq!(locks_of(peer.address), 0);
    let options = ["--tcp-established", "--network-lock", method];
    dump(workload.pid(), &images, &options).must_succeed("dump");
    machine.await_no_children();
    assert!(locks_of(peer.address) > 0, "nothing is locked");
    restore(&images, &[]).must_succeed("restore");
    assert_eq!(locks_of(peer.address), 0, "it is locked still");
    workload.check().expect("the connection");
    drop(workload);
    peer.end().expect("the peer sees the connection end as others do");
}

#[test]
fn a_connection_to_outside_goes_on() {
    require!(nft(&["list", "tables"]).is_some(), "nft works");
    goes_on("nftables");
}

#[test]
fn the_same_with_iptables() {
    require!(has_iptables(), "iptables-restore works");
    goes_on("iptables");
}

#[test]
fn a_tree_that_runs_on_keeps_its_connection() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let peer = Echo::start();
    let workload = start("tcp_outside", &scratch, peer.address);
    for images in ["first", "second"] {
        let options = ["--tcp-established", "--leave-running"];
        dump(workload.pid(), &scratch.path(images), &options).must_succeed("dump");
        assert_eq!(locks_of(peer.address), 0);
    }
    workload.check().expect("the connection");
}

/// Who has a tree left stopped by `criu` ends it himself, later: its peer is not to notice, as with CRIU.
#[test]
fn a_tree_that_is_left_stopped_is_ended_without_a_word() {
    require!(nft(&["list", "tables"]).is_some(), "nft works");
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let peer = Echo::start();
    let workload = start("tcp_outside", &scratch, peer.address);
    let images = scratch.path("images");
    let mut command = Engine::CriuFace.dump_command(workload.pid(), &images, Dump::ENDING);
    Outcome::of(command.args(["--tcp-established", "--leave-stopped"])).must_succeed("dump");
    let status = fs::read_to_string(format!("/proc/{}/stat", workload.pid())).expect("it is there");
    assert!(status.contains(") T "), "it is not stopped: {status}");
    assert!(locks_of(peer.address) > 0, "nothing is locked");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(workload.pid()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("end it");
    machine.await_no_children();
    let mut command = Engine::CriuFace.restore_command(&images, Dump::ENDING);
    Outcome::of(command.arg("--tcp-established")).must_succeed("restore");
    assert_eq!(locks_of(peer.address), 0, "it is locked still");
    workload.check().expect("the connection");
    drop(workload);
    peer.end().expect("the peer sees the connection end as others do");
}

#[test]
fn a_checkpoint_that_nobody_restores_is_unlocked() {
    require!(nft(&["list", "tables"]).is_some(), "nft works");
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let peer = Echo::start();
    let workload = start("tcp_outside", &scratch, peer.address);
    let images = scratch.path("images");
    dump(workload.pid(), &images, &["--tcp-established"]).must_succeed("dump");
    machine.await_no_children();
    assert!(locks_of(peer.address) > 0);
    let unlock = || Outcome::of(Command::new(stasis_program()).arg("unlock").arg(&images));
    assert!(unlock().must_succeed("unlock").stdout.contains("is gone"));
    assert_eq!(locks_of(peer.address), 0);
    assert!(unlock().must_succeed("unlock again").stdout.contains("nothing is locked"));
}

/// A network namespace that outlives a tree in it, with a program that answers there.
struct Room {
    holder: Program,
    address: SocketAddr,
}

impl Room {
    fn make(scratch: &Scratch) -> Self {
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sh", "-c", "ip link set lo up && exec sleep 600"]);
        let holder = Program::start(&mut holder, &scratch.path("holder"));
        let is_ready = || is_named(holder.pid(), "sleep");
        assert!(wait_until(Duration::from_secs(20), is_ready), "no network namespace");
        let room = Self { holder, address: ([127, 0, 0, 1], 4000).into() };
        let listener = room.inside(|| TcpListener::bind(room.address)).expect("listen");
        std::thread::spawn(move || while listener.accept().is_ok() {});
        room
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.pid())
    }

    fn inside<T>(&self, work: impl FnOnce() -> T) -> T {
        let namespace = fs::File::open(self.path()).expect("a namespace");
        kernel::namespaces::within_network(&namespace, work).expect("enter it")
    }

    /// Whether somebody answers.
    fn answers(&self) -> bool {
        let patience = Duration::from_millis(300);
        self.inside(|| TcpStream::connect_timeout(&self.address, patience)).is_ok()
    }
}

fn is_named(pid: i32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
}

/// Who asks for the way of locking has all of a network namespace locked that the tree is in, as with CRIU: it may be one that stays.
fn is_locked_whole(method: &str) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let room = Room::make(&scratch);
    let mut tree = Command::new("nsenter");
    tree.arg(format!("--net={}", room.path())).args(["sleep", "600"]);
    let tree = Program::start(&mut tree, &scratch.path("tree"));
    assert!(wait_until(Duration::from_secs(20), || is_named(tree.pid(), "sleep")));
    assert!(room.answers(), "nobody answers");
    let face = |images: &Path, lock: &[&str]| {
        let mut command = Engine::CriuFace.dump_command(tree.pid(), images, Dump::ENDING);
        Outcome::of(command.args(lock)).must_succeed("dump");
        machine.await_gone(tree.pid());
    };
    let back = |images: &Path| {
        let mut command = Engine::CriuFace.restore_command(images, Dump::ENDING);
        command.arg("--join-ns").arg(format!("net:{}", room.path()));
        Outcome::of(&mut command).must_succeed("restore");
    };
    let images = scratch.path("unasked");
    face(&images, &[]);
    assert!(room.answers(), "it is locked though nobody has asked");
    back(&images);
    let images = scratch.path("asked");
    face(&images, &["--network-lock", method]);
    assert!(!room.answers(), "it is not locked");
    back(&images);
    assert!(room.answers(), "it is locked still");
    let images = scratch.path("running");
    let mut command = Engine::CriuFace.dump_command(tree.pid(), &images, Dump::RUNNING_ON);
    Outcome::of(command.args(["--network-lock", method])).must_succeed("dump");
    assert!(room.answers(), "a tree that runs on is locked");
}

#[test]
fn the_network_namespace_of_a_tree_is_locked_where_that_is_asked_for() {
    require!(nft(&["list", "tables"]).is_some(), "nft works");
    is_locked_whole("nftables");
}

#[test]
fn the_same_of_a_namespace_with_iptables() {
    require!(has_iptables(), "iptables-restore works");
    is_locked_whole("iptables");
}

#[test]
fn connections_are_closed_where_that_is_asked_for() {
    for (dumped, restored) in [("--tcp-close", None), ("--tcp-established", Some("--tcp-close"))] {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let peer = Echo::start();
        let address = peer.address;
        let workload = start("tcp_closed", &scratch, address);
        fs::write(workload.path("restored"), "").expect("say so");
        // What was closed by a restore stays so in the next checkpoint.
        for images in ["first", "second"] {
            let images = scratch.path(images);
            dump(workload.pid(), &images, &[dumped]).must_succeed("dump");
            machine.await_no_children();
            restore(&images, restored.as_slice()).must_succeed("restore");
            assert_eq!(locks_of(address), 0);
        }
        workload.check().unwrap_or_else(|what| panic!("{dumped}: {what}"));
    }
}

#[test]
fn connections_that_nobody_has_accepted_are_left_out() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (work, images) = (scratch.path("work"), scratch.path("images"));
    fs::create_dir(&work).expect("mkdir");
    let connecting = std::thread::spawn({
        let work = work.clone();
        move || {
            let told = || fs::read_to_string(work.join("address")).ok();
            assert!(wait_until(Duration::from_secs(20), || told().is_some()));
            let address: SocketAddr = told().expect("told").parse().expect("an address");
            let waits = TcpStream::connect(address).expect("connect");
            fs::write(work.join("connected"), "").expect("say so");
            waits
        }
    });
    let workload = Workload::start("tcp_in_flight", work);
    let _waits = connecting.join().expect("who connects");
    let refused = dump(workload.pid(), &images, &[]);
    assert!(!refused.success && refused.stderr.contains("--skip-in-flight"), "{}", refused.stderr);
    dump(workload.pid(), &images, &["--skip-in-flight"]).must_succeed("dump");
    machine.await_no_children();
    fs::write(workload.path("restored"), "").expect("say so");
    restore(&images, &[]).must_succeed("restore");
    workload.check().expect("the listener");
}

/// Somebody who has connected, and what he is told.
fn caller(address: SocketAddr, says: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    stream.write_all(says.as_bytes()).expect("say it");
    stream
}

fn answer(stream: &mut TcpStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).expect("an answer");
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

/// A workload at which five wait whom no process of the tree knows: who has said all, who goes on, who has closed his side, who has gone, and
/// who has reset his connection. Carried, `check` says whether all is as it would have been.
struct Queue {
    workload: Workload,
    callers: Vec<TcpStream>,
    order: Vec<String>,
}

impl Queue {
    fn new(scratch: &Scratch) -> Self {
        let work = scratch.path("work");
        let workload = Workload::start("tcp_waiting_from_outside", work);
        let address = fs::read_to_string(workload.path("address")).expect("the address");
        let address: SocketAddr = address.parse().expect("an address");
        let (all, part) = (caller(address, "all\n"), caller(address, "part"));
        let half = caller(address, &"half".repeat(5000));
        half.shutdown(std::net::Shutdown::Write).expect("close one side");
        let gone = caller(address, "gone");
        let reset = caller(address, "reset");
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&reset, nix::sys::socket::sockopt::Linger, &linger)
            .expect("SO_LINGER");
        let told = ["line 3", "line 13", "end 20000", "end 4", "ConnectionReset 5"];
        let callers = [&all, &part, &half, &gone, &reset];
        let name = |(caller, told): (&&TcpStream, _)| {
            format!("{} {told}\n", caller.local_addr().expect("an address"))
        };
        let order = callers.iter().zip(told).map(name).collect();
        drop((gone, reset));
        Self { workload, callers: vec![all, part, half], order }
    }

    fn check(&mut self) {
        let [all, part, half] = &mut self.callers[..] else { panic!("three are there") };
        part.write_all(b" and more\n").expect("say more");
        self.workload.check().expect("those that waited");
        let told = fs::read_to_string(self.workload.path("told")).expect("what was told");
        assert_eq!(told, self.order.concat());
        answer(all, "all");
        answer(part, "part and more");
        answer(half, &"half".repeat(5000));
    }
}

#[test]
fn connections_that_wait_run_on() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let mut queue = Queue::new(&scratch);
    for images in ["first", "second"] {
        let how = Dump { collector: Some(&collector), ..Dump::RUNNING_ON };
        let mut command =
            Engine::Stasis.dump_command(queue.workload.pid(), &scratch.path(images), how);
        Outcome::of(command.arg("--tcp-established")).must_succeed("dump");
    }
    queue.check();
}

fn waiting_ones_are_carried(method: &str) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let mut queue = Queue::new(&scratch);
    let images = scratch.path("images");
    let how = Dump { collector: Some(&collector), ..Dump::ENDING };
    let dump = |options: &[&str]| {
        let mut command = Engine::Stasis.dump_command(queue.workload.pid(), &images, how);
        Outcome::of(command.args(options))
    };
    let refused = dump(&[]);
    let said = &refused.stderr;
    assert!(!refused.success && said.contains("--tcp-established"), "{said}");
    assert!(said.contains("no process of the tree has the other end"), "{said}");
    dump(&["--tcp-established", "--network-lock", method]).must_succeed("dump");
    drop(collector);
    machine.await_no_children();
    let address = queue.callers[0].peer_addr().expect("the address");
    assert!(locks_of(address) > 0, "nothing is locked");
    restore(&images, &[]).must_succeed("restore");
    assert_eq!(locks_of(address), 0, "it is locked still");
    queue.check();
}

#[test]
fn connections_that_wait_are_carried() {
    require!(nft(&["list", "tables"]).is_some(), "nft works");
    waiting_ones_are_carried("nftables");
}

#[test]
fn the_same_of_those_that_wait_with_iptables() {
    require!(has_iptables(), "iptables-restore works");
    waiting_ones_are_carried("iptables");
}

/// Nobody has them, and nobody is told of their end.
#[test]
fn connections_that_wait_are_left_out_where_all_are_closed() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let queue = Queue::new(&scratch);
    let images = scratch.path("images");
    let how = Dump { collector: Some(&collector), ..Dump::ENDING };
    let mut command = Engine::Stasis.dump_command(queue.workload.pid(), &images, how);
    Outcome::of(command.arg("--tcp-close")).must_succeed("dump");
    drop(collector);
    machine.await_no_children();
    restore(&images, &[]).must_succeed("restore");
    queue.workload.check().expect("the listener");
    assert_eq!(fs::read_to_string(queue.workload.path("told")).expect("what was told"), "");
}

/// A checkpoint of those that are carried can be restored without them.
#[test]
fn connections_that_wait_are_not_restored_where_all_are_closed() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let queue = Queue::new(&scratch);
    let images = scratch.path("images");
    let how = Dump { collector: Some(&collector), ..Dump::ENDING };
    let mut command = Engine::Stasis.dump_command(queue.workload.pid(), &images, how);
    Outcome::of(command.arg("--tcp-established")).must_succeed("dump");
    drop(collector);
    machine.await_no_children();
    restore(&images, &["--tcp-close"]).must_succeed("restore");
    queue.workload.check().expect("the listener");
    assert_eq!(fs::read_to_string(queue.workload.path("told")).expect("what was told"), "");
}

/// Connects all the time, each time anew, from several threads: a connection waits at the server nearly always.
fn hammer(address: SocketAddr, work: impl FnOnce()) -> u32 {
    let ends = std::sync::atomic::AtomicBool::new(false);
    let served = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !ends.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut connection = TcpStream::connect(address).expect("connect");
                    connection.write_all(b"ask\n").expect("ask");
                    let mut text = String::new();
                    connection.read_to_string(&mut text).expect("an answer");
                    assert_eq!(text, "told\n");
                    served.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
        work();
        ends.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    served.into_inner()
}

/// A server that accepts a connection a time, and is dumped while it runs on.
#[test]
fn a_busy_server_is_stopped_when_no_connection_waits() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let server = "import socket
server = socket.create_server(('127.0.0.1', 0))
with open('address', 'w') as file: file.write('127.0.0.1:%d\\n' % server.getsockname()[1])
while True:
    connection, _ = server.accept()
    connection.recv(4)
    connection.sendall(b'told\\n')
    connection.close()
";
    let mut command = Command::new("python3");
    command.args(["-c", server]).current_dir(scratch.path(""));
    let server = Program::start(&mut command, &scratch.path("log"));
    let address = || fs::read_to_string(scratch.path("address")).unwrap_or_default();
    assert!(wait_until(Duration::from_secs(20), || address().ends_with('\n')), "no server");
    let address = address().trim().parse().expect("an address");
    let mut dumped = 0;
    let served = hammer(address, || {
        for round in 0..6 {
            let images = scratch.path(&format!("images-{round}"));
            let outcome = dump(server.pid(), &images, &["--leave-running", "--tcp-established"]);
            dumped += i32::from(outcome.success);
        }
    });
    assert_eq!(dumped, 6);
    assert!(served > 50, "{served}");
}

/// Kills a dump at instants that lie all over it. What the kernel keeps, the next command undoes.
#[test]
fn a_killed_dump_leaves_no_connection_behind() {
    require!(nft(&["list", "tables"]).is_some(), "nft works");
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let peer = Echo::start();
    let workload = start("tcp_outside", &scratch, peer.address);
    let run_dir = scratch.path("run");
    let written = || fs::read_dir(run_dir.join("undo")).map_or(0, Iterator::count);
    let mut left = 0;
    for n in 0..60 {
        let delay = Duration::from_millis(n * 4);
        let images = scratch.path("images");
        let ends = n % 2 == 1;
        let how = if ends { Dump::ENDING } else { Dump::RUNNING_ON };
        let mut command = Engine::Stasis.dump_command(workload.pid(), &images, how);
        command.args(["--tcp-established", "--run-dir"]).arg(&run_dir);
        if ends {
            // It gives up when it has locked the network and frozen the tree.
            command.args(["--max-freeze", "1us"]);
        }
        let mut dumper = command.stderr(Stdio::null()).spawn().expect("start a dump");
        std::thread::sleep(delay);
        dumper.kill().expect("kill it");
        dumper.wait().expect("wait for it");
        left += written();
        let mut next = Command::new(stasis_program());
        let next = Outcome::of(next.arg("check").env("STASIS_RUN_DIR", &run_dir));
        assert_eq!(written(), 0, "after {delay:?}: {}", next.stderr);
        assert_eq!(locks_of(peer.address), 0, "after {delay:?}");
        fs::remove_dir_all(&images).ok();
    }
    assert!(left > 0, "no dump was killed while there was something to undo");
    workload.check().expect("the connection");
}

/// The program that locks the network outlives a dumper that is killed while it runs.
#[test]
fn a_lock_that_comes_after_its_dump_was_killed_is_taken_away() {
    require!(nft(&["list", "tables"]).is_some(), "nft works");
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let peer = Echo::start();
    let workload = start("tcp_outside", &scratch, peer.address);
    let (programs, run_dir) = (scratch.path("programs"), scratch.path("run"));
    fs::create_dir(&programs).expect("mkdir");
    let [begun, over, given] = ["begun", "over", "given"].map(|name| scratch.path(name));
    let slow = programs.join("nft");
    let path = std::env::var("PATH").expect("PATH");
    // It begins when it has all of its input: without that it would lock nothing.
    let script = format!(
        "#!/bin/sh\ncat > {given}\necho > {begun}\nsleep 0.5\nPATH={path}:/usr/sbin:/sbin\nnft -f {given}\necho > {over}\n",
        given = given.display(),
        begun = begun.display(),
        over = over.display(),
    );
    fs::write(&slow, script).expect("write a program");
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut command =
        Engine::Stasis.dump_command(workload.pid(), &scratch.path("images"), Dump::ENDING);
    command.args(["--tcp-established", "--run-dir"]).arg(&run_dir);
    command.env("PATH", format!("{}:{path}", programs.display()));
    let mut dumper = command.stderr(Stdio::null()).spawn().expect("start a dump");
    assert!(wait_until(Duration::from_secs(20), || begun.exists()));
    dumper.kill().expect("kill it");
    dumper.wait().expect("wait for it");
    let mut next = Command::new(stasis_program());
    let next = Outcome::of(next.arg("check").env("STASIS_RUN_DIR", &run_dir));
    assert!(wait_until(Duration::from_secs(20), || over.exists()), "the program does not end");
    assert!(next.stderr.contains("undid the lock of 1 TCP connections"), "{}", next.stderr);
    assert_eq!(locks_of(peer.address), 0);
    workload.check().expect("the connection");
}

//! Dumps whose pages go to a page server: our own and CRIU's, by command line and by RPC. Needs root.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stasis_tests::rpc::{Client, Message, kind, request};
use stasis_tests::{Engine, Machine, Outcome, Scratch, Workload, free_port, wait_until};

const MIB: u64 = 1 << 20;

struct Case {
    machine: Machine,
    scratch: Scratch,
    workload: Workload,
}

impl Case {
    /// A program whose every page says what it must hold, some of which change all the while.
    fn start(family: &str, mib: &str) -> Self {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let settings = [("STASIS_WORKLOAD_MIB", mib), ("STASIS_WORKLOAD_RATE", "4")];
        let workload = Workload::start_with(family, scratch.path("work"), &settings);
        Self { machine, scratch, workload }
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.scratch.path(name);
        fs::create_dir_all(&path).expect("mkdir");
        path
    }

    /// Starts a server that takes pages into a directory, and waits until it listens.
    fn serve(&self, by: Engine, directory: &Path, port: u16, more: &[&str]) -> Server {
        let (mut ready, told) = UnixStream::pair().expect("sockets");
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec "$0" "$@" 7>&0 0</dev/null"#]);
        command.arg(by.command("page-server").get_program()).arg("page-server");
        command.args(["-v4", "-o", "ps.log", "--status-fd", "7", "-D"]).arg(directory);
        command.args(["--port", &port.to_string()]).args(more);
        self.environment(&mut command);
        let server = command.stdin(Stdio::from(OwnedFd::from(told))).spawn().expect("a server");
        drop(command);
        let mut byte = [1];
        ready
            .read_exact(&mut byte)
            .unwrap_or_else(|_| panic!("no server: {}", log(directory, "ps.log")));
        assert_eq!(byte, [0]);
        Server { child: server, directory: directory.into() }
    }

    fn environment(&self, command: &mut Command) {
        command.env("STASIS_RUN_DIR", self.scratch.path("run")).env("STASIS_BPF_DIR", "none");
    }

    /// A dump that sends its pages to a port.
    fn send(&self, by: Engine, how: &str, directory: &Path, port: u16, more: &[&str]) -> Outcome {
        let mut command = by.command(how);
        command.args(["-t", &self.workload.pid().to_string(), "-v4", "-o", "dump.log", "-D"]);
        command.arg(directory).args(["--page-server", "--address", "127.0.0.1", "--port"]);
        command.arg(port.to_string()).args(more);
        self.environment(&mut command);
        let mut outcome = Outcome::of(&mut command);
        outcome.stderr += &log(directory, "dump.log");
        outcome
    }

    /// Restored and asked.
    fn must_be_right(&self, images: &Path, by: Engine) {
        self.machine.await_no_children();
        for left in ["go", "result"] {
            drop(fs::remove_file(self.workload.path(left)));
        }
        fs::write(self.workload.path("restored"), "").expect("say so");
        by.restore(images, stasis_tests::Dump::ENDING).must_succeed("restore");
        self.workload.check().expect("the program's own check");
    }

    /// Whether it is there, and nobody traces it.
    fn runs(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.workload.pid()));
        self.workload.program().is_alive()
            && status
                .is_ok_and(|text| text.contains("TracerPid:\t0\n") && !text.contains("State:\tT"))
    }
}

struct Server {
    child: Child,
    directory: PathBuf,
}

impl Server {
    fn must_end_well(mut self) {
        let status = self.child.wait().expect("wait for the server");
        assert!(status.success(), "{}", log(&self.directory, "ps.log"));
    }

    fn must_fail(mut self) {
        let status = self.child.wait().expect("wait for the server");
        assert!(!status.success(), "{}", log(&self.directory, "ps.log"));
        assert!(log(&self.directory, "ps.log").contains("Error"));
        assert_eq!(pages(&self.directory), [""; 0]);
    }
}

fn log(directory: &Path, name: &str) -> String {
    fs::read_to_string(directory.join(name)).unwrap_or_default()
}

fn list(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("list");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

/// Page maps and pages, and what is not whole.
fn pages(directory: &Path) -> Vec<String> {
    let is_of_pages = |name: &String| name.starts_with("page") || name.contains("stasis-tmp");
    list(directory).into_iter().filter(is_of_pages).collect()
}

fn stored(directory: &Path) -> u64 {
    let sizes = pages(directory).into_iter().filter(|name| name.starts_with("pages-"));
    sizes.map(|name| fs::metadata(directory.join(name)).expect("stat").len()).sum()
}

/// Puts what a server has written to the images.
fn bring(from: &Path, to: &Path) {
    assert_eq!(pages(to), [""; 0]);
    for name in pages(from) {
        fs::copy(from.join(&name), to.join(&name)).expect("copy");
    }
}

/// A pre-dump and a dump that leaves to it what has not changed. The pages never are where the images are.
fn a_chain_in_two_places(server: Engine, restores: Engine) {
    let case = Case::start("dirty", "40");
    let at = |name: &str| case.directory(name);
    let face = Engine::CriuFace;
    let port = free_port();
    let running = case.serve(server, &at("there/1"), port, &[]);
    case.send(face, "pre-dump", &at("here/1"), port, &[]).must_succeed("pre-dump");
    running.must_end_well();
    let running = case.serve(server, &at("there/2"), port, &["--prev-images-dir", "../1"]);
    let more = ["--prev-images-dir", "../1", "--track-mem"];
    case.send(face, "dump", &at("here/2"), port, &more).must_succeed("dump");
    running.must_end_well();
    let sizes = ["there/1", "there/2"].map(|name| stored(&at(name)));
    assert!(sizes[0] >= 40 * MIB && sizes[1] < 30 * MIB, "nothing was left out: {sizes:?}");
    // Without the pages nothing is restored.
    case.machine.await_no_children();
    let restore = face.restore(&at("here/2"), stasis_tests::Dump::ENDING);
    assert!(!restore.success && restore.stderr.contains("page server"), "{}", restore.stderr);
    // Nor compared.
    let images = at("here/2");
    let mut diff = Command::new(stasis_tests::stasis_program());
    let diff = Outcome::of(diff.arg("diff").args([&images, &images]));
    assert!(!diff.success && diff.stderr.contains("page server"), "{diff:?}");
    for name in ["1", "2"] {
        bring(&at(&format!("there/{name}")), &at(&format!("here/{name}")));
    }
    case.must_be_right(&at("here/2"), restores);
}

#[test]
fn pages_come_to_a_server_and_images_stay() {
    a_chain_in_two_places(Engine::CriuFace, Engine::CriuFace);
}

#[test]
fn pages_come_to_a_server_that_is_a_criu_peer() {
    a_chain_in_two_places(Engine::Criu, Engine::CriuFace);
}

#[test]
fn pages_of_a_server_are_restored_by_criu_peer() {
    a_chain_in_two_places(Engine::CriuFace, Engine::Criu);
}

/// What CRIU's dump sends.
#[test]
fn a_server_takes_pages_of_a_criu_peer() {
    for restores in [Engine::CriuFace, Engine::Criu] {
        let case = Case::start("memory", "8");
        let (here, there) = (case.directory("here"), case.directory("there"));
        let port = free_port();
        let server = case.serve(Engine::CriuFace, &there, port, &[]);
        case.send(Engine::Criu, "dump", &here, port, &[]).must_succeed("dump");
        server.must_end_well();
        bring(&there, &here);
        case.must_be_right(&here, restores);
    }
}

/// Images and pages come into the same directory, over what is there of another checkpoint; the tree runs on.
#[test]
fn all_comes_into_one_directory() {
    let case = Case::start("dirty", "8");
    let port = free_port();
    let one = case.directory("1");
    for _ in 0..2 {
        fs::write(one.join("pagemap-1.img"), "of another checkpoint").expect("write");
        let server = case.serve(Engine::CriuFace, &one, port, &[]);
        let running_on = ["--leave-running"];
        case.send(Engine::CriuFace, "dump", &one, port, &running_on).must_succeed("dump");
        server.must_end_well();
        assert!(case.runs());
        let there = pages(&one);
        assert!(!one.join("pre-copy").exists() && there.len() == 2, "{there:?}");
    }
    // What is in the parent: the server looks for it while the dump goes on.
    let two = case.directory("2");
    let server = case.serve(Engine::CriuFace, &one, port, &[]);
    case.send(Engine::CriuFace, "pre-dump", &one, port, &[]).must_succeed("pre-dump");
    server.must_end_well();
    let server = case.serve(Engine::CriuFace, &two, port, &[]);
    let more = ["--prev-images-dir", "../1"];
    case.send(Engine::CriuFace, "dump", &two, port, &more).must_succeed("dump");
    server.must_end_well();
    assert!(stored(&two) < 6 * MIB, "nothing was left out: {}", stored(&two));
    case.must_be_right(&two, Engine::CriuFace);
}

/// The program goes on, and nothing is left, whatever becomes of the server.
#[test]
fn without_a_server_nothing_is_dumped() {
    let case = Case::start("dirty", "8");
    let here = case.directory("here");
    let fails = |port, more: &[&str], said: &str| {
        let outcome = case.send(Engine::CriuFace, "dump", &here, port, more);
        assert!(!outcome.success && outcome.stderr.contains(said), "{}", outcome.stderr);
        assert!(case.runs());
        assert_eq!(list(&here), ["dump.log"]);
    };
    fails(free_port(), &[], "connect to the page server at 127.0.0.1");
    fails(1, &["--ps-socket", "77"], "descriptor 77");

    // One that hangs up at once, within a page, and before it has said that all is there.
    for hears in [0, 5000, u64::MAX] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            // As many answers as there may be questions.
            stream.write_all(&[0; 3]).expect("answer");
            let mut heard = (&stream).take(hears);
            if hears == u64::MAX {
                stream.set_read_timeout(Some(Duration::from_secs(2))).expect("set up");
            }
            std::io::copy(&mut heard, &mut std::io::sink()).ok();
        });
        fails(port, &[], "write the images: page server: ");
        server.join().expect("the server");
    }

    // One that has not the parent.
    let there = case.directory("there");
    let port = free_port();
    let one = case.directory("1");
    let server = case.serve(Engine::CriuFace, &one, port, &[]);
    case.send(Engine::CriuFace, "pre-dump", &one, port, &[]).must_succeed("pre-dump");
    server.must_end_well();
    let server = case.serve(Engine::CriuFace, &there, port, &[]);
    fails(port, &["--prev-images-dir", "../1"], "--prev-images-dir");
    server.must_fail();
    case.workload.check().expect("the program's own check");
}

/// A server that is killed in the middle, and one whose dump is.
#[test]
fn who_is_killed_leaves_nothing_that_looks_whole() {
    let case = Case::start("dirty", "60");
    let (here, there) = (case.directory("here"), case.directory("there"));
    let port = free_port();
    let mut server = case.serve(Engine::CriuFace, &there, port, &[]);
    std::thread::scope(|scope| {
        let dump = scope.spawn(|| case.send(Engine::CriuFace, "dump", &here, port, &[]));
        let comes = || pages(&there).iter().any(|name| name.contains("stasis-tmp"));
        assert!(wait_until(Duration::from_secs(30), comes));
        server.child.kill().expect("kill");
        assert!(!dump.join().expect("the dump").success);
    });
    server.child.wait().expect("wait");
    assert!(case.runs());
    assert!(!list(&here).contains(&"inventory.img".to_owned()));
    // The next one takes away what is left.
    let server = case.serve(Engine::CriuFace, &there, port, &[]);
    case.send(Engine::CriuFace, "dump", &here, port, &[]).must_succeed("dump");
    server.must_end_well();
    assert_eq!(pages(&there).len(), 2, "{:?}", pages(&there));
    bring(&there, &here);
    case.must_be_right(&here, Engine::CriuFace);
}

/// What is no dump at all.
#[test]
fn garbage_ends_a_server() {
    let case = Case::start("still", "1");
    for garbage in
        [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\0\0\0\0\0\0"[..], &[0xff; 64], &[0; 32], b"short"]
    {
        let there = case.directory("there");
        let port = free_port();
        let server = case.serve(Engine::CriuFace, &there, port, &[]);
        let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connect");
        client.write_all(garbage).expect("send");
        drop(client);
        server.must_fail();
    }
}

/// The connection is somebody else's.
#[test]
fn a_connection_may_be_handed_over() {
    let case = Case::start("dirty", "8");
    let (here, there) = (case.directory("here"), case.directory("there"));
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let start = |end: UnixStream, command: &str, directory: &Path| {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"exec "$0" "$@" 7<&0 0</dev/null"#]);
        shell.arg(Engine::CriuFace.command(command).get_program()).arg(command);
        shell.args(["-v4", "-o", "x.log", "--ps-socket", "7", "-D"]).arg(directory);
        if command == "dump" {
            shell.args(["--page-server", "-t", &case.workload.pid().to_string()]);
        }
        case.environment(&mut shell);
        shell.stdin(Stdio::from(OwnedFd::from(end))).spawn().expect("start")
    };
    let mut server = start(ours.try_clone().expect("clone"), "page-server", &there);
    let mut dump = start(theirs.try_clone().expect("clone"), "dump", &here);
    // Both ends stay open here.
    assert!(dump.wait().expect("wait").success(), "{}", log(&here, "x.log"));
    assert!(server.wait().expect("wait").success(), "{}", log(&there, "x.log"));
    drop((ours, theirs));
    bring(&there, &here);
    case.must_be_right(&here, Engine::CriuFace);
}

/// In the background, with a pidfile that is there when the command has ended.
#[test]
fn a_server_goes_into_the_background() {
    let case = Case::start("dirty", "8");
    let (here, there) = (case.directory("here"), case.directory("there"));
    let port = free_port();
    let mut command = Engine::CriuFace.command("page-server");
    command.args(["-v4", "-o", "ps.log", "--daemon", "--pidfile", "ps.pid", "-D"]).arg(&there);
    command.args(["--port", &port.to_string()]);
    case.environment(&mut command);
    Outcome::of(&mut command).must_succeed("page-server --daemon");
    let pid: i32 = log(&there, "ps.pid").parse().expect("a pid");
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    case.send(Engine::CriuFace, "dump", &here, port, &[]).must_succeed("dump");
    case.machine.await_gone(pid);
    bring(&there, &here);
    case.must_be_right(&here, Engine::CriuFace);
}

fn options(directory: &File, log: &str) -> Message {
    Message::new().number(1, directory.as_raw_fd().into()).number(9, 4).bytes(10, log.as_bytes())
}

/// Both of the RPC's ways to a server: one in the background, and one that the client waits for.
#[test]
fn a_client_has_pages_served() {
    for as_child in [false, true] {
        let case = Case::start("dirty", "8");
        let (here, there) = (case.directory("here"), case.directory("there"));
        let (images, served) =
            (File::open(&here).expect("open"), File::open(&there).expect("open"));
        let client = Client::start();
        let asked = if as_child { kind::PAGE_SERVER_CHLD } else { kind::PAGE_SERVER };
        let (mut ready, status) = std::io::pipe().expect("a pipe");
        let told = options(&served, "ps.log").number(49, status.as_raw_fd().into());
        let server = request(asked, &told).number(4, 1);
        let answer = client.ask(&server).must_succeed(kind::PAGE_SERVER);
        let server = answer.message(6).expect("a page server");
        let (port, pid) = (server.number(2).expect("a port"), server.number(3).expect("a pid"));
        assert!(port > 0 && Path::new(&format!("/proc/{pid}")).exists());
        drop(status);
        let mut said = Vec::new();
        ready.read_to_end(&mut said).expect("whether it is ready");
        assert_eq!(said, [0]);

        let sender = Client::start();
        let to = Message::new().bytes(1, b"127.0.0.1").number(2, port).number(3, pid);
        let dump = options(&images, "dump.log").number(2, case.workload.pid().into());
        sender.ask(&request(kind::DUMP, &dump.message(11, &to))).must_succeed(kind::DUMP);
        sender.end();
        if as_child {
            let wait = Message::new().number(1, kind::WAIT_PID).number(6, pid);
            let ended = client.ask(&wait).must_succeed(kind::WAIT_PID);
            assert_eq!(ended.number(11), Some(0));
        } else {
            case.machine.await_gone(i32::try_from(pid).expect("a pid"));
        }
        client.end();
        bring(&there, &here);
        case.must_be_right(&here, Engine::CriuFace);
    }
}

#[test]
fn what_a_client_asks_of_a_server_may_be_wrong() {
    let case = Case::start("still", "1");
    let there = case.directory("there");
    let served = File::open(&there).expect("open");
    let taken = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = taken.local_addr().expect("an address").port();
    for asked in [kind::PAGE_SERVER, kind::PAGE_SERVER_CHLD] {
        for (options, said) in [
            (Message::new().number(1, -1), "Neither images_dir_fd nor images_dir"),
            (
                options(&served, "ps.log")
                    .message(11, &Message::new().bytes(1, b"127.0.0.1").number(2, port.into())),
                "listen at 127.0.0.1",
            ),
            (options(&served, "ps.log").message(11, &Message::new().number(2, 70_000)), "--port"),
            (
                options(&served, "ps.log").message(11, &Message::new().number(4, 55)),
                "descriptor 55",
            ),
            (options(&served, "ps.log").bytes(14, b"../nowhere"), "../nowhere"),
        ] {
            let client = Client::start();
            let (error, _) = client.ask(&request(asked, &options)).must_fail(kind::PAGE_SERVER);
            assert!(error.contains(said), "{error}");
            client.end();
        }
    }
    case.machine.reap();
    assert_eq!(list(&there), ["ps.log"]);
}

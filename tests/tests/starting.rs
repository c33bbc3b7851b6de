//! How services start: told by a service manager (no systemd is needed for that) and by the
//! configuration file.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::fcntl::FcntlArg;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stasis_tests::{Scratch, built_program};

/// How long something may take that takes no time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service manager: where it listens.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(dir: &Path) -> Self {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Self { socket, path }
    }

    /// Starts a service as a manager does: with sockets from descriptor 3 on.
    fn start(&self, service: &str, sockets: &[(&str, RawFd)], arguments: &[&str]) -> Service {
        let numbers = sockets.iter().enumerate();
        let places: String =
            numbers.map(|(at, (_, socket))| format!(" {}<&{}", at + 3, socket)).collect();
        let names: Vec<_> = sockets.iter().map(|(name, _)| *name).collect();
        // Whom the sockets are for is known when there is a process; it stays the same.
        let script = format!("exec{places}; LISTEN_PID=$$ exec \"$0\" \"$@\"");
        let mut command = Command::new("bash");
        command.args(["-c", &script]).arg(built_program(service)).args(arguments);
        command
            .env("LISTEN_FDS", sockets.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", "600000")
            .env("STASIS_LOG", "warn")
            .stdin(Stdio::null());
        Service(command.spawn().expect("start a service"))
    }

    /// What is said next, but for signs of life, if not asked for these.
    fn hears(&self, wanted: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).expect("the service says something");
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            match said.lines().any(|line| line == wanted) {
                true => return said,
                false => assert_eq!(said, "WATCHDOG=1\n", "while waiting for {wanted}"),
            }
        }
    }
}

/// A descriptor that a program inherits, with a number that is in nobody's way; it stays open as long
/// as this process.
fn inherited(socket: &impl AsFd) -> RawFd {
    nix::fcntl::fcntl(socket, FcntlArg::F_DUPFD(100)).expect("duplicate")
}

/// A service; killed when dropped.
struct Service(Child);

impl Service {
    /// Tells it to end.
    fn tell_to_end(&self) {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM).expect("a signal");
    }

    /// Whether it ends well.
    fn ends_well(&mut self) -> bool {
        self.0.wait().expect("wait").success()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

/// What a service answers to who asks whether it is well.
fn asked(mut stream: impl Read + Write) -> String {
    stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_service_answers_on_the_socket_that_it_is_handed_and_says_how_it_is() {
    let scratch = Scratch::new();
    let dir = scratch.path("run");
    fs::create_dir_all(&dir).expect("a directory");
    let manager = Manager::new(&dir);
    let socket = dir.join("freezer.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    // Asked before there is anybody to answer.
    let mut early = UnixStream::connect(&socket).expect("connect");
    early.write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("ask");

    let run = dir.to_str().expect("UTF-8");
    let sockets = [("other", inherited(&listener)), ("socket", inherited(&listener))];
    let mut child = manager.start("stasis-freezer", &sockets, &["--run-dir", run]);
    let ready = manager.hears("READY=1");
    assert!(ready.contains(&format!("STATUS=listening on {}", socket.display())), "{ready}");
    assert!(asked(UnixStream::connect(&socket).expect("connect")).starts_with("HTTP/1.0 200"));
    early.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut answer = String::new();
    early.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("200 OK"), "{answer}");
    manager.hears("WATCHDOG=1");
    manager.hears("WATCHDOG=1");
    child.tell_to_end();
    manager.hears("STOPPING=1");
    assert!(child.ends_well());
    assert!(socket.exists(), "a socket that is another's was taken away");
}

#[test]
fn the_gateway_answers_at_both_doors_that_it_is_handed() {
    let scratch = Scratch::new();
    let dir = scratch.path("run");
    fs::create_dir_all(&dir).expect("a directory");
    let manager = Manager::new(&dir);
    let unix = UnixListener::bind(dir.join("gateway.sock")).expect("a socket");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = tcp.local_addr().expect("an address").to_string();
    let config = dir.join("stasis.toml");
    let text = format!(
        "[common]\nrun-dir = '{dir}'\n[gateway]\nlisten = '{address}'\nstate-dir = '{dir}/state'\n\
         token-file = '{dir}/token'\nmetrics-token-file = '{dir}/metrics'\n",
        dir = dir.display()
    );
    fs::write(&config, text).expect("a file");
    let config = config.to_str().expect("UTF-8");
    // By name: the order is the manager's.
    let sockets = || [("listen", inherited(&tcp)), ("socket", inherited(&unix))];
    let mut child = manager.start("stasis-gateway", &sockets(), &["--config", config]);
    manager.hears("READY=1");
    let answer = asked(UnixStream::connect(dir.join("gateway.sock")).expect("connect"));
    assert!(answer.contains("application/json"), "{answer}");
    let answer = asked(TcpStream::connect(&address).expect("connect"));
    assert!(answer.contains("application/json"), "{answer}");
    child.tell_to_end();
    manager.hears("STOPPING=1");
    assert!(child.ends_well());

    // What is handed over must be where the configuration says.
    let arguments = ["--config", config, "--listen", "127.0.0.1:1"];
    let mut child = manager.start("stasis-gateway", &sockets(), &arguments);
    assert!(!child.ends_well());
}

/// What becomes of a program with arguments.
fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(built_program(program));
    let Output { status, stdout, stderr } = command.args(arguments).output().expect("start");
    let text = [stdout, stderr].concat();
    (status.success(), String::from_utf8(text).expect("UTF-8"))
}

#[test]
fn a_broken_configuration_starts_nothing() {
    let scratch = Scratch::new();
    let file = scratch.path("stasis.toml");
    let path = file.to_str().expect("UTF-8");
    let (good, text) = run("stasis", &["config", "check", path]);
    assert!(!good && text.contains("No such file"), "{text}");
    fs::write(&file, "[freezer]\nrun_dir = '/nowhere'\n[dumper]\nlog-format = 'jsno'\n")
        .expect("a file");
    let (good, text) = run("stasis", &["config", "check", path]);
    let wanted = format!("{path}:2: no key run_dir in [freezer]: did you mean run-dir?\n");
    assert!(!good && text.contains(&wanted), "{text}");
    let wanted =
        format!("{path}:4: log-format: \"jsno\" is none of text, json; did you mean \"json\"?\n");
    assert!(text.contains(&wanted), "{text}");
    for program in ["stasis-freezer", "stasis-dumper"] {
        let (good, text) = run(program, &["--config", path]);
        assert!(!good && text.contains(path), "{text}");
    }
    // What is shown by default is a good file, whatever there is.
    let (good, text) = run("stasis", &["--config", path, "config", "show", "--template"]);
    assert!(good, "{text}");
    fs::write(&file, text).expect("a file");
    let (good, text) = run("stasis", &["--config", path, "config", "check"]);
    assert!(good, "{text}");
}

//! CRIU's RPC: requests, their answers and their order, what clients may do wrong, and clients that die. Needs root.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use stasis_tests::rpc::{Client, Message, kind, request};
use stasis_tests::{Machine, Scratch, Workload, built_program, children_of, wait_until};

struct Case {
    scratch: Scratch,
    workload: Workload,
    directory: File,
}

impl Case {
    fn new(family: &str) -> Self {
        let scratch = Scratch::new();
        let workload = Workload::start(family, scratch.path("target"));
        fs::create_dir(scratch.path("images")).expect("mkdir");
        let directory = File::open(scratch.path("images")).expect("open the directory");
        Self { scratch, workload, directory }
    }

    fn images(&self) -> PathBuf {
        self.scratch.path("images")
    }

    /// Images directory, log and level.
    fn options(&self, log: &str) -> Message {
        let number = self.directory.as_raw_fd();
        Message::new().number(1, number.into()).number(9, 4).bytes(10, log.as_bytes())
    }

    fn dump(&self) -> Message {
        self.options("dump.log").number(2, self.workload.pid().into())
    }

    fn restore(&self) -> Message {
        self.options("restore.log")
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.images().join(name)).unwrap_or_default()
    }

    /// Whether the tree is there, and nobody traces it.
    fn runs(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.workload.pid()));
        self.workload.program().is_alive()
            && status.is_ok_and(|text| text.contains("TracerPid:\t0\n"))
    }
}

const LEAVE_RUNNING: u32 = 3;
const NOTIFY: u32 = 12;
const IMAGES_DIR: u32 = 68;

#[test]
fn versions_and_features_are_told_on_a_connection_that_stays() {
    let _machine = Machine::prepare();
    let client = Client::start();
    let keep = |request: Message| request.number(4, 1);
    let version = client.ask(&keep(Message::new().number(1, kind::VERSION)));
    let version = version.must_succeed(kind::VERSION).message(10).expect("a version");
    // A commit would have clients round the version up.
    assert_eq!((version.number(1), version.number(2), version.text(3)), (Some(4), Some(2), None));
    let asked = Message::new().number(1, 1).number(2, 1).number(3, 1);
    let features = Message::new().number(1, kind::FEATURE_CHECK).message(5, &asked);
    let features = client.ask(&features).must_succeed(kind::FEATURE_CHECK).message(8);
    let features = features.expect("features");
    assert_eq!(features.number(2), Some(0), "pages are not served when they are touched");
    assert!(features.number(1).is_some() && features.number(3).is_some());
    assert!(client.receive().is_none(), "that request did not keep it open");
    assert_eq!(client.end(), Some(0));
    let client = Client::start();
    assert!(
        client
            .ask(&request(kind::CHECK, &Message::new()))
            .must_succeed(kind::CHECK)
            .number(7)
            .is_none()
    );
    assert_eq!(client.end(), Some(0));
    // A log needs a place.
    let client = Client::start();
    let logged = request(kind::CHECK, &Message::new().number(1, -1).bytes(10, b"check.log"));
    let (said, number) = client.ask(&logged).must_fail(kind::CHECK);
    assert!(said.contains("Neither images_dir_fd nor images_dir"), "{said}");
    assert_eq!(number, Some(libc::EBADRQC.into()));
}

#[test]
fn a_tree_is_dumped_and_restored() {
    let machine = Machine::prepare();
    let case = Case::new("pipes");
    // A log that is there already, with a label perhaps, is written and not replaced.
    fs::write(case.images().join("dump.log"), "old\n").expect("write");
    let before = inode(&case.images().join("dump.log"));
    let client = Client::start();
    let dump = case.dump().number(LEAVE_RUNNING, 1);
    let answer = client.ask(&request(kind::DUMP, &dump)).must_succeed(kind::DUMP);
    assert_eq!(answer.message(3).expect("dump").number(1), Some(0));
    assert_eq!(client.end(), Some(0));
    assert_eq!(inode(&case.images().join("dump.log")), before);
    assert!(case.log("dump.log").contains("finished") && !case.log("dump.log").contains("old"));
    assert!(case.images().join("stats-dump").exists());

    let client = Client::start();
    client.ask(&request(kind::DUMP, &case.dump())).must_succeed(kind::DUMP);
    client.end();
    machine.await_no_children();
    let client = Client::start();
    let answer = client.ask(&request(kind::RESTORE, &case.restore())).must_succeed(kind::RESTORE);
    let pid = answer.message(4).expect("restore").number(1);
    assert_eq!(pid, Some(case.workload.pid().into()));
    assert_eq!(client.end(), Some(0));
    assert!(case.images().join("stats-restore").exists());
    case.workload.check().expect("the program's own check");
}

/// A path of the images is meant from where the worker began, although it works elsewhere.
#[test]
fn a_relative_path_of_the_images() {
    let _machine = Machine::prepare();
    let case = Case::new("pipes");
    let up = std::env::current_dir().expect("the own directory").components().count();
    let path = PathBuf::from("../".repeat(up));
    let path = path.join(case.images().strip_prefix("/").expect("an absolute path"));
    let options =
        Message::new().number(1, -1).bytes(IMAGES_DIR, path.as_os_str().as_encoded_bytes());
    let dump = options.number(2, case.workload.pid().into()).number(LEAVE_RUNNING, 1);
    let client = Client::start();
    client.ask(&request(kind::DUMP, &dump)).must_succeed(kind::DUMP);
    assert_eq!(client.end(), Some(0));
    assert!(case.images().join("inventory.img").exists() && case.runs());
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("the log").ino()
}

#[test]
fn memory_is_pre_dumped_and_a_directory_of_work_has_the_log() {
    let machine = Machine::prepare();
    let case = Case::new("memory");
    for name in ["0", "work"] {
        fs::create_dir(case.scratch.path(name)).expect("mkdir");
    }
    let (first, work) = (case.scratch.path("0"), case.scratch.path("work"));
    let (first, work) = (File::open(first).expect("open"), File::open(work).expect("open"));
    let pid = i64::from(case.workload.pid());
    let pre_dump = Message::new().number(1, first.as_raw_fd().into()).number(2, pid).number(15, 1);
    let client = Client::start();
    let heard = client.ask(&request(kind::PRE_DUMP, &pre_dump));
    assert!(heard.must_succeed(kind::PRE_DUMP).number(7).is_none());
    // On the same connection: nothing else may follow.
    let dump = case.dump().number(17, work.as_raw_fd().into()).bytes(14, b"../0").number(15, 1);
    assert!(client.ask(&request(kind::DUMP, &dump)).must_succeed(kind::DUMP).number(7).is_none());
    assert_eq!(client.end(), Some(0));
    assert!(
        case.scratch.path("work/dump.log").exists() && !case.images().join("dump.log").exists()
    );
    assert!(case.scratch.path("0/criu.log").exists(), "the log of a request that names none");
    machine.await_no_children();
    let client = Client::start();
    client.ask(&request(kind::RESTORE, &case.restore())).must_succeed(kind::RESTORE);
    drop(client);

    let client = Client::start();
    let heard = client.ask(&request(kind::SINGLE_PRE_DUMP, &pre_dump));
    assert!(heard.must_succeed(kind::SINGLE_PRE_DUMP).number(7).is_none());
    assert!(client.receive().is_none(), "one alone ends it");
    let client = Client::start();
    assert!(client.ask(&request(kind::PRE_DUMP, &pre_dump)).answer.is_some());
    let (said, _) = client.ask(&Message::new().number(1, kind::VERSION)).must_fail(kind::EMPTY);
    assert_eq!(said, "Bad req seq");
    case.workload.check().expect("the program's own check");
}

/// On one connection, which stays open; the number of `cpu_cap` has a bit for each thing that is asked.
#[test]
fn the_processor_is_described_and_compared() {
    const CPU_CAP: u32 = 20;
    let _machine = Machine::prepare();
    let case = Case::new("still");
    let client = Client::start();
    let keep = |kind, options: &Message| request(kind, options).number(4, 1);
    let options = case.options("cpuinfo.log");
    let missing = client.ask(&keep(kind::CPUINFO_CHECK, &options));
    assert!(missing.must_fail(kind::CPUINFO_CHECK).0.contains("cpuinfo.img"));
    let done = client.ask(&keep(kind::CPUINFO_DUMP, &options));
    done.must_succeed(kind::CPUINFO_DUMP);
    for asked in [0, 1, 2, 4, 7] {
        let asked = case.options("cpuinfo.log").number(CPU_CAP, asked);
        client.ask(&keep(kind::CPUINFO_CHECK, &asked)).must_succeed(kind::CPUINFO_CHECK);
    }
    assert!(case.images().join("cpuinfo.img").exists());
}

const DUMPED: [&str; 3] = ["pre-dump", "query-ext-files", "post-dump"];
const RESTORED: [&str; 4] = ["pre-restore", "post-restore", "pre-resume", "post-resume"];

/// The points and their order, with whoever dumps and restores.
fn told(client: fn() -> Client) {
    let machine = Machine::prepare();
    let case = Case::new("still");
    // 64: no lock of the network, which would leave rules behind with CRIU.
    let dump = case.dump().number(NOTIFY, 1).number(64, 3);
    let heard = client().ask_and(&request(kind::DUMP, &dump), |point| {
        if point == "post-dump" {
            assert!(!case.runs(), "it stands still at post-dump");
        }
        Some(true)
    });
    assert_eq!(heard.points, DUMPED);
    assert!(heard.pids.is_empty() && heard.answer.is_some());
    machine.await_no_children();
    let restore = case.restore().number(NOTIFY, 1);
    let heard = client().ask(&request(kind::RESTORE, &restore));
    assert_eq!(heard.points, RESTORED);
    assert_eq!(heard.pids, [("post-restore".to_owned(), i64::from(case.workload.pid()))]);
    heard.must_succeed(kind::RESTORE);
    case.workload.check().expect("the program's own check");
}

#[test]
fn clients_are_told_at_each_point() {
    told(Client::start);
}

#[test]
fn clients_are_told_as_by_criu_peer() {
    told(Client::start_criu);
}

/// A container that runs on does not stand still for what an engine hears; it does for a script, which may want it to.
#[test]
fn a_tree_that_runs_on_is_kept_frozen_for_scripts_alone() {
    let _machine = Machine::prepare();
    let case = Case::new("still");
    let settings = case.scratch.path("settings");
    fs::write(&settings, "action-script /bin/true\n").expect("write");
    for kept in [false, true] {
        let client = Client::start_with(|command| {
            if kept {
                command.env("CRIU_CONFIG_FILE", &settings);
            }
        });
        let dump = case.dump().number(NOTIFY, 1).number(LEAVE_RUNNING, 1);
        let heard = client.ask_and(&request(kind::DUMP, &dump), |point| {
            let at_end = point == "post-dump";
            assert_eq!(case.runs(), point == "pre-dump" || at_end && !kept, "{point}");
            assert_eq!(case.images().join("inventory.img").exists(), at_end, "{point}");
            Some(true)
        });
        assert_eq!(heard.points, DUMPED);
        heard.must_succeed(kind::DUMP);
        fs::remove_file(case.images().join("inventory.img")).expect("remove");
    }
    case.workload.check().expect("the program's own check");
}

#[test]
fn a_client_that_does_not_agree_or_dies_ends_a_dump_and_the_tree_runs_on() {
    let _machine = Machine::prepare();
    let case = Case::new("still");
    for point in DUMPED {
        for answer in [Some(false), None] {
            let client = Client::start();
            let dump = case.dump().number(NOTIFY, 1);
            let heard = client.ask_and(&request(kind::DUMP, &dump), |told| {
                if told == point { answer } else { Some(true) }
            });
            assert_eq!(heard.points.last().map(String::as_str), Some(point));
            if answer.is_some() {
                let (said, _) = heard.must_fail(kind::DUMP);
                assert!(said.contains(point), "{said}");
            }
            assert_eq!(client.end(), Some(1), "{point} {answer:?}");
            assert!(case.runs(), "{point} {answer:?}");
        }
    }
    case.workload.check().expect("the program's own check");
}

#[test]
fn a_client_that_does_not_agree_or_dies_ends_a_restore_and_leaves_nothing() {
    let machine = Machine::prepare();
    let case = Case::new("still");
    Client::start().ask(&request(kind::DUMP, &case.dump())).must_succeed(kind::DUMP);
    machine.await_no_children();
    let restore = case.restore().number(NOTIFY, 1);
    for point in ["pre-restore", "post-restore"] {
        for answer in [Some(false), None] {
            let client = Client::start();
            let heard = client.ask_and(&request(kind::RESTORE, &restore), |told| {
                if told == point { answer } else { Some(true) }
            });
            assert_eq!(heard.points.last().map(String::as_str), Some(point));
            assert_eq!(client.end(), Some(1));
            machine.await_no_children();
        }
    }
    // From the word to let go on it is restored, whoever dies.
    let client = Client::start();
    let request = request(kind::RESTORE, &restore);
    drop(client.ask_and(&request, |told| (told != "pre-resume").then_some(true)));
    client.end();
    case.workload.check().expect("the program's own check");
}

/// An engine forgets a container of which it is not told that it lives: then it does not.
#[test]
fn a_sibling_that_nobody_is_told_of_ends() {
    let machine = Machine::prepare();
    let case = Case::new("still");
    Client::start().ask(&request(kind::DUMP, &case.dump())).must_succeed(kind::DUMP);
    machine.await_no_children();
    let restore = request(kind::RESTORE, &case.restore().number(26, 1).number(NOTIFY, 1));
    // It has been let go by then.
    let lets_go = |told: &str| told == "post-resume";
    for killed in [true, false] {
        let client = Client::start();
        let heard = client.ask_and(&restore, |told| {
            if killed && lets_go(told) {
                client.kill();
            }
            (killed || !lets_go(told)).then_some(true)
        });
        assert!(heard.answer.is_none() && heard.points.last().is_some_and(|told| lets_go(told)));
        client.end();
        machine.await_no_children();
    }
    let client = Client::start();
    client.ask(&restore).must_succeed(kind::RESTORE);
    assert_eq!(client.end(), Some(0));
    case.workload.check().expect("the program's own check");
}

#[test]
fn what_is_asked_wrongly_is_answered_and_nothing_is_done() {
    let _machine = Machine::prepare();
    let case = Case::new("still");
    let ask = |message: &Message| {
        let client = Client::start();
        let heard = client.ask(message);
        client.end();
        heard
    };
    for (message, said) in [
        (Message::new().number(1, kind::NOTIFY), "Invalid req"),
        (Message::new().number(1, 77), "Invalid req"),
        (Message::new().number(1, kind::RESTORE).number(4, 1), "cannot be kept open"),
    ] {
        let (error, _) = ask(&message).must_fail(kind::EMPTY);
        assert!(error.contains(said), "{error}");
    }
    let badrqc = Some(i64::from(libc::EBADRQC));
    let no_more = Message::new().number(1, kind::DUMP);
    assert_eq!(ask(&no_more).must_fail(kind::DUMP).1, badrqc);
    let dump = |options: &Message| ask(&request(kind::DUMP, options)).must_fail(kind::DUMP);
    for (options, said, number) in [
        (Message::new().number(1, 4000), "images directory (descriptor 4000", badrqc),
        (Message::new().number(1, -1), "Neither images_dir_fd nor images_dir", badrqc),
        (Message::new().bytes(68, b"/nowhere"), "/nowhere", badrqc),
        (case.dump().bytes(10, b"../x.log"), "No subdirs are allowed in log_file name", badrqc),
        (case.dump().number(49, 4000), "status descriptor (descriptor 4000", badrqc),
        (case.dump().number(34, 17), "manage_cgroups_mode: 17", badrqc),
        (case.dump().number(38, 0x2000_0000), "empty_ns", badrqc),
        (case.dump().number(58, 1), "option --tls is not supported", badrqc),
        (case.dump().message(11, &Message::new().number(2, 70_000)), "--port", badrqc),
        (case.dump().number(2, 1 << 22), "process", Some(libc::ESRCH.into())),
    ] {
        let (error, errno) = dump(&options);
        assert!(error.contains(said), "{error}");
        assert_eq!(errno, number, "{error}");
    }
    // What is negated, as engines give every option, is what is done.
    let negated = case.dump().number(16, 0).number(18, 0).number(48, 0).number(LEAVE_RUNNING, 1);
    ask(&request(kind::DUMP, &negated)).must_succeed(kind::DUMP);
    let (said, number) = ask(&request(kind::RESTORE, &case.restore())).must_fail(kind::RESTORE);
    assert_eq!(number, Some(libc::EEXIST.into()), "{said}");
    let server = Message::new().number(1, kind::PAGE_SERVER);
    assert!(ask(&server).must_fail(kind::PAGE_SERVER).0.contains("no options"));
    assert!(case.log("dump.log").contains("finished"));
    assert!(case.log("restore.log").lines().any(|line| line.contains("Error")));
    case.workload.check().expect("the program's own check");
}

#[test]
fn garbage_is_refused() {
    let _machine = Machine::prepare();
    // A length that goes beyond the end, groups, fields of another type, a name that is no text.
    let long = vec![0; 100 << 10];
    for garbage in
        [&b"\x12\xff\xff\xff\xff\x0f"[..], b"\x0b\x0b\x0b", b"\x0a\x01\x01", b"GET /", &long]
    {
        let client = Client::start();
        assert!(client.send(garbage));
        let answer = client.receive().expect("an answer");
        assert_eq!((answer.number(1), answer.number(2)), (Some(kind::EMPTY), Some(0)));
        assert_eq!(client.end(), Some(1));
    }
    // Longer than any request may be.
    let client = Client::start();
    assert!(client.send(&vec![0; 150 << 10]));
    assert!(client.receive().expect("an answer").text(9).expect("why").contains("longer than"));
    assert_eq!(client.end(), Some(1));
    // Nobody says anything.
    assert_eq!(Client::start().end(), Some(1));
    for number in ["7777", "1", "x"] {
        let status = Command::new(built_program("criu")).args(["swrk", number]).output();
        assert_eq!(status.expect("run").status.code(), Some(1));
    }
}

/// Files of options come before what a request says, but for the one that it names.
#[test]
fn files_of_options_come_before_and_after() {
    let _machine = Machine::prepare();
    let case = Case::new("still");
    let (before, after) = (case.scratch.path("before"), case.scratch.path("after"));
    fs::write(&before, "log-file before.log\nleave-running\ntls\n").expect("write");
    fs::write(&after, "log-file after.log\n").expect("write");
    let dump = |options: &Message| {
        let client = Client::start_with(|command| {
            command.env("CRIU_CONFIG_FILE", &before);
        });
        client.ask(&request(kind::DUMP, options)).must_succeed(kind::DUMP)
    };
    let named = case.dump().number(58, 0);
    assert!(dump(&named).number(7).is_none());
    let there = |name: &str| case.images().join(name).exists();
    assert!(there("dump.log") && !there("before.log"));
    dump(&named.bytes(51, after.to_str().expect("UTF-8").as_bytes()));
    assert!(there("after.log"));
    let number = case.directory.as_raw_fd();
    let unnamed = Message::new().number(1, number.into()).number(58, 0);
    dump(&unnamed.number(2, case.workload.pid().into()));
    assert!(there("before.log"));
    case.workload.check().expect("the program's own check");
}

/// The root is a child of the client, or of the program that the worker becomes.
#[test]
fn the_root_is_whose_child_it_is_to_be() {
    let machine = Machine::prepare();
    let case = Case::new("still");
    let own = std::process::id().cast_signed();
    let dump = || {
        Client::start().ask(&request(kind::DUMP, &case.dump())).must_succeed(kind::DUMP);
        machine.await_no_children();
    };
    dump();
    // Without the subreaper an orphan would not come here.
    nix::sys::prctl::set_child_subreaper(false).expect("not a subreaper");
    let client = Client::start();
    let sibling = case.restore().number(26, 1);
    client.ask(&request(kind::RESTORE, &sibling)).must_succeed(kind::RESTORE);
    client.end();
    assert_eq!(children_of(own), [case.workload.pid()]);
    nix::sys::prctl::set_child_subreaper(true).expect("a subreaper");
    dump();
    let client = Client::start();
    let exec = case.restore().bytes(22, b"sh").bytes(22, b"-c").bytes(22, b"echo said; read x <&9");
    client.ask(&request(kind::RESTORE, &exec)).must_succeed(kind::RESTORE);
    client.end();
    assert!(case.log("restore.log").contains("said"), "{}", case.log("restore.log"));
    case.workload.check().expect("the program's own check");
}

/// What is written to a pipe that leads outside comes to whom the restore is told, by its own name.
#[test]
fn pipes_and_files_are_handed_over() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let images = scratch.path("images");
    fs::create_dir(&images).expect("mkdir");
    fs::write(scratch.path("old"), "").expect("write");
    let (from, to) = std::io::pipe().expect("a pipe");
    let name = fs::read_link(format!("/proc/self/fd/{}", to.as_raw_fd())).expect("its name");
    let mut script = Command::new("setsid");
    script.args(["sh", "-c", r#"exec 5>>old; : > ready; read x < go; echo said; echo filed >&5"#]);
    nix::unistd::mkfifo(&scratch.path("go"), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let program = script.current_dir(scratch.path("")).stdin(std::process::Stdio::null());
    let mut program =
        program.stderr(std::process::Stdio::null()).stdout(to).spawn().expect("start");
    drop(script);
    assert!(wait_until(Duration::from_secs(20), || scratch.path("ready").exists()));
    let pid = i64::from(program.id());
    let directory = File::open(&images).expect("open");
    let options = || Message::new().number(1, directory.as_raw_fd().into()).number(9, 4);
    let dump = options().number(2, pid).bytes(10, b"dump.log");
    Client::start().ask(&request(kind::DUMP, &dump)).must_succeed(kind::DUMP);
    program.wait().expect("it has been ended");
    machine.await_no_children();
    drop(from);

    let (mut said, into) = std::io::pipe().expect("a pipe");
    let new = File::create(scratch.path("new")).expect("a file");
    let path = scratch.path("old").canonicalize().expect("a path");
    let path = path.strip_prefix("/").expect("absolute").to_str().expect("UTF-8").to_owned();
    let handed = |key: &str, number: i64| Message::new().bytes(1, key.as_bytes()).number(2, number);
    let restore =
        options().bytes(10, b"restore.log").message(27, &handed(name.to_str().expect("UTF-8"), 7));
    let restore = restore.message(27, &handed(&path, 8)).message(27, &handed("pipe:[1]", 7));
    let given = [into.into(), new.into()];
    let client = Client::start_handing(&given);
    client.ask(&request(kind::RESTORE, &restore)).must_succeed(kind::RESTORE);
    assert_eq!(client.end(), Some(0));
    drop(given);
    fs::write(scratch.path("go"), "go\n").expect("write");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut said, &mut text).expect("read");
    assert_eq!(text, "said\n");
    machine.await_no_children();
    assert_eq!(fs::read_to_string(scratch.path("new")).expect("read"), "filed\n");
    let missing = options().bytes(10, b"missing.log").message(27, &handed("pipe:[1]", 77));
    let (error, _) =
        Client::start().ask(&request(kind::RESTORE, &missing)).must_fail(kind::RESTORE);
    assert!(error.contains("descriptor 77"), "{error}");
}

/// A service in the background of a test, which ends it.
struct Service(Child);

impl Service {
    /// Starts it, and waits until it listens at `socket` in `work`.
    fn start(work: &Path) -> Self {
        let (ready, says) = nix::unistd::pipe().expect("a pipe");
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec "$@" 7<&0 8<&- </dev/null"#, "sh"]).arg(built_program("criu"));
        command.args([
            "service",
            "-v4",
            "-o",
            "service.log",
            "--address",
            "socket",
            "--status-fd",
            "7",
        ]);
        command.arg("-W").arg(work).args(["--pidfile", "pid"]).stdin(says);
        let service = Self(command.spawn().expect("start a service"));
        drop(command);
        let mut told = [1];
        assert_eq!(
            nix::unistd::read(&ready, &mut told),
            Ok(1),
            "{}",
            fs::read_to_string(work.join("service.log")).unwrap_or_default()
        );
        assert_eq!(told, [0]);
        service
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_service_serves_whoever_may_ask() {
    let machine = Machine::prepare();
    let case = Case::new("still");
    let work = case.scratch.path("work");
    fs::create_dir(&work).expect("mkdir");
    let service = Service::start(&work);
    let pid = fs::read_to_string(work.join("pid")).expect("the pidfile");
    assert_eq!(pid, service.0.id().to_string());
    let connect = || Client::connect(&work.join("socket"));

    // A client that says nothing keeps nobody waiting.
    let silent = connect();
    let version = Message::new().number(1, kind::VERSION);
    assert!(connect().ask(&version).must_succeed(kind::VERSION).message(10).is_some());
    connect().ask(&request(kind::DUMP, &case.dump())).must_succeed(kind::DUMP);
    machine.await_gone(case.workload.pid());
    for (options, said) in [
        (case.restore().number(26, 1), "rst_sibling is not allowed in standalone service"),
        (
            case.restore().message(27, &Message::new().bytes(1, b"pipe:[1]").number(2, 1)),
            "inherit_fd is not allowed in standalone service",
        ),
    ] {
        let heard = connect().ask(&request(kind::RESTORE, &options));
        assert_eq!(heard.must_fail(kind::RESTORE).0, said);
    }
    connect().ask(&request(kind::RESTORE, &case.restore())).must_succeed(kind::RESTORE);
    assert!(case.runs());
    // Its rights are not everybody's.
    let (said, number) = as_nobody(&work.join("socket"), &request(kind::DUMP, &case.dump()));
    assert!(said.contains("not for uid 65534"), "{said}");
    assert_eq!(number, Some(libc::EPERM.into()));
    case.workload.check().expect("the program's own check");
    drop(silent);
    let reaped = wait_until(Duration::from_secs(10), || {
        children_of(service.0.id().cast_signed()).is_empty()
    });
    assert!(reaped, "workers are waited for");
}

/// Who has itself dumped hears that it was dumped, and when it is restored, that it is.
#[test]
fn a_program_has_itself_dumped() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    for name in ["work", "images"] {
        fs::create_dir(scratch.path(name)).expect("mkdir");
    }
    let _service = Service::start(&scratch.path("work"));
    let path = |name: &str| scratch.path(name).display().to_string();
    let (images, address) = (path("images"), path("work/socket"));
    let environment = [("IMAGES", &*images), ("ADDRESS", &*address)];
    let workload = Workload::start_with("own_client", scratch.path("target"), &environment);
    fs::write(workload.path("go"), "").expect("write");
    let told = wait_until(Duration::from_secs(20), || workload.path("dumped").exists());
    assert!(told, "{}", fs::read_to_string(scratch.path("images/dump.log")).unwrap_or_default());
    machine.await_gone(workload.pid());
    let directory = File::open(scratch.path("images")).expect("open");
    let options = Message::new().number(1, directory.as_raw_fd().into());
    Client::start().ask(&request(kind::RESTORE, &options)).must_succeed(kind::RESTORE);
    workload.check().expect("it hears that it is restored");
}

/// Asks as another user.
fn as_nobody(address: &Path, message: &Message) -> (String, Option<i64>) {
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(address.ancestors().nth(2).expect("a directory"), open).expect("chmod");
    nix::unistd::seteuid(65534.into()).expect("become nobody");
    let client = Client::connect(address);
    nix::unistd::seteuid(0.into()).expect("become root again");
    client.ask(message).must_fail(kind::DUMP)
}

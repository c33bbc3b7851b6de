//! Checkpoints that leave unchanged pages to others: chains of them, by our own options and by
//! CRIU's, and what happens when the chain is broken.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use stasis_tests::{
    Collector, Dump, Engine, Machine, Outcome, Scratch, Services, Workload, children_of, wait_until,
};

const RUNNING_ON: Dump<'_> = Dump::RUNNING_ON;
const ENDING: Dump<'_> = Dump::ENDING;
const MIB: u64 = 1 << 20;

struct Chain {
    machine: Machine,
    scratch: Scratch,
    workload: Workload,
}

impl Chain {
    /// A program whose every page says what it must hold, some of which change all the while.
    fn start(family: &str) -> Self {
        Self::start_with(family, "40", "4")
    }

    fn start_with(family: &str, mib: &str, rate: &str) -> Self {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let settings = [("STASIS_WORKLOAD_MIB", mib), ("STASIS_WORKLOAD_RATE", rate)];
        let workload = Workload::start_with(family, scratch.path("work"), &settings);
        Self { machine, scratch, workload }
    }

    fn images(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    fn ours(&self, command: &mut Command) -> Outcome {
        Outcome::of(command.env("STASIS_RUN_DIR", self.scratch.path("run")))
    }

    /// A dump by `stasis dump` with more arguments.
    fn dump(&self, name: &str, how: Dump<'_>, more: &[&str]) -> Outcome {
        let pid = self.workload.pid();
        let mut command = Engine::Stasis.dump_command(pid, &self.images(name), how);
        let mut parent = None;
        for word in more {
            match parent.take() {
                Some(()) => command.arg(self.images(word)),
                None => command.arg(word),
            };
            parent = (*word == "--parent").then_some(());
        }
        self.ours(&mut command)
    }

    /// Restored and asked.
    fn must_be_right(&self, name: &str, by: Engine) {
        self.machine.await_no_children();
        for left in ["go", "result"] {
            drop(std::fs::remove_file(self.workload.path(left)));
        }
        std::fs::write(self.workload.path("restored"), "").expect("say so");
        by.restore(&self.images(name), ENDING).must_succeed("restore");
        if let Err(what) = self.workload.check() {
            panic!("{name} is not what it was: {what}");
        }
    }

    fn is_tracked(&self) -> bool {
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", self.workload.pid()));
        smaps.unwrap_or_default().lines().any(|line| {
            line.starts_with("VmFlags:") && line.split_whitespace().any(|flag| flag == "uw")
        })
    }
}

/// Bytes of pages that a checkpoint holds itself, those that were copied early included.
fn stored(images: &Path) -> u64 {
    let inside = |dir: &PathBuf| Some(dir.join("pre-copy")).filter(|early| early.exists());
    std::iter::successors(Some(images.to_owned()), inside)
        .flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("pages-"))
        .map(|entry| entry.metadata().expect("stat").len())
        .sum()
}

fn three_in_a_row(by: Engine) {
    let chain = Chain::start("dirty");
    chain.dump("first", RUNNING_ON, &["--track"]).must_succeed("the first");
    assert!(chain.is_tracked());
    chain.dump("second", RUNNING_ON, &["--track", "--parent", "first"]).must_succeed("the second");
    assert!(chain.is_tracked());
    chain.dump("third", ENDING, &["--parent", "second"]).must_succeed("the third");
    let sizes = ["first", "second", "third"].map(|name| stored(&chain.images(name)));
    assert!(sizes[0] >= 40 * MIB, "{sizes:?}");
    assert!(sizes[1] < 30 * MIB && sizes[2] < 30 * MIB, "nothing was left out: {sizes:?}");
    for name in ["third", "second", "first"] {
        chain.must_be_right(name, by);
    }
}

#[test]
fn three_in_a_row_are_each_right() {
    three_in_a_row(Engine::Stasis);
}

#[test]
fn three_in_a_row_restored_by_criu_peer() {
    three_in_a_row(Engine::Criu);
}

/// What the kernel writes into them is in every checkpoint.
#[test]
fn rings_of_asynchronous_io_in_a_chain() {
    let chain = Chain::start("aio");
    let collector = Collector::start(&chain.scratch.path("collector"));
    let running_on = Dump { collector: Some(&collector), ..RUNNING_ON };
    let ending = Dump { collector: Some(&collector), ..ENDING };
    chain.dump("first", running_on, &["--track"]).must_succeed("the first");
    chain.dump("second", ending, &["--parent", "first"]).must_succeed("the second");
    drop(collector);
    for name in ["second", "first"] {
        chain.must_be_right(name, Engine::Stasis);
    }
}

/// Large memory is copied by several threads, each into a checkpoint of its own.
fn several_files(by: Engine) {
    let chain = Chain::start_with("dirty", "100", "4");
    chain.dump("first", RUNNING_ON, &["--track"]).must_succeed("the first");
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if processors > 1 {
        assert!(stored(&chain.images("first/pre-copy/pre-copy")) > 0, "one thread copied it all");
    }
    assert!(stored(&chain.images("first")) >= 100 * MIB);
    chain.dump("second", ENDING, &["--parent", "first"]).must_succeed("the second");
    assert!(stored(&chain.images("second")) < 60 * MIB, "nothing was left out");
    for name in ["second", "first"] {
        chain.must_be_right(name, by);
    }
}

#[test]
fn large_memory_in_several_files() {
    several_files(Engine::Stasis);
}

#[test]
fn large_memory_in_several_files_restored_by_criu_peer() {
    several_files(Engine::Criu);
}

/// What was written much while it was copied is copied again, into a checkpoint that comes between.
fn much_that_is_written_meanwhile(by: Engine) {
    let chain = Chain::start_with("dirty", "48", "1000");
    // The program may have had no processor meanwhile.
    let wrote_much = (0..20).map(|n| format!("n{n}")).find(|name| {
        chain.dump(name, RUNNING_ON, &[]).must_succeed("a dump");
        stored(&chain.images(name).join("pre-copy/pre-copy")) > 0
    });
    let wrote_much = wrote_much.expect("a dump that copied much again into further files");
    chain.dump("end", ENDING, &[]).must_succeed("the last");
    for name in ["end", &wrote_much] {
        chain.must_be_right(name, by);
    }
}

#[test]
fn much_that_is_written_while_it_is_copied() {
    much_that_is_written_meanwhile(Engine::Stasis);
}

#[test]
fn much_that_is_written_while_it_is_copied_restored_by_criu_peer() {
    much_that_is_written_meanwhile(Engine::Criu);
}

#[test]
fn a_pre_dump_of_large_memory() {
    let chain = Chain::start_with("dirty", "100", "4");
    let images = |name: &str| {
        let images = chain.images(name);
        std::fs::create_dir_all(&images).expect("make the directory");
        images
    };
    for (what, name, previous) in [("pre-dump", "1", None), ("dump", "2", Some("../1"))] {
        let mut command = Engine::CriuFace.command(what);
        command.arg("-t").arg(chain.workload.pid().to_string()).arg("-D").arg(images(name));
        let previous = previous.iter().flat_map(|previous| ["--prev-images-dir", previous]);
        chain.ours(command.arg("--track-mem").args(previous)).must_succeed(what);
    }
    assert!(stored(&chain.images("2")) < 60 * MIB, "nothing was left out");
    chain.must_be_right("2", Engine::Stasis);
}

/// Memory that comes, goes and moves between the dumps.
#[test]
fn a_chain_of_what_changes_in_every_way() {
    let chain = Chain::start("churn");
    chain.dump("0", RUNNING_ON, &["--track"]).must_succeed("the first");
    for n in 1..4 {
        let parent = (n - 1).to_string();
        let how = ["--track", "--parent", &parent];
        chain.dump(&n.to_string(), RUNNING_ON, &how).must_succeed("the next");
    }
    chain.dump("4", ENDING, &["--parent", "3"]).must_succeed("the last");
    for name in ["4", "2"] {
        chain.must_be_right(name, Engine::Stasis);
    }
}

fn by_criu_options(to: Engine) {
    let chain = Chain::start("dirty");
    let command = |what: &str, name: &str, more: &[&str]| {
        let images = chain.images(name);
        std::fs::create_dir_all(&images).expect("make the directory");
        let mut command = Engine::CriuFace.command(what);
        command.arg("-t").arg(chain.workload.pid().to_string()).arg("-D").arg(&images);
        chain.ours(command.args(["-o", "dump.log", "-v4"]).args(more)).must_succeed(what);
    };
    command("pre-dump", "1", &["--track-mem"]);
    command("pre-dump", "2", &["--track-mem", "--prev-images-dir", "../1"]);
    command("dump", "3", &["--track-mem", "--prev-images-dir", "../2"]);
    let sizes = ["1", "2", "3"].map(|name| stored(&chain.images(name)));
    assert!(sizes[1] < 30 * MIB && sizes[2] < 30 * MIB, "nothing was left out: {sizes:?}");
    chain.must_be_right("3", to);
}

#[test]
fn pre_dumps_and_a_dump_by_the_criu_face() {
    by_criu_options(Engine::CriuFace);
}

#[test]
fn pre_dumps_and_a_dump_restored_by_criu_peer() {
    by_criu_options(Engine::Criu);
}

#[test]
fn a_parent_that_tracking_is_not_relative_to_is_left_alone() {
    let chain = Chain::start("dirty");
    chain.dump("plain", RUNNING_ON, &[]).must_succeed("one without tracking");
    assert!(!chain.is_tracked());
    chain.dump("tracked", RUNNING_ON, &["--track"]).must_succeed("one with it");
    let how = ["--track", "--parent", "plain"];
    let said = chain.dump("new", RUNNING_ON, &how).must_succeed("another").stderr;
    assert!(said.contains("all pages are dumped"), "{said}");
    assert!(stored(&chain.images("new")) >= 40 * MIB, "pages are missing");
    // Without --track it ends.
    chain.dump("last", RUNNING_ON, &[]).must_succeed("the last of those");
    assert!(!chain.is_tracked());
    chain.dump("end", ENDING, &["--parent", "new"]).must_succeed("one whose tracking was lost");
    assert!(stored(&chain.images("end")) >= 40 * MIB, "pages are missing");
    chain.must_be_right("end", Engine::Stasis);
}

#[test]
fn a_dump_that_fails_does_not_lose_changes() {
    let chain = Chain::start("dirty");
    chain.dump("first", RUNNING_ON, &["--track"]).must_succeed("the first");
    let failed =
        chain.dump("none", RUNNING_ON, &["--track", "--max-freeze", "1us", "--parent", "first"]);
    assert!(!failed.success && !chain.images("none").exists(), "{}", failed.stderr);
    chain.dump("second", ENDING, &["--parent", "first"]).must_succeed("the second");
    chain.must_be_right("second", Engine::Stasis);
}

#[test]
fn tracking_can_be_ended_and_ends_with_its_keeper() {
    let chain = Chain::start("dirty");
    let untrack = || {
        let mut command = Engine::Stasis.command("untrack");
        chain.ours(command.arg(chain.workload.pid().to_string()))
    };
    assert!(!untrack().success);
    chain.dump("first", RUNNING_ON, &["--track"]).must_succeed("the first");
    assert!(chain.is_tracked());
    untrack().must_succeed("untrack");
    assert!(!chain.is_tracked());
    chain.dump("second", RUNNING_ON, &["--track"]).must_succeed("the second");
    let namespace = kernel::namespaces::own("pid").and_then(kernel::namespaces::id).expect("an id");
    let name = format!("tracks/{namespace}-{}.json", chain.workload.pid());
    let file = chain.scratch.path("run").join(name);
    let text = std::fs::read_to_string(&file).expect("what the keeper says");
    let keeper: i32 = text
        .split_once("\"pid\":")
        .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
        .expect("the keeper");
    let status = Command::new("kill").arg("-9").arg(keeper.to_string()).status();
    assert!(status.expect("kill").success());
    assert!(wait_until(Duration::from_secs(5), || !chain.is_tracked()));
    chain.dump("third", ENDING, &["--parent", "second"]).must_succeed("the third");
    chain.must_be_right("third", Engine::Stasis);
}

/// The dumper killed at instants between its start and its end: what it left, be it tracking that
/// goes on, tracking that ended, or a checkpoint without either, the next one makes the best of.
#[test]
fn the_dumper_killed_between_the_links_of_a_chain() {
    let chain = Chain::start("dirty");
    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", chain.workload.pid())).expect("list").count();
    let before = descriptors();
    let mut last: Option<String> = None;
    let mut seed = 0x5eed_u64;
    for n in 0..30 {
        let name = format!("n{n}");
        let images = chain.images(&name);
        let mut command = Engine::Stasis.dump_command(chain.workload.pid(), &images, RUNNING_ON);
        command.arg("--track").env("STASIS_RUN_DIR", chain.scratch.path("run"));
        if let Some(last) = &last {
            command.arg("--parent").arg(chain.images(last));
        }
        let output = std::fs::File::create(chain.scratch.path("output")).expect("make a file");
        let mut dumper = command.stderr(output).spawn().expect("start the dump");
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_millis((seed >> 33) % 400));
        drop(dumper.kill());
        dumper.wait().expect("wait");
        if images.join("inventory.img").exists() {
            last = Some(name);
        }
        assert!(
            wait_until(Duration::from_secs(5), || descriptors() == before),
            "it has a descriptor more"
        );
    }
    let parent: Vec<&str> = last.iter().flat_map(|last| ["--parent", last.as_str()]).collect();
    chain.dump("end", ENDING, &parent).must_succeed("the last");
    chain.must_be_right("end", Engine::Stasis);
}

/// Whoever waits for the end of a pipe that the dump was started with does not wait for as long as
/// tracking goes on.
#[test]
fn the_keeper_holds_nothing_of_its_callers() {
    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
    use std::io::Read;
    let chain = Chain::start("dirty");
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    fcntl(&writer, FcntlArg::F_SETFD(FdFlag::empty())).expect("let it be inherited");
    chain.dump("first", RUNNING_ON, &["--track"]).must_succeed("dump");
    assert!(chain.is_tracked(), "there is a keeper");
    drop(writer);
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("do not wait");
    assert_eq!(reader.read(&mut [0]).expect("nobody holds the other end"), 0);
}

/// The one that comes second is refused, and neither the first nor the program notices.
#[test]
fn two_dumps_at_once() {
    let chain = Chain::start("dirty");
    let pid = chain.workload.pid();
    let mut made = Vec::new();
    for round in 0..5 {
        let names = ["one", "two"].map(|name| format!("{name}-{round}"));
        let begun = names.clone().map(|name| {
            let mut command = Engine::Stasis.dump_command(pid, &chain.images(&name), RUNNING_ON);
            let run = chain.scratch.path("run");
            std::thread::spawn(move || Outcome::of(command.env("STASIS_RUN_DIR", run)))
        });
        let outcomes = begun.map(|dump| dump.join().expect("a dump"));
        for (name, outcome) in names.into_iter().zip(outcomes) {
            assert_eq!(chain.images(&name).exists(), outcome.success, "complete or absent");
            match outcome.success {
                true => made.push(name),
                false => assert!(outcome.stderr.contains("is dumping it"), "{}", outcome.stderr),
            }
        }
    }
    assert!(made.len() >= 5, "one of two must succeed: {made:?}");
    let last = made.last().expect("a checkpoint").clone();
    chain.dump("end", ENDING, &[]).must_succeed("a dump");
    for name in ["end", &last] {
        chain.must_be_right(name, Engine::Stasis);
    }
}

/// A request for a checkpoint of the chain's program that runs on.
fn asked(chain: &Chain, name: &str, parent: Option<&str>, track: bool) -> Value {
    let mut body = json!({
        "pid": chain.workload.pid(), "directory": name, "leave_running": true, "track": track,
    });
    if let Some(parent) = parent {
        body["parent"] = parent.into();
    }
    body
}

#[test]
fn a_gateway_takes_increments() {
    let chain = Chain::start("dirty");
    let services = Services::start(&chain.scratch.path("services"));
    let take = |name, parent, track| {
        let job = services.job("/v1/checkpoints", &asked(&chain, name, parent, track));
        job.unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let first = take("first", None, true);
    assert!(chain.is_tracked(), "who keeps the log is another process: {first}");
    let second = take("second", Some("first"), true);
    let bytes = |name: &str| {
        let found = services.call("GET", &format!("/v1/checkpoints/{name}"), None).body;
        found["image_bytes"].as_u64().unwrap_or_else(|| panic!("{name}: {found}"))
    };
    assert!(bytes("second") < bytes("first") / 2, "{second}");
    let found = services.call("GET", "/v1/checkpoints/second", None).body;
    assert_eq!(found["parent"], "first", "{found}");
    let gone = services.call("DELETE", "/v1/checkpoints/first", None);
    assert_eq!(gone.status, 409, "{}", gone.text);

    let untrack =
        || services.call("DELETE", &format!("/v1/dirty-logs/{}", chain.workload.pid()), None);
    assert_eq!(untrack().status, 204);
    assert!(!chain.is_tracked());
    assert_eq!(untrack().status, 404);
    // Nothing has logged what changed since: all of it is there, and the parent is not needed.
    let third = take("third", Some("second"), false);
    assert!(bytes("third") > bytes("first") / 2);
    assert!(third["dump"]["warnings"].to_string().contains("not tracked"), "{third}");

    for (name, body, field) in [
        ("no parent", asked(&chain, "fourth", Some("none"), false), "parent"),
        ("a path out", asked(&chain, "fourth", Some("../x"), false), "parent"),
        (
            "an end",
            {
                let mut body = asked(&chain, "fourth", None, true);
                body["leave_running"] = false.into();
                body
            },
            "track",
        ),
    ] {
        let error = services.job("/v1/checkpoints", &body).expect_err(name);
        let of = error["field"].as_str().unwrap_or_else(|| panic!("{name}: {error}"));
        assert!(of == field || error.to_string().contains(field), "{name}: {error}");
        assert!(error["remedy"].is_string(), "{name}: {error}");
    }
    let fourth = json!({
        "pid": chain.workload.pid(), "directory": "fourth", "leave_running": false, "parent": "second",
    });
    services.job("/v1/checkpoints", &fourth).expect("the last");
    let root = nix::unistd::Pid::from_raw(chain.workload.pid());
    nix::sys::wait::waitpid(root, None).expect("it has ended");
    std::fs::write(chain.workload.path("restored"), "").expect("say so");
    services.restore("fourth").expect("a restore");
    if let Err(what) = chain.workload.check() {
        panic!("it is not what it was: {what}");
    }
    // Nobody waits for who kept the logs but the service.
    let left = || children_of(services.pid("dumper"));
    assert!(wait_until(Duration::from_secs(10), || left().is_empty()), "{:?}", left());
}

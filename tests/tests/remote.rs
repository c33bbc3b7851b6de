//! `stasis --gateway`: the local commands, done by the services that a gateway speaks for.

use std::fs;
use std::process::Command;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::Value;
use stasis_tests::{Machine, Outcome, Scratch, Services, WebServer, stasis_program};

/// The command line with a gateway.
struct Shell {
    way: Vec<String>,
}

impl Shell {
    fn by_socket(services: &Services) -> Self {
        let socket = services.socket("gateway");
        Self { way: vec![format!("--gateway=unix:{}", socket.display())] }
    }

    fn by_tcp(services: &Services) -> Self {
        let token = services.token_file();
        Self {
            way: vec![
                format!("--gateway={}", services.address()),
                format!("--token-file={}", token.display()),
            ],
        }
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(Command::new(stasis_program()).args(&self.way).args(arguments))
    }

    fn said(&self, arguments: &[&str]) -> String {
        self.run(arguments).must_succeed(&arguments.join(" ")).stdout
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let said = self.said(&[&["--json"], arguments].concat());
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"))
    }

    fn refused(&self, arguments: &[&str], part: &str) {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, Some(1), "{arguments:?}: {outcome:?}");
        let said = &outcome.stderr;
        assert!(said.contains(part) && said.contains("remedy: "), "{arguments:?}: {said}");
    }
}

/// A program is checkpointed and comes back, by the commands of a shell.
fn goes_there_and_back(shell: &Shell, services: &Services, scratch: &Scratch) {
    let web = WebServer::start(&scratch.path("web"));
    let root = web.program.pid();
    let pid = root.to_string();
    let ps = shell.json(&["ps"]);
    let listed = ps["processes"].as_array().expect("processes");
    assert!(listed.iter().any(|it| it["pid"] == root), "{pid} is not among {} ", listed.len());

    let labels = "tier=1,of=these tests";
    let stays = ["dump", &pid, "-D", "web/first", "--leave-running", "--labels", labels];
    let dumped = shell.json(&stays);
    assert_eq!((&dumped["pid"], &dumped["directory"]), (&root.into(), &"web/first".into()));
    assert!(dumped["frozen_us"].as_u64() > Some(0) && dumped["job"].is_string(), "{dumped}");
    assert!(services.checkpoints().join("web/first/inventory.img").exists());
    shell.refused(&stays, "holds a checkpoint already");
    shell.refused(&["dump", &pid, "-D", "/web", "--leave-running"], "absolute path");

    let list = shell.said(&["list"]);
    assert!(list.contains("web/first") && list.contains(&pid), "{list}");
    assert!(!shell.said(&["list", "elsewhere"]).contains("web/first"));
    assert!(shell.said(&["list", "--labels", labels]).contains("web/first"));
    assert!(!shell.said(&["list", "--labels", "tier=2"]).contains("web/first"));
    assert_eq!(shell.json(&["show", "web/first"])["processes"][0]["pid"], root);
    assert!(shell.said(&["verify", "web/first"]).contains("as they were written"));
    assert_eq!(shell.json(&["verify", "web/first"])["sound"], true);

    let before = web.count();
    // The end of one that is not waited for is told by its job.
    let id = shell.said(&["dump", &pid, "-D", "web/end", "--no-wait"]);
    let job = shell.json(&["jobs", id.trim(), "--wait"]);
    assert_eq!((&job["directory"], &job["job"]), (&"web/end".into(), &id.trim().into()), "{job}");
    waitpid(Pid::from_raw(root), None).expect("reap");
    assert_eq!(shell.json(&["jobs", id.trim()])["state"], "done");
    let jobs = shell.said(&["jobs", "--kind", "checkpoint"]);
    assert!(jobs.contains(id.trim()), "{jobs}");

    let restored = shell.said(&["restore", "-D", "web/end", "--detach"]);
    assert_eq!(restored.trim(), pid);
    assert!(web.count() > before, "it goes on where it stopped");
    let again = shell.run(&["restore", "-D", "web/end", "--detach"]);
    assert!(!again.success && again.stderr.contains("it was restored as process"), "{again:?}");
    shell.refused(&["restore", "-D", "none", "--detach"], "no checkpoint none");

    shell.said(&["rm", "web/first"]);
    assert!(!services.checkpoints().join("web/first").exists());
    shell.refused(&["rm", "web/first"], "no checkpoint web/first");
    // It is damaged: that is the exit code, too, as without a gateway.
    let image = services.checkpoints().join("web/end/pstree.img");
    fs::write(&image, b"nonsense").expect("write");
    let damaged = shell.run(&["verify", "web/end"]);
    assert!(damaged.code == Some(1) && damaged.stdout.contains("pstree.img"), "{damaged:?}");
    shell.said(&["-q", "rm", "web/end"]);
}

#[test]
fn a_program_goes_there_and_back_by_the_socket() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    goes_there_and_back(&Shell::by_socket(&services), &services, &scratch);
    drop(services);
    machine.end_all();
}

#[test]
fn a_program_goes_there_and_back_over_tcp() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    goes_there_and_back(&Shell::by_tcp(&services), &services, &scratch);
    drop(services);
    machine.end_all();
}

#[test]
fn tracks_begin_and_end() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let shell = Shell::by_socket(&services);
    let web = WebServer::start(&scratch.path("web"));
    let id = shell.said(&["track", "--tree", &web.program.pid().to_string()]);
    assert!(shell.said(&["tracks"]).contains(&format!("tree of {}", web.program.pid())));
    shell.said(&["untrack", "--id", id.trim()]);
    shell.refused(&["untrack", "--id", id.trim()], "no track");
}

#[test]
fn what_cannot_be_asked_is_refused_before_anything_is_sent() {
    let scratch = Scratch::new();
    // Nobody listens there: what is refused for another reason was not sent.
    let nobody = format!("--gateway=unix:{}", scratch.path("none.sock").display());
    let shell = Shell { way: vec![nobody] };
    shell.refused(&["dump", "7", "-D", "a", "--ghost-limit", "1M"], "dump with --ghost-limit");
    shell.refused(&["restore", "-D", "a"], "add --detach");
    shell.refused(&["unlock", "a"], "no gateway is asked for that");
    shell.refused(&["dump", "7", "-D", "a", "--max-freeze", "1500us"], "whole milliseconds");
    shell.refused(&["--token-file", "x", "list"], "the kernel says there who asks");
    shell.refused(&["--ca-file", "x", "list"], "TLS is not spoken there");
    shell.refused(&["list"], "ask the gateway at unix:");
    let shell = Shell { way: vec!["--gateway=http://10.9.8.7:1".to_owned()] };
    shell.refused(&["--token-file", "x", "list"], "others could read the token");
    let shell = Shell { way: vec!["--gateway=localhost".to_owned()] };
    shell.refused(&["list"], "a gateway is at http://HOST:PORT");
    let shell = Shell { way: Vec::new() };
    shell.refused(&["jobs"], "a gateway has them");
    shell.refused(&["--no-wait", "ps"], "--no-wait without --gateway");
}

#[test]
fn who_may_not_ask_is_told_what_it_takes() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let shell = Shell { way: vec![format!("--gateway={}", services.address())] };
    shell.refused(&["list"], "--token-file");
    let wrong = scratch.path("wrong");
    fs::write(&wrong, "x".repeat(64)).expect("write");
    let wrong = format!("--token-file={}", wrong.display());
    let shell = Shell { way: vec![format!("--gateway={}", services.address()), wrong] };
    shell.refused(&["list"], "the token is none of the gateway's");
    // The environment says it as well.
    let mut command = Command::new(stasis_program());
    command.args(["list", "--json"]).env("STASIS_GATEWAY", services.address());
    command.env("STASIS_TOKEN_FILE", services.token_file());
    let listed = Outcome::of(&mut command).must_succeed("list");
    assert!(listed.stdout.contains("checkpoints"), "{listed:?}");
}

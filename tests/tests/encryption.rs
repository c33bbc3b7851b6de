//! Checkpoints are encrypted on their way to the disk, and come back for who has a key, by the shell and by services.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use stasis_tests::{Collector, Machine, Outcome, Scratch, Services, Workload, stasis_program};

/// What the program has in its memory.
const MARKER: &str = "nobody-is-to-read-this-on-the-disk";

/// Keys as age makes them, each with its public half in a file beside it.
struct Keys(PathBuf);

impl Keys {
    fn make(dir: PathBuf, names: &[&str]) -> Self {
        fs::create_dir(&dir).expect("mkdir");
        for name in names {
            let mut command = Command::new("sh");
            let make = "umask 077; age-keygen -o $0.key && age-keygen -y $0.key > $0.pub";
            Outcome::of(command.args(["-c", make]).arg(dir.join(name))).must_succeed("age-keygen");
        }
        Self(dir)
    }

    fn private(&self, name: &str) -> String {
        self.0.join(format!("{name}.key")).display().to_string()
    }

    fn public(&self, name: &str) -> String {
        self.0.join(format!("{name}.pub")).display().to_string()
    }
}

/// A machine on which a program runs that is checkpointed by the shell.
struct Shell {
    machine: Machine,
    scratch: Scratch,
    keys: Keys,
    workload: Workload,
}

impl Shell {
    fn start() -> Self {
        Self::start_with("memory", &[])
    }

    fn start_with(family: &str, settings: &[(&str, &str)]) -> Self {
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let keys = Keys::make(scratch.path("keys"), &["ours", "theirs"]);
        let settings = [&[("STASIS_TEST_MARKER", MARKER)], settings].concat();
        let workload = Workload::start_with(family, scratch.path("work"), &settings);
        fs::create_dir(scratch.path("disk")).expect("mkdir");
        Self { machine, scratch, keys, workload }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(stasis_program());
        command.args(words).env("STASIS_RUN_DIR", self.scratch.path("run"));
        command.current_dir(self.scratch.path("disk"));
        command
    }

    fn stasis(&self, words: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(words))
    }

    fn dump(&self, name: &str, more: &[&str]) -> Outcome {
        let pid = self.workload.pid().to_string();
        self.stasis(&[&["dump", &pid, "-D", name], more].concat())
    }

    /// An encrypted checkpoint of a program that runs on.
    fn secret(&self, name: &str) {
        let ours = self.keys.public("ours");
        self.dump(name, &["--leave-running", "--recipients", &ours]).must_succeed("dump");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path("disk").join(name)
    }

    fn restore(&self, name: &str, more: &[&str]) -> Outcome {
        self.stasis(&[&["restore", "--detach", "-D", name], more].concat())
    }

    /// A restore by our key that is refused, and has made nobody.
    fn refused(&self, name: &str, why: &str) {
        let refused = self.restore(name, &["--identities", &self.keys.private("ours")]);
        assert!(!refused.success && refused.stderr.contains(why), "{name}: {refused:?}");
    }

    /// The files on the disk, temporary ones too, in which the marker can be read.
    fn readable(&self) -> Vec<String> {
        let mut grep = Command::new("grep");
        grep.args(["-rlaF", MARKER]).arg(self.scratch.path("disk"));
        Outcome::of(&mut grep).stdout.lines().map(str::to_owned).collect()
    }
}

/// A file while it has other contents than it had.
struct Changed(PathBuf, Vec<u8>);

impl Changed {
    fn new(path: PathBuf, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let kept = fs::read(&path).expect("read");
        let mut bytes = kept.clone();
        change(&mut bytes);
        fs::write(&path, bytes).expect("write");
        Self(path, kept)
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        fs::write(&self.0, &self.1).expect("write");
    }
}

#[test]
fn an_encrypted_one_comes_back_for_its_recipients_alone() {
    let shell = Shell::start();
    let keys = &shell.keys;
    let (ours, theirs) = (keys.private("ours"), keys.private("theirs"));
    shell.dump("plain", &["--leave-running"]).must_succeed("dump");
    assert!(!shell.readable().is_empty(), "it is in memory, and would be seen");
    shell.stasis(&["rm", "plain"]).must_succeed("rm");
    shell.secret("running");
    shell.dump("ended", &["--recipients", &keys.public("ours")]).must_succeed("dump");
    shell.machine.await_gone(shell.workload.pid());
    assert_eq!(shell.readable(), [] as [&str; 0]);

    // age itself opens what is there: pages have the marker.
    let open = "cd $0; for f in *.img stasis-seal; do age -d -i $1 $f > $2/$f || exit 1; done";
    fs::create_dir(shell.scratch.path("opened")).expect("mkdir");
    let mut command = Command::new("sh");
    command.args(["-c", open]).arg(shell.path("ended")).arg(&ours);
    Outcome::of(command.arg(shell.scratch.path("opened"))).must_succeed("age");
    let mut grep = Command::new("grep");
    grep.args(["-rlaF", MARKER]).arg(shell.scratch.path("opened"));
    assert!(Outcome::of(&mut grep).stdout.contains("pages-"), "pages have it");

    for (words, why) in [
        (&[][..], "--identities FILE"),
        (&["--identities", &theirs], "none of the identities can read it"),
        (&["--identity-command", "exit 5"], "exit status: 5"),
        (&["--identity-command", "echo x"], "no identity of kind X25519"),
    ] {
        let refused = shell.restore("ended", words);
        assert!(!refused.success && refused.stderr.contains(why), "{refused:?}");
        shell.machine.await_no_children();
    }
    let criu = shell.stasis(&["criu", "restore", "-d", "-D", "ended"]);
    let log = fs::read_to_string(shell.path("ended/restore.log")).unwrap_or_default();
    let said = format!("{}{log}", criu.stderr);
    assert!(!criu.success && said.contains("stasis restore has"), "{said}");
    let dedup = shell.stasis(&["criu", "dedup", "-D", "ended"]);
    assert!(!dedup.success && format!("{dedup:?}").contains("is encrypted"), "{dedup:?}");
    shell.machine.await_no_children();

    let listed = shell.stasis(&["list", "."]).must_succeed("list").stdout;
    assert_eq!(listed.matches("(encrypted)").count(), 2, "{listed}");
    assert!(!listed.contains("damaged") && listed.contains(" ms "), "{listed}");
    let shown = shell.stasis(&["show", "ended", "--identities", &ours]).must_succeed("show");
    assert!(shown.stdout.contains("stasis-workload") || shown.stdout.contains("memory"));
    assert!(shell.stasis(&["show", "ended"]).stderr.contains("is encrypted"));
    let differs = ["diff", "running", "ended", "--identities", &ours];
    shell.stasis(&differs).must_succeed("diff");

    let said = format!("cat {ours}");
    shell.restore("ended", &["--identity-command", &said]).must_succeed("restore");
    shell.workload.check().expect("it is as it was");
    shell.machine.end_all();
}

#[test]
fn what_was_changed_is_refused_and_verify_tells() {
    let shell = Shell::start();
    let ours = shell.keys.private("ours");
    shell.secret("one");
    shell.secret("two");
    shell.dump("ended", &["--recipients", &shell.keys.public("ours")]).must_succeed("dump");
    shell.machine.await_gone(shell.workload.pid());
    let verify = |words: &[&str]| shell.stasis(&[&["verify", "one"], words].concat());
    let locked = verify(&[]).must_succeed("verify");
    assert!(locked.stdout.contains("not what is in it"), "{locked:?}");
    let open = verify(&["--identities", &ours]).must_succeed("verify");
    assert!(!open.stdout.contains("not what is in it"), "{open:?}");
    let wrong = verify(&["--identities", &shell.keys.private("theirs")]);
    assert!(!wrong.success && wrong.stderr.contains("can read it"), "{wrong:?}");

    let pages = shell.path("one/pages-1.img");
    for (name, change) in [
        (
            "flipped",
            (|bytes: &mut Vec<u8>| {
                let at = bytes.len() / 2;
                bytes[at] ^= 1;
            }) as fn(&mut Vec<u8>),
        ),
        ("cut off", |bytes| bytes.truncate(bytes.len() - 4096)),
        ("empty", Vec::clear),
    ] {
        let _changed = Changed::new(pages.clone(), change);
        shell.refused("one", "pages-1.img");
        assert!(!verify(&[]).success, "{name}");
        assert!(!verify(&["--identities", &ours]).success, "{name}");
    }
    // Files of the other one, with all of its manifest that says so.
    let of_two = |name: &str| fs::read(shell.path(&format!("two/{name}"))).expect("read");
    {
        let _pages = Changed::new(pages.clone(), |bytes| *bytes = of_two("pages-1.img"));
        shell.refused("one", "pages-1.img");
    }
    {
        let _manifest = Changed::new(shell.path("one/stasis-manifest"), |bytes| {
            *bytes = of_two("stasis-manifest");
        });
        shell.refused("one", "");
        let _seal = Changed::new(shell.path("one/stasis-seal"), |bytes| {
            *bytes = of_two("stasis-seal");
        });
        shell.refused("one", "not what was written");
    }
    {
        let _seal = Changed::new(shell.path("one/stasis-seal"), |bytes| {
            *bytes = of_two("stasis-seal");
        });
        shell.refused("one", "do not belong together");
    }
    shell.machine.await_no_children();
    verify(&["--identities", &ours]).must_succeed("verify");
    shell.restore("ended", &["--identities", &ours]).must_succeed("restore");
    shell.workload.check().expect("it is as it was");
    shell.machine.end_all();
}

#[test]
fn increments_are_encrypted_as_well() {
    let shell = Shell::start();
    let collector = Collector::start(&shell.scratch.path("run"));
    let (ours, public) = (shell.keys.private("ours"), shell.keys.public("ours"));
    let first = shell.path("first").display().to_string();
    let second = shell.path("second").display().to_string();
    let encrypted = ["--recipients", &public, "--identities", &ours];
    let tracked = [&["--leave-running", "--track"][..], &encrypted].concat();
    shell.dump("first", &tracked).must_succeed("first");
    let parent = ["--leave-running", "--parent", &first];
    let without = [&parent[..], &["--recipients", &public]].concat();
    let refused = shell.dump("x", &without);
    assert!(!refused.success && refused.stderr.contains("is encrypted: give"), "{refused:?}");
    let plain = [&parent[..], &["--identities", &ours]].concat();
    let refused = shell.dump("x", &plain);
    assert!(!refused.success && refused.stderr.contains("--recipients FILE"), "{refused:?}");
    assert!(!shell.path("x").exists());
    shell.dump("second", &[&tracked[..], &["--parent", &first]].concat()).must_succeed("second");
    shell.dump("third", &[&encrypted[..], &["--parent", &second]].concat()).must_succeed("third");
    shell.machine.await_gone(shell.workload.pid());
    drop(collector);
    assert_eq!(shell.readable(), [] as [&str; 0]);
    let shown = shell.stasis(&["--json", "show", "third", "--identities", &ours]);
    let shown: Value = serde_json::from_str(&shown.must_succeed("show").stdout).expect("JSON");
    assert!(shown.to_string().contains("parent"), "{shown}");
    shell.stasis(&["verify", "third"]).must_succeed("verify");
    shell.stasis(&["verify", "third", "--identities", &ours]).must_succeed("verify");
    {
        let _changed = Changed::new(shell.path("first/pages-1.img"), |bytes| bytes[3000] ^= 1);
        shell.refused("third", "pages-1.img");
        shell.machine.await_no_children();
    }
    shell.restore("third", &["--identities", &ours]).must_succeed("restore");
    shell.workload.check().expect("it is as it was");
    shell.machine.end_all();
}

/// Memory that is copied ahead, by several threads, and again what is written meanwhile; and what is left to it.
#[test]
fn much_memory_is_encrypted_as_it_is_copied() {
    let settings = [("STASIS_WORKLOAD_MIB", "100"), ("STASIS_WORKLOAD_RATE", "200")];
    let shell = Shell::start_with("dirty", &settings);
    let (ours, public) = (shell.keys.private("ours"), shell.keys.public("ours"));
    let encrypted = ["--recipients", &public, "--identities", &ours];
    let running = [&["--leave-running", "--track"][..], &encrypted].concat();
    shell.dump("first", &running).must_succeed("first");
    assert!(shell.path("first/pre-copy/pages-1.img").exists(), "nothing was copied ahead");
    let parent = shell.path("first").display().to_string();
    shell.dump("second", &[&encrypted[..], &["--parent", &parent]].concat()).must_succeed("second");
    assert_eq!(shell.readable(), [] as [&str; 0]);
    for name in ["second", "first"] {
        shell.machine.await_no_children();
        for left in ["go", "result"] {
            drop(fs::remove_file(shell.workload.path(left)));
        }
        fs::write(shell.workload.path("restored"), "").expect("say so");
        shell.stasis(&["verify", name, "--identities", &ours]).must_succeed("verify");
        shell.restore(name, &["--identities", &ours]).must_succeed("restore");
        shell.workload.check().expect("it is as it was");
    }
    shell.machine.end_all();
}

#[test]
fn several_of_one_moment_are_encrypted() {
    let shell = Shell::start();
    let marker = [("STASIS_TEST_MARKER", MARKER)];
    let other = Workload::start_with("memory", shell.scratch.path("other"), &marker);
    let pids = [&shell.workload, &other].map(|it| it.pid().to_string());
    let public = shell.keys.public("ours");
    let words = ["dump", &pids[0], &pids[1], "--together", "-D", "both", "--recipients", &public];
    shell.stasis(&words).must_succeed("dump");
    for workload in [&shell.workload, &other] {
        shell.machine.await_gone(workload.pid());
    }
    assert_eq!(shell.readable(), [] as [&str; 0]);
    for (pid, workload) in pids.iter().zip([&shell.workload, &other]) {
        let name = format!("both/{pid}");
        assert!(!shell.restore(&name, &[]).success);
        let identities = ["--identities", &shell.keys.private("ours")];
        shell.restore(&name, &identities).must_succeed("restore");
        workload.check().expect("it is as it was");
    }
    shell.machine.end_all();
}

#[test]
fn encryption_can_be_demanded() {
    let shell = Shell::start();
    let refused = shell.dump("x", &["--leave-running", "--demand-encryption"]);
    assert!(!refused.success && refused.stderr.contains("no recipients are named"), "{refused:?}");
    let mut command =
        shell.command(&["dump", &shell.workload.pid().to_string(), "-D", "x", "--leave-running"]);
    let refused = Outcome::of(command.env("STASIS_DEMAND_ENCRYPTION", "true"));
    assert!(!refused.success && refused.stderr.contains("no recipients are named"), "{refused:?}");
    let container = ["dump", "--container", "x", "--recipients", &shell.keys.public("ours")];
    let refused = shell.stasis(&container);
    assert!(refused.stderr.contains("writes its images itself"), "{refused:?}");
    let mode = |mode: &str| {
        let key = shell.keys.private("ours");
        Outcome::of(Command::new("chmod").args([mode, &key])).must_succeed("chmod");
    };
    shell.secret("running");
    mode("644");
    shell.refused("running", "chmod 600");
    mode("600");
    assert!(!shell.path("x").exists());
    shell.dump("plain", &[]).must_succeed("dump");
    shell.machine.await_gone(shell.workload.pid());
    let demanding = ["--identities", &shell.keys.private("ours"), "--demand-encryption"];
    let refused = shell.restore("plain", &demanding);
    assert!(!refused.success && refused.stderr.contains("is not encrypted"), "{refused:?}");
    assert!(!shell.stasis(&["verify", "plain", "--demand-encryption"]).success);
    shell.machine.await_no_children();
    shell.restore("plain", &[]).must_succeed("restore");
    shell.workload.check().expect("it is as it was");
    shell.machine.end_all();
}

#[test]
fn a_dump_that_is_killed_leaves_nothing_to_read() {
    let shell = Shell::start();
    let (pid, ours) = (shell.workload.pid().to_string(), shell.keys.public("ours"));
    for millis in (0..60).step_by(4) {
        let words = ["dump", &pid, "-D", "killed", "--recipients", &ours, "--leave-running"];
        let mut command = shell.command(&words);
        let mut dump = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("spawn");
        std::thread::sleep(Duration::from_millis(millis));
        dump.kill().expect("kill");
        dump.wait().expect("wait");
        assert_eq!(shell.readable(), [] as [&str; 0]);
        // Complete or absent.
        if shell.path("killed/inventory.img").exists() {
            let identities = ["--identities", &shell.keys.private("ours")];
            let verified = shell.stasis(&[&["verify", "killed"], &identities[..]].concat());
            verified.must_succeed("verify");
            shell.stasis(&["rm", "killed"]).must_succeed("rm");
        }
    }
    shell.workload.check().expect("it runs on");
    shell.machine.end_all();
}

/// The command line with the gateway, with what comes from and goes to files.
fn with_gateway(services: &Services, words: &[&str], from: &Path, to: &Path) -> Outcome {
    let gateway = format!("--gateway=unix:{}", services.socket("gateway").display());
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" < \"$FROM\" > \"$TO\"", "sh"]).arg(stasis_program());
    command.arg(gateway).args(words).env("TO", to).env("FROM", from).stdin(Stdio::null());
    Outcome::of(&mut command)
}

/// A configuration file.
fn configuration(path: &Path, lines: &[String]) -> String {
    fs::write(path, lines.join("\n")).expect("write");
    path.display().to_string()
}

#[test]
fn services_encrypt_what_they_make_and_read_it() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let keys = Keys::make(scratch.path("keys"), &["ours", "theirs"]);
    let (ours, public) = (keys.private("ours"), keys.public("ours"));
    let said = configuration(
        &scratch.path("here.toml"),
        &[
            "[dumper]".to_owned(),
            format!("recipients = {public:?}"),
            format!("identities = {ours:?}"),
            "demand-encryption = true".to_owned(),
            "[restorer]".to_owned(),
            format!("identity-command = \"cat {ours}\""),
            "demand-encryption = true".to_owned(),
        ],
    );
    let here = Services::start_with(&scratch.path("here"), &[("STASIS_CONFIG", &said)]);
    let marker = [("STASIS_TEST_MARKER", MARKER)];
    let workload = Workload::start_with("memory", scratch.path("work"), &marker);
    let dump = |name: &str, more: &[(&str, Value)]| {
        let mut body = json!({"pid": workload.pid(), "directory": name, "leave_running": true, "labels": {"of": "secret"}});
        body.as_object_mut()
            .expect("an object")
            .extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        here.job("/v1/checkpoints", &body)
    };
    dump("first", &[("track", true.into())]).expect("dump");
    dump("second", &[("parent", "first".into()), ("leave_running", false.into())]).expect("dump");
    machine.await_gone(workload.pid());
    let mut grep = Command::new("grep");
    grep.args(["-rlaF", MARKER]).arg(here.checkpoints());
    assert_eq!(Outcome::of(&mut grep).stdout, "");

    let told = here.call("GET", "/v1/checkpoints/second", None).body;
    assert_eq!(told["encrypted"], true, "{told}");
    assert_eq!(told["parent"], "first", "{told}");
    assert_eq!(told["labels"], json!({"of": "secret"}), "{told}");
    assert!(told["frozen_us"].as_u64() > Some(0) && told["comm"] == "", "{told}");
    let verify = |services: &Services, name: &str| {
        services.job("/v1/verifications", &json!({"directory": name})).expect("verify")
    };
    let verified = verify(&here, "second");
    assert!(verified.to_string().contains("\"sound\":true"), "{verified}");
    assert!(!verified.to_string().contains("locked"), "{verified}");
    let inside = here.call("GET", "/v1/contents/second", None);
    assert_eq!((inside.status, &inside.body["processes"][0]["pid"]), (200, &workload.pid().into()));
    let page = here.call("GET", "/v1/comparisons?before=first&after=second", None);
    assert_eq!(page.status, 200, "{page:?}");

    // As an archive to others, who have no key at first; the parent goes first.
    let (archive, none) = (scratch.path("first.tar"), PathBuf::from("/dev/null"));
    with_gateway(&here, &["download", "first"], &none, &archive).must_succeed("download");
    here.restore("second").expect("restore");
    workload.check().expect("it is as it was");
    let restored = here.call("GET", "/v1/restores", None).body;
    assert_eq!(restored["restores"][0]["directory"], "second", "{restored}");
    drop(here);
    machine.end_all();
    let mut there = Services::start(&scratch.path("there"));
    with_gateway(&there, &["upload", "of/other"], &archive, &none).must_succeed("upload");
    let verified = verify(&there, "of/other");
    assert!(verified.to_string().contains("\"locked\":true"), "{verified}");
    let refused = there.restore("of/other").expect_err("it cannot be read");
    assert_eq!(refused["code"], "encrypted", "{refused}");
    assert!(refused.to_string().contains("--identities"), "{refused}");
    let inside = there.call("GET", "/v1/contents/of/other", None);
    assert_eq!((inside.status, &inside.body["code"]), (422, &"encrypted".into()), "{inside:?}");
    there.set("STASIS_IDENTITIES", &keys.private("theirs"));
    for name in ["restorer", "dumper"] {
        there.kill(name);
        there.start_again(name);
    }
    let refused = there.restore("of/other").expect_err("it is encrypted to others");
    assert_eq!(refused["code"], "encrypted", "{refused}");
    assert_eq!(there.call("GET", "/v1/restores", None).body["restores"], json!([]), "nobody");

    // What is not encrypted is refused where that is demanded.
    let other = Workload::start("memory", scratch.path("other"));
    there.checkpoint(other.pid(), "plain", false).expect("dump");
    machine.await_gone(other.pid());
    there.set("STASIS_IDENTITIES", &ours);
    there.set("STASIS_DEMAND_ENCRYPTION", "true");
    there.kill("restorer");
    there.start_again("restorer");
    let refused = there.restore("plain").expect_err("it is plain");
    assert_eq!(refused["code"], "untrusted", "{refused}");
    there.restore("of/other").expect("restore");
    drop(there);
    machine.end_all();
}

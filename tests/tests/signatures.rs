//! Checkpoints are signed, and restored only if somebody who is trusted has signed them, by the shell and by services.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use stasis_tests::{Collector, Machine, Outcome, Scratch, Services, Workload, stasis_program};

/// Keys as openssl makes them, each with its public half in a file beside it.
struct Keys(PathBuf);

impl Keys {
    fn make(dir: PathBuf, names: &[&str]) -> Self {
        fs::create_dir(&dir).expect("mkdir");
        for name in names {
            let mut command = Command::new("sh");
            let make = "umask 077; openssl genpkey -algorithm ed25519 -out $0.key && openssl pkey -in $0.key -pubout -out $0.pem";
            Outcome::of(command.args(["-c", make]).arg(dir.join(name))).must_succeed("openssl");
        }
        Self(dir)
    }

    fn private(&self, name: &str) -> String {
        self.0.join(format!("{name}.key")).display().to_string()
    }

    fn public(&self, name: &str) -> String {
        self.0.join(format!("{name}.pem")).display().to_string()
    }

    /// As the documentation says that it is made.
    fn id(&self, name: &str) -> String {
        let make = "openssl pkey -pubin -in $0 -outform DER | sha256sum | cut -c1-64";
        let mut command = Command::new("sh");
        let made = Outcome::of(command.args(["-c", make]).arg(self.public(name)));
        made.must_succeed("openssl").stdout.trim().to_owned()
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
        let machine = Machine::prepare();
        let scratch = Scratch::new();
        let keys = Keys::make(scratch.path("keys"), &["ours", "theirs"]);
        let workload = Workload::start("memory", scratch.path("work"));
        Self { machine, scratch, keys, workload }
    }

    fn stasis(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new(stasis_program());
        command.args(words).env("STASIS_RUN_DIR", self.scratch.path("run"));
        Outcome::of(command.current_dir(self.scratch.path("")))
    }

    fn dump(&self, name: &str, more: &[&str]) -> Outcome {
        let pid = self.workload.pid().to_string();
        self.stasis(&[&["dump", &pid, "-D", name], more].concat())
    }

    /// A restore that is refused by name, and has made nobody.
    fn refused(&self, name: &str, why: &str) {
        let trusted = self.keys.public("ours");
        let words = ["restore", "--detach", "-D", name, "--trusted-keys", &trusted];
        let refused = self.stasis(&words);
        assert!(!refused.success && refused.stderr.contains(why), "{name}: {refused:?}");
        assert!(refused.stderr.contains("not trusted") || why == "changed", "{refused:?}");
        let verified = self.stasis(&["verify", name, "--trusted-keys", &trusted]);
        assert!(!verified.success, "{verified:?}");
        self.machine.await_no_children();
    }
}

#[test]
fn a_signed_one_comes_back_and_no_other() {
    let shell = Shell::start();
    let keys = &shell.keys;
    let (ours, theirs) = (keys.private("ours"), keys.private("theirs"));
    let running = ["--leave-running", "--signing-key"];
    shell.dump("unsigned", &["--leave-running"]).must_succeed("dump");
    shell.dump("other", &[running[0], running[1], &theirs]).must_succeed("dump");
    shell.dump("flipped", &[running[0], running[1], &ours]).must_succeed("dump");
    shell.dump("good", &["--signing-key", &ours]).must_succeed("dump");
    shell.machine.await_gone(shell.workload.pid());

    shell.refused("unsigned", "not signed");
    shell.refused("other", &keys.id("theirs"));
    let manifest = shell.scratch.path("flipped/stasis-manifest");
    let mut bytes = fs::read(&manifest).expect("read");
    // Of the last file's digest.
    *bytes.last_mut().expect("a byte") ^= 1;
    fs::write(&manifest, bytes).expect("write");
    shell.refused("flipped", "does not fit");
    // Who takes the manifest away, as he may of one that is not signed, takes away what was signed.
    fs::remove_file(&manifest).expect("remove");
    shell.refused("flipped", "does not fit");

    let said = shell.stasis(&["verify", "good", "--trusted-keys", &keys.public("ours")]);
    let said = said.must_succeed("verify").stdout;
    assert!(said.contains(&keys.id("ours")), "{said}");
    // A directory of keys, and by the environment.
    let mut restore = Command::new(stasis_program());
    restore.args(["restore", "--detach", "-D"]).arg(shell.scratch.path("good"));
    restore.env("STASIS_TRUSTED_KEYS", shell.scratch.path("keys"));
    restore.env("STASIS_RUN_DIR", shell.scratch.path("run"));
    Outcome::of(&mut restore).must_succeed("restore");
    shell.workload.check().expect("it is as it was");
    shell.machine.end_all();
}

#[test]
fn one_that_was_not_is_signed_later_when_all_of_it_was_read() {
    let shell = Shell::start();
    let ours = shell.keys.private("ours");
    shell.dump("late", &[]).must_succeed("dump");
    shell.machine.await_gone(shell.workload.pid());
    shell.refused("late", "not signed");
    let pages = shell.scratch.path("late/pages-1.img");
    let whole = fs::read(&pages).expect("read");
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    fs::write(&pages, changed).expect("write");
    let refused = shell.stasis(&["sign", "late", "--signing-key", &ours]);
    assert!(!refused.success && refused.stderr.contains("remedy: "), "{refused:?}");
    shell.refused("late", "not signed");
    fs::write(&pages, whole).expect("write");
    shell.stasis(&["sign", "late", "--signing-key", &ours]).must_succeed("sign");
    let trusted = shell.keys.public("ours");
    let words = ["restore", "--detach", "-D", "late", "--trusted-keys", &trusted];
    shell.stasis(&words).must_succeed("restore");
    shell.workload.check().expect("it is as it was");
    shell.machine.end_all();
}

#[test]
fn parents_are_signed_as_well_and_no_others() {
    let shell = Shell::start();
    let collector = Collector::start(&shell.scratch.path("run"));
    let ours = shell.keys.private("ours");
    let tracked = ["--leave-running", "--track", "--signing-key", &ours];
    let with = |parent: &str| {
        let parent = shell.scratch.path(parent).display().to_string();
        [&tracked[..], &["--parent", &parent]].concat().iter().map(|it| (*it).to_owned()).collect()
    };
    let dump = |name: &str, words: Vec<String>| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        shell.dump(name, &words).must_succeed(name);
    };
    dump("first", tracked.map(str::to_owned).to_vec());
    dump("second", with("first"));
    let parent = shell.scratch.path("second").display().to_string();
    shell.dump("third", &["--parent", &parent, "--signing-key", &ours]).must_succeed("third");
    shell.machine.await_gone(shell.workload.pid());
    drop(collector);

    // Another one of ours in the place of the parent.
    let (first, kept) = (shell.scratch.path("first"), shell.scratch.path("kept"));
    let second = shell.scratch.path("second");
    let link = [second.join("parent"), second.join("pre-copy/parent")];
    let link = link.iter().find(|it| fs::read_link(it).is_ok_and(|to| to.ends_with("first")));
    let link = link.expect("a link to the first").clone();
    fs::remove_file(&link).expect("remove");
    std::os::unix::fs::symlink(shell.scratch.path("third"), &link).expect("link");
    let trusted = shell.keys.public("ours");
    let words = ["restore", "--detach", "-D", "third", "--trusted-keys", &trusted];
    let refused = shell.stasis(&words);
    assert!(!refused.success, "{refused:?}");
    fs::remove_file(&link).expect("remove");
    std::os::unix::fs::symlink(&first, &link).expect("link");
    // And one whose signature is gone.
    fs::rename(first.join("stasis-signature"), &kept).expect("move");
    shell.refused("third", "not signed");
    fs::rename(&kept, first.join("stasis-signature")).expect("move");
    shell.stasis(&words).must_succeed("restore");
    shell.workload.check().expect("it is as it was");
    shell.machine.end_all();
}

#[test]
fn a_key_that_others_can_read_signs_nothing() {
    let shell = Shell::start();
    let ours = shell.keys.private("ours");
    let mode = |mode: &str| {
        Outcome::of(Command::new("chmod").args([mode, &ours])).must_succeed("chmod");
    };
    mode("644");
    let refused = shell.dump("x", &["--leave-running", "--signing-key", &ours]);
    assert!(!refused.success && refused.stderr.contains("chmod 600"), "{refused:?}");
    assert!(!shell.scratch.path("x").exists());
    mode("600");
    let refused =
        shell.dump("x", &["--leave-running", "--signing-key", &shell.keys.public("ours")]);
    assert!(!refused.success && refused.stderr.contains("no private key"), "{refused:?}");
    shell.workload.check().expect("it runs on");
}

/// The command line with the gateway, with what comes from and goes to files.
fn with_gateway(services: &Services, words: &[&str], from: &Path, to: &Path) -> Outcome {
    let gateway = format!("--gateway=unix:{}", services.socket("gateway").display());
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" < \"$FROM\" > \"$TO\"", "sh"]).arg(stasis_program());
    command.arg(gateway).args(words).env("TO", to).env("FROM", from).stdin(Stdio::null());
    Outcome::of(&mut command)
}

#[test]
fn services_sign_what_they_make_and_demand_it_of_what_they_restore() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let keys = Keys::make(scratch.path("keys"), &["ours", "theirs"]);
    let settings = |key: &str| {
        [("STASIS_SIGNING_KEY", keys.private(key)), ("STASIS_TRUSTED_KEYS", keys.public("ours"))]
    };
    let [signing, trusted] = settings("ours");
    let both = [(signing.0, signing.1.as_str()), (trusted.0, trusted.1.as_str())];
    let mut here = Services::start_with(&scratch.path("here"), &both);
    let workload = Workload::start("memory", scratch.path("work"));
    here.checkpoint(workload.pid(), "running", true).expect("checkpoint");
    here.set("STASIS_SIGNING_KEY", &keys.private("theirs"));
    here.kill("dumper");
    here.start_again("dumper");
    here.checkpoint(workload.pid(), "theirs", true).expect("checkpoint");
    here.set("STASIS_SIGNING_KEY", &keys.private("ours"));
    here.kill("dumper");
    here.start_again("dumper");
    here.checkpoint(workload.pid(), "ours", false).expect("checkpoint");
    machine.await_gone(workload.pid());

    let told = |name: &str| here.call("GET", &format!("/v1/checkpoints/{name}"), None).body;
    assert_eq!(told("ours")["signed_by"], json!([keys.id("ours")]));
    assert_eq!(told("running")["signed_by"], json!([keys.id("ours")]));
    assert_eq!(told("theirs")["signed_by"], json!([keys.id("theirs")]));
    let refused = |problem: Result<Value, Value>, why: &str| {
        let problem = problem.expect_err("it is refused");
        assert_eq!(problem["code"], "untrusted", "{problem}");
        assert!(problem.to_string().contains(why), "{problem}");
    };
    refused(here.restore("theirs"), &keys.id("theirs"));
    let verify = |name: &str| here.job("/v1/verifications", &json!({"directory": name}));
    refused(verify("theirs"), "no trusted key");
    let verified = verify("ours").expect("verify");
    assert!(verified.to_string().contains(&keys.id("ours")), "{verified}");
    let restored = here.call("GET", "/v1/restores", None).body;
    assert_eq!(restored["restores"], json!([]), "nobody was made");

    // Through an archive: its signature goes with it.
    let (archive, none) = (scratch.path("ours.tar"), PathBuf::from("/dev/null"));
    with_gateway(&here, &["download", "ours"], &none, &archive).must_succeed("download");
    drop(here);
    let trusting = [(trusted.0, trusted.1.as_str())];
    let there = Services::start_with(&scratch.path("there"), &trusting);
    with_gateway(&there, &["upload", "of/other"], &archive, &none).must_succeed("upload");
    // And without it, it does not come back.
    let bare = scratch.path("bare.tar");
    let strip = "mkdir $1.d && cd $1.d && tar -xf $0 && rm stasis-signature && tar -cf $1 *";
    let mut command = Command::new("sh");
    Outcome::of(command.args(["-c", strip]).args([&archive, &bare])).must_succeed("tar");
    with_gateway(&there, &["upload", "of/bare"], &bare, &none).must_succeed("upload");
    refused(there.restore("of/bare"), "not signed");
    there.restore("of/other").expect("restore");
    workload.check().expect("it is as it was");
    drop(there);
    machine.end_all();
}

//! A container of runc that counts.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use stasis_tests::{
    Engine, Machine, Outcome, Scratch, built_program, find_criu, require, wait_until,
};

/// Where the distribution puts a busybox that needs no libraries (package busybox-static).
const BUSYBOX: &str = "/bin/busybox";

/// What the container's shell does, `$DIR` being where it counts. It starts a program each time.
const COUNTS: &str =
    "i=0; while :; do i=$((i+1)); echo $i > $DIR/new; mv $DIR/new $DIR/count; sleep 0.02; done";

/// The same without children: CRIU cannot freeze a group in which one has just ended.
const COUNTS_ALONE: &str = "i=0; mkfifo $DIR/never; exec 3<>$DIR/never; \
     while :; do i=$((i+1)); echo $i > $DIR/count; read -t 0.02 x <&3; done";

pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A container of one shell that counts.
pub(super) struct Container {
    // Ends what is left of the container, before its directory goes.
    pub(super) machine: Machine,
    pub(super) scratch: Scratch,
    id: String,
    pub(super) engine: Engine,
}

impl Container {
    /// Starts one that counts in a directory of its own root.
    pub(super) fn start(engine: Engine, change: impl FnOnce(&mut Value)) -> Self {
        Self::counting(engine, "/tmp", change)
    }

    /// Starts one that counts in this directory; `change` changes its configuration.
    pub(super) fn counting(
        engine: Engine,
        directory: &str,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        let container = Self::prepare(engine);
        container.configured(directory, change);
        container.runc(&["run", "--detach", container.id()]).must_succeed("runc run");
        container.counts_on(0);
        container
    }

    /// Writes its configuration.
    pub(super) fn configured(&self, directory: &str, change: impl FnOnce(&mut Value)) {
        let path = self.bundle().join("config.json");
        let text = fs::read(&path).expect("the configuration");
        let mut config = serde_json::from_slice(&text).expect("JSON");
        configure(&mut config, directory, self.engine);
        change(&mut config);
        fs::write(&path, config.to_string()).expect("write the configuration");
    }

    /// Has runc call another criu from now on.
    pub(super) fn calls(&self, engine: Engine) {
        let link = self.scratch.path("path").join("criu");
        fs::remove_file(&link).expect("remove a link");
        symlink(criu_of(engine), link).expect("make a link");
    }

    /// A bundle that nothing runs of.
    pub(super) fn prepare(engine: Engine) -> Self {
        let machine = Machine::prepare();
        require!(Command::new("runc").arg("--version").output().is_ok(), "there is no runc");
        let scratch = Scratch::new();
        let container =
            Self { machine, scratch, id: format!("stasis-test-{}", std::process::id()), engine };
        let root = container.bundle().join("rootfs");
        for directory in ["bin", "proc", "sys", "dev", "tmp", "mem", "etc"] {
            fs::create_dir_all(root.join(directory)).expect("make a directory");
        }
        fs::copy(BUSYBOX, root.join("bin/busybox")).expect("copy busybox-static");
        for name in ["sh", "sleep", "cat", "mv", "mkfifo"] {
            symlink("busybox", root.join("bin").join(name)).expect("make a link");
        }
        fs::create_dir(container.scratch.path("path")).expect("make a directory");
        symlink(criu_of(engine), container.scratch.path("path").join("criu")).expect("make a link");
        let mut spec = Command::new("runc");
        spec.arg("spec").current_dir(container.bundle());
        Outcome::of(&mut spec).must_succeed("runc spec");
        container
    }

    pub(super) fn bundle(&self) -> PathBuf {
        self.scratch.path("bundle")
    }

    /// Also the name of its control groups, so no two tests have the same.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn runc(&self, arguments: &[&str]) -> Outcome {
        // What runc starts a container with is still in its group.
        self.machine.reap();
        let own = self.scratch.path("path");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([own].into_iter().chain(std::env::split_paths(&path)));
        let status = Command::new("runc")
            .arg("--root")
            .arg(self.scratch.path("state"))
            .arg("--log")
            .arg(self.scratch.path("said"))
            .args(arguments)
            .current_dir(self.bundle())
            .env("PATH", path.expect("PATH"))
            // These are the container's: a file of outside would be in none of its mounts.
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("run runc");
        let mut stderr = fs::read_to_string(self.scratch.path("said")).unwrap_or_default();
        for log in ["dump.log", "restore.log"] {
            let text = fs::read(self.scratch.path("work").join(log)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let errors = text.lines().filter(|line| line.contains("Error"));
            errors.for_each(|line| stderr = format!("{stderr}{log}: {line}\n"));
        }
        Outcome { success: status.success(), code: status.code(), stdout: String::new(), stderr }
    }

    /// `runc checkpoint` into this directory, with more options.
    pub(super) fn checkpoint(&self, images: &str, options: &[&str]) -> Outcome {
        let (images, work) = (self.scratch.path(images), self.scratch.path("work"));
        let mut arguments =
            vec!["checkpoint", "--image-path", utf8(&images), "--work-path", utf8(&work)];
        arguments.extend(options);
        arguments.push(self.id());
        self.runc(&arguments)
    }

    /// `runc restore` from this directory.
    pub(super) fn restore(&self, images: &str, options: &[&str]) -> Outcome {
        let (images, work) = (self.scratch.path(images), self.scratch.path("work"));
        let mut arguments =
            vec!["restore", "--detach", "--image-path", utf8(&images), "--work-path", utf8(&work)];
        arguments.extend(options);
        arguments.push(self.id());
        self.runc(&arguments)
    }

    /// The number of the container's first process.
    pub(super) fn pid(&self) -> Option<i64> {
        let state = self.scratch.path("state").join(self.id()).join("state.json");
        let state: Value = serde_json::from_slice(&fs::read(state).ok()?).ok()?;
        state["init_process_pid"].as_i64()
    }

    /// What it has counted to, by its own file system. (It may be about to write it.)
    pub(super) fn count(&self) -> Option<u64> {
        let mut count = None;
        wait_until(Duration::from_millis(200), || {
            count = self.count_now();
            count.is_some()
        });
        count
    }

    fn count_now(&self) -> Option<u64> {
        let pid = self.pid()?;
        let read = |directory: &str| {
            fs::read_to_string(format!("/proc/{pid}/root/{directory}/count"))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        read("mem").or_else(|| read("tmp"))
    }

    /// Waits until it has counted further, and returns to where.
    pub(super) fn counts_on(&self, from: u64) -> u64 {
        let on = wait_until(PATIENCE, || self.count().is_some_and(|count| count > from));
        assert!(on, "the container counts no further than {:?} from {from}", self.count());
        self.count().unwrap_or_default()
    }

    /// Checkpointed to its end and restored: the same shell goes on.
    pub(super) fn goes_on(&self, images: &str, options: &[&str]) {
        let before = self.count().expect("a count");
        self.checkpoint(images, options).must_succeed("runc checkpoint");
        self.restore(images, options).must_succeed("runc restore");
        let after = self.counts_on(before);
        assert!(after < before + 2000, "counted {before} before, {after} after");
    }
}

/// What an engine's runc calls.
pub(super) fn criu_of(engine: Engine) -> PathBuf {
    match engine {
        Engine::Criu => find_criu().expect("a working criu on PATH or in $CRIU"),
        _ => built_program("criu"),
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.runc(&["delete", "--force", self.id()]);
    }
}

pub(super) fn utf8(path: &std::path::Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

pub(super) fn configure(config: &mut Value, directory: &str, engine: Engine) {
    let counts = if engine == Engine::Criu { COUNTS_ALONE } else { COUNTS };
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["sh", "-c", format!("DIR={directory}; {counts}")]);
    // Raising a limit takes a right that not every machine gives.
    config["process"]["rlimits"] = json!([]);
    config["root"]["readonly"] = json!(false);
}

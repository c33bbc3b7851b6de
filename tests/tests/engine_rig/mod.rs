//! Engines with a place of their own, which call the `criu` that is first on PATH: here ours.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stasis_tests::{Machine, Outcome, Scratch, built_program, require, wait_until};

/// Where the distribution puts a busybox that needs no libraries (package busybox-static).
const BUSYBOX: &str = "/bin/busybox";

/// What the container's shell does.
pub(super) const COUNTS: &str = "i=0; mkfifo /tmp/never; exec 3<>/tmp/never; \
     while :; do i=$((i+1)); echo $i > /shown/new; mv /shown/new /shown/count; read -t 0.02 x <&3; done";

const PATIENCE: Duration = Duration::from_secs(20);

/// An engine with a place of its own.
pub(super) struct Rig {
    // Ends what is left, before its directory goes.
    _machine: Machine,
    pub(super) scratch: Scratch,
    /// The last thing that it does.
    end: Box<dyn Fn(&Self)>,
}

impl Rig {
    pub(super) fn prepare(program: &str, end: impl Fn(&Self) + 'static) -> Self {
        let machine = Machine::prepare();
        require!(Command::new(program).arg("--version").output().is_ok(), "there is no {program}");
        let scratch = Scratch::new();
        fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o755)).expect("chmod");
        for name in ["path", "shown"] {
            fs::create_dir(scratch.path(name)).expect("mkdir");
        }
        symlink(built_program("criu"), scratch.path("path/criu")).expect("link");
        Self { _machine: machine, scratch, end: Box::new(end) }
    }

    /// A root with busybox.
    pub(super) fn root(&self) -> PathBuf {
        let root = self.scratch.path("root");
        for name in ["bin", "dev", "proc", "shown", "sys", "tmp"] {
            fs::create_dir_all(root.join(name)).expect("mkdir");
        }
        fs::copy(BUSYBOX, root.join("bin/busybox")).expect("copy busybox-static");
        for name in ["sh", "mv", "mkfifo", "sleep"] {
            symlink("busybox", root.join("bin").join(name)).expect("link");
        }
        root
    }

    pub(super) fn run(&self, command: &mut Command) -> Outcome {
        let own = self.scratch.path("path");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([own].into_iter().chain(std::env::split_paths(&path)));
        Outcome::of(command.env("PATH", path.expect("PATH")).env("TMPDIR", self.scratch.path("")))
    }

    pub(super) fn count(&self) -> Option<u64> {
        fs::read_to_string(self.scratch.path("shown/count")).ok()?.trim().parse().ok()
    }

    /// Waits until it has counted further, not from the start.
    pub(super) fn counts_on(&self, from: u64) -> u64 {
        let on = wait_until(PATIENCE, || self.count().is_some_and(|count| count > from));
        let count = self.count().unwrap_or_default();
        assert!(on && count < from + 2000, "counted {from} before, {count} after");
        count
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        (self.end)(self);
    }
}

pub(super) fn utf8(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// The name of the container, and of its control groups.
pub(super) fn name() -> String {
    format!("stasis-test-{}", std::process::id())
}

/// A program of LXC. A second version of control groups without controllers makes LXC 5 free a path twice when it calls
/// CRIU: it is not mounted where that runs.
pub(super) fn lxc(rig: &Rig, program: &str, arguments: &[&str]) -> Outcome {
    // What stays with the container would hold the pipes that a test reads.
    let hidden = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\" >/dev/null 2>&1";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", hidden, "sh", program, "-n", &name()]);
    command.arg("-P").arg(rig.scratch.path("")).arg("-o").arg(rig.scratch.path("said"));
    let mut outcome = rig.run(command.args(arguments));
    for log in ["said", "images/dump.log", "images/restore.log"] {
        let text = fs::read(rig.scratch.path(log)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let errors = text.lines().filter(|line| line.to_lowercase().contains("error"));
        errors.for_each(|line| outcome.stderr += &format!("{log}: {line}\n"));
    }
    outcome
}

pub(super) fn podman(rig: &Rig, arguments: &[&str]) -> Outcome {
    let mut command = Command::new("podman");
    for (option, place) in [("--root", "store"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
        command.arg(option).arg(rig.scratch.path(place));
    }
    command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
    command.args(["--storage-driver", "vfs", "--runtime", "runc"]);
    // Raising limits takes a right that not every machine gives.
    let limits = "[containers]\ndefault_ulimits=[\"nofile=1024:1024\",\"nproc=1024:1024\"]\n";
    fs::write(rig.scratch.path("containers.conf"), limits).expect("write");
    rig.run(command.env("CONTAINERS_CONF", rig.scratch.path("containers.conf")).args(arguments))
}

/// Podman with an image of busybox.
pub(super) fn with_podman() -> Rig {
    let rig = Rig::prepare("podman", |rig| {
        podman(rig, &["pod", "rm", "-af", "-t", "0"]);
        podman(rig, &["rm", "-af", "-t", "0"]);
    });
    let archive = utf8(&rig.scratch.path("image.tar"));
    let mut tar = Command::new("tar");
    Outcome::of(tar.arg("-C").arg(rig.root()).args(["-cf", &archive, "."])).must_succeed("tar");
    podman(&rig, &["import", &archive, "counts:1"]).must_succeed("podman import");
    rig
}

/// Docker's daemons, with what is theirs in a place of its own; `criu` is what containerd finds first.
pub(super) struct Docker {
    daemons: Vec<Child>,
    pub(super) socket: String,
}

impl Docker {
    pub(super) fn start(rig: &Rig) -> Self {
        let at = |name: &str| utf8(&rig.scratch.path(name));
        let (inner, socket) = (at("containerd.sock"), at("docker.sock"));
        let mut docker = Self { daemons: Vec::new(), socket: socket.clone() };
        let state = [at("containerd"), at("containerd-state")];
        let of_containerd = ["--root", &state[0], "--state", &state[1], "--address", &inner];
        docker.spawn(rig, "containerd", &of_containerd);
        let there = |path: &str| wait_until(PATIENCE, || Path::new(path).exists());
        assert!(there(&inner), "containerd listens");
        let host = format!("unix://{socket}");
        let (data, exec, pidfile) = (at("docker"), at("docker-exec"), at("docker.pid"));
        docker.spawn(
            rig,
            "dockerd",
            &[
                "--containerd",
                &inner,
                "--data-root",
                &data,
                "--exec-root",
                &exec,
                "--host",
                &host,
                "--pidfile",
                &pidfile,
                "--experimental",
                "--iptables=false",
                "--ip6tables=false",
                "--bridge=none",
                "--storage-driver=vfs",
            ],
        );
        let ready = || docker.call(rig, &["version"]).success;
        assert!(wait_until(PATIENCE, ready), "dockerd answers");
        docker
    }

    fn spawn(&mut self, rig: &Rig, program: &str, arguments: &[&str]) {
        let log = fs::File::create(rig.scratch.path(&format!("{program}.log"))).expect("a log");
        let own = rig.scratch.path("path");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([own].into_iter().chain(std::env::split_paths(&path)));
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", path.expect("PATH")).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("dup")).stderr(log);
        self.daemons.push(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")));
    }

    pub(super) fn call(&self, rig: &Rig, arguments: &[&str]) -> Outcome {
        let mut command = Command::new("docker");
        rig.run(command.arg("--host").arg(format!("unix://{}", self.socket)).args(arguments))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        for daemon in self.daemons.iter_mut().rev() {
            let pid = nix::unistd::Pid::from_raw(daemon.id().cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
            if !wait_until(PATIENCE, || !matches!(daemon.try_wait(), Ok(None))) {
                daemon.kill().and_then(|()| daemon.wait()).ok();
            }
        }
    }
}

/// Docker puts the images into containerd's store of contents, and fails if the very same are still there from the checkpoint: they
/// are collected in the background. What comes of `start` when they are.
pub(super) fn collected(start: impl Fn() -> Outcome) -> Outcome {
    let mut started = start();
    wait_until(PATIENCE, || {
        let is_there = started.stderr.contains("already exists");
        if is_there {
            std::thread::sleep(Duration::from_millis(200));
            started = start();
        }
        !is_there
    });
    started
}

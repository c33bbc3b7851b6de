//! Engines, the criu that they start, and containers, killed at random moments of a checkpoint or a restore.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use stasis_tests::{Engine, Outcome, children_of, wait_until};

use super::{Container, PATIENCE, stasis, utf8};

/// What is left of a container of which something was killed.
struct Left {
    /// Its first process, by a search through all control groups.
    lives: bool,
    /// What should not be there.
    wrong: Vec<String>,
}

/// Who is in the container's control groups, its helpers as well.
fn members(id: &str) -> Vec<(i32, String)> {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let read = |pid: i32, name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let of_container = |pid: &i32| read(*pid, "cgroup").is_ok_and(|text| text.contains(id));
    let lines =
        numbers.filter(of_container).filter_map(|pid| Some((pid, read(pid, "status").ok()?)));
    lines.filter(|(_, status)| !status.contains("State:\tZ")).collect()
}

impl Left {
    /// When all helpers have ended, and the next command has undone what there was to undo.
    fn of(container: &Container, helpers: &[i32]) -> Self {
        let is_helper = |status: &str| {
            ["Name:\trunc", "Name:\tcriu"].iter().any(|name| status.starts_with(name))
        };
        let busy = || {
            // The container's first process is a child of runc's as well, and has another command line by then.
            let works = |pid: &i32| {
                let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                words.windows(4).any(|word| word == b"swrk")
            };
            helpers.iter().any(works) || members(container.id()).iter().any(|(_, it)| is_helper(it))
        };
        let mut wrong = Vec::new();
        if !wait_until(PATIENCE, || !busy()) {
            wrong.push("helpers stay".to_owned());
        }
        stasis(container, &["show", "/none"]);
        let undo = fs::read_dir(container.scratch.path("run/undo"));
        wrong.extend(undo.into_iter().flatten().flatten().map(|file| format!("{:?}", file.path())));
        let freezer = format!("/sys/fs/cgroup/freezer/{}/freezer.state", container.id());
        let frozen = fs::read_to_string(freezer).is_ok_and(|state| state.trim() != "THAWED");
        wrong.extend(frozen.then(|| "a frozen group".to_owned()));
        let stopped = || {
            let is_stopped = |(_, status): &(i32, String)| {
                !status.contains("TracerPid:\t0\n") || status.contains("State:\tt")
            };
            members(container.id()).iter().any(is_stopped)
        };
        if stopped() && !wait_until(Duration::from_secs(2), || !stopped()) {
            wrong.push("stopped or traced tasks".to_owned());
        }
        let lives =
            members(container.id()).iter().any(|(_, status)| status.starts_with("Name:\tsh"));
        Self { lives, wrong }
    }
}

/// What it counts now. What an earlier one of it has left in the file may be more: that was killed, and begun again from
/// images.
fn counts(container: &Container, case: &str) -> u64 {
    drop(fs::remove_file(container.bundle().join("rootfs/tmp/count")));
    let counts = wait_until(PATIENCE, || container.count().is_some());
    assert!(counts, "{case}: the container does not count");
    container.count().unwrap_or_default()
}

/// What runc mounts for a restore is left when it is killed, and would have its `delete` remove the files of the root.
fn unmount_left(container: &Container) {
    let root = container.scratch.path("state").join(container.id()).join("criu-root");
    let mounted = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    if mounted.contains(utf8(&root)) {
        Outcome::of(Command::new("umount").arg(&root)).must_succeed("umount");
    }
}

/// Has runc do something and kills, after a time, runc itself (0), the criu that it has started (1) or the container's
/// first process (2): whether somebody was hit, and the helpers that there were.
fn killed(
    container: &Container,
    arguments: &[&str],
    whom: u64,
    after: Duration,
) -> (bool, Vec<i32>) {
    let own = container.scratch.path("path");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([own].into_iter().chain(std::env::split_paths(&path)));
    let mut command = Command::new("runc");
    command.arg("--root").arg(container.scratch.path("state")).args(arguments);
    command.current_dir(container.bundle()).env("PATH", path.expect("PATH"));
    command.env("STASIS_RUN_DIR", container.scratch.path("run"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut runc = command.spawn().expect("run runc");
    std::thread::sleep(after);
    let pid = runc.id().cast_signed();
    let helpers = children_of(pid);
    let first = members(container.id()).into_iter().find(|(_, it)| it.starts_with("Name:\tsh"));
    let target = match whom {
        0 => Some(pid),
        1 => helpers.first().copied(),
        _ => first.map(|(pid, _)| pid),
    };
    let target = target.filter(|_| matches!(runc.try_wait(), Ok(None)));
    let hit = target.is_some_and(|pid| {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).is_ok()
    });
    let ended = wait_until(Duration::from_secs(40), || !matches!(runc.try_wait(), Ok(None)));
    assert!(ended, "runc {arguments:?} does not end");
    (hit, helpers)
}

/// Whoever is killed, at any moment of a checkpoint or a restore: the container lives, and runc knows it, or it is
/// gone and can be restored.
#[test]
#[ignore = "takes long: make test-all; STASIS_KILLS says how many are killed"]
fn whoever_is_killed_nothing_is_left_half_done() {
    let kills = std::env::var("STASIS_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let mut random = std::time::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_nanos() as u64) | 1;
    let mut draw = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let container = Container::start(Engine::CriuFace, |_| ());
    let (images, work) = (container.scratch.path("images"), container.scratch.path("work"));
    let paths = ["--image-path", utf8(&images), "--work-path", utf8(&work)];
    let mut hits = 0;
    while hits < kills {
        let before = counts(&container, "before");
        drop(fs::remove_dir_all(&images));
        let (restores, whom, micros) = (draw(2) == 1, draw(3), draw(160_000));
        let case = format!("restore {restores}, whom {whom}, after {micros} us");
        if restores {
            container.checkpoint("images", &[]).must_succeed("runc checkpoint");
        }
        let verb: &[&str] = if restores { &["restore", "--detach"] } else { &["checkpoint"] };
        let words = [verb, &paths, &[container.id()]].concat();
        let (hit, helpers) = killed(&container, &words, whom, Duration::from_micros(micros));
        hits += u64::from(hit);
        let left = Left::of(&container, &helpers);
        assert!(left.wrong.is_empty(), "{case}: {:?}", left.wrong);
        unmount_left(&container);
        if left.lives {
            assert!(container.pid().is_some(), "{case}: it lives, and runc does not know it");
            assert!(counts(&container, &case) >= before, "{case}");
            continue;
        }
        container.runc(&["delete", "--force", container.id()]);
        if restores || images.join("inventory.img").exists() {
            container.restore("images", &[]).must_succeed(&case);
            assert!(counts(&container, &case) >= before, "{case}");
        } else {
            assert!(whom == 2 && hit, "{case}: it is gone without images");
            container.runc(&["run", "--detach", container.id()]).must_succeed("runc run");
        }
    }
}

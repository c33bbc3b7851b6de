//! The Debian package, made of the programs of this build: its life under a real systemd, which is
//! the init of namespaces of its own on a copy of this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use stasis_tests::{Scratch, built_program, remove_group};

/// All that the package has.
const PROGRAMS: [&str; 7] = [
    "stasis",
    "stasis-collector",
    "stasis-dumper",
    "stasis-freezer",
    "stasis-gateway",
    "stasis-restorer",
    "criu",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Runs a command that must end well; what it says.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// Makes the package of this build's programs, for a release's, as `make deb` does.
fn package(into: &Path) {
    let stage = into.join("stage");
    fs::create_dir_all(stage.join("release")).expect("a directory");
    for program in PROGRAMS {
        let (from, to) = (built_program(program), stage.join("release").join(program));
        fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).expect("a program");
    }
    let built = format!("RELEASE={}", stage.join("release").display());
    run(Command::new("make").current_dir(root()).args(["packaging", &built]));
    let mut deb = Command::new("cargo");
    deb.args([
        "deb",
        "--locked",
        "--no-build",
        "--fast",
        "-p",
        "stasis-cli",
        "--no-dbgsym",
        "--strip",
        "-o",
    ]);
    run(deb.arg(into.join("first.deb")).current_dir(root()).env("CARGO_TARGET_DIR", &stage));
    // Another version, for an upgrade to it.
    let unpacked = into.join("unpacked");
    run(Command::new("dpkg-deb").arg("-R").args([&into.join("first.deb"), &unpacked]));
    let control = unpacked.join("DEBIAN/control");
    let text = fs::read_to_string(&control).expect("a control file");
    let later = |line: &str| match line.strip_prefix("Version: ") {
        Some(version) => format!("Version: {version}+later\n"),
        None => format!("{line}\n"),
    };
    fs::write(&control, text.lines().map(later).collect::<String>()).expect("a control file");
    run(Command::new("dpkg-deb")
        .args(["-Zgzip", "-z1", "-b"])
        .args([&unpacked, &into.join("second.deb")]));
    for made in [unpacked, stage] {
        fs::remove_dir_all(made).expect("remove what is needed no more");
    }
}

#[test]
#[ignore = "cargo-deb and systemd have to be installed: make test-all"]
fn the_package_is_installed_started_upgraded_and_removed() {
    let scratch = Scratch::new();
    let shared = scratch.path("shared");
    fs::create_dir_all(&shared).expect("a directory");
    package(&shared);
    fs::copy(root().join("tests/programs/packaged.py"), shared.join("packaged.py"))
        .expect("a script");
    let name = format!("stasis-package-{}", std::process::id());
    let group = group(&name);
    fs::create_dir(&group).expect("a control group");
    let mut booted = Command::new("timeout");
    booted.args(["--kill-after=10", "300"]).arg(root().join("tests/programs/booted.sh"));
    booted.arg(&group).arg(&shared).args(["/usr/bin/python3", "/run/shared/packaged.py"]);
    let ended = booted.output().expect("start systemd");
    assert!(remove_group(&group), "{} stays", group.display());
    let said = fs::read_to_string(shared.join("said")).unwrap_or_default();
    let error = String::from_utf8_lossy(&ended.stderr);
    assert!(shared.join("good").exists(), "{said}\n{error}");
}

/// Where a control group with a name is to be made.
fn group(name: &str) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let place = mount.and_then(|line| line.split(' ').nth(1)).expect("control groups of version 2");
    Path::new(place).join(name)
}

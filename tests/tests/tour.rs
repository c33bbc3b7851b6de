//! The README's tour, as it stands: whoever types it sees it work.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;
use stasis_tests::{Machine, Scratch, built_program};

/// The shell's lines of a section.
fn lines(readme: &str, section: &str) -> String {
    let start = readme.find(&format!("\n## {section}\n")).expect("the section") + 1;
    let text = &readme[start..];
    let text = &text[..text[3..].find("\n## ").map_or(text.len(), |end| end + 3)];
    let blocks = text.split("\n```sh\n").skip(1);
    blocks.map(|block| block.split("\n```").next().expect("its end").to_owned() + "\n").collect()
}

/// A machine of its own for the tour: mounts and a network that nobody else has, and the programs
/// where `make install` puts them.
const MACHINE: &str = r#"
mount --bind "$1" /usr/local/bin
mount -t tmpfs none /run
mkdir -p /var/lib/stasis
mount -t tmpfs none /var/lib/stasis
umount /sys/fs/bpf 2> /dev/null || true
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs none /tmp
cd /tmp
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
python3 -c 'import fcntl, socket, struct
lo = struct.pack("16sH22s", b"lo", 0x41, b"")  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
fcntl.ioctl(socket.socket(), 0x8914, lo)'
"#;

/// Runs a script with all that it starts reaped meanwhile, as process 1 of a machine does.
#[allow(clippy::zombie_processes, reason = "waited for with all others")]
fn run(script: &str, log: &Path) -> Option<i32> {
    let output = std::fs::File::create(log).expect("make a log");
    let programs = built_program("stasis");
    let programs = programs.parent().expect("a directory").to_owned();
    let mut shell = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--propagation",
            "private",
            "bash",
            "-eux",
            "-o",
            "pipefail",
            "-s",
        ])
        .arg(programs)
        .stdin(Stdio::piped())
        .stdout(output.try_clone().expect("dup"))
        .stderr(output)
        .spawn()
        .expect("start a shell");
    let pid = Pid::from_raw(shell.id().cast_signed());
    let mut input = shell.stdin.take().expect("a pipe");
    input.write_all(script.as_bytes()).expect("tell the shell");
    drop(input);
    loop {
        match wait().expect("wait") {
            WaitStatus::Exited(ended, code) if ended == pid => return Some(code),
            WaitStatus::Signaled(ended, ..) if ended == pid => return None,
            _ => {}
        }
    }
}

#[test]
fn the_tour_of_the_readme_works_as_it_stands() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("read");
    let tour = lines(&readme, "A minute's tour");
    assert!(tour.lines().count() > 25, "{tour}");
    let log = scratch.path("log");
    std::fs::create_dir_all(log.parent().expect("a directory")).expect("make it");
    // A function: a shell that reads its lines from a pipe shares that with what it starts.
    let script = format!("{MACHINE}\nmain() {{\n{tour}\n}}\nmain < /dev/null\n");
    let code = run(&script, &log);
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(code, Some(0), "{said}");
    for promise in [
        "This kernel has all",
        "\"dumpable\":",
        "\"state\":\"done\"",
        "\"pages_restored\":",
        "stasis_restores_total{outcome=\"done\"} 1",
    ] {
        assert!(said.contains(promise), "{promise:?} is not in:\n{said}");
    }
    for (index, failed) in ["\"state\":\"failed\"", "\"error\":"].iter().enumerate() {
        assert!(!said.contains(failed), "{index}: {failed:?} is in:\n{said}");
    }
}

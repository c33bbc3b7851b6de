//! memfds on machines that allow less of them, and in the figures of a restore.

use std::path::Path;
use std::process::Command;

use stasis_tests::{Dump, Engine, Machine, Outcome, Scratch, Workload, stasis_program};

/// Restores in a pid namespace of its own, where no memfd may become a program, and lets the program check
/// itself there.
const FORBIDDEN: &str = r#"
echo 2 > /proc/sys/vm/memfd_noexec
"$STASIS" restore -D "$DIR/images" --detach || exit 1
touch "$DIR/work/go"
while [ ! -e "$DIR/work/result" ]; do sleep 0.02; done
cat "$DIR/work/result"
"#;

fn restored_where_forbidden(family: &str) -> Outcome {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start(family, scratch.path("work"));
    let images = scratch.path("images");
    Engine::Stasis.dump(workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    let mut shell = Command::new("unshare");
    shell
        .args(["--pid", "--fork", "--mount-proc", "sh", "-c", FORBIDDEN])
        .env("STASIS", stasis_program())
        .env("DIR", scratch.path(""));
    Outcome::of(&mut shell)
}

/// `vm.memfd_noexec` (of a pid namespace) forbids memfds that may become programs.
#[test]
fn where_none_may_become_a_program() {
    assert!(Path::new("/proc/sys/vm/memfd_noexec").exists(), "this test needs Linux 6.3");
    let outcome = restored_where_forbidden("memfd_never_run").must_succeed("restore");
    assert!(outcome.stdout.contains("PASS"), "{}", outcome.stdout);
    let refused = restored_where_forbidden("memfd_sealed");
    assert!(!refused.success);
    for word in ["memfd", "closed", "vm.memfd_noexec is 2", "sysctl -w vm.memfd_noexec=1"] {
        assert!(refused.stderr.contains(word), "{word:?} is not in: {}", refused.stderr);
    }
}

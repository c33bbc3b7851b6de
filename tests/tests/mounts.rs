//! Trees in mount namespaces of their own. These tests need root.

use std::path::Path;
use std::time::Duration;

use stasis_tests::{Dump, Engine, Machine, Outcome, Scratch, Workload, children_of, wait_until};

fn dump(engine: Engine, pid: i32, images: &Path, how: Dump<'_>) -> Outcome {
    let mut command = engine.dump_command(pid, images, how);
    Outcome::of(command.args([
        "--external",
        "mnt[/stage]:STAGE",
        "--external",
        "mnt[/memory]:MEMORY",
    ]))
}

fn restore(engine: Engine, images: &Path, work: &Path) -> Outcome {
    let mut command = engine.restore_command(images, Dump::ENDING);
    let stage = format!("mnt[STAGE]:{}", work.display());
    let memory = "mnt[MEMORY]:/dev/shm";
    command.args(["--external", &stage, "--external", memory]);
    Outcome::of(command.arg("--root").arg(work.join("root")))
}

fn carried(family: &str, by: Engine, to: Engine) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (images, work) = (scratch.path("images"), scratch.path("work"));
    let workload = Workload::start(family, work.clone());
    dump(by, workload.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    restore(to, &images, &work).must_succeed("restore");
    if let Err(what) = workload.check() {
        panic!("{family} is not what it was: {what}");
    }
}

#[test]
fn namespaces_of_an_init_have_its_proc() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let (images, work) = (scratch.path("images"), scratch.path("work"));
    let workload = Workload::start("mounts_of_init", work.clone());
    let root = children_of(workload.pid())[0];
    dump(Engine::Stasis, root, &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    restore(Engine::Stasis, &images, &work).must_succeed("restore");
    std::fs::write(workload.path("go"), "").expect("say so");
    let result = workload.path("result");
    wait_until(Duration::from_secs(30), || result.exists());
    let told = std::fs::read_to_string(result).unwrap_or_else(|error| error.to_string());
    assert_eq!(told, "PASS\n", "{}", workload.log());
}

macro_rules! families {
    ($($family:ident)*) => { $(mod $family {
        use super::*;

        #[test]
        fn natively() {
            let _machine = Machine::prepare();
            let scratch = Scratch::new();
            let workload = Workload::start(stringify!($family), scratch.path("work"));
            workload.check().expect("native");
        }

        #[test]
        fn carried() {
            super::carried(stringify!($family), Engine::Stasis, Engine::Stasis);
        }

        #[test]
        fn running_on() {
            let _machine = Machine::prepare();
            let scratch = Scratch::new();
            let workload = Workload::start(stringify!($family), scratch.path("work"));
            let images = scratch.path("images");
            let outcome = dump(Engine::Stasis, workload.pid(), &images, Dump::RUNNING_ON);
            outcome.must_succeed("dump");
            workload.check().expect("it noticed nothing");
        }
    })* };
}

families! { mounts mounts_nested }

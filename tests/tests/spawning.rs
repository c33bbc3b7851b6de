//! Trees that make and lose processes and threads all the time: a dump at any moment succeeds, and the
//! program does not notice.

use stasis_tests::{
    Collector, Dump, Engine, Machine, Outcome, Program, Scratch, Workload, wait_until,
};

/// Dumps one after the other: where in its loops the program is then is up to chance.
const DUMPS: usize = 10;

fn at_any_moment(programs: bool) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = programs.then(|| Collector::start(&scratch.path("collector")));
    let how = Dump { collector: collector.as_ref(), ..Dump::RUNNING_ON };
    let workload = Workload::start("spawning", scratch.path("work"));
    for number in 0..DUMPS {
        let images = scratch.path(&number.to_string());
        Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
        std::fs::remove_dir_all(&images).expect("remove");
    }
    let images = scratch.path("images");
    let how = Dump { collector: collector.as_ref(), ..Dump::ENDING };
    Engine::Stasis.dump(workload.pid(), &images, how).must_succeed("dump");
    machine.end_tree(workload.pid());
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    if let Err(what) = workload.check() {
        panic!("it noticed: {what}");
    }
}

#[test]
fn at_any_moment_by_proc() {
    at_any_moment(false);
}

#[test]
fn at_any_moment_by_programs() {
    at_any_moment(true);
}

/// A root that executes a program all the time. Between two of them it has an interval timer, for which it has to be asked,
/// and for a moment no code to be asked by.
#[test]
fn a_root_that_executes_programs_all_the_time() {
    const AGAIN: &str = "#!/usr/bin/perl\n\
        use Time::HiRes qw(setitimer ITIMER_REAL); $SIG{ALRM} = 'IGNORE';\n\
        setitimer(ITIMER_REAL, 1000); open F, '>>', 'turns'; print F 'x'; close F; exec $^X, 'again';\n";
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let collector = Collector::start(&scratch.path("collector"));
    let work = scratch.path("work");
    std::fs::create_dir(&work).expect("mkdir");
    std::fs::write(work.join("again"), AGAIN).expect("write the program");
    let mut command = std::process::Command::new("perl");
    let program = Program::start(command.arg("again").current_dir(&work), &scratch.path("log"));
    let pid = program.pid();
    let turns = || std::fs::metadata(work.join("turns")).map_or(0, |file| file.len());
    let goes_on = || {
        let before = turns();
        wait_until(std::time::Duration::from_secs(20), || turns() > before + 3)
    };
    assert!(goes_on(), "it does not begin");
    for collector in [None, Some(&collector)] {
        for number in 0..DUMPS {
            let images = scratch.path(&format!("{number}"));
            let how = Dump { collector, ..Dump::RUNNING_ON };
            Engine::Stasis.dump(pid, &images, how).must_succeed("dump");
            std::fs::remove_dir_all(&images).expect("remove");
        }
    }
    let images = scratch.path("images");
    Engine::Stasis.dump(pid, &images, Dump::ENDING).must_succeed("dump");
    machine.end_tree(pid);
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    assert!(goes_on(), "it does not go on");
    machine.end_tree(pid);
}

/// Each of a chain of dumps, of which each holds what has changed since the one before.
#[test]
fn in_a_chain() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let workload = Workload::start("spawning", scratch.path("work"));
    let mut parent = None;
    for number in 0..DUMPS {
        let images = scratch.path(&number.to_string());
        let mut dump = Engine::Stasis.dump_command(workload.pid(), &images, Dump::RUNNING_ON);
        dump.arg("--track").arg("--run-dir").arg(scratch.path("run"));
        if let Some(parent) = &parent {
            dump.arg("--parent").arg(parent);
        }
        Outcome::of(&mut dump).must_succeed("dump");
        parent = Some(images);
    }
    workload.check().expect("the program's own check");
}

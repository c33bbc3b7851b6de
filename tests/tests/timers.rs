//! Timers that ring while a tree stands still. Needs root.

use std::fs;
use std::process::Command;
use std::time::Duration;

use stasis_tests::{Dump, Engine, Machine, Program, Scratch, wait_until};

/// What both do then: say how often it has rung.
const SAY: &str = r#"
while True:
    time.sleep(0.005)
    with open("rung.new", "w") as file:
        file.write(str(rung))
    os.rename("rung.new", "rung")
"#;

/// Rings once after each 2 ms, for as long as each ring is heard: a signal that is lost is the last.
const INTERVAL: &str = r#"
import os, signal, time
rung = 0
def ring(*_):
    global rung
    rung += 1
    signal.setitimer(signal.ITIMER_REAL, 0.002)
signal.signal(signal.SIGALRM, ring)
ring()
"#;

/// The same with `timer_create` (CLOCK_MONOTONIC), by a signal that queues.
const POSIX: &str = r#"
import ctypes, os, signal, time
libc = ctypes.CDLL(None, use_errno=True)
class Event(ctypes.Structure):
    _fields_ = [("value", ctypes.c_void_p), ("signo", ctypes.c_int), ("notify", ctypes.c_int), ("pad", ctypes.c_char * 48)]
timer = ctypes.c_void_p()
event = Event(None, signal.SIGRTMIN + 3, 0)
assert libc.timer_create(1, ctypes.byref(event), ctypes.byref(timer)) == 0
setting = (ctypes.c_long * 4)(0, 0, 0, 2_000_000)
rung = 0
def ring(*_):
    global rung
    rung += 1
    assert libc.timer_settime(timer, 0, setting, None) == 0
signal.signal(signal.SIGRTMIN + 3, ring)
ring()
"#;

fn goes_on(script: &str) {
    /// A signal that is lost is lost in every third dump or so.
    const TIMES: usize = 12;
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let mut command = Command::new("python3");
    let program = Program::start(
        command.args(["-c", &format!("{script}{SAY}")]).current_dir(scratch.path("")),
        &scratch.path("log"),
    );
    let rung = || {
        let rung = fs::read_to_string(scratch.path("rung")).ok();
        rung.and_then(|rung| rung.parse::<u64>().ok()).unwrap_or_default()
    };
    for nth in 0..TIMES {
        let before = rung();
        let rings = wait_until(Duration::from_secs(20), || rung() > before + 10);
        let log = fs::read_to_string(scratch.path("log")).unwrap_or_default();
        assert!(rings, "it rings no more after {nth} restores: {log}");
        let images = scratch.path(&format!("images-{nth}"));
        Engine::Stasis.dump(program.pid(), &images, Dump::ENDING).must_succeed("dump");
        machine.await_no_children();
        Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    }
    let before = rung();
    assert!(wait_until(Duration::from_secs(20), || rung() > before + 10), "it rings no more");
    machine.end_all();
}

#[test]
fn an_interval_timer_that_rings_meanwhile_is_heard() {
    goes_on(INTERVAL);
}

#[test]
fn a_posix_timer_that_rings_meanwhile_is_heard() {
    goes_on(POSIX);
}

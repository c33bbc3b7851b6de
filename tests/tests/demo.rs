//! The demo is what a newcomer sees first: it must end well and say what it promises.

use std::process::Command;

use stasis_tests::{Machine, Outcome, built_program};

#[test]
fn the_demo_ends_well() {
    let _machine = Machine::prepare();
    let outcome = Outcome::of(&mut Command::new(built_program("stasis-demo")));
    let said = outcome.must_succeed("the demo").stdout;
    for promise in [
        "REST at http://127.0.0.1:",
        "it saw itself stand still for",
        "images",
        "it counts on",
        "Redis has its 2000 keys",
        "logged in at http://127.0.0.1:",
        "the page says so: http://127.0.0.1:",
        "the gateway is at",
        "the page is at http://127.0.0.1:",
        "to log in, type what this prints: cat /",
    ] {
        assert!(said.contains(promise), "{promise:?} is not in:\n{said}");
    }
}

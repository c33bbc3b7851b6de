//! PostgreSQL with clients at work, which uses a segment of System V shared memory. Needs root and PostgreSQL.

use std::time::Duration;

use stasis_tests::{Dump, Engine, Machine, Postgres, Scratch, wait_until};

fn goes_on(postgres: &Postgres) {
    let before = postgres.done().expect("an answer");
    let on = || postgres.done().is_ok_and(|done| done > before);
    assert!(wait_until(Duration::from_secs(20), on), "the clients have stopped at {before}");
    postgres.check().expect("what the accounts have");
    assert_eq!(postgres.complaints(), "");
}

#[test]
fn clients_go_on_after_a_restore() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let postgres = Postgres::start(&scratch.path("work"));
    let images = scratch.path("images");
    Engine::Stasis.dump(postgres.program.pid(), &images, Dump::ENDING).must_succeed("dump");
    machine.await_no_children();
    Engine::Stasis.restore(&images, Dump::ENDING).must_succeed("restore");
    goes_on(&postgres);
}

#[test]
fn clients_go_on_during_a_dump() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let postgres = Postgres::start(&scratch.path("work"));
    let images = scratch.path("images");
    Engine::Stasis.dump(postgres.program.pid(), &images, Dump::RUNNING_ON).must_succeed("dump");
    goes_on(&postgres);
}

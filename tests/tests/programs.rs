//! Real programs from the distribution, with state that they can be asked for.

use std::time::Duration;

use stasis_tests::{Dump, Engine, Machine, Redis, Scratch, WebServer, wait_until};

const RUNNING_ON: Dump<'_> = Dump::RUNNING_ON;
const KEYS: usize = 2000;

fn counts_on(server: &WebServer, from: u64) {
    let on = wait_until(Duration::from_secs(5), || server.count() > from + 10);
    assert!(on, "the web server has stopped counting at {}", server.count());
}

#[test]
fn a_python_web_server_that_counts() {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let server = WebServer::start(&scratch.path("web"));
    counts_on(&server, 0);
    let pid = server.program.pid();
    Engine::Stasis.dump(pid, &scratch.path("first"), RUNNING_ON).must_succeed("dump");
    counts_on(&server, server.count());
    let started = server.ask("/").expect("answer")["started"].clone();
    let before = server.count();
    let images = scratch.path("second");
    Engine::Stasis.dump(pid, &images, Dump::default()).must_succeed("dump");
    machine.await_no_children();
    Engine::Stasis.restore(&images, Dump::default()).must_succeed("restore");
    let after = server.count();
    assert!(after >= before && after < before + 500, "counted {before}, restored at {after}");
    counts_on(&server, after);
    assert_eq!(started, server.ask("/").expect("answer")["started"], "it was started anew");
}

fn redis(by: Engine, to: Engine) {
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let redis = Redis::start(&scratch.path("redis"));
    redis.fill(KEYS);
    let images = scratch.path("images");
    by.dump(redis.program.pid(), &images, Dump::default()).must_succeed("dump");
    machine.await_no_children();
    to.restore(&images, Dump::default()).must_succeed("restore");
    redis.verify(KEYS).expect("the keys");
    assert_eq!(redis.ask(&["SET", "new", "value"]).as_deref(), Ok("OK"));
    assert_eq!(redis.ask(&["GET", "new"]).as_deref(), Ok("value"));
}

#[test]
fn redis_with_2000_keys() {
    redis(Engine::Stasis, Engine::Stasis);
}

#[test]
fn redis_through_the_criu_face() {
    redis(Engine::CriuFace, Engine::CriuFace);
}

#[test]
fn redis_restored_by_criu_peer() {
    redis(Engine::Stasis, Engine::Criu);
}

#[test]
fn redis_dumped_by_criu_peer() {
    redis(Engine::Criu, Engine::Stasis);
}

#[test]
fn redis_runs_on() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let redis = Redis::start(&scratch.path("redis"));
    redis.fill(KEYS);
    for n in 0..5 {
        let images = scratch.path(&format!("images-{n}"));
        Engine::Stasis.dump(redis.program.pid(), &images, RUNNING_ON).must_succeed("dump");
        redis.verify(KEYS).expect("the keys");
    }
}

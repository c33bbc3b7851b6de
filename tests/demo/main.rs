//! `make demo`: the five services, a web server and Redis, checkpointed while they run on, then
//! ended and brought back, all through the gateway's REST API; and one more by the page.
#![allow(clippy::print_stdout, reason = "a demonstration is there to be read")]

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;
use stasis_tests::{Machine, Redis, Scratch, Services, Visitor, WebServer, Workload, wait_until};

const KEYS: usize = 2000;

fn main() -> ExitCode {
    // Who sits before it may want to look at the page.
    let seen = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let stay = seen || std::env::args().any(|argument| argument == "--stay");
    let machine = Machine::prepare();
    let scratch = Scratch::new();
    let shown = show(&scratch, stay);
    machine.end_all();
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            println!("\nThe demo failed: {what}");
            ExitCode::FAILURE
        }
    }
}

fn show(scratch: &Scratch, stay: bool) -> Result<(), String> {
    step("Starting the five services");
    let services = Services::start(&scratch.path("services"));
    say(&format!("collector, freezer, dumper, restorer, gateway; REST at {}", services.address()));

    step("Starting real programs");
    let web = WebServer::start(&scratch.path("web"));
    say(&format!("a Python web server, pid {}: a thread of it counts", web.program.pid()));
    let redis = Redis::start(&scratch.path("redis"));
    redis.fill(KEYS);
    say(&format!("Redis, pid {}, with {KEYS} keys", redis.program.pid()));

    running_on(&services, &web, &redis, scratch)?;
    ended_and_back(&services, &web, &redis)?;
    by_the_page(&services, &web)?;

    step("What there is now");
    let listed = services.call("GET", "/v1/checkpoints", None).body;
    for checkpoint in listed["checkpoints"].as_array().into_iter().flatten() {
        say(&format!(
            "{:<12} {:>10}   frozen {:>8}",
            checkpoint["directory"].as_str().unwrap_or("?"),
            bytes(&checkpoint["image_bytes"]),
            micros(&checkpoint["frozen_us"]),
        ));
    }
    say(&format!("the gateway is at {}; docs/api.md says what it answers", services.address()));
    say(&format!("the page is at {}/", services.address()));
    say(&format!("  to log in, type what this prints: cat {}", services.token_file().display()));
    if stay {
        say("all stays up: press Enter to end it");
        std::io::stdin().read_line(&mut String::new()).map_err(|error| error.to_string())?;
    } else {
        say("it ends now: make demo DEMO_ARGS=--stay keeps it up");
    }
    Ok(())
}

/// Checkpoints of programs that run on, and what they noticed.
fn running_on(
    services: &Services,
    web: &WebServer,
    redis: &Redis,
    scratch: &Scratch,
) -> Result<(), String> {
    step("Checkpoints while they run on");
    let quiet = gap_of(web, || std::thread::sleep(Duration::from_millis(100)))?;
    let mut job = Ok(Value::Null);
    let gap = gap_of(web, || job = checkpoint(services, web.program.pid(), "web/on", true))?;
    told("web server", &job?);
    say(&format!(
        "  it saw itself stand still for {gap} µs at most ({quiet} µs when nothing happens)"
    ));
    let job = checkpoint(services, redis.program.pid(), "redis/on", true)?;
    told("Redis", &job);
    redis.verify(KEYS)?;
    say("  it has all its keys");
    let pulse = Workload::start("pulse", scratch.path("pulse"));
    let job = checkpoint(services, pulse.pid(), "pulse/on", true)?;
    told("a small native program that beats every 50 µs", &job);
    pulse.check()?;
    let gap = std::fs::read_to_string(pulse.path("gap")).map_err(|error| error.to_string())?;
    let gap = gap.parse::<u64>().map_err(|error| error.to_string())?;
    say(&format!("  it saw itself stand still for {} µs at most", gap / 1000));
    Ok(())
}

/// Both programs are checkpointed and ended, restored, and asked for their state.
fn ended_and_back(services: &Services, web: &WebServer, redis: &Redis) -> Result<(), String> {
    step("Checkpoints that end them");
    let before = web.ask("/")?;
    for (name, pid) in [("web", web.program.pid()), ("redis", redis.program.pid())] {
        let job = checkpoint(services, pid, &format!("{name}/end"), false)?;
        told(name, &job);
        reap(pid)?;
    }
    say(&format!("counter at {}; nobody answers now: {}", before["count"], web.ask("/").is_err()));

    step("Restores");
    for name in ["web", "redis"] {
        let start = Instant::now();
        let job = services.restore(&format!("{name}/end")).map_err(|job| why(&job))?;
        say(&format!(
            "{name}: pid {} is back after {:.1} ms ({} through REST)",
            job["restore"]["pid"],
            job["restore"]["total_us"].as_f64().unwrap_or_default() / 1000.0,
            millis(start.elapsed()),
        ));
    }

    step("What they remember");
    let after = web.ask("/")?;
    let (old, new) = (before["count"].as_u64(), after["count"].as_u64());
    if old > new || before["started"] != after["started"] {
        return Err(format!("the web server forgot: {before}, then {after}"));
    }
    say(&format!("the web server counted to {} and is at {}", before["count"], after["count"]));
    if !wait_until(Duration::from_secs(5), || web.count() > new.unwrap_or_default() + 20) {
        return Err("the web server does not count on".to_owned());
    }
    say(&format!("it counts on: {}", web.count()));
    redis.verify(KEYS)?;
    say(&format!("Redis has its {KEYS} keys, each with its value"));
    Ok(())
}

/// What a click on the page does: its form is looked for in the list of processes, and sent as a browser does.
fn by_the_page(services: &Services, web: &WebServer) -> Result<(), String> {
    step("A checkpoint by a click on the page");
    let token =
        std::fs::read_to_string(services.token_file()).map_err(|error| error.to_string())?;
    let visitor = Visitor::log_in(&services.address(), token.trim())?;
    say(&format!("logged in at {}/login with the gateway's token", services.address()));
    let pid = web.program.pid().to_string();
    let list = visitor.page(&format!("/?pid={pid}"))?;
    let button = format!("name=\"pid\" value=\"{pid}\"");
    if !list.contains("action=\"/do/checkpoint\"") || !list.contains(&button) {
        return Err(format!("the page has no button for process {pid}: {list}"));
    }
    let before = web.count();
    let job = visitor.press("/do/checkpoint", &[("pid", &pid), ("after", "on")])?;
    let id = job.rsplit('/').next().unwrap_or_default();
    let done = services.ended(id).map_err(|error| error.to_string())?;
    told("web server", &done);
    let shown = visitor.page(&job)?;
    if !shown.contains("done") {
        return Err(format!("the page does not say that it is done: {shown}"));
    }
    say(&format!("the page says so: {}{job}", services.address()));
    if !wait_until(Duration::from_secs(5), || web.count() > before) {
        return Err("the web server does not count on".to_owned());
    }
    Ok(())
}

fn step(title: &str) {
    println!("\n\x1b[1m{title}\x1b[0m");
}

fn say(text: &str) {
    println!("  {text}");
}

fn told(name: &str, job: &Value) {
    let dump = &job["dump"];
    say(&format!(
        "{name}: frozen {}, {} in all, images {}, {} processes, {} threads",
        micros(&dump["frozen_us"]),
        micros(&dump["total_us"]),
        bytes(&dump["image_bytes"]),
        dump["processes"],
        dump["threads"],
    ));
}

/// A checkpoint that has been made; else why there is none.
fn checkpoint(services: &Services, pid: i32, directory: &str, stay: bool) -> Result<Value, String> {
    let job = services.checkpoint(pid, directory, stay).map_err(|job| why(&job))?;
    if job["state"] == "done" { Ok(job) } else { Err(why(&job)) }
}

/// Why a job failed, in the gateway's words.
fn why(job: &Value) -> String {
    let message = job["error"]["detail"].as_str();
    message.map_or_else(|| job.to_string(), str::to_owned)
}

/// The largest gap in the web server's pulse while something is done, in microseconds.
fn gap_of(web: &WebServer, work: impl FnOnce()) -> Result<u64, String> {
    web.ask("/restart")?;
    work();
    let answer = web.ask("/")?;
    answer["largest_gap_us"].as_u64().ok_or_else(|| answer.to_string())
}

/// Takes the exit status of a program that was ended, so that its pid is free again.
fn reap(pid: i32) -> Result<(), String> {
    let ended = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
    ended.map_err(|error| format!("wait for {pid}: {error}"))?;
    match Path::new(&format!("/proc/{pid}")).exists() {
        true => Err(format!("{pid} is still there")),
        false => Ok(()),
    }
}

fn micros(value: &Value) -> String {
    value.as_u64().map_or_else(|| "?".to_owned(), |us| millis(Duration::from_micros(us)))
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

fn bytes(value: &Value) -> String {
    let bytes = value.as_f64().unwrap_or_default();
    if bytes < 1e6 { format!("{:.0} kB", bytes / 1e3) } else { format!("{:.1} MB", bytes / 1e6) }
}

//! What it costs to be tracked, and what it costs others:
//! `cargo run --release -p stasis-collector --example overhead [RUNS] [LOOP…]`.
//!
//! Each loop (getppid, a byte into a pipe and out of it, a program started and waited for, Redis under redis-benchmark
//! ) runs without any track, while another process is tracked, and tracked
//! itself; with system calls counted and without. The runs alternate; of the processor
//! time that a round takes (which a busy machine changes less than the time it lasts; Redis: the
//! server's) the median is told, and how much more it is than without a track.
#![allow(clippy::print_stdout, reason = "a table is what it is for")]

use std::error::Error;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use api::TrackTarget;
use ids::HostPid;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{getppid, pipe, read, write};
use stasis_collector::{Collector, Tracks};

type Failure = Box<dyn Error>;

/// Who is tracked, and whether system calls are counted.
const CONDITIONS: [(&str, Who, bool); 5] = [
    ("no track", Who::Nobody, false),
    ("another, --files", Who::Another, true),
    ("tracked, --files", Who::Itself, true),
    ("another", Who::Another, false),
    ("tracked", Who::Itself, false),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Nobody,
    Another,
    Itself,
}

const LOOPS: [&str; 4] = ["getppid", "pipe", "fork", "redis"];

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().unwrap_or_else(|| "9".to_owned());
    if first == "--round" {
        return round(&arguments.next().unwrap_or_default());
    }
    let runs: usize = first.parse()?;
    let chosen: Vec<String> = arguments.collect();
    let mut tracks = Collector::with_bpf()?.tracks().ok_or("no tracking on this kernel")?;
    let other = Ended(Command::new("sleep").arg("100000").spawn()?);
    print!("| ns for a round |");
    for (name, ..) in CONDITIONS {
        print!(" {name} |");
    }
    println!();
    for what in LOOPS {
        if chosen.is_empty() || chosen.iter().any(|name| name == what) {
            measure(what, runs, &mut tracks, &other)?;
        }
    }
    Ok(())
}

/// A child that is ended when this goes.
struct Ended(Child);

impl Ended {
    fn pid(&self) -> HostPid {
        HostPid::from(&self.0)
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            println!("end a child: {error}");
        }
    }
}

fn measure(what: &str, runs: usize, tracks: &mut Tracks, other: &Ended) -> Result<(), Failure> {
    let redis = if what == "redis" { Some(Redis::start()?) } else { None };
    let mut times = vec![Vec::with_capacity(runs); CONDITIONS.len()];
    for _ in 0..runs {
        for ((_, who, calls), times) in CONDITIONS.iter().zip(&mut times) {
            let program = match &redis {
                Some(_) => None,
                None => Some(Round::start(what)?),
            };
            let own = match (&redis, &program) {
                (Some(redis), _) => Some(redis.server.pid()),
                (None, Some(program)) => Some(program.child.pid()),
                (None, None) => None,
            };
            let pid = match who {
                Who::Nobody => None,
                Who::Another => Some(other.pid()),
                Who::Itself => own,
            };
            let track =
                pid.map(|pid| tracks.begin(&TrackTarget::Pid(pid.get()), *calls)).transpose()?;
            times.push(match (&redis, program) {
                (Some(redis), _) => redis.round()?,
                (None, Some(program)) => program.finish()?,
                (None, None) => 0.0,
            });
            if let Some(track) = track {
                tracks.end(track)?;
            }
        }
    }
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    let base = medians.first().copied().unwrap_or(1.0);
    print!("| {what} |");
    for time in medians {
        print!(" {time:.0} ({:+.1} %) |", (time / base - 1.0) * 100.0);
    }
    println!();
    Ok(())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

/// This program again, which waits for a line and then runs its loop.
struct Round {
    child: Ended,
}

impl Round {
    fn start(what: &str) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--round", what]).stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Self { child: Ended(command.spawn()?) })
    }

    fn finish(mut self) -> Result<f64, Failure> {
        drop(self.child.0.stdin.take());
        let stdout = self.child.0.stdout.take().ok_or("no output")?;
        Ok(std::io::read_to_string(stdout)?.trim().parse()?)
    }
}

/// Runs a loop for a while, and prints the nanoseconds of a round of it.
fn round(what: &str) -> Result<(), Failure> {
    std::io::read_to_string(std::io::stdin())?;
    let (here, there) = pipe()?;
    let mut byte = [0_u8; 1];
    let (mut rounds, batch) = (0_u32, if what == "fork" { 1 } else { 1000 });
    let (start, used) = (Instant::now(), processor_time()?);
    while start.elapsed() < Duration::from_millis(150) {
        for _ in 0..batch {
            match what {
                "getppid" => drop(std::hint::black_box(getppid())),
                "pipe" => {
                    write(&there, &byte)?;
                    read(&here, &mut byte)?;
                }
                _ => drop(Command::new("/bin/true").status()?),
            }
        }
        rounds += batch;
    }
    println!("{}", (processor_time()? - used) / f64::from(rounds));
    Ok(())
}

/// Nanoseconds of this process and its children.
fn processor_time() -> Result<f64, Failure> {
    let mut sum = 0.0;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        sum +=
            (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64;
    }
    Ok(sum * 1000.0)
}

/// A server of its own, on a port that was free.
struct Redis {
    server: Ended,
    port: u16,
}

impl Redis {
    fn start() -> Result<Self, Failure> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--port"]).arg(port.to_string());
        let server = Ended(command.stdout(Stdio::null()).spawn()?);
        let end = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > end {
                return Err("redis-server does not come up".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { server, port })
    }

    /// Nanoseconds of the server's processor time for a request, SET and GET in equal parts.
    fn round(&self) -> Result<f64, Failure> {
        const REQUESTS: u32 = 40_000;
        let before = self.used()?;
        let mut command = Command::new("redis-benchmark");
        command.args(["-t", "set,get", "-c", "20", "-q", "-n"]).arg(REQUESTS.to_string());
        let status = command.arg("-p").arg(self.port.to_string()).stdout(Stdio::null()).status()?;
        if !status.success() {
            return Err(format!("redis-benchmark: {status}").into());
        }
        Ok((self.used()? - before) / f64::from(2 * REQUESTS))
    }

    fn used(&self) -> Result<f64, Failure> {
        let mut sum = 0.0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.server.pid()))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            sum += text.split(' ').next().unwrap_or_default().parse::<f64>()?;
        }
        Ok(sum)
    }
}

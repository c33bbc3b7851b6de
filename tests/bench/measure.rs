//! One target, started, dumped while it runs on, ended, restored, and asked whether it is whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stasis_tests::{Engine, Machine, Outcome, Scratch, Services, Workload};

use crate::shapes::Shape;

/// Who makes the checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Means<'a> {
    /// A command.
    Engine(Engine),
    /// The command where no service runs.
    Bare,
    /// The command, encrypting to a recipient.
    Encrypting(&'a Keys),
    /// The gateway, and behind it the services.
    Services(&'a Services),
}

/// A key of age's, and to whom it belongs.
#[derive(Debug)]
pub(crate) struct Keys {
    identities: PathBuf,
    recipients: PathBuf,
}

impl Keys {
    /// Makes them, by age-keygen.
    pub(crate) fn make(scratch: &Scratch) -> Result<Self, String> {
        let (identities, recipients) = (scratch.path("bench.key"), scratch.path("bench.pub"));
        let mut make = Command::new("sh");
        make.args(["-c", "umask 077; age-keygen -o \"$0\" && age-keygen -y \"$0\" > \"$1\""]);
        timed(make.args([&identities, &recipients]))?;
        Ok(Self { identities, recipients })
    }
}

/// What is done with a target.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deeds {
    /// It is restored as well.
    pub(crate) restored: bool,
    /// It is tracked while it is dumped, its system calls too.
    pub(crate) tracked: bool,
}

/// What a target went through, in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    /// The largest gap between two of its beats.
    pub(crate) frozen: f64,
    /// Wall time of the dump.
    pub(crate) dump: f64,
    /// Wall time of the restore.
    pub(crate) restore: Option<f64>,
    /// What the dump says of itself, when it was made by the services.
    pub(crate) summary: Value,
}

/// What stays the same between measurements.
pub(crate) struct Bench<'a> {
    pub(crate) machine: Machine,
    pub(crate) scratch: Scratch,
    /// In any case they run, as in production: a dump by the command uses their eBPF programs.
    pub(crate) services: &'a Services,
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Runs a command; how long it took, or what it said.
fn timed(command: &mut Command) -> Result<Duration, String> {
    let start = Instant::now();
    let outcome = Outcome::of(command);
    let time = start.elapsed();
    if outcome.success {
        return Ok(time);
    }
    Err(format!("{command:?}: {:?}\n{}{}", outcome.code, outcome.stdout, outcome.stderr))
}

/// The plainest dump that the engine has, the target running on.
fn dump(
    means: Means<'_>,
    shape: Shape,
    pid: i32,
    images: &Path,
    places: &Places<'_>,
) -> Result<(Duration, Value), String> {
    match means {
        Means::Services(services) => {
            let start = Instant::now();
            let done = services.checkpoint(pid, "bench", true);
            let time = start.elapsed();
            let mut job = done.map_err(|job| format!("POST /v1/checkpoints: {job}"))?;
            fs::rename(services.checkpoints().join("bench"), images)
                .map_err(|error| format!("move the checkpoint: {error}"))?;
            Ok((time, job["dump"].take()))
        }
        Means::Bare => {
            let mut command = places.bare("dump");
            command.arg(pid.to_string()).arg("-D").arg(images).arg("--leave-running");
            Ok((timed(&mut command)?, Value::Null))
        }
        Means::Encrypting(keys) => {
            let mut command = Engine::Stasis.command("dump");
            command.arg(pid.to_string()).env("STASIS_BPF_DIR", &places.served);
            command.arg("--recipients").arg(&keys.recipients);
            let time = timed(command.arg("-D").arg(images).arg("--leave-running"))?;
            Ok((time, Value::Null))
        }
        Means::Engine(engine) => {
            let mut command = engine.command("dump");
            if engine == Engine::Stasis {
                command.arg(pid.to_string()).env("STASIS_BPF_DIR", &places.served);
            } else {
                fs::create_dir_all(images).map_err(|error| format!("make {images:?}: {error}"))?;
                command.arg("-t").arg(pid.to_string()).args(["-o", "dump.log"]);
                if shape == Shape::Connections {
                    // By iptables it starts four programs for each.
                    command.args(["--tcp-established", "--network-lock", "nftables"]);
                }
            }
            let time = timed(command.arg("-D").arg(images).arg("--leave-running"))?;
            Ok((time, Value::Null))
        }
    }
}

/// Restores, if this is done by a command that was made for it.
fn restore(means: Means<'_>, images: &Path) -> Result<Option<Duration>, String> {
    let (engine, keys) = match means {
        Means::Engine(engine) => (engine, None),
        Means::Encrypting(keys) => (Engine::Stasis, Some(keys)),
        Means::Bare | Means::Services(_) => return Ok(None),
    };
    let mut command = engine.command("restore");
    command.arg("-D").arg(images);
    if let Some(keys) = keys {
        command.arg("--identities").arg(&keys.identities);
    }
    let detached: &[&str] = if engine == Engine::Stasis {
        &["--detach"]
    } else {
        &["-d", "--tcp-established", "-o", "restore.log"]
    };
    timed(command.args(detached)).map(Some)
}

/// Where commands find eBPF programs.
struct Places<'a> {
    scratch: &'a Scratch,
    /// Those that the collector's service keeps.
    served: PathBuf,
}

impl Places<'_> {
    /// A command that finds what bare commands have left, and no service.
    fn bare(&self, subcommand: &str) -> Command {
        let mut command = Engine::Stasis.command(subcommand);
        command
            .env("STASIS_BPF_DIR", format!("{}-bare", self.served.display()))
            .env("STASIS_CACHE_DIR", self.scratch.path("cache"));
        command
    }
}

impl Bench<'_> {
    fn places(&self) -> Places<'_> {
        Places { scratch: &self.scratch, served: self.services.programs() }
    }

    /// What a command takes to have the eBPF programs, in milliseconds: the first on a machine, the
    /// first after its start, a later one.
    pub(crate) fn own_start(&self) -> Result<[f64; 3], String> {
        let load = || timed(self.places().bare("programs").arg("--load")).map(millis);
        timed(self.places().bare("programs").arg("--remove"))?;
        let first = load()?;
        let later = load()?;
        // As the BPF file system is then.
        fs::remove_dir_all(format!("{}-bare", self.services.programs().display()))
            .map_err(|error| format!("remove the pins: {error}"))?;
        Ok([first, load()?, later])
    }

    /// Removes what bare commands have left.
    pub(crate) fn forget_programs(&self) -> Result<(), String> {
        timed(self.places().bare("programs").arg("--remove")).map(drop)
    }

    fn start(&self, shape: Shape, size: usize) -> Workload {
        let environment = shape.environment(size);
        let environment: Vec<_> = environment.iter().map(|(n, v)| (*n, v.as_str())).collect();
        Workload::start_with(shape.family(), self.scratch.path("work"), &environment)
    }

    fn clear(&self, workload: &Workload) {
        self.machine.end_tree(workload.pid());
        for name in ["work", "images"] {
            // What is not there need not be removed; what stays is met when it is made again.
            fs::remove_dir_all(self.scratch.path(name)).ok();
        }
    }

    /// What a target sees that nothing is done to, in milliseconds.
    pub(crate) fn idle(&self) -> Result<f64, String> {
        let workload = self.start(Shape::Small, 1);
        std::thread::sleep(Duration::from_millis(50));
        let gap = workload.gap().map(millis);
        self.clear(&workload);
        gap
    }

    /// Takes a target through a dump and, if asked to, a restore.
    pub(crate) fn once(
        &self,
        means: Means<'_>,
        shape: Shape,
        size: usize,
        deeds: Deeds,
    ) -> Result<Times, String> {
        let workload = self.start(shape, size);
        let times = self.times(means, shape, &workload, deeds);
        self.clear(&workload);
        times.map_err(|what| format!("{means} on {shape:?} of {size}: {what}"))
    }

    fn times(
        &self,
        means: Means<'_>,
        shape: Shape,
        workload: &Workload,
        Deeds { restored, tracked }: Deeds,
    ) -> Result<Times, String> {
        if tracked {
            // It ends with the target.
            let track = json!({"tree": workload.pid(), "files": true}).to_string();
            let begun = self.services.call("POST", "/v1/tracks", Some(&track));
            if begun.status != 201 {
                return Err(format!("POST /v1/tracks: {}", begun.text));
            }
        }
        // What its start has left to be done is not to be done while it is measured.
        std::thread::sleep(Duration::from_millis(100));
        workload.gap()?;
        let images = self.scratch.path("images");
        let (dumped, summary) = dump(means, shape, workload.pid(), &images, &self.places())?;
        let (frozen, dump) = (millis(workload.gap()?), millis(dumped));
        let mut times = Times { frozen, dump, restore: None, summary };
        if restored {
            self.machine.end_tree(workload.pid());
            times.restore = restore(means, &images)?.map(millis);
        }
        workload.check()?;
        Ok(times)
    }
}

impl std::fmt::Display for Means<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Means::Services(_) => "gateway",
            Means::Bare => "stasis without services",
            Means::Encrypting(_) => "stasis, encrypting",
            Means::Engine(Engine::Criu) => "CRIU",
            Means::Engine(_) => "stasis",
        })
    }
}

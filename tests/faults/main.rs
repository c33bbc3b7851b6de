//! `make faults`: dumpers, collectors and freezers killed at random instants over programs of many
//! shapes. Each program must run on unharmed, as it says itself and as /proc says of it. Then all that
//! restores them: afterwards all of a tree lives, or nobody does.
#![allow(clippy::print_stdout, reason = "figures are what it is for")]

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use stasis_tests::faults::{Random, Rig, SHAPES, Shape, Tally, Victim};
use stasis_tests::killed_restores::{RestoreRig, RestoreVictim};
use stasis_tests::{Machine, Scratch, Services};

/// What is killed
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Killed {
    /// The command that dumps
    Dumper,
    /// The service that dumps
    Service,
    /// The collector, while the command dumps
    Collector,
    /// The freezer, while it freezes and the command dumps
    Freezer,
    /// The command that restores
    Restore,
    /// The process of it that holds the tree
    Holder,
    /// The service that restores
    Restorer,
    /// The worker of that service
    Worker,
}

/// Kill what makes checkpoints at random instants, and see that no target minds
#[derive(Debug, Parser)]
struct Args {
    /// Kills of each victim over each shape
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Shapes: small, files, mappings, threads, processes, memory
    #[arg(long, value_name = "SHAPE", value_delimiter = ',', value_parser = shape_names())]
    only: Vec<String>,
    /// What is killed; everything in turn unless named
    #[arg(long, value_name = "VICTIM", value_delimiter = ',', value_enum)]
    victims: Vec<Killed>,
    /// Programs of the sizes that `make bench` measures
    #[arg(long)]
    full: bool,
    /// Where the random instants begin
    #[arg(long, default_value_t = 0x5eed_0f5e_ed0f)]
    seed: u64,
}

fn shape_names() -> Vec<&'static str> {
    SHAPES.iter().map(|shape| shape.name).collect()
}

impl Args {
    fn victims(&self) -> (Vec<Victim>, Vec<RestoreVictim>) {
        if self.victims.is_empty() {
            return (Victim::ALL.to_vec(), RestoreVictim::ALL.to_vec());
        }
        let (mut of_dumps, mut of_restores) = (Vec::new(), Vec::new());
        for killed in &self.victims {
            match killed {
                Killed::Dumper => of_dumps.push(Victim::Dumper),
                Killed::Service => of_dumps.push(Victim::Service),
                Killed::Collector => of_dumps.push(Victim::Collector),
                Killed::Freezer => of_dumps.push(Victim::Freezer),
                Killed::Restore => of_restores.push(RestoreVictim::Command),
                Killed::Holder => of_restores.push(RestoreVictim::Holder),
                Killed::Restorer => of_restores.push(RestoreVictim::Service),
                Killed::Worker => of_restores.push(RestoreVictim::Worker),
            }
        }
        (of_dumps, of_restores)
    }
}

fn say(shape: &Shape, victim: &str, tally: Tally, start: Instant, outcome: &str) {
    println!(
        "{:<10} {:<10} {:>5} killed, {:>4} {outcome} ({:.0} s)",
        shape.name,
        victim.to_lowercase(),
        tally.kills,
        tally.finished,
        start.elapsed().as_secs_f64(),
    );
}

fn main() -> ExitCode {
    let args = Args::parse();
    let machine = Machine::prepare();
    let scratch = Scratch::new_in("/dev/shm");
    let mut services = Services::start(&scratch.path("services"));
    let mut random = Random::new(args.seed);
    for shape in SHAPES {
        if !args.only.is_empty() && !args.only.iter().any(|name| name == shape.name) {
            continue;
        }
        let (of_dumps, of_restores) = args.victims();
        if !of_dumps.is_empty() {
            let random = random.another();
            let mut rig = Rig::start(&machine, &scratch, &mut services, shape, args.full, random);
            for victim in of_dumps {
                let start = Instant::now();
                let tally = rig.kill(victim, args.kills);
                let outcome = "dumps finished all the same, target unharmed";
                say(shape, &format!("{victim:?}"), tally, start, outcome);
            }
            rig.end();
        }
        if !of_restores.is_empty() {
            let random = random.another();
            let mut rig =
                RestoreRig::start(&machine, &scratch, &mut services, shape, args.full, random);
            for victim in of_restores {
                let start = Instant::now();
                let tally = rig.kill(victim, args.kills);
                let outcome = "trees restored all the same, the others ended whole";
                say(shape, &format!("{victim:?}"), tally, start, outcome);
            }
            rig.end();
        }
    }
    ExitCode::SUCCESS
}

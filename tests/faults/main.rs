//! `make faults`: dumpers, collectors and freezers killed at random instants over programs of many
//! shapes. Each program must run on unharmed, as it says itself and as /proc says of it.
#![allow(clippy::print_stdout, reason = "figures are what it is for")]

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use stasis_tests::faults::{Random, Rig, SHAPES, Victim};
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
    fn victims(&self) -> Vec<Victim> {
        if self.victims.is_empty() {
            return Victim::ALL.to_vec();
        }
        let victim = |killed: &Killed| match killed {
            Killed::Dumper => Victim::Dumper,
            Killed::Service => Victim::Service,
            Killed::Collector => Victim::Collector,
            Killed::Freezer => Victim::Freezer,
        };
        self.victims.iter().map(victim).collect()
    }
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
        let mut rig =
            Rig::start(&machine, &scratch, &mut services, shape, args.full, random.another());
        for victim in args.victims() {
            let start = Instant::now();
            let tally = rig.kill(victim, args.kills);
            println!(
                "{:<10} {:<10} {:>5} killed, {:>4} dumps finished all the same, target unharmed \
                 ({:.0} s)",
                shape.name,
                format!("{victim:?}").to_lowercase(),
                tally.kills,
                tally.finished,
                start.elapsed().as_secs_f64(),
            );
        }
        rig.end();
    }
    ExitCode::SUCCESS
}

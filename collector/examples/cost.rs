//! Prints what an inventory of a process tree costs from each source, part by part, in processor time
//! (which a busy machine does not change much), best of five:
//! `cargo run --release -p stasis-collector --example cost -- PID`.
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::time::Duration;

use ids::HostPid;
use nix::time::{ClockId, clock_gettime};

use stasis_collector::{Collector, Inventory, Parts, Process, tree};

const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = match std::env::args().nth(1) {
        Some(pid) => pid.parse()?,
        None => HostPid::own(),
    };
    let pids = tree(root)?;
    let (bpf, took) = timed(Collector::with_bpf)?;
    print_row("loading the eBPF programs", took);
    for mut collector in [Collector::proc_only(), bpf] {
        let source = collector.source();
        for (name, parts) in [
            ("threads", Parts::THREADS),
            ("mappings", Parts::MAPPINGS),
            ("files", Parts::FILES),
            ("namespaces and sharing", Parts::SHARING),
            ("all", Parts::all()),
        ] {
            let mut best = Duration::MAX;
            let mut inventory = Inventory::default();
            for _ in 0..ROUNDS {
                let took;
                (inventory, took) = timed(|| collector.parts(&pids, parts))?;
                best = best.min(took);
            }
            print_row(&format!("{source:?}: {name} ({})", counts(&inventory)), best);
        }
        let mut best = Duration::MAX;
        for _ in 0..ROUNDS {
            best = best.min(timed(|| collector.tree(root))?.1);
        }
        print_row(&format!("{source:?}: the tree"), best);
    }
    Ok(())
}

fn timed<T, E>(run: impl FnOnce() -> Result<T, E>) -> Result<(T, Duration), E> {
    let now =
        || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from);
    let start = now();
    let value = run()?;
    Ok((value, now() - start))
}

fn print_row(what: &str, took: Duration) {
    println!("{:9.3} ms  {what}", took.as_secs_f64() * 1e3);
}

fn counts(inventory: &Inventory) -> String {
    let sum =
        |count: fn(&Process) -> usize| -> usize { inventory.processes.values().map(count).sum() };
    format!(
        "{} processes, {} threads, {} mappings, {} files",
        inventory.processes.len(),
        sum(|process| process.threads.len()),
        sum(|process| process.mappings.len()),
        sum(|process| process.files.len()),
    )
}

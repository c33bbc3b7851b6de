//! Prints what an inventory of a process costs from each source: `cargo run --release --example
//! cost -- PID`.
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::time::Instant;

use stasis_collector::{self as collector, Collector};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root =
        std::env::args().nth(1).map_or(Ok(std::process::id().cast_signed()), |a| a.parse())?;
    let pids = collector::tree(root)?;
    let start = Instant::now();
    let bpf = Collector::with_bpf()?;
    println!("eBPF programs loaded in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let mut collectors = [Collector::proc_only(), bpf];
    for collector in &mut collectors {
        for _ in 0..3 {
            let start = Instant::now();
            let inventory = collector.inventory(&pids)?;
            let took = start.elapsed();
            let count = |of: fn(&collector::Process) -> usize| -> usize {
                inventory.processes.values().map(of).sum()
            };
            println!(
                "{:?}: {} processes, {} threads, {} mappings, {} files in {:.3} ms",
                collector.source(),
                inventory.processes.len(),
                count(|process| process.threads.len()),
                count(|process| process.mappings.len()),
                count(|process| process.files.len()),
                took.as_secs_f64() * 1e3,
            );
        }
    }
    Ok(())
}

//! `make bench`: how long programs of many shapes are frozen by a dump that lets them run on, as
//! they see it themselves (the largest gap between beats of their own 50 µs pulse), how long the
//! dump takes, and how long the restore. Beside CRIU where there is one (`$CRIU`, or on PATH).
//!
//! Images are on `/dev/shm`. Each number is the median of the runs; stasis and CRIU take turns in
//! one session, so that both meet the same machine.
#![allow(clippy::print_stdout, reason = "a table is what it is for")]

mod containers;
mod measure;
mod plot;
mod report;
mod shapes;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;
use stasis_tests::{Engine, Machine, Scratch, Services, find_criu};

use measure::{Bench, Deeds, Keys, Means};
use report::{Accounts, BARE, Contained, ENCRYPTION, GATEWAY, Line, Report, Runs, START};
use shapes::{ROWS, Row, Shape};

/// Measure frozen time, dump and restore, beside CRIU
#[derive(Debug, Parser)]
struct Args {
    /// Rows to measure: small, files, mappings, threads, processes, connections, terminals, memfds, gib, four-gib, gateway, encryption, bare, start, container,
    /// container-redis, container-processes
    #[arg(long, value_name = "ROW", value_delimiter = ',', value_parser = row_names())]
    only: Vec<String>,
    /// Runs of each row; the median is told
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Runs of CRIU on memory that is dirtied, where each takes seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    slow_runs: u16,
    /// Write the numbers of all runs to this file
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    json: PathBuf,
    /// Measure at many sizes too, and plot frozen time against size to this file (SVG)
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Shapes in the plot
    #[arg(long, value_name = "SHAPE", value_delimiter = ',', value_enum)]
    plot_only: Vec<Shape>,
    /// Runs at each size of the plot
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    plot_runs: u16,
    /// Few runs and small sizes in the plot: to see that it works
    #[arg(long)]
    quick: bool,
    /// Tell where the frozen time of each row went, as the dump itself accounts for it (by the
    /// services), and measure nothing else
    #[arg(long)]
    account: bool,
    /// Print the table as Markdown as well
    #[arg(long)]
    markdown: bool,
    /// No restores
    #[arg(long)]
    no_restore: bool,
    /// Without CRIU, also where there is one
    #[arg(long)]
    no_criu: bool,
}

fn row_names() -> Vec<&'static str> {
    let containers = containers::SHAPES.iter().map(|shape| shape.name);
    ROWS.iter()
        .map(|row| row.name)
        .chain([GATEWAY, ENCRYPTION, BARE, START])
        .chain(containers)
        .collect()
}

impl Args {
    fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == row)
    }

    fn runs(&self) -> u16 {
        if self.quick { self.runs.min(3) } else { self.runs }
    }
}

fn criu_works() -> bool {
    let Some(program) = find_criu() else { return false };
    let mut check = Command::new(program);
    let ended = check.arg("check").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ended.is_ok_and(|status| status.success())
}

/// Everything that is measured with.
struct Session<'a> {
    args: &'a Args,
    bench: Bench<'a>,
    criu: bool,
}

impl Session<'_> {
    fn engines(&self) -> impl Iterator<Item = Engine> {
        [Engine::Stasis].into_iter().chain(self.criu.then_some(Engine::Criu))
    }

    fn row(&self, row: &Row, report: &mut Report) {
        let mut runs = Runs::default();
        println!("{}", row.title);
        for run in 0..self.args.runs() {
            for engine in self.engines() {
                let slow = row.shape == Shape::Memory && engine == Engine::Criu;
                if slow && run >= self.args.slow_runs {
                    continue;
                }
                let restored = row.restored && !self.args.no_restore;
                let deeds = Deeds { restored, tracked: false };
                let means = Means::Engine(engine);
                match self.bench.once(means, row.shape, row.size, deeds) {
                    Ok(times) => runs.add(engine, times),
                    Err(what) => report.failed(what),
                }
            }
        }
        report.lines.extend(runs.lines(row, self.criu));
    }

    /// Where the dump itself says that the time went.
    fn account(&self, row: &Row, report: &mut Report) {
        let mut accounts = Accounts::default();
        for _ in 0..self.args.runs() {
            let means = Means::Services(self.bench.services);
            match self.bench.once(means, row.shape, row.size, Deeds::default()) {
                Ok(times) => accounts.add(&times),
                Err(what) => report.failed(what),
            }
        }
        accounts.print(row);
        report.accounts.push(accounts.json(row));
    }

    /// The small process, by the command and by the gateway in turns; with and without a track.
    fn gateway(&self, report: &mut Report) {
        for tracked in [false, true] {
            println!(
                "the small process through the gateway{}",
                if tracked { ", tracked" } else { "" }
            );
            let (mut direct, mut served) = (Vec::new(), Vec::new());
            let deeds = Deeds { restored: false, tracked };
            for _ in 0..self.args.runs() {
                for (means, times) in [
                    (Means::Engine(Engine::Stasis), &mut direct),
                    (Means::Services(self.bench.services), &mut served),
                ] {
                    match self.bench.once(means, Shape::Small, 1, deeds) {
                        Ok(taken) => times.push(taken.frozen),
                        Err(what) => report.failed(what),
                    }
                }
            }
            report.lines.push(Line::gateway(tracked, &direct, &served));
        }
    }

    /// 256 MiB, as they are and encrypted, in turns.
    fn encryption(&self, report: &mut Report) {
        println!("256 MiB, encrypted");
        let keys = match Keys::make(&self.bench.scratch) {
            Ok(keys) => keys,
            Err(what) => return report.failed(what),
        };
        let (mut plain, mut encrypted) = (Vec::new(), Vec::new());
        let deeds = Deeds { restored: !self.args.no_restore, tracked: false };
        for _ in 0..self.args.runs() {
            for (means, times) in [
                (Means::Engine(Engine::Stasis), &mut plain),
                (Means::Encrypting(&keys), &mut encrypted),
            ] {
                match self.bench.once(means, Shape::Memory, 256, deeds) {
                    Ok(taken) => times.push(taken),
                    Err(what) => report.failed(what),
                }
            }
        }
        report.lines.extend(Line::encryption(&plain, &encrypted));
    }

    /// All but large memory, by the command where no service runs and by one beside the services, in
    /// turns; and what the former takes for its own start.
    fn bare(&self, report: &mut Report) {
        for row in ROWS.iter().filter(|row| self.args.wants(BARE) && row.shape != Shape::Memory) {
            println!("{}, without services", row.title);
            let (mut bare, mut served) = (Vec::new(), Vec::new());
            for _ in 0..self.args.runs() {
                for (means, times) in
                    [(Means::Bare, &mut bare), (Means::Engine(Engine::Stasis), &mut served)]
                {
                    match self.bench.once(means, row.shape, row.size, Deeds::default()) {
                        Ok(taken) => times.push(taken.frozen),
                        Err(what) => report.failed(what),
                    }
                }
            }
            report.lines.push(Line::bare(row, bare, served));
        }
        if self.args.wants(START) {
            println!("the own start of the command");
            let runs = (0..self.args.runs()).map(|_| self.bench.own_start());
            let runs: Result<Vec<_>, _> = runs.collect();
            match runs {
                Ok(runs) => report.lines.extend(Line::starts(&runs)),
                Err(what) => report.failed(what),
            }
        }
        if let Err(what) = self.bench.forget_programs() {
            report.failed(what);
        }
    }

    /// Containers by runc, with each engine as its criu, and the same trees outside.
    fn containers(&self, report: &mut Report) {
        let (machine, scratch) = (&self.bench.machine, &self.bench.scratch);
        let programs = self.bench.services.programs();
        let place = containers::Place { machine, scratch, programs: &programs };
        let shapes = containers::SHAPES.into_iter().filter(|shape| self.args.wants(shape.name));
        for shape in shapes {
            println!("{}", shape.title);
            if let Some(lacking) = containers::lacking() {
                println!("left out: {lacking}");
                continue;
            }
            let mut all = Contained::default();
            for run in 0..self.args.runs() {
                for engine in self.engines() {
                    if engine == Engine::Criu && run >= self.args.slow_runs {
                        continue;
                    }
                    let by = if engine == Engine::Stasis { Engine::CriuFace } else { engine };
                    match containers::once(place, shape, by) {
                        Ok(times) => all.inside.push((engine, times)),
                        Err(what) => report.failed(format!("{engine:?}: {what}")),
                    }
                    match containers::outside(place, shape, by) {
                        Ok(frozen) => all.outside.push((engine, frozen)),
                        Err(what) => report.failed(format!("{engine:?}: {what}")),
                    }
                }
            }
            report.lines.extend(all.lines(shape));
        }
    }

    fn plotted(&self, report: &mut Report) {
        for shape in Shape::PLOTTED {
            if !self.args.plot_only.is_empty() && !self.args.plot_only.contains(&shape) {
                continue;
            }
            println!("{shape:?} at {:?}", shape.sizes(self.args.quick));
            for size in shape.sizes(self.args.quick) {
                for engine in self.engines() {
                    let mut frozen = Vec::new();
                    for _ in 0..self.args.plot_runs {
                        match self.bench.once(Means::Engine(engine), shape, *size, Deeds::default())
                        {
                            Ok(times) => frozen.push(times.frozen),
                            Err(what) => report.failed(what),
                        }
                    }
                    report.points.extend(report::Point::of(shape, *size, engine, frozen));
                }
            }
        }
    }
}

fn measured(args: &Args, services: &Services, scratch: Scratch, machine: Machine) -> Report {
    let criu = !args.no_criu && criu_works();
    if !criu {
        println!("without CRIU: its column stays empty");
    }
    let session = Session { args, bench: Bench { machine, scratch, services }, criu };
    let mut report = Report::new(args.runs());
    for _ in 0..args.runs() {
        match session.bench.idle() {
            Ok(gap) => report.idle.push(gap),
            Err(what) => report.failed(what),
        }
    }
    for row in ROWS.iter().filter(|row| args.wants(row.name)) {
        if args.account {
            session.account(row, &mut report);
        } else {
            session.row(row, &mut report);
        }
    }
    if args.wants(GATEWAY) && !args.account {
        session.gateway(&mut report);
    }
    if args.wants(ENCRYPTION) && !args.account {
        session.encryption(&mut report);
    }
    if !args.account && (args.wants(BARE) || args.wants(START)) {
        session.bare(&mut report);
    }
    if !args.account {
        session.containers(&mut report);
    }
    if args.plot.is_some() {
        session.plotted(&mut report);
    }
    report
}

fn main() -> ExitCode {
    let args = Args::parse();
    let machine = Machine::prepare();
    let scratch = Scratch::new_in("/dev/shm");
    // As in production: where the collector runs, a dump finds its eBPF programs ready.
    let services = Services::start(&scratch.path("services"));
    let report = measured(&args, &services, scratch, machine);
    drop(services);
    report.print();
    if args.markdown {
        report.print_markdown();
    }
    let written = report.write(&args.json).and_then(|()| match &args.plot {
        Some(file) => plot::write(&report.points, file),
        None => Ok(()),
    });
    match written {
        Ok(()) if report.failures.is_empty() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(what) => {
            println!("{what}");
            ExitCode::FAILURE
        }
    }
}

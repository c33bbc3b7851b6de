//! What came out: the table, and all of it as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use stasis_tests::Engine;

use crate::containers;
use crate::measure::Times;
use crate::shapes::{Row, Shape};

/// The middle one of the runs.
pub(crate) fn median(runs: &[f64]) -> Option<f64> {
    ranked(runs, runs.len() / 2)
}

/// The one of a hundred that one takes longer than; of fewer runs the longest.
fn ninety_ninth(runs: &[f64]) -> Option<f64> {
    ranked(runs, (runs.len() * 99).div_ceil(100).saturating_sub(1))
}

/// The one that so many are no longer than.
fn ranked(runs: &[f64], place: usize) -> Option<f64> {
    let mut runs = runs.to_vec();
    runs.sort_by(f64::total_cmp);
    runs.get(place).copied()
}

/// The runs of one row.
#[derive(Default)]
pub(crate) struct Runs(Vec<(Engine, Times)>);

/// The row that compares a dump by the services with one by the command.
pub(crate) const GATEWAY: &str = "gateway";

/// The row that compares an encrypted checkpoint with a plain one.
pub(crate) const ENCRYPTION: &str = "encryption";

/// The rows that compare a command without services with one beside them.
pub(crate) const BARE: &str = "bare";

/// The rows of what a command takes to have the eBPF programs.
pub(crate) const START: &str = "start";

/// Of a command's own start: what is measured, and the most that it may be.
const STARTS: [(&str, f64); 3] = [
    ("own start, the first on a machine", 120.0),
    ("own start, the first after the machine's", 120.0),
    ("own start, later ones", 5.0),
];

/// One line of the table: one time of one row.
pub(crate) struct Line {
    row: String,
    title: String,
    what: &'static str,
    /// The most it may be, in milliseconds; nothing where it may be no more than CRIU's.
    goal: Option<f64>,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Runs {
    pub(crate) fn add(&mut self, engine: Engine, times: Times) {
        self.0.push((engine, times));
    }

    fn of(&self, engine: Engine, time: impl Fn(&Times) -> Option<f64>) -> Vec<f64> {
        self.0.iter().filter(|(e, _)| *e == engine).filter_map(|(_, times)| time(times)).collect()
    }

    pub(crate) fn lines(&self, row: &Row, criu: bool) -> Vec<Line> {
        let line = |what, goal, time: &dyn Fn(&Times) -> Option<f64>| Line {
            row: row.name.to_owned(),
            title: row.title.to_owned(),
            what,
            goal,
            ours: self.of(Engine::Stasis, time),
            theirs: if criu { self.of(Engine::Criu, time) } else { Vec::new() },
        };
        let mut lines = vec![
            line("frozen", Some(row.frozen_goal), &|times| Some(times.frozen)),
            line("dump", None, &|times| Some(times.dump)),
        ];
        let restore = line("restore", row.restore_goal, &|times| times.restore);
        lines.extend((!restore.ours.is_empty()).then_some(restore));
        lines
    }
}

/// The runs of one container.
#[derive(Default)]
pub(crate) struct Contained {
    pub(crate) inside: Vec<(Engine, containers::Times)>,
    /// For how long the same tree was frozen outside of a container.
    pub(crate) outside: Vec<(Engine, f64)>,
}

impl Contained {
    /// Its times beside CRIU's, and its frozen time beside that of the same tree outside.
    pub(crate) fn lines(&self, shape: containers::Shape) -> Vec<Line> {
        let of = |engine, time: fn(&containers::Times) -> f64| {
            let all = self.inside.iter().filter(|(by, _)| *by == engine);
            all.map(|(_, times)| time(times)).collect::<Vec<f64>>()
        };
        let line = |what, tenth: bool, time| {
            let theirs = of(Engine::Criu, time);
            let goal = median(&theirs).filter(|_| tenth).map(|theirs| theirs / 10.0);
            let (row, title) = (shape.name.to_owned(), shape.title.to_owned());
            Line { row, title, what, goal, ours: of(Engine::Stasis, time), theirs }
        };
        let outside = |engine| {
            let all = self.outside.iter().filter(|(by, _)| *by == engine);
            all.map(|(_, frozen)| *frozen).collect::<Vec<f64>>()
        };
        vec![
            line("frozen", true, |times| times.frozen),
            line("dump", false, |times| times.dump),
            line("restore", false, |times| times.restore),
            Line {
                row: shape.name.to_owned(),
                title: format!("{}: outside", shape.title.trim_start_matches("a container of ")),
                what: "outside",
                goal: None,
                ours: outside(Engine::Stasis),
                theirs: outside(Engine::Criu),
            },
        ]
    }
}

impl Line {
    /// What a dump by the services adds to one by the command; in its table the latter stands where
    /// CRIU does elsewhere.
    pub(crate) fn gateway(tracked: bool, direct: &[f64], served: &[f64]) -> Self {
        let tracked = if tracked { ", tracked" } else { "" };
        Self {
            row: GATEWAY.to_owned(),
            title: format!("small{tracked}: by the gateway, and by the command"),
            what: "frozen",
            goal: median(direct).map(|direct| direct + 0.5),
            ours: served.to_vec(),
            theirs: direct.to_vec(),
        }
    }

    /// What encryption costs; where CRIU's times stand elsewhere, those of a plain checkpoint.
    pub(crate) fn encryption(plain: &[Times], encrypted: &[Times]) -> impl Iterator<Item = Self> {
        type Time = fn(&Times) -> Option<f64>;
        let times: [(&str, Time); 3] = [
            ("frozen", |times| Some(times.frozen)),
            ("dump", |times| Some(times.dump)),
            ("restore", |times| times.restore),
        ];
        times.into_iter().map(|(what, time)| {
            let of = |all: &[Times]| all.iter().filter_map(time).collect::<Vec<f64>>();
            let (row, title) = (ENCRYPTION.to_owned(), "256 MiB, encrypted, and plain".to_owned());
            let theirs = of(plain);
            // It costs what it costs, but for the frozen time.
            let goal = median(&theirs)
                .map(|plain| if what == "frozen" { plain + 0.5 } else { 5.0 * plain });
            Self { row, title, what, goal, ours: of(encrypted), theirs }
        })
    }

    /// A target as the bare command freezes it; where CRIU's time stands elsewhere, that of a command
    /// beside the services.
    pub(crate) fn bare(row: &Row, bare: Vec<f64>, served: Vec<f64>) -> Self {
        Self {
            row: BARE.to_owned(),
            title: format!("{}, no services", row.title),
            what: "frozen",
            goal: Some(row.frozen_goal),
            ours: bare,
            theirs: served,
        }
    }

    /// What a command takes to have the eBPF programs.
    pub(crate) fn starts(runs: &[[f64; 3]]) -> impl Iterator<Item = Self> {
        STARTS.into_iter().enumerate().map(|(index, (title, goal))| Self {
            row: START.to_owned(),
            title: title.to_owned(),
            what: "wall",
            goal: Some(goal),
            ours: runs.iter().map(|times| times[index]).collect(),
            theirs: Vec::new(),
        })
    }

    fn ratio(&self) -> Option<f64> {
        median(&self.ours).zip(median(&self.theirs)).map(|(ours, theirs)| theirs / ours)
    }

    /// Whether the goal is met, if that can be told.
    fn met(&self) -> Option<bool> {
        let ours = median(&self.ours)?;
        self.goal.or_else(|| median(&self.theirs)).map(|goal| ours <= goal)
    }

    fn print(&self) {
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let goal = self.goal.map_or_else(|| "CRIU's".to_owned(), |goal| format!("{goal:.1}"));
        println!(
            "{:<46} {:<8} {:>9} {:>9} {:>8} {:>8} {}",
            self.title,
            self.what,
            number(median(&self.ours), 2),
            number(median(&self.theirs), 2),
            number(self.ratio(), 1),
            goal,
            match self.met() {
                Some(true) => "",
                Some(false) => "missed",
                None => "?",
            },
        );
    }

    fn json(&self) -> Value {
        json!({
            "row": self.row, "title": self.title, "what": self.what, "goal_ms": self.goal,
            "stasis_ms": median(&self.ours), "criu_ms": median(&self.theirs),
            "criu_over_stasis": self.ratio(), "met": self.met(),
            "stasis_runs_ms": self.ours, "criu_runs_ms": self.theirs,
        })
    }
}

/// What dumps of one row say of where their frozen time went, in microseconds.
#[derive(Default)]
pub(crate) struct Accounts(BTreeMap<String, Vec<f64>>);

impl Accounts {
    pub(crate) fn add(&mut self, times: &Times) {
        let mut add = |name: &str, micros| self.0.entry(name.to_owned()).or_default().push(micros);
        add("seen", times.frozen * 1000.0);
        for (name, value) in times.summary["account"].as_object().into_iter().flatten() {
            add(name.trim_end_matches("_us"), value.as_f64().unwrap_or_default());
        }
        add("total", times.summary["frozen_us"].as_f64().unwrap_or_default());
    }

    pub(crate) fn print(&self, row: &Row) {
        let parts = self
            .0
            .iter()
            .map(|(name, runs)| format!("{name} {:.2}", median(runs).unwrap_or_default() / 1000.0));
        println!("{}: {} (ms)", row.title, parts.collect::<Vec<_>>().join(", "));
    }

    pub(crate) fn json(&self, row: &Row) -> Value {
        json!({"row": row.name, "runs_us": self.0})
    }
}

/// A point of the plot: frozen time at a size, in milliseconds.
pub(crate) struct Point {
    pub(crate) shape: Shape,
    pub(crate) size: usize,
    pub(crate) engine: Engine,
    pub(crate) frozen: f64,
    runs: Vec<f64>,
}

impl Point {
    /// Nothing when no run succeeded.
    pub(crate) fn of(shape: Shape, size: usize, engine: Engine, runs: Vec<f64>) -> Option<Self> {
        Some(Self { shape, size, engine, frozen: median(&runs)?, runs })
    }

    fn json(&self) -> Value {
        let (axis, factor) = self.shape.axis();
        json!({
            "shape": format!("{:?}", self.shape).to_lowercase(),
            "count": self.size as f64 * factor, "of": axis,
            "engine": if self.engine == Engine::Criu { "criu" } else { "stasis" },
            "frozen_ms": self.frozen, "runs_ms": self.runs,
        })
    }
}

/// All of it.
pub(crate) struct Report {
    runs: u16,
    /// Gaps of a pulse that nothing was done to.
    pub(crate) idle: Vec<f64>,
    pub(crate) lines: Vec<Line>,
    pub(crate) points: Vec<Point>,
    pub(crate) accounts: Vec<Value>,
    /// What went wrong; the numbers are those of the runs that did not.
    pub(crate) failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(runs: u16) -> Self {
        Self {
            runs,
            idle: Vec::new(),
            lines: Vec::new(),
            points: Vec::new(),
            accounts: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Notes, and says at once, that a run failed.
    pub(crate) fn failed(&mut self, what: String) {
        println!("FAILED: {what}");
        self.failures.push(what);
    }

    pub(crate) fn print(&self) {
        if self.lines.is_empty() {
            return;
        }
        println!(
            "\n{:<46} {:<8} {:>9} {:>9} {:>8} {:>8}",
            "milliseconds", "", "stasis", "CRIU", "ratio", "goal"
        );
        for line in &self.lines {
            line.print();
        }
        println!(
            "\nfrozen: as the target saw it; dump: wall time, the target running on; restore: wall \
             time.\nof containers, by runc: frozen (and outside: the same tree outside of one) as the dump says it.\n\
             ratio: CRIU's time over ours. Medians of {} runs each, in turns.",
            self.runs
        );
        if let Some(idle) = median(&self.idle) {
            println!(
                "A pulse that nothing is done to sees a gap of {idle:.2} ms here: that is noise."
            );
        }
        if !self.failures.is_empty() {
            println!("{} runs failed: see above", self.failures.len());
        }
    }

    /// The table as Markdown, a line for each target.
    pub(crate) fn print_markdown(&self) {
        println!("\n| target | frozen | CRIU | goal | dump | CRIU | restore | CRIU |");
        println!("|---|---|---|---|---|---|---|---|");
        let mut rows: Vec<&str> = self.lines.iter().map(|line| line.row.as_str()).collect();
        rows.dedup();
        for row in rows.into_iter().filter(|row| ![GATEWAY, ENCRYPTION, BARE, START].contains(row))
        {
            let of = |what| self.lines.iter().find(|line| line.row == row && line.what == what);
            let Some(frozen) = of("frozen") else { continue };
            let time = |runs: &[f64]| match median(runs) {
                None => String::new(),
                Some(ms) if ms < 10.0 => format!("{ms:.2}"),
                Some(ms) if ms < 100.0 => format!("{ms:.1}"),
                Some(ms) => format!("{ms:.0}"),
            };
            let both = |what| {
                let line: Option<&Line> = of(what);
                line.map_or_else(
                    || " | ".to_owned(),
                    |line| format!("{} | {}", time(&line.ours), time(&line.theirs)),
                )
            };
            println!(
                "| {} | **{}** | {} | {} | {} | {} |",
                frozen.title,
                time(&frozen.ours),
                time(&frozen.theirs),
                frozen.goal.map(|goal| time(&[goal])).unwrap_or_default(),
                both("dump"),
                both("restore"),
            );
        }
        self.print_bare();
        self.print_gateway();
        self.print_encryption();
    }

    fn print_encryption(&self) {
        if !self.lines.iter().any(|line| line.row == ENCRYPTION) {
            return;
        }
        println!("\n| 256 MiB, milliseconds | plain | encrypted | times |\n|---|---|---|---|");
        for line in self.lines.iter().filter(|line| line.row == ENCRYPTION) {
            if let (Some(plain), Some(encrypted)) = (median(&line.theirs), median(&line.ours)) {
                let (what, times) = (line.what, encrypted / plain);
                println!("| {what} | {plain:.1} | **{encrypted:.1}** | {times:.1} |");
            }
        }
    }

    /// What the gateway adds, also where it adds most.
    fn print_gateway(&self) {
        if !self.lines.iter().any(|line| line.row == GATEWAY) {
            return;
        }
        println!(
            "\n| frozen | by the command | by the gateway | added | of 100 one longer: by the command | by the gateway |"
        );
        println!("|---|---|---|---|---|---|");
        for line in self.lines.iter().filter(|line| line.row == GATEWAY) {
            let [usual, longest] =
                [median, ninety_ninth].map(|of| of(&line.theirs).zip(of(&line.ours)));
            if let (Some((direct, served)), Some((direct_longest, served_longest))) =
                (usual, longest)
            {
                println!(
                    "| {} | {direct:.2} | {served:.2} | **{:.2}** | {direct_longest:.2} | {served_longest:.2} |",
                    line.title,
                    served - direct,
                );
            }
        }
    }

    fn print_bare(&self) {
        println!("\n| without services | ms | with them | goal |");
        println!("|---|---|---|---|");
        for line in self.lines.iter().filter(|line| [BARE, START].contains(&line.row.as_str())) {
            let time =
                |runs: &[f64]| median(runs).map_or_else(String::new, |ms| format!("{ms:.2}"));
            println!(
                "| {} | **{}** | {} | {} |",
                line.title,
                time(&line.ours),
                time(&line.theirs),
                line.goal.unwrap_or_default(),
            );
        }
    }

    /// Writes all as JSON.
    ///
    /// # Errors
    /// That the file cannot be written.
    pub(crate) fn write(&self, file: &Path) -> Result<(), String> {
        let value = json!({
            "runs": self.runs,
            "idle_gap_ms": median(&self.idle),
            "rows": self.lines.iter().map(Line::json).collect::<Vec<_>>(),
            "plot": self.points.iter().map(Point::json).collect::<Vec<_>>(),
            "accounts": self.accounts,
            "failures": self.failures,
        });
        let text = serde_json::to_string_pretty(&value).map_err(|error| error.to_string())?;
        std::fs::write(file, text + "\n")
            .map_err(|error| format!("write {}: {error}", file.display()))?;
        println!("written: {}", file.display());
        Ok(())
    }
}

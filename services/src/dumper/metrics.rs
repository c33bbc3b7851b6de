//! What the dumper counts of dumps and verifications. All of it is noted when a dump is over, and nothing while a tree stands still.

use std::time::Duration;

use api::{Code, Verification};
use dumper::DumpReport;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec};
use service::Problem;
use service::metrics::{Failures, Metrics, definitions as are};

/// What is dumped: a process tree, by us, alone or as one of several together, or to see what that would cost, or a container, by its
/// engine.
const TARGETS: [&str; 4] = [PROCESS, TOGETHER, DRY_RUN, CONTAINER];
const PROCESS: &str = "process";
const TOGETHER: &str = "together";
const DRY_RUN: &str = "dry_run";
const CONTAINER: &str = "container";

/// The metrics of dumps.
#[derive(Clone, Debug)]
pub(super) struct DumpMetrics {
    dumps: IntCounterVec,
    failures: Failures,
    running: IntGaugeVec,
    seconds: HistogramVec,
    frozen: HistogramVec,
    steps: HistogramVec,
    handovers: Histogram,
    bytes: Histogram,
    pages: IntCounter,
    verifications: IntCounterVec,
}

impl DumpMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// If they are registered already.
    pub(super) fn register(metrics: &Metrics) -> Result<Self, prometheus::Error> {
        let made = Self {
            dumps: metrics.counters(&are::DUMPS)?,
            failures: Failures::register(metrics, &are::DUMP_FAILURES, &TARGETS)?,
            running: metrics.gauges_of(&are::DUMPS_RUNNING, &TARGETS)?,
            seconds: metrics.histograms_of(&are::DUMP_SECONDS, &TARGETS)?,
            frozen: metrics.histograms_of(&are::DUMP_FROZEN_SECONDS, &TARGETS)?,
            steps: metrics.histograms_of(&are::DUMP_STEP_SECONDS, &steps())?,
            handovers: metrics.histogram(&are::DUMP_HANDOVER_SECONDS)?,
            bytes: metrics.histogram(&are::DUMP_IMAGE_BYTES)?,
            pages: metrics.counter(&are::DUMP_PAGES)?,
            verifications: metrics.counters_of(&are::VERIFICATIONS, &["sound", "damaged"])?,
        };
        for target in TARGETS {
            for outcome in ["done", "failed"] {
                made.dumps.with_label_values(&[target, outcome]).reset();
            }
        }
        Ok(made)
    }

    fn done(&self, target: &str, took: Duration) {
        self.dumps.with_label_values(&[target, "done"]).inc();
        self.seconds.with_label_values(&[target]).observe(took.as_secs_f64());
    }

    fn failed(&self, target: &str, code: Code) {
        self.dumps.with_label_values(&[target, "failed"]).inc();
        self.failures.count(&[target], code);
    }

    /// A dump that was asked for, and was not begun.
    pub(super) fn turned_away(&self, dumped: Dumped, problem: &Problem) {
        self.failed(dumped.name(), problem.detail.code);
    }

    pub(super) fn begun(&self, dumped: Dumped) {
        self.running.with_label_values(&[dumped.name()]).inc();
    }

    pub(super) fn finished(&self, dumped: Dumped, result: Result<&DumpReport, &Problem>) {
        let target = dumped.name();
        self.running.with_label_values(&[target]).dec();
        let report = match result {
            Ok(report) => report,
            Err(problem) => return self.failed(target, problem.detail.code),
        };
        self.done(target, report.total);
        self.frozen.with_label_values(&[target]).observe(report.frozen.as_secs_f64());
        if dumped == Dumped::DryRun {
            return;
        }
        self.bytes.observe(as_float(report.image_bytes));
        self.pages.inc_by(report.pages_written);
        for (step, time) in report.account.steps().iter().filter(|(_, time)| !time.is_zero()) {
            self.steps.with_label_values(&[*step]).observe(time.as_secs_f64());
        }
        if !report.account.handover.is_zero() {
            self.handovers.observe(report.account.handover.as_secs_f64());
        }
    }

    pub(super) fn container_begun(&self, dry_run: bool) {
        self.running.with_label_values(&[of_container(dry_run)]).inc();
    }

    /// Counts what an engine was asked for; it says how long the container stood still, microseconds, if that is known.
    pub(super) fn container_finished(
        &self,
        dry_run: bool,
        result: Result<Option<u64>, &Problem>,
        took: Duration,
    ) {
        let target = of_container(dry_run);
        self.running.with_label_values(&[target]).dec();
        match result {
            Ok(frozen) => {
                self.done(target, took);
                if let Some(frozen) = frozen.map(Duration::from_micros) {
                    self.frozen.with_label_values(&[target]).observe(frozen.as_secs_f64());
                }
            }
            Err(problem) => self.failed(target, problem.detail.code),
        }
    }

    pub(super) fn verified(&self, found: &Verification) {
        let outcome = if found.sound { "sound" } else { "damaged" };
        self.verifications.with_label_values(&[outcome]).inc();
    }
}

const fn of_container(dry_run: bool) -> &'static str {
    if dry_run { DRY_RUN } else { CONTAINER }
}

/// Which dump of a process tree is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dumped {
    /// Of one tree alone.
    Alone,
    /// Of one of several, which stands still for as long as all of them.
    Together,
    /// To see what it would cost.
    DryRun,
}

impl Dumped {
    const fn name(self) -> &'static str {
        match self {
            Self::Alone => PROCESS,
            Self::Together => TOGETHER,
            Self::DryRun => DRY_RUN,
        }
    }
}

/// The names of the steps of a frozen moment.
fn steps() -> [&'static str; 10] {
    dumper::FrozenAccount::default().steps().map(|(step, _)| step)
}

/// As histograms have it: of what is too large for that, the last digits do not matter.
#[allow(clippy::cast_precision_loss, reason = "sizes beyond 2^53 are not told to the byte")]
pub(super) fn as_float(bytes: u64) -> f64 {
    bytes as f64
}

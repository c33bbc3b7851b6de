//! What the collector's service holds: a source of inventories that several requests share, and
//! what it counts.

mod tracks;

use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::Code;
use ids::HostPid;
use prometheus::{Histogram, IntCounter, IntCounterVec};

use collector::{Collector, Error, Home, Inventory, ROOM, Source};
use service::chain;
use service::metrics::{Failures, Metrics, definitions as are};
use tracks::LiveTracks;

/// A source of inventories for many.
#[derive(Debug)]
pub struct Live {
    collector: Mutex<Collector>,
    tracks: LiveTracks,
    metrics: OfInventories,
    reason: Option<String>,
}

#[derive(Debug)]
struct OfInventories {
    inventories: IntCounterVec,
    failures: Failures,
    seconds: Histogram,
    processes: IntCounter,
}

impl Live {
    /// Loads the eBPF programs and leaves them for others to use, or else reads /proc; and registers
    /// its metrics.
    ///
    /// # Errors
    /// If the metrics are registered already.
    pub fn start(metrics: &Metrics) -> Result<Self, prometheus::Error> {
        Self::start_at(metrics, &Home::default(), ROOM)
    }

    /// Like [`Live::start`], with the programs in another place, with room for so many tracked
    /// processes.
    ///
    /// # Errors
    /// As [`Live::start`].
    pub fn start_at(
        metrics: &Metrics,
        home: &Home,
        tracked: NonZeroU32,
    ) -> Result<Self, prometheus::Error> {
        let (mut collector, reason) = match Collector::serve(home, tracked) {
            Ok((collector, failed)) => {
                let reason = failed
                    .map(|error| format!("no programs are left for dumps: {}", chain(&error)));
                (collector, reason)
            }
            Err(error) => {
                let reason = format!("inventories come from /proc, slower: {}", chain(&error));
                (Collector::proc_only(), Some(reason))
            }
        };
        let of_inventories = OfInventories::register(metrics, collector.source())?;
        let tracks = LiveTracks::start(metrics, &mut collector)?;
        Ok(Self { collector: Mutex::new(collector), tracks, metrics: of_inventories, reason })
    }

    /// Where inventories come from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.collector().source()
    }

    /// What is slower than it need be, and why.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The inventory of the tree below a process. It can be serialised as it is.
    ///
    /// # Errors
    /// If there is no such process, or what is there cannot be read.
    pub fn inventory(&self, root: HostPid) -> Result<Inventory, Error> {
        self.counted(|collector| {
            let pids = collector.tree(root)?;
            collector.inventory(&pids)
        })
    }

    fn counted(
        &self,
        take: impl FnOnce(&mut Collector) -> Result<Inventory, Error>,
    ) -> Result<Inventory, Error> {
        let inventory = self.timed(take)?;
        self.metrics.processes.inc_by(inventory.processes.len() as u64);
        Ok(inventory)
    }

    fn timed<T>(&self, take: impl FnOnce(&mut Collector) -> Result<T, Error>) -> Result<T, Error> {
        let mut collector = self.collector();
        let timer = self.metrics.seconds.start_timer();
        let answer = take(&mut collector);
        timer.observe_duration();
        match &answer {
            Ok(_) => {
                self.metrics.inventories.with_label_values(&[name(collector.source())]).inc();
            }
            Err(error) => self.metrics.failures.count(&[], code(error)),
        }
        answer
    }

    /// A request that panicked leaves nothing half-done in a collector but a buffer.
    fn collector(&self) -> MutexGuard<'_, Collector> {
        self.collector.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OfInventories {
    fn register(metrics: &Metrics, source: Source) -> Result<Self, prometheus::Error> {
        metrics.gauge(&are::COLLECTOR_BPF)?.set(i64::from(source == Source::Bpf));
        Ok(Self {
            inventories: metrics.counters_of(&are::INVENTORIES, &[name(source)])?,
            failures: Failures::register(metrics, &are::INVENTORY_FAILURES, &[])?,
            seconds: metrics.histogram(&are::INVENTORY_SECONDS)?,
            processes: metrics.counter(&are::INVENTORY_PROCESSES)?,
        })
    }
}

/// What kind of problem an inventory that could not be taken is.
pub(super) fn code(error: &Error) -> Code {
    match error {
        Error::Proc { source, .. } | Error::Tree { source, .. } if source.is_gone() => {
            Code::NotFound
        }
        Error::OutOfTime => Code::OverBudget,
        _ => Code::Failed,
    }
}

const fn name(source: Source) -> &'static str {
    match source {
        Source::Bpf => "bpf",
        Source::Proc => "proc",
    }
}

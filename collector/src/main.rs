//! `stasis-collector`: loads the eBPF programs for itself and for others, and says what runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use axum::Router;
use clap::Parser;
use prometheus::{IntGaugeVec, Opts};
use service::metrics::Metrics;
use service::{Capability, Error, Privileges, Service, Settings, chain};
use stasis_collector::bpf::PIN_ROOT;
use stasis_collector::{Collector, Source};

/// Says what runs and what of it can be dumped; keeps the eBPF programs that dumps use
#[derive(Debug, Parser)]
#[command(name = "stasis-collector", version)]
struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Folder of the BPF file system in which the programs are left for other processes
    #[arg(long, value_name = "DIR", default_value = PIN_ROOT, env = "STASIS_BPF_DIR")]
    bpf_dir: PathBuf,
}

/// What an inventory of anybody's processes takes. Loading and pinning the programs takes more,
/// and is done before the rest is dropped.
const PRIVILEGES: Privileges = Privileges::Only(&[
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_CHECKPOINT_RESTORE,
    Capability::CAP_DAC_READ_SEARCH,
    // Sockets of other network namespaces, and their queues.
    Capability::CAP_NET_ADMIN,
]);

fn main() -> ExitCode {
    service::exit("collector", run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), Error> {
    // Before privileges are dropped; what failed is said once there is a log.
    let (collector, failure) = load(&args.bpf_dir);
    let service = Service { name: "collector", privileges: PRIVILEGES };
    let mut prepared = service.prepare(args.settings.log, None)?;
    if let Some(failure) = failure {
        prepared.note(failure);
    }
    let metrics = prepared.metrics().clone();
    let result = prepared.run(&args.settings, async || Ok(router(&collector, &metrics)?));
    if let Err(error) = Collector::unpin(&args.bpf_dir) {
        tracing::warn!("{}", chain(&error));
    }
    result
}

/// The programs, loaded and left for others; reading /proc where the kernel has no place for
/// them, and why.
fn load(bpf_dir: &Path) -> (Collector, Option<String>) {
    let loaded = Collector::with_bpf();
    match loaded {
        Err(error) => {
            (Collector::proc_only(), Some(format!("inventories from /proc: {}", chain(&error))))
        }
        Ok(mut collector) => match collector.pin(bpf_dir) {
            Ok(()) => (collector, None),
            Err(error) => {
                let note = format!("eBPF programs for this service alone: {}", chain(&error));
                (collector, Some(note))
            }
        },
    }
}

fn router(collector: &Collector, metrics: &Metrics) -> Result<Router, prometheus::Error> {
    let source = metrics.add(IntGaugeVec::new(
        Opts::new("stasis_inventory_source", "1 for where inventories come from: bpf or proc."),
        &["source"],
    )?)?;
    let bpf = collector.source() == Source::Bpf;
    source.with_label_values(&["bpf"]).set(bpf.into());
    source.with_label_values(&["proc"]).set((!bpf).into());
    Ok(Router::new())
}

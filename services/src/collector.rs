//! The collector: loads the eBPF programs for itself and for others, and says what runs.

mod live;
mod track_routes;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use clap::{CommandFactory, Parser};
use collector::bpf::PIN_ROOT;
use collector::{Home, Inventory, ROOM, TrackError};
use configuration::Program;
use ids::HostPid;
use service::metrics::Metrics;
use service::{
    Capability, Error, OnBehalfOf, Privileges, Problem, Service, Settings, blocking, chain,
};

pub use live::Live;

/// Says what runs and what of it can be dumped; keeps the eBPF programs that dumps use
#[derive(Debug, Parser)]
#[command(name = "stasis-collector", version)]
struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Folder of the BPF file system in which the programs are found, or left for other processes
    #[arg(long, value_name = "DIR", default_value = PIN_ROOT, env = "STASIS_BPF_DIR")]
    bpf_dir: PathBuf,
    /// Folder for what is looked up in the kernel's type information
    #[arg(long, value_name = "DIR", env = "STASIS_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    /// How many processes may be tracked at a time
    #[arg(long, value_name = "COUNT", default_value_t = ROOM, env = "STASIS_TRACKED_PROCESSES")]
    tracked_processes: NonZeroU32,
}

/// How often it is looked whether tracks have ended.
const SWEEP: Duration = Duration::from_secs(2);

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
    // Taking on a user's ids for file accesses, to ask the kernel what he may trace.
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
]);

/// The program, for the configuration file.
#[must_use]
pub fn program() -> Program {
    Program::service("collector", Args::command())
}

/// The life of the service's program.
#[must_use]
pub fn main() -> ExitCode {
    service::exit("collector", run(&service::arguments::<Args>(&program())))
}

fn run(args: &Args) -> Result<(), Error> {
    // Before privileges are dropped, and before there is a log: what failed is noted after.
    let metrics = Metrics::new("collector")?;
    let home = Home::at(Some(args.bpf_dir.clone()), args.cache_dir.clone());
    let live = Arc::new(Live::start_at(&metrics, &home, args.tracked_processes)?);
    let service = Service { name: "collector", privileges: PRIVILEGES };
    let mut prepared = service.prepare_with(metrics, args.settings.log, None)?;
    if let Some(reason) = live.reason() {
        prepared.note(reason);
    }
    super::undo_left(&args.settings);
    prepared.run(&args.settings, async || {
        tokio::spawn(sweep(live.clone()));
        Ok(router(live))
    })
}

fn router(live: Arc<Live>) -> Router {
    Router::new()
        .route("/v1/inventories/{pid}", get(inventory))
        .merge(track_routes::router())
        .with_state(live)
}

/// Ends tracks whose last process has ended: their programs are called for nothing.
async fn sweep(live: Arc<Live>) {
    let mut clock = tokio::time::interval(SWEEP);
    loop {
        clock.tick().await;
        let live = live.clone();
        match blocking(move || live.all_tracks()).await {
            Err(TrackError::Unsupported) => return,
            Err(error) => tracing::warn!("{}", chain(&error)),
            Ok(_) => {}
        }
    }
}

async fn inventory(
    State(live): State<Arc<Live>>,
    OnBehalfOf(user): OnBehalfOf,
    Path(pid): Path<String>,
) -> Result<Json<Inventory>, Problem> {
    if user.is_some() {
        // The gateway does not pass it on.
        let message = "inventories are not given on behalf of a user";
        return Err(Problem::new(StatusCode::FORBIDDEN, message)
            .remedy("have root send the request, or send it with the gateway's token"));
    }
    let pid: HostPid = pid.parse().map_err(|_| {
        Problem::field("pid", format!("{pid} is no process id"))
            .remedy("name the pid of a running process")
    })?;
    if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("no process {pid}"))
            .of("pid")
            .remedy("stasis ps lists those there are"));
    }
    let taken = blocking(move || live.inventory(pid)).await;
    taken.map(Json).map_err(|error| track_routes::untaken("the inventory", &error))
}

//! The dumper: dumps process trees for others, under one checkpoint root.

mod archives;
mod asked;
mod checkpoints;
mod containers;
mod dirty_logs;
mod index;
mod looks;
mod metrics;
mod parents;
mod problems;
mod processes;
mod room;
mod routes;
mod store;
mod together;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use collector::Home;
use configuration::Program;
use images::Signer;
use index::Index;
use metrics::DumpMetrics;
use parents::Parents;
use room::{Room, RoomSettings};
use service::{
    Capability, CheckpointRoot, CheckpointSettings, EngineSettings, Error, Operations, Privileges,
    Service, Settings,
};
use store::Store;

use crate::access::{self, KeySettings};

/// Dumps process trees for others, under one checkpoint root
#[derive(Debug, Parser)]
#[command(name = "stasis-dumper", version)]
struct Args {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    checkpoints: CheckpointSettings,
    /// Folder of the BPF file system in which eBPF programs are found, or left for other dumps; `none`
    /// to do without them
    #[arg(long, value_name = "DIR", env = "STASIS_BPF_DIR")]
    bpf_dir: Option<PathBuf>,
    /// Folder for what is looked up in the kernel's type information
    #[arg(long, value_name = "DIR", env = "STASIS_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    #[command(flatten)]
    room: RoomSettings,
    #[command(flatten)]
    engines: EngineSettings,
    #[command(flatten)]
    keys: KeySettings,
    /// Label by whose values the metrics tell of checkpoints; may be given several times
    #[arg(
        long,
        value_name = "KEY",
        env = "STASIS_METRICS_LABEL",
        value_delimiter = ',',
        value_parser = store::label_key
    )]
    metrics_label: Vec<String>,
}

/// What a dump of anybody's processes takes.
const PRIVILEGES: Privileges = Privileges::Only(&[
    // Tracing, and all of /proc/PID that takes the right to trace.
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_CHECKPOINT_RESTORE,
    // Seccomp filters, page frame numbers, namespaces; BPF and map_files on older kernels.
    Capability::CAP_SYS_ADMIN,
    // Mount namespaces, which are entered to look at what is mounted.
    Capability::CAP_SYS_CHROOT,
    // The inventory by eBPF.
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    // Sockets' state and queues.
    Capability::CAP_NET_ADMIN,
    // Files of any owner, read for ghosts and compared with their names.
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    // Ending or stopping the tree afterwards.
    Capability::CAP_KILL,
    // Taking on a user's ids for file accesses, to ask the kernel what he may trace.
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    // Descriptors beyond our own limit.
    Capability::CAP_SYS_RESOURCE,
    // To stand in front of others while a target stands still.
    Capability::CAP_SYS_NICE,
]);

/// The program, for the configuration file.
#[must_use]
pub fn program() -> Program {
    Program::service("dumper", Args::command())
}

/// The folder of the run-time directory in which it is said who keeps logs of changed memory.
const DIRTY_LOGS: &str = "tracks";

/// The life of the service's program, or of one that keeps a log of changed memory for it.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(ended) = dirty_logs::keep() {
        return ended;
    }
    service::exit("dumper", run(&service::arguments::<Args>(&program())))
}

fn run(args: &Args) -> Result<(), Error> {
    let service = Service { name: "dumper", privileges: PRIVILEGES };
    let prepared = service.prepare(args.settings.log, None)?;
    let (metrics, traces) = (prepared.metrics().clone(), prepared.traces());
    let undo = super::undo_left(&args.settings);
    prepared.run(&args.settings, async || {
        let keys = &args.keys;
        if let Some(signer) = Signer::asked(keys.signing.signing_key.as_deref())? {
            tracing::info!("checkpoints are signed by key {}", signer.id());
        }
        if let Some(recipients) = access::recipients(&keys.recipients, keys.demand)? {
            tracing::info!("checkpoints are encrypted to {recipients}");
        }
        access::access(keys.trust.trusted_keys.as_deref(), &keys.identities, keys.demand)?;
        let root = CheckpointRoot::open(&args.checkpoints)?;
        routes::clear_leftovers(&root)?;
        let index = Index::of(root.clone());
        let labels = &args.metrics_label;
        let store = Store::register(root.clone(), index.clone(), labels, &metrics)?;
        let room = Room::of(args.room, root.clone(), index.clone());
        let of_dumps = DumpMetrics::register(&metrics)?;
        let places = containers::places(&args.engines, &args.settings.run_dir);
        let operations = Operations::default();
        let of_containers = containers::router(
            (root.clone(), keys.clone()),
            (places, room.clone()),
            operations.clone(),
            of_dumps.clone(),
        );
        let programs = Home::at(args.bpf_dir.clone(), args.cache_dir.clone());
        let asked = operations.router();
        let of_processes = processes::router(programs.clone(), &metrics)?;
        let parents = Parents::default();
        let dirty_logs = args.settings.run_dir.join(DIRTY_LOGS);
        let of_logs = dirty_logs::router(programs.clone(), dirty_logs.clone());
        let of_those = (root.clone(), keys.clone(), parents.clone());
        let there = checkpoints::router(of_those, index, operations.clone(), of_dumps.clone());
        let of_contents =
            looks::router(root.clone(), keys.clone()).merge(archives::router(root.clone()));
        let settings = (programs, undo, room, keys.clone());
        let increments = (dirty_logs, parents);
        let own = routes::router(root, settings, increments, operations, of_dumps, traces);
        tokio::spawn(store.keep_looking());
        Ok(own
            .merge(there)
            .merge(of_processes)
            .merge(of_containers)
            .merge(of_contents)
            .merge(of_logs)
            .merge(asked))
    })
}

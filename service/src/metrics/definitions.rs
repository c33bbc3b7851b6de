//! What each metric is. Nothing is registered that is not in this table, and a test of the gateway looks for all of it on the
//! dashboards and in the alerts.
//!
//! Names are as Prometheus has them (<https://prometheus.io/docs/practices/naming/>): base units, `_total` for what only grows.
//! Values of labels are few and ours, or the operator's: nobody else makes a time series by what he sends.

/// What kind of metric it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often a value was at most each of these.
    Histogram(&'static [f64]),
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Definition {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// What it tells.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
}

/// Times of a tree that stands still, of which the objective is a few milliseconds: about six in each decade from 0.1 ms to 10 s.
const FROZEN: Kind = Kind::Histogram(&[
    0.0001, 0.00015, 0.0002, 0.0003, 0.0005, 0.0007, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.007,
    0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0,
    7.0, 10.0,
]);

/// Times that people wait: 0.1 ms to 1000 s.
const SECONDS: Kind = Kind::Histogram(&[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0,
]);

/// 64 KiB to 256 GiB, four times as much each.
const BYTES: Kind = Kind::Histogram(&[
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
    17_179_869_184.0,
    68_719_476_736.0,
    274_877_906_944.0,
]);

use Kind::{Counter, Gauge};

/// Makes a constant of each line, and a list of all.
macro_rules! table {
    ($($id:ident: $kind:expr, $name:literal, [$($label:literal),*], $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $id: Definition =
                Definition { name: $name, kind: $kind, help: $help, labels: &[$($label),*] };
        )+

        /// All there are.
        pub const ALL: &[Definition] = &[$($id),+];
    };
}

// Of every service.
table! {
    BUILD: Gauge, "stasis_build_info", ["service", "version"],
        "1, with the version of the service.";
    REQUESTS: Counter, "stasis_requests_total", ["service", "path", "method", "status"],
        "Requests answered.";
    REQUEST_SECONDS: SECONDS, "stasis_request_seconds", ["service", "path"],
        "Time until a request was answered.";
    REQUEST_FAILURES: Counter, "stasis_request_failures_total", ["service"],
        "Requests answered with 500 or 502, which are no fault of who asked.";
    PEERS_REFUSED: Counter, "stasis_peers_refused_total", ["service"],
        "Requests of peers that may not ask.";

    // Of the gateway.
    SERVICE_UP: Gauge, "stasis_service_up", ["service"],
        "Whether a service answered the last scrape.";
    GATEWAY_REFUSED: Counter, "stasis_gateway_refused_total", ["reason"],
        "Requests refused for who sent them.";
    JOBS: Counter, "stasis_jobs_total", ["kind", "outcome"],
        "Jobs finished, by kind and outcome.";
    JOB_FAILURES: Counter, "stasis_job_failures_total", ["kind", "reason", "fault"],
        "Jobs that failed, by the code of their error and by whose fault it is.";
    JOB_SECONDS: SECONDS, "stasis_job_seconds", ["kind"],
        "Time from the request for a job to its end.";
    JOBS_RUNNING: Gauge, "stasis_jobs_running", ["kind"],
        "Jobs at work, by kind.";
    JOBS_QUEUED: Gauge, "stasis_jobs_queued", [],
        "Jobs that wait for their turn.";
    JOBS_OLDEST: Gauge, "stasis_jobs_oldest_start_timestamp_seconds", ["kind"],
        "When the oldest of the jobs at work was asked for; absent while there is none.";
    JOBS_FOUND_AGAIN: Counter, "stasis_jobs_found_again_total", [],
        "Jobs that were at work when the gateway was ended, and found by the next one.";
    EVENTS_LOST: Counter, "stasis_events_lost_total", [],
        "Changes of jobs that a listener was not told, being too slow.";
    POLICY_RUNS: Counter, "stasis_policy_runs_total", ["policy", "outcome"],
        "Runs of policies, by whether they have taken checkpoints of all.";
    POLICY_CHECKPOINTS: Counter, "stasis_policy_checkpoints_total", ["policy", "outcome"],
        "Checkpoints of policies: done, failed, or over the budget of time.";
    POLICY_NEWEST: Gauge, "stasis_policy_newest_checkpoint_timestamp_seconds", ["policy"],
        "When a policy has taken a checkpoint last; absent while it has taken none.";

    // Of the dumper.
    DUMPS: Counter, "stasis_dumps_total", ["target", "outcome"],
        "Dumps finished, of a process tree or of a container by its engine, by outcome.";
    DUMP_FAILURES: Counter, "stasis_dump_failures_total", ["target", "reason", "fault"],
        "Dumps that failed, by the code of their error and by whose fault it is.";
    DUMPS_RUNNING: Gauge, "stasis_dumps_running", ["target"],
        "Dumps that are being made.";
    DUMP_SECONDS: SECONDS, "stasis_dump_seconds", ["target"],
        "Time that whole dumps took.";
    DUMP_FROZEN_SECONDS: FROZEN, "stasis_dump_frozen_seconds", ["target"],
        "Time that dumped trees were stopped.";
    DUMP_STEP_SECONDS: FROZEN, "stasis_dump_frozen_step_seconds", ["step"],
        "Where the time went that dumped trees were stopped: each step that took any.";
    DUMP_HANDOVER_SECONDS: FROZEN, "stasis_dump_handover_seconds", [],
        "For how long a thread stood still before the freeze to hand over the log of its memory.";
    DUMP_IMAGE_BYTES: BYTES, "stasis_dump_image_bytes", [],
        "Size of the images of a dump.";
    DUMP_PAGES: Counter, "stasis_dump_pages_written_total", [],
        "Pages written.";
    VERIFICATIONS: Counter, "stasis_verifications_total", ["outcome"],
        "Checkpoints read whole and compared with what was written, by what was found.";
    PROCESS_LOOK_SECONDS: SECONDS, "stasis_process_look_seconds", [],
        "Time that a look at all processes took.";
    PROCESS_LIST_AGE: SECONDS, "stasis_process_list_age_seconds", [],
        "How old the list of processes was that somebody was told.";

    // Of the dumper's store.
    STORE_CHECKPOINTS: Gauge, "stasis_store_checkpoints", [],
        "Checkpoints under the root.";
    STORE_BYTES: Gauge, "stasis_store_bytes", [],
        "Size of the images of all checkpoints under the root.";
    STORE_FREE: Gauge, "stasis_store_free_bytes", [],
        "Free space of the file system that the root is on.";
    STORE_CAPACITY: Gauge, "stasis_store_capacity_bytes", [],
        "Size of the file system that the root is on.";
    STORE_DAMAGED: Gauge, "stasis_store_damaged_checkpoints", [],
        "Checkpoints whose images cannot be read.";
    STORE_UNFINISHED: Gauge, "stasis_store_unfinished_checkpoints", [],
        "Checkpoints that are being written, or were left half made.";
    STORE_NEWEST: Gauge, "stasis_store_newest_checkpoint_timestamp_seconds", [],
        "When the newest checkpoint was made; absent while there is none.";
    STORE_LABELLED: Gauge, "stasis_store_labelled_checkpoints", ["key", "value"],
        "Checkpoints by the labels that --metrics-label names.";
    STORE_LABELLED_NEWEST: Gauge, "stasis_store_labelled_newest_timestamp_seconds", ["key", "value"],
        "When the newest checkpoint with a label was made that --metrics-label names.";
    STORE_SEEN: Gauge, "stasis_store_seen_timestamp_seconds", [],
        "When the checkpoints were last looked at for these metrics.";
    STORE_EVENTS_LOST: Counter, "stasis_store_events_lost_total", [],
        "How often the kernel did not tell of all changes under the root, and all was read again.";

    // Of the restorer.
    RESTORES: Counter, "stasis_restores_total", ["outcome"],
        "Restores finished, by outcome.";
    RESTORE_FAILURES: Counter, "stasis_restore_failures_total", ["reason", "fault"],
        "Restores that failed, by the code of their error and by whose fault it is.";
    RESTORES_RUNNING: Gauge, "stasis_restores_running", [],
        "Restores that are at work.";
    RESTORE_SECONDS: SECONDS, "stasis_restore_seconds", [],
        "Time that whole restores took.";
    RESTORE_MEMORY_BYTES: BYTES, "stasis_restore_memory_bytes", [],
        "Memory that a restore put back.";
    RESTORED_RUNNING: Gauge, "stasis_restored_running", [],
        "Restored trees whose root runs.";
    REAPED: Counter, "stasis_reaped_total", [],
        "Restored processes that ended and were waited for.";

    // Of the freezer.
    LEASES: Gauge, "stasis_leases", ["method"],
        "Trees stopped now, by method.";
    LEASES_GRANTED: Counter, "stasis_leases_total", ["outcome"],
        "Leases asked for: granted, or failed.";
    LEASE_FAILURES: Counter, "stasis_lease_failures_total", ["reason", "fault"],
        "Leases that were not granted, by the code of the error and by whose fault it is.";
    LEASE_ENDS: Counter, "stasis_lease_ends_total", ["reason"],
        "Leases ended, by reason.";
    FREEZE_SECONDS: FROZEN, "stasis_freeze_seconds", ["method"],
        "Time to stop a tree, by method.";

    // Of the collector.
    COLLECTOR_BPF: Gauge, "stasis_collector_bpf", [],
        "1 if inventories come from eBPF, 0 if they come from /proc.";
    INVENTORIES: Counter, "stasis_inventories_total", ["source"],
        "Inventories taken.";
    INVENTORY_FAILURES: Counter, "stasis_inventory_failures_total", ["reason", "fault"],
        "Inventories that could not be taken, by the code of the error and by whose fault it is.";
    INVENTORY_SECONDS: SECONDS, "stasis_inventory_seconds", [],
        "Time an inventory took.";
    INVENTORY_PROCESSES: Counter, "stasis_inventory_processes_total", [],
        "Processes in the inventories taken.";
    TRACKED_PROCESSES: Gauge, "stasis_tracked_processes", [],
        "Processes tracked now.";
    TRACKS: Gauge, "stasis_tracks", [],
        "Tracks that there are now.";
    TRACKS_STALE: Gauge, "stasis_tracks_stale", [],
        "Tracks that have lost processes: what they tell is not all.";
    TRACK_LOST: Counter, "stasis_track_lost_total", [],
        "Processes of tracks that there was no room for.";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `promtool check metrics` would say of those that are not on a page yet.
    #[test]
    fn names_are_as_prometheus_has_them() {
        for Definition { name, kind, help, labels } in ALL {
            assert_eq!(
                ALL.iter().filter(|other| other.name == *name).count(),
                1,
                "{name} is twice"
            );
            assert_eq!(name.ends_with("_total"), *kind == Counter, "{name}");
            assert!(help.ends_with('.'), "{name}: {help}");
            assert!(!["_ms", "_us", "_kb", "_count", "_sum"].iter().any(|end| name.ends_with(end)));
            assert!(!labels.contains(&"le") && !labels.contains(&"job"), "{name}");
            if let Kind::Histogram(buckets) = kind {
                assert!(name.ends_with("_seconds") || name.ends_with("_bytes"), "{name}");
                assert!(buckets.is_sorted(), "{name}");
            }
        }
    }
}

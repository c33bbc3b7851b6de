//! What jobs do, by the services; and what became of it where a service, or the gateway, ended meanwhile.
//!
//! A service goes on with what it was asked for when who asked is gone, and says afterwards what came of it, by the job's id. One
//! that was started anew knows nothing of it: then the checkpoint is there whole, or there is none; and a restored tree is there, or
//! nobody of it.

use std::time::Duration;

use api::{
    After, CheckpointSummary, ContainerDumpRequest, Directory, DumpRequest, ErrorDetail, Job,
    JobKind, Operation, OperationState, Progress, RestoreRequest, TogetherRequest, Verification,
    VerifyRequest,
};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use service::{Client, ClientError};
use tokio::time::{Instant, sleep};

use crate::GatewayMetrics;
use crate::jobs::{Outcome, Target};
use crate::services::Services;

/// For so long a service that has ended is waited for: who starts services starts them again.
const PATIENCE: Duration = Duration::from_secs(60);
/// In between it is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// What a job does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    Dump(DumpRequest),
    Together(TogetherRequest),
    Container(ContainerDumpRequest),
    Restore(RestoreRequest),
    Verify(VerifyRequest),
}

impl Work {
    pub(crate) fn kind(&self) -> JobKind {
        match self {
            Self::Dump(request) if request.dry_run => JobKind::DryRun,
            Self::Container(request) if request.dry_run => JobKind::DryRun,
            Self::Together(request) if request.dumps.iter().any(|dump| dump.dry_run) => {
                JobKind::DryRun
            }
            Self::Dump(_) | Self::Together(_) | Self::Container(_) => JobKind::Checkpoint,
            Self::Restore(_) => JobKind::Restore,
            Self::Verify(_) => JobKind::Verify,
        }
    }

    pub(crate) fn target(&self) -> Target {
        match self {
            Self::Dump(request) => Target::Process(request.pid),
            Self::Together(request) => {
                Target::Processes(request.dumps.iter().map(|dump| dump.pid).collect())
            }
            Self::Container(request) => Target::Container(request.container.clone()),
            Self::Restore(_) | Self::Verify(_) => Target::Images,
        }
    }

    /// Whether the tree is to run on.
    pub(crate) fn leave_running(&self) -> Option<bool> {
        match self {
            Self::Dump(request) => Some(request.after == After::Resume),
            Self::Together(request) => {
                Some(request.dumps.iter().all(|dump| dump.after == After::Resume))
            }
            Self::Container(request) => Some(request.leave_running),
            Self::Restore(_) | Self::Verify(_) => None,
        }
    }

    pub(crate) fn directory(&self) -> &Directory {
        match self {
            Self::Dump(request) => &request.directory,
            Self::Together(request) => &request.directory,
            Self::Container(request) => &request.directory,
            Self::Restore(request) => &request.directory,
            Self::Verify(request) => &request.directory,
        }
    }
}

/// What a job does, for the log.
pub(crate) fn described(job: &Job) -> String {
    let directory = &job.directory;
    match (job.kind, job.pid, &job.container) {
        (JobKind::Checkpoint, _, Some(name)) => {
            format!("checkpoint of container {name:?} to {directory}")
        }
        (JobKind::Checkpoint, Some(pid), _) => {
            format!("checkpoint of process {pid} to {directory}")
        }
        (JobKind::Checkpoint, None, None) if !job.pids.is_empty() => {
            format!("checkpoint of processes {} together to {directory}", listed(&job.pids))
        }
        (JobKind::Checkpoint, None, None) => format!("checkpoint to {directory}"),
        (JobKind::DryRun, _, Some(name)) => {
            format!("dry run of a checkpoint of container {name:?}")
        }
        (JobKind::DryRun, None, None) => {
            format!("dry run of a checkpoint of processes {} together", listed(&job.pids))
        }
        (JobKind::DryRun, pid, None) => {
            let pid = pid.map(|pid| pid.to_string()).unwrap_or_default();
            format!("dry run of a checkpoint of process {pid}")
        }
        (JobKind::Restore, ..) => format!("restore of {directory}"),
        (JobKind::Verify, ..) => format!("verification of {directory}"),
    }
}

/// Numbers with commas between.
pub(crate) fn listed(pids: &[i32]) -> String {
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    pids.join(", ")
}

/// Has the services do what a job is to do.
pub(crate) async fn perform(
    services: &Services,
    metrics: &GatewayMetrics,
    job: &Job,
    work: &Work,
) -> Outcome {
    let id = &job.id;
    let done = match work {
        Work::Dump(request) => services.dump(id, request).await.map(Outcome::Dumped),
        Work::Together(request) => services.dump_together(id, request).await.map(Outcome::Together),
        Work::Container(request) if request.dry_run => {
            services.try_container(id, request).await.map(Outcome::Dumped)
        }
        Work::Container(request) => {
            services.checkpoint_container(id, request).await.map(Outcome::Checkpointed)
        }
        Work::Restore(request) => services.restore(id, request).await.map(Outcome::Restored),
        Work::Verify(request) => services.verify(id, request).await.map(Outcome::Verified),
    };
    match done {
        Ok(outcome) => outcome,
        Err(error) if error.leaves_open() => settle(services, job).await,
        Err(error) => {
            if matches!(error, ClientError::Refused { status: StatusCode::FORBIDDEN, .. }) {
                metrics.refused("right");
            }
            Outcome::Failed(error.into_detail())
        }
    }
}

/// The service that does a job.
fn client<'a>(services: &'a Services, job: &Job) -> &'a Client {
    match job.kind {
        JobKind::Checkpoint | JobKind::DryRun | JobKind::Verify => services.dumper(),
        JobKind::Restore => services.restorer(),
    }
}

/// Has a job's service end it. It may end well all the same, if that is done already.
pub(crate) async fn cancel(services: &Services, job: &Job) -> Result<(), ClientError> {
    let path = format!("/v1/operations/{}/cancel", job.id);
    let nothing = serde_json::json!({});
    match client(services, job).post::<Operation>(&path, &nothing).await {
        // It is not begun any more if it was not yet.
        Ok(_) | Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// How far a job is, if its service says so.
pub(crate) async fn progress(services: &Services, job: &Job) -> Option<Progress> {
    let path = format!("/v1/operations/{}", job.id);
    let operation: Operation = client(services, job).get(&path).await.ok()?;
    operation.progress
}

/// Finds out what became of a job whose answer is lost.
pub(crate) async fn settle(services: &Services, job: &Job) -> Outcome {
    let client = client(services, job);
    let mut last_seen = Instant::now();
    loop {
        match outcome(services, client, job).await {
            Ok(Some(outcome)) => return outcome,
            Ok(None) => last_seen = Instant::now(),
            Err(error) if last_seen.elapsed() > PATIENCE => {
                let mut detail = error.into_detail();
                detail.message =
                    format!("what became of the {}: {}", described(job), detail.message);
                return Outcome::Failed(detail);
            }
            Err(_) => {}
        }
        sleep(PAUSE).await;
    }
}

/// What became of it; `None` while it is at work.
async fn outcome(
    services: &Services,
    client: &Client,
    job: &Job,
) -> Result<Option<Outcome>, ClientError> {
    let Some(operation) = operation(client, &job.id).await? else {
        return found(services, job).await.map(Some);
    };
    Ok(match operation.state {
        OperationState::Running => None,
        OperationState::Failed => Some(Outcome::Failed(operation.error.unwrap_or_default())),
        OperationState::Done => Some(match (job.kind, &job.container) {
            (JobKind::Checkpoint | JobKind::DryRun, None) if !job.pids.is_empty() => {
                answer(operation, Outcome::Together)
            }
            (JobKind::Checkpoint, None) | (JobKind::DryRun, _) => {
                answer(operation, Outcome::Dumped)
            }
            (JobKind::Checkpoint, Some(_)) => answer(operation, Outcome::Checkpointed),
            (JobKind::Restore, _) => answer(operation, Outcome::Restored),
            (JobKind::Verify, _) => answer(operation, Outcome::Verified),
        }),
    })
}

fn answer<A: DeserializeOwned>(operation: Operation, outcome: fn(A) -> Outcome) -> Outcome {
    match serde_json::from_value(operation.answer.unwrap_or_default()) {
        Ok(answer) => outcome(answer),
        Err(error) => Outcome::Failed(ErrorDetail {
            message: format!(
                "it was done, and what the service says of it is not understood: {error}"
            ),
            ..ErrorDetail::default()
        }),
    }
}

/// `None` if the service does not know it: it has been started anew.
async fn operation(client: &Client, id: &str) -> Result<Option<Operation>, ClientError> {
    // A request that is still on its way does nothing after that.
    match client.give_up(&format!("/v1/operations/{id}")).await {
        Ok(operation) => Ok(Some(operation)),
        Err(ClientError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the dumper has not done of a dump whose images are there; `None` if that is nothing.
async fn unfinished(
    services: &Services,
    job: &Job,
    there: &CheckpointSummary,
) -> Result<Option<Outcome>, ClientError> {
    let failed = |message: String, remedy: &str| {
        let remedy = Some(remedy.to_owned());
        Some(Outcome::Failed(ErrorDetail { message, remedy, ..ErrorDetail::default() }))
    };
    let request = VerifyRequest { directory: there.directory.clone() };
    let found: Verification = services.dumper().post("/v1/verifications", &request).await?;
    if !found.sound || there.damage.is_some() {
        let message = format!(
            "the dumper ended before its images were safe, and they are damaged: {}",
            there.directory
        );
        return Ok(failed(message, "remove the checkpoint, and send the request again"));
    }
    let runs_on = job.pid.iter().chain(&job.pids).any(|pid| runs(*pid));
    if job.leave_running == Some(false) && runs_on {
        let message = match job.pids.is_empty() {
            true => {
                "the dumper ended when the images were safe, and before the tree was ended: both are there"
            }
            false => {
                "the dumper ended when the images were safe, and before all trees were ended: all checkpoints are there, and trees run on"
            }
        };
        let message = message.to_owned();
        return Ok(failed(
            message,
            "end the tree before the checkpoint is restored, or remove the checkpoint",
        ));
    }
    Ok(None)
}

/// Whether a process runs: one that has ended may wait for its parent.
fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !"ZX".contains(state))
}

/// How a job was lost of which its service knows nothing.
fn lost(job: &Job, service: &str) -> String {
    match job.found_again {
        true => format!(
            "the gateway ended before the {service} had heard of it, or the {service} ended while it was at work"
        ),
        false => format!("the {service} ended while it was at work"),
    }
}

/// Nothing came of a job.
fn nothing(message: &str, remedy: &str) -> Outcome {
    Outcome::Failed(ErrorDetail {
        message: message.to_owned(),
        remedy: Some(remedy.to_owned()),
        ..ErrorDetail::default()
    })
}

/// What is there of checkpoints of one moment: all have appeared at once, with their labels, or none has.
async fn found_together(services: &Services, job: &Job) -> Result<Outcome, ClientError> {
    for pid in &job.pids {
        let Ok(directory) = format!("{}/{pid}", job.directory).parse() else { continue };
        let there = services.checkpoint(&directory).await?;
        let Some(there) = there.filter(|there| there.created_ms >= job.created_ms) else {
            let lost = lost(job, "dumper");
            let message = format!("{lost}: there are no checkpoints, and the trees run on");
            return Ok(nothing(&message, "send the request again"));
        };
        if let Some(wrong) = unfinished(services, job, &there).await? {
            return Ok(wrong);
        }
    }
    Ok(Outcome::FoundTogether)
}

/// What is there of what a service that has ended was to make.
async fn found(services: &Services, job: &Job) -> Result<Outcome, ClientError> {
    match job.kind {
        JobKind::Checkpoint if !job.pids.is_empty() => found_together(services, job).await,
        JobKind::Checkpoint => {
            let found = services.checkpoint(&job.directory).await?;
            let found = found.filter(|there| there.created_ms >= job.created_ms);
            if let Some(summary) = &found {
                if let Some(wrong) = unfinished(services, job, summary).await? {
                    return Ok(wrong);
                }
                // They are given when the images are there.
                if !job.labels.is_empty() {
                    let path = format!("/v1/labels/{}", job.directory);
                    let _: CheckpointSummary = services.dumper().put(&path, &job.labels).await?;
                }
            }
            Ok(match found {
                Some(summary) => Outcome::Found(summary),
                None if job.container.is_some() => nothing(
                    "the dumper ended while the container's engine was at work, and no images are under the checkpoint root",
                    "ask the engine what became of it, and whether the container runs",
                ),
                None => nothing(
                    &format!(
                        "{}: there is no checkpoint, and the tree runs on",
                        lost(job, "dumper")
                    ),
                    "send the request again",
                ),
            })
        }
        JobKind::Verify | JobKind::DryRun => Ok(nothing(
            &format!("{}: nothing was found out", lost(job, "dumper")),
            "send the request again",
        )),
        JobKind::Restore => {
            let trees = services.restores().await?.restores;
            let mut there = trees.into_iter().filter(|tree| tree.directory == job.directory);
            Ok(there.find(|tree| tree.running).map_or_else(
                || {
                    nothing(
                        &format!("{}: nobody of the tree is there", lost(job, "restorer")),
                        "send the request again",
                    )
                },
                Outcome::FoundTree,
            ))
        }
    }
}

//! Jobs of a gateway: begun and waited for, and told.

use std::process::ExitCode;

use api::{Job, JobKind, JobList, JobState};
use criu::Failure;
use images::Progress;
use serde::Serialize;

use super::client::{Client, failure};
use crate::ps::plain;
use crate::summaries::{self, Dumped, Restored, Several, Tried};
use crate::voice::{BAD, GOOD, STRONG, Voice, in_style};
use crate::{several, verify};

/// For so long the gateway holds an answer back.
const WAIT: &str = "wait=2s";

/// Begins a job and, if that is wanted, waits for its end. The job goes on if who waits does not.
pub(super) async fn begin(
    client: &Client,
    path: &str,
    request: &impl Serialize,
    waits: bool,
    voice: Voice,
) -> Result<Job, Failure> {
    let job = client.post(path, request).await?;
    if waits { ended(client, job, voice).await } else { Ok(job) }
}

/// Waits for the end of a job.
pub(super) async fn ended(client: &Client, mut job: Job, voice: Voice) -> Result<Job, Failure> {
    let mut bar = voice.bar();
    while !job.state.is_over() {
        let what = format!("{} of {}", job.kind.name(), job.directory);
        match job.progress.as_ref().filter(|progress| progress.total_bytes.is_some()) {
            Some(progress) => {
                bar.begin(&format!("{what}: {}", plain(&progress.step)), progress.total_bytes);
                bar.advance(progress.done_bytes);
            }
            None => bar.begin(&what, None),
        }
        let waited = client.get(&format!("/v1/jobs/{}?{WAIT}", job.id)).await;
        job = waited.inspect_err(|_| {
            let id = plain(&job.id);
            voice.note(&format!("job {id} goes on without us: `stasis jobs {id} --wait` tells"));
        })?;
    }
    Ok(job)
}

/// Tells what became of a job that was begun here; of one that is at work its id.
pub(super) fn tell_begun(job: &Job, voice: Voice) -> Result<ExitCode, Failure> {
    match job.state {
        JobState::Queued | JobState::Running => voice.print(job, || format!("{}\n", job.id))?,
        JobState::Failed | JobState::Cancelled => return Err(why(job)),
        JobState::Done => {
            warnings(job).iter().for_each(|warning| voice.note(&plain(warning)));
            return tell_done(job, voice);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is not as it was asked for.
fn warnings(job: &Job) -> &[String] {
    let of_dump = job.dump.as_ref().map(|dump| &dump.warnings);
    let of_engine = job.checkpointed.as_ref().map(|done| &done.warnings);
    of_dump.or(of_engine).map_or(&[], Vec::as_slice)
}

fn tell_done(job: &Job, voice: Voice) -> Result<ExitCode, Failure> {
    match job.kind {
        JobKind::Checkpoint | JobKind::DryRun if !job.pids.is_empty() => {
            several::tell(&together(job), job.kind == JobKind::DryRun, voice, "")?;
        }
        JobKind::Checkpoint => tell_checkpoint(job, voice)?,
        JobKind::DryRun => {
            let tried = Tried {
                root: job.pid,
                job: Some(job.id.clone()),
                summary: job.dump.clone().unwrap_or_default(),
            };
            voice.conclude(&tried, || summaries::of_dry_run(&tried.summary))?;
        }
        JobKind::Restore => tell_restore(job, voice)?,
        JobKind::Verify => {
            let found = job.verified.clone().unwrap_or_default();
            return verify::tell(&found, voice);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Why a job has failed.
fn why(job: &Job) -> Failure {
    match &job.error {
        Some(error) => failure(error),
        None => format!("job {} has failed, and nobody says why", job.id).into(),
    }
}

/// A checkpoint that is there.
pub(super) fn dumped(job: &Job) -> Dumped {
    Dumped {
        root: job.pid,
        directory: job.directory.to_string(),
        job: Some(job.id.clone()),
        summary: job.dump.clone(),
    }
}

/// Checkpoints of one moment that are there.
fn together(job: &Job) -> Several {
    let of = |root: &i32| {
        let told = job.together.iter().flat_map(|it| &it.checkpoints).find(|it| it.pid == *root);
        Dumped {
            root: Some(*root),
            directory: format!("{}/{root}", job.directory),
            job: None,
            summary: told.map(|told| told.dump.clone()),
        }
    };
    let told = job.together.as_ref();
    Several {
        together: told.map(|it| it.id.clone()).filter(|id| !id.is_empty()),
        frozen_us: told.map(|it| it.frozen_us),
        job: Some(job.id.clone()),
        checkpoints: job.pids.iter().map(of).collect(),
        failed: Vec::new(),
    }
}

fn tell_checkpoint(job: &Job, voice: Voice) -> Result<(), Failure> {
    if let Some(done) = &job.checkpointed {
        return voice.conclude(done, || summaries::of_container(done, true));
    }
    voice.sum_up(&dumped(job), || match &job.dump {
        Some(dump) => summaries::of_dump(dump),
        None => format!("{} is there; its dumper ended before it could say more\n", job.directory),
    })
}

fn tell_restore(job: &Job, voice: Voice) -> Result<(), Failure> {
    let restored = Restored {
        root: job.pid,
        directory: job.directory.to_string(),
        job: Some(job.id.clone()),
        restore: job.restore,
    };
    let root = job.pid.map(|root| root.to_string());
    voice.print(&restored, || root.unwrap_or_default() + "\n")
}

/// A line for each job.
pub(super) fn text(list: &JobList) -> String {
    let head = format!("{:<36}  {:<10}  {:<9}  {:<10}  WHAT", "JOB", "KIND", "STATE", "ASKED BY");
    let mut text = in_style(STRONG, &head) + "\n";
    for job in &list.jobs {
        text += &line(job);
    }
    text
}

/// A job, and why it failed.
pub(super) fn line(job: &Job) -> String {
    let (kind, state) = (job.kind.name(), format!("{:<9}", job.state.name()));
    let state = match job.state {
        JobState::Queued | JobState::Running | JobState::Cancelled => state,
        JobState::Done => in_style(GOOD, &state),
        JobState::Failed => in_style(BAD, &state),
    };
    let whose = match (job.pid, &job.container) {
        (Some(root), _) => format!(", process {root}"),
        (None, Some(name)) => format!(", container {}", plain(name)),
        (None, None) if !job.pids.is_empty() => format!(", {} trees together", job.pids.len()),
        (None, None) => String::new(),
    };
    let (id, asker) = (plain(&job.id), plain(&job.asked_by));
    let mut text =
        format!("{id:<36}  {kind:<10}  {state}  {asker:<10}  {}{whose}\n", job.directory);
    if let Some(error) = &job.error {
        text += &format!("{:>40}{}\n", "", plain(&error.message));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_job_and_why_it_failed() {
        let json = r#"{"jobs": [
            {"id": "6f0c", "kind": "checkpoint", "state": "failed", "asked_by": "token", "pid": 4711, "directory": "web/first",
             "created_ms": 1, "error": {"code": "refused", "detail": "process 4711: \u001b[2Jno"}},
            {"id": "7a", "kind": "verify", "state": "running", "asked_by": "uid 0", "directory": "b", "created_ms": 1}]}"#;
        let shown = text(&serde_json::from_str(json).unwrap());
        let shown = anstream::adapter::strip_str(&shown).to_string();
        let lines: Vec<_> = shown.lines().collect();
        assert!(
            lines[1].starts_with("6f0c ") && lines[1].ends_with("web/first, process 4711"),
            "{shown}"
        );
        assert_eq!(lines[2].trim(), "process 4711:  [2Jno");
        assert!(lines[3].contains("running") && lines[3].ends_with("  b"), "{shown}");
    }
}

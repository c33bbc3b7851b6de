//! What policies do: at their time, checkpoints of what they select, one after the other or together; and then what is kept no longer is removed.

use std::time::{Duration, SystemTime};

use api::{
    CheckpointList, CheckpointQuery, CheckpointRequest, CheckpointSummary, Code, Directory,
    ErrorDetail, JobState, Labels, Policy, PolicyRun, Priority,
};
use service::Problem;

use crate::callers::{Asker, Rights};
use crate::checkpoints;
use crate::gateway::Gateway;
use crate::job_routes::Asked;
use crate::jobs::now_ms;
use crate::policies::{AtWork, Limits};
use crate::policy_metrics::PolicyMetrics;
use crate::selection;

/// In between it is looked whether one is due whose time has come because the clock was set.
const LOOKED_AT: Duration = Duration::from_secs(30);
/// So often what is kept no longer is removed, beside after each run.
const SWEPT: Duration = Duration::from_secs(600);
/// For so long a job is waited for before the next tree's turn.
const PATIENCE: Duration = Duration::from_secs(3600);
/// So many jobs of a run are told.
const TOLD: usize = 100;

impl Gateway {
    /// Has policies at work at their times, for as long as this runs.
    pub async fn keep_at_work(self) {
        keep_at_work(&self).await;
    }
}

async fn keep_at_work(gateway: &Gateway) {
    tokio::spawn(keep_swept(gateway.clone()));
    loop {
        let (due, wait) = gateway.policies.due();
        for name in due {
            begin(gateway, &name).await;
        }
        let wait = wait.map_or(LOOKED_AT, Duration::from_millis).min(LOOKED_AT);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = gateway.policies.changed() => {}
        }
    }
}

/// Removes what is kept no longer of all policies, every so often.
async fn keep_swept(gateway: Gateway) {
    loop {
        tokio::time::sleep(SWEPT).await;
        for policy in gateway.policies.list() {
            sweep(&gateway, &policy).await;
        }
    }
}

/// Has a policy at work now; whether it was not before.
pub(crate) async fn begin(gateway: &Gateway, name: &str) -> bool {
    let Some((policy, at_work)) = gateway.policies.begin(name) else { return false };
    let run = PolicyRun { started_ms: now_ms(), ..PolicyRun::default() };
    note(gateway, name, &run).await;
    tokio::spawn(at(gateway.clone(), policy, run, at_work));
    true
}

/// Notes how a run fares.
async fn note(gateway: &Gateway, name: &str, run: &PolicyRun) {
    let (name, run) = (name.to_owned(), run.clone());
    gateway.policies.ask(move |policies| policies.note(&name, &run)).await;
}

async fn at(gateway: Gateway, policy: Policy, mut run: PolicyRun, at_work: AtWork) {
    let name = &policy.name;
    let asker = Asker::new(format!("policy {name}"), Rights::all().into());
    match requests(&gateway, &asker, &policy, run.started_ms).await {
        Ok(requests) => {
            for request in requests {
                // It may have been removed, changed or paused meanwhile.
                if gateway.policies.get(name).is_none_or(|now| now.tag() != policy.tag()) {
                    run.problem = Some(ErrorDetail {
                        message: "it was changed while it was at work, and stopped".to_owned(),
                        ..ErrorDetail::default()
                    });
                    break;
                }
                let taken = checkpoint(&gateway, &asker, request, &mut run).await;
                count(&gateway, name, |metrics| metrics.taken(name, taken));
                note(&gateway, name, &run).await;
            }
        }
        Err(problem) => run.problem = Some(problem.detail),
    }
    run.finished_ms = Some(now_ms());
    let good = run.failed == 0 && run.problem.is_none();
    match &run.problem {
        Some(problem) => tracing::warn!("{asker}: {}", problem.message),
        None => tracing::info!("{asker}: {} checkpoints taken", run.done),
    }
    count(&gateway, name, |metrics| metrics.ran(name, good));
    if let Some(policy) = gateway.policies.get(name) {
        sweep(&gateway, &policy).await;
    }
    gateway.policies.ask(move |_| at_work.end(&run, good)).await;
}

/// Counts something of a policy, if there is one of that name still.
fn count(gateway: &Gateway, name: &str, count: impl FnOnce(&PolicyMetrics)) {
    if gateway.policies.get(name).is_some() {
        count(&gateway.metrics.policies);
    }
}

/// Takes one checkpoint, and waits for it: when it was there, or the code of what went wrong.
async fn checkpoint(
    gateway: &Gateway,
    asker: &Asker,
    request: CheckpointRequest,
    run: &mut PolicyRun,
) -> Result<u64, Code> {
    let begun = checkpoints::begin(gateway, asker, &Asked::default(), &request, true).await;
    let id = match begun {
        Ok((_, _, _, job)) => job.0.id,
        Err(problem) => {
            run.failed += 1;
            let code = problem.detail.code;
            run.problem = Some(problem.detail);
            return Err(code);
        }
    };
    if run.jobs.len() < TOLD {
        run.jobs.push(id.clone());
    }
    let job = gateway.jobs.wait(&id, asker, PATIENCE).await.ok().flatten();
    match job {
        Some(job) if job.state == JobState::Done => {
            run.done += job.pids.len().max(1) as u32;
            Ok(job.finished_ms.unwrap_or_else(now_ms))
        }
        job => {
            run.failed += 1;
            let error = job.and_then(|job| job.error);
            let error = error.unwrap_or_else(|| ErrorDetail {
                message: format!("job {id} is at work still"),
                ..ErrorDetail::default()
            });
            let code = error.code;
            run.problem = Some(error);
            Err(code)
        }
    }
}

/// The checkpoints that a run takes.
async fn requests(
    gateway: &Gateway,
    asker: &Asker,
    policy: &Policy,
    now: u64,
) -> Result<Vec<CheckpointRequest>, Problem> {
    let run = run_name(now);
    let below = format!("policies/{}/{run}", policy.name);
    let spec = &policy.spec;
    let own = format!("{}={},{}={run}", Policy::LABEL, policy.name, Policy::RUN_LABEL);
    let own = own.parse::<Labels>().ok().and_then(|own| own.and(&spec.labels));
    let request = CheckpointRequest {
        pid: None,
        pids: Vec::new(),
        together: spec.together,
        select: None,
        container: spec.select.container.clone(),
        engine: None,
        directory: None,
        leave_running: Some(true),
        dry_run: false,
        shell_job: spec.shell_job,
        tcp_established: spec.tcp_established,
        tcp_close: spec.tcp_close,
        skip_in_flight: spec.skip_in_flight,
        link_remap: false,
        parent: None,
        track: false,
        max_freeze_ms: spec.max_freeze_ms,
        timeout_ms: spec.timeout_ms,
        labels: own.unwrap_or_default(),
        priority: Priority::Low,
    };
    let directory = |name: String| {
        name.parse::<Directory>().map(Some).map_err(|error| {
            Problem::field("directory", format!("name it {name}: {error}"))
                .remedy("give the policy a shorter name")
        })
    };
    if spec.select.container.is_some() {
        return Ok(vec![CheckpointRequest { directory: directory(below)?, ..request }]);
    }
    if let Some(pid) = spec.select.pid
        && policy.process != service::process_identity(pid)
    {
        let message = format!("process {pid} is not the one that policy {} means", policy.name);
        return Err(Problem::field("select.pid", message)
            .remedy("change the policy, and it means the one that runs then"));
    }
    let roots = selection::trees(&gateway.services, asker, &spec.select).await?;
    if roots.is_empty() {
        let message = format!("nothing runs that policy {} selects", policy.name);
        return Err(Problem::field("select", message)
            .remedy("start it, pause the policy, or change what it selects"));
    }
    if spec.together {
        return Ok(vec![CheckpointRequest {
            pids: roots,
            directory: directory(below)?,
            ..request
        }]);
    }
    let of = |pid| {
        let directory = directory(format!("{below}/{pid}"))?;
        Ok(CheckpointRequest { pid: Some(pid), directory, ..request.clone() })
    };
    roots.into_iter().map(of).collect()
}

/// The name of a run: its time, which no part of a directory but this one has.
fn run_name(ms: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    humantime::format_rfc3339_millis(time).to_string().replace(['-', ':', '.'], "")
}

/// Removes what is kept no longer.
async fn sweep(gateway: &Gateway, policy: &Policy) {
    if let Err(problem) = try_sweep(gateway, policy).await {
        tracing::warn!("policy {}: clear away: {}", policy.name, problem.detail.message);
    }
}

async fn try_sweep(gateway: &Gateway, policy: &Policy) -> Result<(), Problem> {
    let limits = Limits::of(&policy.spec.keep)?;
    let asker = Asker::new(format!("policy {}", policy.name), Rights::all().into());
    for directory in limits.over(&taken(gateway, &asker, policy).await?, now_ms()) {
        match checkpoints::take_away(gateway, &asker, &directory).await {
            Ok(()) => {}
            // Another needs it, or a job is at work on it: it goes some other time.
            Err(problem) => {
                tracing::info!("{asker}: {directory} stays: {}", problem.detail.message);
            }
        }
    }
    Ok(())
}

/// The checkpoints of a policy.
async fn taken(
    gateway: &Gateway,
    asker: &Asker,
    policy: &Policy,
) -> Result<Vec<CheckpointSummary>, Problem> {
    let mut query = CheckpointQuery {
        limit: Some(1000),
        labels: Some(format!("{}={}", Policy::LABEL, policy.name)),
        ..CheckpointQuery::default()
    };
    let mut found = Vec::new();
    loop {
        let asked = serde_urlencoded::to_string(&query).ok();
        let list: CheckpointList = checkpoints::list(gateway, asker, asked).await?;
        found.extend(list.checkpoints);
        let Some(next) = list.next else { return Ok(found) };
        query.cursor = Some(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_runs_are_in_order_and_good_in_a_path() {
        let name = run_name(1_795_434_600_123);
        assert_eq!(name, "20261123T115000123Z");
        name.parse::<Directory>().unwrap();
    }
}

//! What the buttons do: what the API does.

use api::{
    CheckpointRequest, Directory, DirectoryError, Labels, Priority, RestoreJobRequest,
    VerifyRequest,
};
use axum::extract::{Path, State};
use axum::response::Redirect;
use axum::{Extension, Form};
use serde::Deserialize;
use service::{Body, Problem};

use super::Failed;
use crate::audit::Object;
use crate::callers::{Admin, Asker, Checkpoint, May, Restore};
use crate::gateway::Gateway;
use crate::job_routes::{self, Accepted, Manner};
use crate::{checkpoints, restores};

/// The fields of the form for a checkpoint; what is empty is not said.
#[derive(Debug, Deserialize)]
pub(super) struct CheckpointForm {
    #[serde(default)]
    pid: String,
    /// Roots of other trees, for the same frozen moment.
    #[serde(default)]
    with: String,
    #[serde(default)]
    container: String,
    #[serde(default)]
    directory: String,
    /// What becomes of the tree: `on` or `end`; `try`, if it is a dry run.
    #[serde(default)]
    after: String,
    #[serde(default)]
    labels: String,
    shell_job: Option<String>,
    tcp_established: Option<String>,
    link_remap: Option<String>,
    #[serde(default)]
    max_freeze_ms: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct DirectoryForm {
    directory: String,
    shell_job: Option<String>,
    tcp_close: Option<String>,
}

/// What somebody has typed; `None` if that is nothing.
pub(super) fn typed<T: std::str::FromStr>(field: &str, text: &str) -> Result<Option<T>, Problem>
where
    T::Err: std::fmt::Display,
{
    match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|error: T::Err| {
            Problem::field(field, format!("{text:?}: {error}")).remedy("go back and change it")
        }),
    }
}

/// The numbers that somebody has typed, with commas or spaces between.
fn numbers(field: &str, text: &str) -> Result<Vec<i32>, Problem> {
    let words = text.split([',', ' ']).filter(|word| !word.is_empty());
    words.filter_map(|word| typed(field, word).transpose()).collect()
}

fn directory(text: &str) -> Result<Directory, Problem> {
    text.parse().map_err(|error: DirectoryError| {
        Problem::field("directory", error.to_string()).remedy(Directory::REMEDY)
    })
}

/// Where one goes when a job was begun.
pub(super) type Begun = (Extension<Object>, Redirect);

/// The page of a job that was begun.
fn followed((_, _, object, job): Accepted) -> Begun {
    (object, Redirect::to(&format!("/jobs/{}", job.id)))
}

pub(super) async fn checkpoint(
    State(gateway): State<Gateway>,
    asker: May<Checkpoint>,
    Form(form): Form<CheckpointForm>,
) -> Result<Begun, Failed> {
    let leave_running = match form.after.as_str() {
        "on" => Some(true),
        "end" => Some(false),
        _ => None,
    };
    let pids = numbers("with", &form.with)?;
    let request = CheckpointRequest {
        pid: typed("pid", &form.pid)?,
        together: !pids.is_empty(),
        pids,
        select: None,
        container: typed("container", &form.container)?,
        engine: None,
        directory: typed("directory", &form.directory)?,
        leave_running,
        dry_run: form.after == "try",
        shell_job: form.shell_job.is_some(),
        tcp_established: form.tcp_established.is_some(),
        tcp_close: false,
        skip_in_flight: false,
        link_remap: form.link_remap.is_some(),
        parent: None,
        track: false,
        max_freeze_ms: typed("max_freeze_ms", &form.max_freeze_ms)?,
        timeout_ms: None,
        priority: Priority::Normal,
        labels: typed::<Labels>("labels", &form.labels)?.unwrap_or_default(),
    };
    let begun = checkpoints::checkpoint(State(gateway), asker, Manner::default(), Body(request));
    Ok(followed(begun.await?))
}

pub(super) async fn restore(
    State(gateway): State<Gateway>,
    asker: May<Restore>,
    Form(form): Form<DirectoryForm>,
) -> Result<Begun, Failed> {
    let request = RestoreJobRequest {
        directory: directory(&form.directory)?,
        shell_job: form.shell_job.is_some(),
        tcp_close: form.tcp_close.is_some(),
        cgroups: Default::default(),
        priority: Priority::Normal,
    };
    let begun = restores::restore(State(gateway), asker, Manner::default(), Body(request));
    Ok(followed(begun.await?))
}

pub(super) async fn verify(
    State(gateway): State<Gateway>,
    asker: May<Checkpoint>,
    Form(form): Form<DirectoryForm>,
) -> Result<Begun, Failed> {
    let request = VerifyRequest { directory: directory(&form.directory)? };
    let begun = checkpoints::verify(State(gateway), asker, Manner::default(), Body(request));
    Ok(followed(begun.await?))
}

#[derive(Debug, Deserialize)]
pub(super) struct JobForm {
    id: String,
}

pub(super) async fn cancel(
    State(gateway): State<Gateway>,
    asker: Asker,
    Form(JobForm { id }): Form<JobForm>,
) -> Result<Begun, Failed> {
    let cancelled = job_routes::cancel_job(State(gateway), asker, Path(id), Manner::default());
    Ok(followed(cancelled.await?))
}

pub(super) async fn remove(
    State(gateway): State<Gateway>,
    asker: May<Admin>,
    Form(form): Form<DirectoryForm>,
) -> Result<Begun, Failed> {
    let object = Extension(Object::Named(format!("checkpoint {}", form.directory)));
    checkpoints::remove(State(gateway), asker, Path(form.directory)).await?;
    Ok((object, Redirect::to("/checkpoints")))
}

//! The dumper's paths for checkpoints that are there.

use std::io;
use std::path::{Path as FilePath, PathBuf};

use api::{
    CheckpointList, CheckpointQuery, CheckpointSummary, Code, DamagedFile, Directory, Labels,
    Verification, VerifyRequest,
};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use images::Cancel;
use service::{
    Body, CheckpointRoot, OnBehalfOf, OperationName, Operations, Page, Problem, blocking, chain,
};

use super::index::Index;
use super::metrics::DumpMetrics;
use super::parents::Parents;
use crate::access::{KeySettings, access, code, no_access};

#[derive(Clone, Debug)]
struct Checkpoints {
    root: CheckpointRoot,
    keys: KeySettings,
    index: Index,
    parents: Parents,
    operations: Operations,
    metrics: DumpMetrics,
}

/// The router of these paths.
pub(super) fn router(
    (root, keys, parents): (CheckpointRoot, KeySettings, Parents),
    index: Index,
    operations: Operations,
    metrics: DumpMetrics,
) -> Router {
    Router::new()
        .route("/v1/checkpoints", get(list))
        .route("/v1/checkpoints/{*directory}", get(one).delete(remove))
        .route("/v1/labels/{*directory}", put(label))
        .route("/v1/verifications", post(verify))
        .with_state(Checkpoints { root, keys, index, parents, operations, metrics })
}

fn failed(error: &io::Error) -> Problem {
    let message = format!("list the checkpoints: {error}");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message)
}

pub(super) fn none(directory: &Directory) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no checkpoint {directory}"))
        .remedy("GET /v1/checkpoints lists those there are")
}

pub(super) fn named(name: &str) -> Result<Directory, Problem> {
    name.parse().map_err(|error: api::DirectoryError| {
        Problem::field("directory", error.to_string()).remedy(Directory::REMEDY)
    })
}

/// What a checkpoint is called from the whole root, and where it is.
pub(super) fn place(
    root: &CheckpointRoot,
    OnBehalfOf(user): OnBehalfOf,
    directory: &Directory,
) -> Result<(Directory, PathBuf), Problem> {
    let whole = CheckpointRoot::whole_name(user, directory).map_err(|_| none(directory))?;
    let wrong = |error: io::Error| {
        Problem::field("directory", format!("use directory {directory}: {error}"))
    };
    let path = root.of(user).path(directory).map_err(wrong)?;
    Ok((whole, path))
}

async fn list(
    State(state): State<Checkpoints>,
    OnBehalfOf(user): OnBehalfOf,
    query: Result<Query<CheckpointQuery>, QueryRejection>,
) -> Result<Json<CheckpointList>, Problem> {
    let Query(asked) = query.map_err(|rejection| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, rejection.body_text())
            .remedy("send limit, cursor, below, pid, comm or labels")
    })?;
    let page = Page::<Directory>::asked(asked.limit, asked.cursor.as_deref())?;
    let labels: Labels = match asked.labels.as_deref().map(str::parse).transpose() {
        Ok(labels) => labels.unwrap_or_default(),
        Err(error) => {
            let error: api::LabelError = error;
            return Err(Problem::field("labels", error.to_string())
                .remedy("send KEY=VALUE, more of them with commas between"));
        }
    };
    blocking(move || {
        let own = match user {
            Some(user) => format!("users/{}/", user.uid),
            None => String::new(),
        };
        let below = asked.below.as_ref().map(|below| format!("{below}/")).unwrap_or_default();
        let prefix = format!("{own}{below}");
        let after = match page.after {
            Some(after) => match CheckpointRoot::whole_name(user, &after) {
                Ok(whole) => Some(whole),
                Err(error) => return Err(Problem::field("cursor", error.to_string())),
            },
            None => None,
        };
        let wanted = |found: &CheckpointSummary| {
            asked.pid.is_none_or(|pid| found.pid == pid)
                && asked.comm.as_ref().is_none_or(|comm| found.comm == *comm)
                && found.labels.have(&labels)
        };
        let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let listed = state.index.list(&prefix, after.as_ref(), limit, wanted);
        let (mut checkpoints, more) = listed.map_err(|error| failed(&error))?;
        checkpoints.retain_mut(|found| match CheckpointRoot::own_name(user, &found.directory) {
            Some(name) => {
                found.directory = name;
                found.parent =
                    found.parent.take().and_then(|it| CheckpointRoot::own_name(user, &it));
                true
            }
            None => false,
        });
        let last = checkpoints.last().filter(|_| more);
        let next = last.map(|last| last.directory.to_string());
        let mut unfinished = state.index.unfinished(&own).map_err(|error| failed(&error))?;
        for there in &mut unfinished {
            there.path = there.path.split_off(own.len());
        }
        Ok(CheckpointList { checkpoints, unfinished, next })
    })
    .await
    .map(Json)
}

async fn one(
    State(state): State<Checkpoints>,
    asker: OnBehalfOf,
    Path(name): Path<String>,
) -> Result<Json<CheckpointSummary>, Problem> {
    let directory = named(&name)?;
    blocking(move || {
        let (whole, _) = place(&state.root, asker, &directory)?;
        let found = state.index.one(&whole).map_err(|error| failed(&error))?;
        let mut summary = found.ok_or_else(|| none(&directory))?.summary;
        summary.parent = summary.parent.and_then(|it| CheckpointRoot::own_name(asker.0, &it));
        summary.directory = directory;
        Ok(summary)
    })
    .await
    .map(Json)
}

async fn remove(
    State(state): State<Checkpoints>,
    asker: OnBehalfOf,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let directory = named(&name)?;
    blocking(move || {
        let (whole, path) = place(&state.root, asker, &directory)?;
        state.index.one(&whole).map_err(|error| failed(&error))?.ok_or_else(|| none(&directory))?;
        // The directories above it go with the last that was in them.
        let _way = state.root.of(asker.0).hold(&directory).map_err(|error| {
            Problem::field("directory", format!("use directory {directory}: {error}"))
        })?;
        state.parents.unless_used(&path, || {
            // A dump that has just ended shows here what it has left pages to.
            let child = state.index.child_of(&path).map_err(|error| failed(&error))?;
            let own = |it| CheckpointRoot::own_name(asker.0, &it).unwrap_or(it);
            if let Some(child) = child.map(own) {
                let message = format!(
                    "{child} has left pages to {directory}, and could not be restored without it"
                );
                return Err(Problem::new(StatusCode::CONFLICT, message)
                    .of("directory")
                    .remedy(format!("remove {child} first")));
            }
            images::remove(&path).map_err(|error| match &error {
                images::Error::Holds { .. } => {
                    Problem::new(StatusCode::CONFLICT, chain(&error)).of("directory")
                }
                images::Error::NotACheckpoint { .. } => none(&directory),
                _ => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)),
            })
        })?;
        tracing::info!("{asker}: removed checkpoint {whole}");
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

async fn label(
    State(state): State<Checkpoints>,
    asker: OnBehalfOf,
    Path(name): Path<String>,
    Body(wanted): Body<Labels>,
) -> Result<Json<CheckpointSummary>, Problem> {
    let directory = named(&name)?;
    let told = state.clone();
    blocking(move || {
        let (whole, path) = place(&state.root, asker, &directory)?;
        state.index.one(&whole).map_err(|error| failed(&error))?.ok_or_else(|| none(&directory))?;
        catalog::labels::write(&path, &wanted).map_err(|error| {
            let message = format!("write the labels: {error}");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        })
    })
    .await?;
    one(State(told), asker, Path(name)).await
}

async fn verify(
    State(state): State<Checkpoints>,
    asker: OnBehalfOf,
    operation: OperationName,
    Body(VerifyRequest { directory }): Body<VerifyRequest>,
) -> Result<Json<Verification>, Problem> {
    let (_, path) = place(&state.root, asker, &directory)?;
    let operation = state.operations.begin(operation, asker.0)?;
    let cancel = Cancel::default();
    let cancels = cancel.clone();
    operation.cancelled_by(move || cancels.cancel());
    blocking(move || {
        let found = verified(&state, &path, &directory, &cancel);
        if let Ok(found) = &found {
            state.metrics.verified(found);
        }
        operation.end(found.as_ref());
        found
    })
    .await
    .map(Json)
}

fn verified(
    Checkpoints { root, keys, .. }: &Checkpoints,
    path: &FilePath,
    directory: &Directory,
    cancel: &Cancel,
) -> Result<Verification, Problem> {
    let access = access(keys.trust.trusted_keys.as_deref(), &keys.identities, keys.demand);
    let access = access.map_err(|error| no_access(&error))?;
    let found = match images::verify(path, &access, cancel) {
        Ok(found) => found,
        Err(error @ images::Error::Cancelled { .. }) => {
            return Err(Problem::new(StatusCode::CONFLICT, chain(&error)).coded(Code::Cancelled));
        }
        Err(images::Error::NotACheckpoint { .. } | images::Error::OpenDirectory { .. }) => {
            return Err(none(directory).of("directory"));
        }
        Err(error) if matches!(code(&error), Some(Code::Untrusted | Code::Encrypted)) => {
            let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, chain(&error));
            return Err(problem.coded(code(&error).unwrap_or_default()).of("directory"));
        }
        // What cannot be opened as a checkpoint has changed, too.
        Err(error) => {
            let (path, what) = (directory.to_string(), chain(&error));
            let damages = vec![DamagedFile { path, what }];
            return Ok(Verification { damages, ..Verification::default() });
        }
    };
    let below = |path: &FilePath| {
        let path = path.strip_prefix(root.as_path()).unwrap_or(path);
        path.display().to_string()
    };
    Ok(catalog::verification(&found, below))
}

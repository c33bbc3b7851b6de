//! The dumper's paths that read whole checkpoints to tell what is in them, and what differs between two.
//!
//! Reading one takes as long as its images are long, so few are read at a time, whoever asks.

use std::path::Path as FilePath;
use std::sync::Arc;

use api::{CheckpointContents, Code, Comparison, ComparisonQuery, Directory};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use catalog::Most;
use images::{Access, Images};
use service::{CheckpointRoot, OnBehalfOf, Problem, blocking, chain};
use tokio::sync::Semaphore;

use super::checkpoints::{named, none, place};
use crate::access::KeySettings;

/// So many checkpoints, or pairs of them, are read at a time.
const AT_A_TIME: usize = 2;

#[derive(Clone, Debug)]
struct Looks {
    root: CheckpointRoot,
    keys: KeySettings,
    places: Arc<Semaphore>,
}

/// The router of these paths.
pub(super) fn router(root: CheckpointRoot, keys: KeySettings) -> Router {
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    Router::new()
        .route("/v1/comparisons", get(compare))
        .route("/v1/contents/{*directory}", get(contents))
        .with_state(Looks { root, keys, places })
}

impl Looks {
    /// Runs what reads checkpoints, when it is its turn. It has its place until it has ended, also if nobody waits for it any more.
    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CheckpointRoot, &KeySettings) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let place = self.places.clone().acquire_owned().await.map_err(|error| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("wait for a turn: {error}"))
        })?;
        let (root, keys) = (self.root.clone(), self.keys.clone());
        blocking(move || {
            let _place = place;
            work(&root, &keys)
        })
        .await
    }
}

/// Why a checkpoint cannot be read.
fn unreadable(directory: &Directory, error: &images::Error) -> Problem {
    use images::Error::{Io, NotACheckpoint, OpenDirectory, Path as OfPath};
    match error {
        NotACheckpoint { .. } | OpenDirectory { .. } => none(directory),
        Io { .. } | OfPath { .. } => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, chain(error)).of("directory")
        }
        error @ (images::Error::Encrypted { .. } | images::Error::NotARecipient { .. }) => {
            Problem::field("directory", format!("read {directory}: {}", chain(error)))
                .coded(Code::Encrypted)
                .remedy("have the dumper read by a key of its recipients (--identities), or show it where that key is: stasis show")
        }
        error => Problem::field("directory", format!("read {directory}: {}", chain(error)))
            .coded(Code::Damaged)
            .remedy("POST /v1/verifications tells which of its files are not as they were written"),
    }
}

fn open(path: &FilePath, directory: &Directory, access: &Access) -> Result<Images, Problem> {
    Images::open_as(path, access).map_err(|error| unreadable(directory, &error))
}

async fn compare(
    State(looks): State<Looks>,
    asker: OnBehalfOf,
    query: Result<Query<ComparisonQuery>, QueryRejection>,
) -> Result<Json<Comparison>, Problem> {
    let Query(ComparisonQuery { before, after }) = query.map_err(|rejection| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, rejection.body_text())
            .remedy("send before and after, each the directory of a checkpoint")
    })?;
    let found = looks.in_turn(move |root, keys| {
        let (_, old) = place(root, asker, &before)?;
        let (_, new) = place(root, asker, &after)?;
        let access = keys.to_look()?;
        let (old, new) = (open(&old, &before, &access)?, open(&new, &after, &access)?);
        let found = catalog::compare(&old, &new);
        let mut found = found.map_err(|error| {
            // It does not say which of the two, but by the image's name.
            unreadable(&after, &error).of("before")
        })?;
        // Where the root is concerns nobody.
        found.before.directory = before.to_string();
        found.after.directory = after.to_string();
        Ok(found)
    });
    found.await.map(Json)
}

async fn contents(
    State(looks): State<Looks>,
    asker: OnBehalfOf,
    Path(name): Path<String>,
) -> Result<Json<CheckpointContents>, Problem> {
    let directory = named(&name)?;
    let found = looks.in_turn(move |root, keys| {
        let (_, path) = place(root, asker, &directory)?;
        let found = catalog::contents(&open(&path, &directory, &keys.to_look()?)?, Most::SENT);
        let mut found = found.map_err(|error| unreadable(&directory, &error))?;
        found.directory = directory.to_string();
        Ok(found)
    });
    found.await.map(Json)
}

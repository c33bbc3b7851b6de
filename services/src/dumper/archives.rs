//! The dumper's paths by which checkpoints leave the machine and come to it, as archives of tar(1).

use std::io::{BufWriter, Read};
use std::path::PathBuf;
use std::sync::Arc;

use api::{CheckpointSummary, Code, Directory};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use catalog::archive::{self, ArchiveError};
use service::{CheckpointRoot, OnBehalfOf, Pieces, Problem, Way, blocking, chain};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::checkpoints::{named, none, place};
use crate::{has_no_room, no_room};

/// So many are sent or taken at a time: each has a thread, and the disk.
const AT_A_TIME: usize = 4;
/// Sent at a time.
const PIECE: usize = 256 << 10;

#[derive(Clone, Debug)]
struct Archives {
    root: CheckpointRoot,
    places: Arc<Semaphore>,
}

/// The router of these paths.
pub(super) fn router(root: CheckpointRoot) -> Router {
    Router::new()
        .route("/v1/downloads/{*directory}", get(download))
        .route("/v1/uploads/{*directory}", put(upload))
        .with_state(Archives { root, places: Arc::new(Semaphore::new(AT_A_TIME)) })
}

impl Archives {
    fn place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.places.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{AT_A_TIME} checkpoints are being sent or taken already");
            Problem::new(StatusCode::TOO_MANY_REQUESTS, message)
                .remedy("send the request again when one of them is through")
        })
    }

    /// Takes a checkpoint out of an archive.
    fn take(
        &self,
        asker: OnBehalfOf,
        name: &str,
        from: impl Read,
    ) -> Result<CheckpointSummary, Problem> {
        for_root_alone(asker)?;
        let directory = named(name)?;
        let _turn = self.place()?;
        let (path, _way) = target(&self.root, &directory)?;
        archive::unpack(from, &path).map_err(|error| problem(&error, &directory))?;
        tracing::info!("{asker}: took checkpoint {directory}");
        catalog::summarize(&path, directory.clone()).ok_or_else(|| none(&directory))
    }
}

/// Refuses users: what they may not read or make they would have in an archive.
fn for_root_alone(OnBehalfOf(user): OnBehalfOf) -> Result<(), Problem> {
    match user {
        None => Ok(()),
        Some(_) => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "archives of checkpoints are sent to root alone, and taken from him",
        )
        .remedy("have root send the request (or send it with the gateway's token)")),
    }
}

fn problem(error: &ArchiveError, directory: &Directory) -> Problem {
    let invalid = || Problem::field("directory", format!("{directory}: {}", chain(error)));
    match error {
        ArchiveError::Increment { .. } => Problem::new(StatusCode::CONFLICT, chain(error))
            .of("directory")
            .remedy("send a checkpoint that is no increment: take one without a parent"),
        ArchiveError::Foreign { .. } => invalid().remedy(
            "send an archive that GET /v1/downloads has made, or tar(1) in the directory of a checkpoint",
        ),
        ArchiveError::Broken(_) => Problem::new(StatusCode::BAD_REQUEST, chain(error))
            .remedy("send the whole archive again, uncompressed"),
        ArchiveError::Damaged { .. } => invalid()
            .coded(Code::Damaged)
            .remedy("send one that `stasis verify` finds as it was written"),
        ArchiveError::NoRoom { .. } => no_room(error),
        error if has_no_room(error) => no_room(error),
        ArchiveError::Images(
            images::Error::Exists { .. }
            | images::Error::Inside { .. }
            | images::Error::Above { .. },
        ) => Problem::new(StatusCode::CONFLICT, chain(error))
            .of("directory")
            .remedy("name another directory"),
        ArchiveError::Images(images::Error::NotACheckpoint { .. }) => none(directory),
        ArchiveError::Images(images::Error::OpenDirectory { .. }) => none(directory),
        ArchiveError::Images(
            images::Error::Io { .. } | images::Error::Path { .. },
        )
        | ArchiveError::Io { .. } => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, chain(error)).of("directory")
        }
        ArchiveError::Images(_) => invalid().coded(Code::Damaged),
    }
}

async fn download(
    State(archives): State<Archives>,
    asker: OnBehalfOf,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    for_root_alone(asker)?;
    let directory = named(&name)?;
    let turn = archives.place()?;
    let (root, told) = (archives.root, directory.clone());
    let packed = blocking(move || {
        let (_, path) = place(&root, asker, &directory)?;
        archive::packed(&path).map_err(|error| problem(&error, &directory))
    })
    .await?;
    let (sender, pieces) = Pieces::made();
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let mut to = BufWriter::with_capacity(PIECE, sender);
        if let Err(error) = packed.write(&mut to) {
            tracing::warn!("send checkpoint {told}: {}", chain(&error));
            // What waits to be written is no end of an archive.
            let (sender, _) = to.into_parts();
            sender.fail(std::io::Error::other(chain(&error)));
        }
    });
    let kind = [(header::CONTENT_TYPE, "application/x-tar")];
    Ok((kind, Body::new(pieces.into_body())).into_response())
}

async fn upload(
    State(archives): State<Archives>,
    asker: OnBehalfOf,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<CheckpointSummary>, Problem> {
    let mut from = Pieces::of(body).into_reader();
    let taken = blocking(move || {
        let taken = archives.take(asker, &name, &mut from);
        if let Err(problem) = &taken {
            tracing::warn!("{asker}: take checkpoint {name}: {}", problem.detail.message);
            from.drain();
        }
        taken
    });
    taken.await.map(Json)
}

/// Where a checkpoint is to come that is taken.
fn target(root: &CheckpointRoot, directory: &Directory) -> Result<(PathBuf, Way), Problem> {
    if CheckpointRoot::is_of_users(directory) {
        let message = format!("directory {directory}: checkpoints of users lie there");
        return Err(Problem::field("directory", message).remedy("name another directory"));
    }
    let path = root.path(directory).map_err(|error| {
        Problem::field("directory", format!("use directory {directory}: {error}"))
    })?;
    if path.symlink_metadata().is_ok() {
        let message = format!("directory {directory} is there already");
        return Err(Problem::new(StatusCode::CONFLICT, message)
            .of("directory")
            .remedy("name another directory"));
    }
    root.prepare(directory).map_err(|error| {
        let message = format!("make the directories above {directory}: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message).of("directory")
    })
}

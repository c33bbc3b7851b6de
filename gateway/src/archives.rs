//! Checkpoints that leave the machine and come to it, as archives of tar(1): `/v1/downloads`, `/v1/uploads`.
//!
//! What is in them is all that a process has, and what a restore makes processes of. So both are for who may do everything.

use api::{CheckpointSummary, Directory, UPLOADS};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use service::{Pieces, Problem};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::audit::Object;
use crate::callers::{Asker, Owner};
use crate::checkpoints::{find, named};
use crate::gateway::Gateway;
use crate::job_routes::{at_work_on, busy};
use crate::openapi::{Archive, Problems};
use crate::services::problem;

/// The paths.
pub(crate) fn router() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(download)).routes(routes!(upload))
}

/// A checkpoint as an archive. For who may do everything and is bound to nothing.
#[utoipa::path(get, path = "/v1/downloads/{*directory}", tag = "checkpoints", params(("directory" = String, Path, description = "The directory of the checkpoint, with its slashes")), responses((status = 200, description = "An uncompressed archive of tar(1). One that breaks off is not whole", body = Archive, content_type = "application/x-tar"), Problems))]
async fn download(
    State(gateway): State<Gateway>,
    Owner(asker): Owner,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let directory = find(&gateway, &asker, &name).await?.directory;
    let path = format!("/v1/downloads/{directory}");
    let body = gateway.services.dumper().stream(&path).await;
    let body = body.map_err(|error| problem(error, &asker))?;
    tracing::info!("{asker}: downloads checkpoint {directory}");
    let file = format!("attachment; filename=\"{}.tar\"", directory.as_str().replace('/', "_"));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar")),
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::from_str(&file).unwrap_or(HeaderValue::from_static("attachment")),
        ),
    ];
    let object = Extension(Object::Named(format!("download of checkpoint {directory}")));
    Ok((headers, object, body))
}

/// Takes a checkpoint out of an archive, as `GET /v1/downloads` sends it. For who may do everything and is bound to nothing.
#[utoipa::path(put, path = "/v1/uploads/{*directory}", tag = "checkpoints", params(("directory" = String, Path, description = "Where it is to come, a directory that is not there yet, with its slashes")), request_body(content = Archive, content_type = "application/octet-stream", description = "An uncompressed archive of tar(1)"), responses((status = 201, description = "The checkpoint, which is there whole", body = CheckpointSummary), Problems))]
async fn upload(
    State(gateway): State<Gateway>,
    Owner(asker): Owner,
    Path(name): Path<String>,
    body: Body,
) -> Result<impl IntoResponse, Problem> {
    let pieces = Pieces::of(body);
    let directory = match free(&gateway, &asker, &name).await {
        Ok(directory) => directory,
        Err(problem) => {
            pieces.drain().await;
            return Err(problem);
        }
    };
    let path = format!("{UPLOADS}{directory}");
    let taken = gateway.services.dumper().send_pieces(&path, pieces).await;
    let taken: CheckpointSummary = taken.map_err(|error| problem(error, &asker))?;
    tracing::info!("{asker}: uploaded checkpoint {directory}");
    let object = Extension(Object::Named(format!("upload of checkpoint {directory}")));
    Ok((StatusCode::CREATED, object, Json(taken)))
}

/// The directory of that name, if nobody is at work there.
async fn free(gateway: &Gateway, asker: &Asker, name: &str) -> Result<Directory, Problem> {
    let directory = named(name)?;
    match at_work_on(gateway, asker, &directory).await? {
        Some(other) => Err(busy(&other, &directory)),
        None => Ok(directory),
    }
}

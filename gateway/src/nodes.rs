//! `/v1/nodes`: the machines; this one, for now.

use api::{Node, NodeList};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use nix::sys::sysinfo::sysinfo;
use nix::sys::utsname::uname;
use service::Problem;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::callers::Asker;
use crate::gateway::Gateway;
use crate::health::how_well;
use crate::openapi::Problems;

/// The paths.
pub(crate) fn router() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(nodes))
}

/// The machines.
#[utoipa::path(get, path = "/v1/nodes", tag = "machine", responses((status = 200, description = "The machines", body = NodeList), Problems))]
async fn nodes(State(gateway): State<Gateway>, _: Asker) -> Result<Json<NodeList>, Problem> {
    let failed = |errno: nix::errno::Errno| {
        let message = format!("ask the kernel about this machine: {errno}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    };
    let (names, found) = (uname().map_err(failed)?, sysinfo().map_err(failed)?);
    let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    let health = how_well(&gateway.services, &gateway.metrics).await;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let node = Node {
        name: text(names.nodename()),
        status: health.status,
        version: health.version,
        kernel: text(names.release()),
        arch: text(names.machine()),
        processors: processors as u64,
        memory_bytes: found.ram_total(),
        uptime_seconds: found.uptime().as_secs(),
    };
    Ok(Json(NodeList { nodes: vec![node] }))
}

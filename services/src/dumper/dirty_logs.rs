//! The logs of what processes change in their memory, which a dump lets go on for the next: who keeps them, and their end.

use std::path::{Path as FilePath, PathBuf};
use std::process::ExitCode;

use api::User;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::delete;
use collector::Home;
use dumper::{DumpOptions, Error};
use ids::HostPid;
use kernel::rights::{self, Right};
use service::{OnBehalfOf, Problem, blocking};

use super::problems::problem;

/// If this program was started to keep a log of changed memory, as a dump starts it: keeps it until it is taken over.
pub(super) fn keep() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let (command, file) = (arguments.next()?, arguments.next()?);
    if command != dumper::KEEP {
        return None;
    }
    let holding = arguments.next().unwrap_or_default();
    Some(match dumper::keep(FilePath::new(&file), &holding.to_string_lossy()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// What the logs of changed memory are ended by.
#[derive(Clone, Debug)]
struct Logs {
    /// [`DumpOptions::programs`].
    programs: Home,
    /// [`DumpOptions::dirty_logs`].
    place: PathBuf,
}

/// The router of the logs; `place` is where it is said who keeps them.
pub(super) fn router(programs: Home, place: PathBuf) -> Router {
    Router::new().route("/v1/dirty-logs/{pid}", delete(end)).with_state(Logs { programs, place })
}

async fn end(
    State(logs): State<Logs>,
    asker: OnBehalfOf,
    Path(pid): Path<i32>,
) -> Result<StatusCode, Problem> {
    let nothing = move || {
        let message = format!("no changes of the memory of process {pid} are being logged");
        Problem::new(StatusCode::NOT_FOUND, message).remedy("nothing has to be done")
    };
    let pid = HostPid::new(pid).ok_or_else(nothing)?;
    blocking(move || {
        let may = |User { uid, gid }| {
            let held = rights::held(rights::User { uid, gid }, Right::Attach, &[pid]);
            held.is_ok_and(|held| held.contains(&pid))
        };
        // What another's process does is none of his.
        if asker.0.is_some_and(|user| !may(user)) {
            return Err(nothing());
        }
        let options = DumpOptions {
            programs: logs.programs,
            dirty_logs: logs.place,
            ..DumpOptions::new(pid)
        };
        match dumper::end_dirty_log(&options) {
            Ok(true) => {
                tracing::info!("{asker}: the memory of process {pid} is logged no longer");
                Ok(StatusCode::NO_CONTENT)
            }
            Ok(false) => Err(nothing()),
            Err(Error::Procfs(error)) if error.is_gone() => Err(nothing()),
            Err(error) => Err(problem(&error, pid)),
        }
    })
    .await
}

//! The dumper's paths: dumps and checkpoints, for who asks over its socket.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::{After, Code, Directory, DumpRequest, DumpSummary, User};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use collector::Home;
use ids::HostPid;
use images::{Destination, Images, NewDirectory, Nowhere, Signer, WriteOptions};
use kernel::rights;
use service::{
    Body, CheckpointRoot, OnBehalfOf, OperationName, Operations, Problem, SigningSettings, Traces,
    Way, blocking, chain, holds_checkpoint,
};

use super::checkpoints::{none, place};
use super::metrics::DumpMetrics;
use super::parents::{Parent, Parents};
use super::room::Room;
use crate::trust::no_key;
use crate::{Told, has_no_room, no_room};
use dumper::{AfterDump, Connections, DumpOptions, Error, FreezeError, dump};

#[derive(Clone, Debug)]
struct Dumper {
    root: CheckpointRoot,
    /// [`DumpOptions::programs`].
    programs: Home,
    /// [`DumpOptions::undo`].
    undo: PathBuf,
    room: Room,
    /// [`DumpOptions::dirty_logs`].
    dirty_logs: PathBuf,
    parents: Parents,
    signing: SigningSettings,
    metrics: DumpMetrics,
    traces: Traces,
    operations: Operations,
}

/// The router of the dumper's own paths. `programs` is [`DumpOptions::programs`].
pub(super) fn router(
    root: CheckpointRoot,
    (programs, undo, room, signing): (Home, PathBuf, Room, SigningSettings),
    (dirty_logs, parents): (PathBuf, Parents),
    operations: Operations,
    metrics: DumpMetrics,
    traces: Traces,
) -> Router {
    let dumper = Dumper {
        root,
        programs,
        undo,
        room,
        dirty_logs,
        parents,
        signing,
        metrics,
        traces,
        operations,
    };
    Router::new().route("/v1/dumps", post(make)).with_state(dumper)
}

/// Why the dump of a process failed.
pub(super) fn problem(error: &Error, pid: HostPid) -> Problem {
    let unprocessable = || Problem::new(StatusCode::UNPROCESSABLE_ENTITY, chain(error)).of("pid");
    let over_budget = |field: &str, remedy: &str| {
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, chain(error));
        problem.coded(Code::OverBudget).of(field).remedy(remedy)
    };
    // That of one that has ended leads nowhere, and it does while nobody has waited for it.
    let has_ended = || !std::path::Path::new(&format!("/proc/{pid}/exe")).exists();
    let reason = match error {
        Error::Tried { source, .. } => source,
        error => error,
    };
    match reason {
        Error::Refused { found, .. } => unprocessable().refused(found),
        Error::Procfs(error) if error.is_gone() => {
            unprocessable().remedy("send the pid of a running process")
        }
        reason if reason.is_gone() && has_ended() => {
            unprocessable().remedy("send the pid of a process that stays while it is dumped")
        }
        Error::Freeze { source: FreezeError::Traced { .. }, .. } => {
            Problem::new(StatusCode::CONFLICT, chain(error))
                .of("pid")
                .remedy("try again when the debugger has let go of it")
        }
        // What locks connections is not installed, or not allowed.
        Error::Lock(_) => Problem::new(StatusCode::NOT_IMPLEMENTED, chain(error)),
        Error::FrozenTooLong { .. } => over_budget(
            "max_freeze_ms",
            "allow it to stand still for longer, or dump it when it does less",
        ),
        Error::Cancelled { .. } => {
            Problem::new(StatusCode::CONFLICT, chain(error)).coded(Code::Cancelled)
        }
        Error::TimedOut { .. } => over_budget("timeout_ms", "give the dump more time"),
        Error::Claimed { .. } => Problem::new(StatusCode::CONFLICT, chain(error))
            .of("pid")
            .remedy("try again when that dump has ended"),
        Error::Denied { refusal, .. } => {
            Problem::new(StatusCode::NOT_IMPLEMENTED, chain(error)).remedy(refusal.remedy.clone())
        }
        Error::NotAllowed { .. } => {
            Problem::new(StatusCode::FORBIDDEN, chain(error)).of("pid").remedy(
                "name a process of your own, none of whose tree has other rights, or have root send the request (or send it with the gateway's token)",
            )
        }
        Error::Images(
            images::Error::Exists { .. }
            | images::Error::Inside { .. }
            | images::Error::Above { .. },
        ) => Problem::new(StatusCode::CONFLICT, chain(error))
            .of("directory")
            .remedy("name another directory"),
        reason if has_no_room(reason) => no_room(error),
        _ => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, chain(error)),
    }
}

/// What went wrong with a checkpoint's directory.
fn directory_problem(directory: &Directory, error: &std::io::Error) -> Problem {
    let status = match error.kind() {
        std::io::ErrorKind::NotADirectory => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::new(status, format!("use directory {directory}: {error}")).of("directory")
}

/// What stays where it is while a dump is at work: the checkpoint that it leaves pages to, and the way to its own.
type Held = (Option<Parent>, Option<Way>);

/// What is dumped where, for whom; or why that cannot be.
fn options(
    dumper: &Dumper,
    request: &DumpRequest,
    user: Option<User>,
) -> Result<(DumpOptions, Box<dyn Destination>, Held), Problem> {
    let exists = |pid: &HostPid| std::path::Path::new(&format!("/proc/{pid}")).exists();
    let pid = HostPid::new(request.pid).filter(exists).ok_or_else(|| {
        Problem::field("pid", format!("no process {}", request.pid))
            .remedy("send the pid of a running process")
    })?;
    // The job may have waited for its turn, and the machine have been started anew.
    let other = request
        .identity
        .as_ref()
        .is_some_and(|meant| service::process_identity(request.pid).as_ref() != Some(meant));
    if other {
        let message = format!("process {} is another one than when it was asked for", request.pid);
        return Err(Problem::new(StatusCode::CONFLICT, message)
            .of("pid")
            .remedy("ask for the one that runs now, if that is meant"));
    }
    let directory = &request.directory;
    if user.is_none() && CheckpointRoot::is_of_users(directory) {
        let message = format!("directory {directory}: checkpoints of users lie there");
        return Err(Problem::field("directory", message).remedy("name another directory"));
    }
    if user.is_some() && request.shell_job {
        return Err(no_shell_job());
    }
    if user.is_some() && request.link_remap {
        return Err(no_links());
    }
    if request.dry_run && (request.track || request.parent.is_some()) {
        let message = "a dry run neither tracks nor leaves anything to a parent";
        return Err(Problem::field("dry_run", message).remedy("leave track and parent out"));
    }
    if request.track && request.after == After::Kill {
        let message = "the tree ends with the dump, and nothing is left to track";
        return Err(
            Problem::field("track", message).remedy("have the tree run on, or leave this out")
        );
    }
    let parent = request.parent.as_ref().map(|parent| open_parent(dumper, user, parent));
    let (parent, kept) =
        parent.transpose()?.map_or((None, None), |(images, kept)| (Some(images), Some(kept)));
    let (destination, way) = match request.dry_run {
        true => (Box::new(Nowhere { path: directory.as_str().into() }) as Box<_>, None),
        false => {
            let (destination, way) = destination(dumper, user, directory)?;
            (Box::new(destination) as Box<dyn Destination>, Some(way))
        }
    };
    let signer =
        Signer::asked(dumper.signing.signing_key.as_deref()).map_err(|error| no_key(&error))?;
    let options = DumpOptions {
        after: match request.after {
            After::Resume => AfterDump::Resume,
            After::Stop => AfterDump::Stop,
            After::Kill => AfterDump::Kill,
        },
        dry_run: request.dry_run,
        shell_job: request.shell_job,
        connections: match (request.tcp_established, request.tcp_close) {
            (_, true) => Connections::Closed,
            (true, false) => Connections::All,
            (false, false) => Connections::Inside,
        },
        skip_in_flight: request.skip_in_flight,
        link_remap: request.link_remap,
        undo: dumper.undo.clone(),
        signer: signer.filter(|_| !request.dry_run),
        max_freeze: request.max_freeze_ms.map(Duration::from_millis),
        timeout: request.timeout_ms.map(Duration::from_millis),
        programs: dumper.programs.clone(),
        keep_dirty_log: request.track,
        parent,
        dirty_logs: dumper.dirty_logs.clone(),
        on_behalf_of: user.map(|User { uid, gid }| rights::User { uid, gid }),
        ..DumpOptions::new(pid)
    };
    Ok((options, destination, (kept, way)))
}

/// The directory that images are to come to, and what keeps the way there.
fn destination(
    dumper: &Dumper,
    user: Option<User>,
    directory: &Directory,
) -> Result<(NewDirectory, Way), Problem> {
    let prepared = dumper.root.of(user).prepare(directory);
    let (path, way) = prepared.map_err(|error| directory_problem(directory, &error))?;
    if holds_checkpoint(&path) {
        let message = format!("directory {directory} holds a checkpoint already");
        return Err(Problem::new(StatusCode::CONFLICT, message)
            .of("directory")
            .remedy("name another directory"));
    }
    Ok((NewDirectory { path, options: WriteOptions::default() }, way))
}

/// Opens the checkpoint that a dump is to leave pages to, which stays as long as the second of what is given back.
fn open_parent(
    dumper: &Dumper,
    user: Option<User>,
    directory: &Directory,
) -> Result<(Images, Parent), Problem> {
    let place = place(&dumper.root, OnBehalfOf(user), directory);
    let (_, path) = place.map_err(|problem| problem.of("parent"))?;
    let kept = dumper.parents.keep(path.clone());
    // What is left to it would be restored as if it had been dumped here.
    if path.join(images::names::UPLOADED).symlink_metadata().is_ok() {
        return Err(Problem::field("parent", format!("{directory} was uploaded"))
            .remedy("name one that was dumped here, or leave it out"));
    }
    let opened = Images::open(&path).map_err(|error| match error {
        images::Error::NotACheckpoint { .. } | images::Error::OpenDirectory { .. } => {
            none(directory).of("parent")
        }
        error => Problem::field("parent", format!("read {directory}: {}", chain(&error))),
    });
    let images = opened?;
    if dumper.signing.signing_key.is_some() && images.signers().is_ok_and(|keys| keys.is_empty()) {
        let message = format!("{directory} is not signed, and what is left to it would not be");
        return Err(Problem::field("parent", message).remedy(
            "sign it (stasis sign, on the machine), or take a checkpoint without a parent",
        ));
    }
    Ok((images, kept))
}

fn whole_name(user: Option<User>, directory: &Directory) -> Result<Directory, Problem> {
    CheckpointRoot::whole_name(user, directory).map_err(|error| {
        Problem::field("directory", error.to_string()).remedy("name a shorter one")
    })
}

/// A shell job comes back on the terminal of whoever restores it: the restorer's, which is no user's.
fn no_shell_job() -> Problem {
    let message = "a shell's job cannot be dumped on behalf of a user: it could not be restored";
    Problem::new(StatusCode::FORBIDDEN, message)
        .of("shell_job")
        .remedy("start the program with setsid, or have root send the request (or send it with the gateway's token)")
}

/// A link is made where the file had its name, and it may be that the user may make none there.
fn no_links() -> Problem {
    let message = "files are given no names on behalf of a user: the directory may be another's";
    Problem::new(StatusCode::FORBIDDEN, message)
        .of("link_remap")
        .remedy("give the file its name back with ln, or have root send the request (or send it with the gateway's token)")
}

async fn make(
    State(dumper): State<Dumper>,
    asker: OnBehalfOf,
    operation: OperationName,
    Body(request): Body<DumpRequest>,
) -> Result<Json<DumpSummary>, Problem> {
    let (pid, dry_run) = (request.pid, request.dry_run);
    let directory = whole_name(asker.0, &request.directory)?;
    let asked = {
        let (dumper, request) = (dumper.clone(), request.clone());
        // A checkpoint that is being removed may hold it up.
        blocking(move || options(&dumper, &request, asker.0)).await
    };
    let (options, destination, held) = asked.inspect_err(|problem| {
        dumper.metrics.turned_away(dry_run, problem);
        tracing::warn!("{asker}: dump process {pid}: {}", problem.detail.message);
    })?;
    let operation = dumper.operations.begin(operation, asker.0)?;
    let cancel = options.cancel.clone();
    operation.cancelled_by(move || cancel.cancel());
    let wanted = request.labels;
    let (metrics, room) = (dumper.metrics.clone(), dumper.room.clone());
    metrics.begun(dry_run);
    let start = Instant::now();
    // The dump is finished and counted even when who asked hangs up: it cannot be half made.
    let work = tokio::task::spawn_blocking(move || {
        let room = match room.reserve(options.pid, asker.0) {
            Ok(room) => room,
            Err(problem) => {
                metrics.finished(dry_run, Err(&problem));
                operation.end::<()>(Err(&problem));
                return Err(problem);
            }
        };
        let mut told = Told(operation.progress());
        let mut result = dump(&options, &*destination, &mut hooks::Nobody, &mut told);
        drop(room);
        if let Ok(report) = &mut result
            && !dry_run
        {
            let unlabelled = catalog::labels::unlabelled(destination.path(), Some(&wanted));
            report.warnings.extend(unlabelled);
        }
        // Of a dump that fails nothing is left; who hears that one is done finds nothing held.
        drop(held);
        let result = result.map_err(|error| problem(&error, options.pid));
        metrics.finished(dry_run, result.as_ref());
        match &result {
            Ok(report) => operation.end(Ok(&DumpSummary::from(report))),
            Err(problem) => operation.end::<()>(Err(problem)),
        }
        result
    });
    match work.await {
        Ok(Ok(report)) => {
            let what = match dry_run {
                true => format!("tried a dump of process {pid}"),
                false => format!("dumped process {pid} to {directory}"),
            };
            tracing::info!(
                "{asker}: {what} in {:?}, frozen for {:?}",
                start.elapsed(),
                report.frozen
            );
            for warning in &report.warnings {
                tracing::warn!("{asker}: dump process {pid}: {warning}");
            }
            let steps = report.account.steps();
            if let Some(at) = report.frozen_at {
                dumper.traces.measured("frozen", at, report.frozen, &steps);
            }
            Ok(Json(DumpSummary::from(&report)))
        }
        Ok(Err(problem)) => {
            tracing::warn!("{asker}: dump process {pid}: {}", problem.detail.message);
            Err(problem)
        }
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Removes what dumpers that were killed left under the root: what they had written, and directories in which nothing came to be.
///
/// # Errors
/// If the root cannot be read.
pub(super) fn clear_leftovers(root: &CheckpointRoot) -> std::io::Result<()> {
    let mut directories = Vec::new();
    catalog::walk(root.as_path(), &mut |path, _| {
        for gone in images::clear(path).unwrap_or_default() {
            let (path, bytes) = (gone.path.display(), gone.bytes);
            tracing::info!("removed {path}, {bytes} bytes, which a dump that was killed had left");
        }
        directories.push(path.to_owned());
    })?;
    // Those above others come before them, and the root first.
    for unused in directories.iter().skip(1).rev() {
        if let Err(error) = service::remove_if_unused(unused) {
            tracing::warn!("{}, which nothing is in, stays: {error}", unused.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;

    use api::Fault;

    use super::*;

    /// The code of the problem that an error is, of a dump of this very process.
    fn code(error: &Error) -> Code {
        problem(error, HostPid::own()).detail.code
    }

    #[test]
    fn it_is_known_whose_fault_an_error_is() {
        let (pid, limit) = (HostPid::own(), Duration::from_millis(1));
        let pages = |number| {
            let source = io::Error::from_raw_os_error(number);
            code(&Error::Pages { pid, source })
        };
        assert_eq!(pages(nix::libc::ENOSPC), Code::NoRoom);
        assert_eq!(pages(nix::libc::EDQUOT), Code::NoRoom);
        assert_eq!(pages(nix::libc::EIO).fault(), Fault::Product);
        let account = Box::default();
        let frozen = Error::FrozenTooLong { step: "read", limit, account };
        let late = Box::new(Error::TimedOut { step: "read", limit });
        let late = Error::Tried { tries: 2, within: limit, source: late };
        for error in [frozen, late] {
            assert_eq!(code(&error), Code::OverBudget);
        }
        let source = FreezeError::Traced { tid: pid, tracer: pid };
        assert_eq!(code(&Error::Freeze { root: pid, source }).fault(), Fault::User);
        let lock = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(code(&Error::Lock(lock)).fault(), Fault::Environment);
        let source = || io::Error::from_raw_os_error(nix::libc::ESRCH);
        let gone = || Error::Process { operation: "read the memory", pid, source: source() };
        assert_eq!(code(&gone()).fault(), Fault::Product, "this process is there");
        let nobody = HostPid::new(i32::MAX).unwrap();
        assert_eq!(problem(&gone(), nobody).detail.code.fault(), Fault::User);
    }
}

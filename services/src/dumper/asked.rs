//! What requests for dumps ask for, as a dump is told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::{After, Code, Directory, DumpRequest, User};
use axum::http::StatusCode;
use collector::Home;
use dumper::{AfterDump, Connections, DumpOptions};
use encryption::Recipients;
use ids::HostPid;
use images::{Images, Signer};
use kernel::rights;
use service::{
    CheckpointRoot, OnBehalfOf, Operations, Problem, Traces, Way, chain, holds_checkpoint,
};

use super::checkpoints::{none, place};
use super::metrics::DumpMetrics;
use super::parents::{Parent, Parents};
use super::room::Room;
use crate::access::{KeySettings, access, code, no_access, recipients};
use crate::trust::no_key;

/// What the dumper has, and is told at its start.
#[derive(Clone, Debug)]
pub(super) struct Dumper {
    pub(super) root: CheckpointRoot,
    /// [`DumpOptions::programs`].
    pub(super) programs: Home,
    /// [`DumpOptions::undo`].
    pub(super) undo: PathBuf,
    pub(super) room: Room,
    /// [`DumpOptions::dirty_logs`].
    pub(super) dirty_logs: PathBuf,
    pub(super) parents: Parents,
    pub(super) keys: KeySettings,
    pub(super) metrics: DumpMetrics,
    pub(super) traces: Traces,
    pub(super) operations: Operations,
}

impl Dumper {
    /// To whom checkpoints are encrypted; `None` if to nobody.
    pub(super) fn recipients(&self) -> Result<Option<Arc<Recipients>>, Problem> {
        let recipients = recipients(&self.keys.recipients, self.keys.demand);
        recipients.map_err(|error| no_access(&error))
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

/// What is dumped, and how, for whom, with the checkpoint that it leaves pages to; or why that cannot be.
pub(super) fn options(
    dumper: &Dumper,
    request: &DumpRequest,
    user: Option<User>,
) -> Result<(DumpOptions, Option<Parent>), Problem> {
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
    if parent.as_ref().is_some_and(Images::is_encrypted) && dumper.recipients()?.is_none() {
        let message =
            "it is encrypted, and what is left to it would be named by a checkpoint that is not";
        return Err(Problem::field("parent", message).coded(Code::Encrypted).remedy(
            "have the dumper encrypt checkpoints (--recipients), or take one without a parent",
        ));
    }
    let signer = Signer::asked(dumper.keys.signing.signing_key.as_deref())
        .map_err(|error| no_key(&error))?;
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
    Ok((options, kept))
}

/// The directory that checkpoints are to come to, which holds none, and what keeps the way there.
pub(super) fn place_of(
    root: &CheckpointRoot,
    user: Option<User>,
    directory: &Directory,
) -> Result<(PathBuf, Way), Problem> {
    let prepared = root.of(user).prepare(directory);
    let (path, way) = prepared.map_err(|error| directory_problem(directory, &error))?;
    if holds_checkpoint(&path) {
        let message = format!("directory {directory} holds a checkpoint already");
        return Err(Problem::new(StatusCode::CONFLICT, message)
            .of("directory")
            .remedy("name another directory"));
    }
    Ok((path, way))
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
    let keys = &dumper.keys;
    let access = access(None, &keys.identities, keys.demand).map_err(|error| no_access(&error))?;
    let opened = Images::open_as(&path, &access).map_err(|error| match error {
        images::Error::NotACheckpoint { .. } | images::Error::OpenDirectory { .. } => {
            none(directory).of("parent")
        }
        error => {
            let problem = Problem::field("parent", format!("read {directory}: {}", chain(&error)));
            match code(&error) {
                Some(code) => problem.coded(code),
                None => problem,
            }
        }
    });
    let images = opened?;
    if dumper.keys.signing.signing_key.is_some()
        && images.signers().is_ok_and(|keys| keys.is_empty())
    {
        let message = format!("{directory} is not signed, and what is left to it would not be");
        return Err(Problem::field("parent", message).remedy(
            "sign it (stasis sign, on the machine), or take a checkpoint without a parent",
        ));
    }
    Ok((images, kept))
}

pub(super) fn whole_name(user: Option<User>, directory: &Directory) -> Result<Directory, Problem> {
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

//! `--action-script`: programs that are started at CRIU's notification points.
//!
//! As CRIU has it: the last one that was named comes first, all are started even when one of them has failed,
//! and one that fails fails the point. They work in the work directory, have what they say in the
//! log, and no descriptors but the standard ones. What they are told is in the environment:
//! `CRTOOLS_SCRIPT_ACTION`, the point; `CRTOOLS_IMAGE_DIR`, the directory of the images; and, once it
//! is known, `CRTOOLS_INIT_PID`, the root of the tree.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use hooks::{Hooks, Moment, Point, Refusal};
use kernel::descriptors::standard_streams_only;
use tracing::debug;

use crate::log::Log;

/// The scripts of a request.
#[derive(Debug)]
pub(crate) struct Scripts {
    scripts: Vec<OsString>,
    work: PathBuf,
    /// Where their words go; there if there are any scripts.
    log: Option<OwnedFd>,
}

/// The scripts that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join(", "))]
struct ScriptsFailed(Vec<String>);

impl Scripts {
    /// Those of a request that works in `work`.
    pub(crate) fn new(scripts: &[OsString], work: &Path, log: &Log) -> io::Result<Self> {
        let log = (!scripts.is_empty()).then(|| log.descriptor()).transpose()?;
        Ok(Self { scripts: scripts.to_owned(), work: work.to_owned(), log })
    }

    fn start(&self, script: &OsString, moment: Moment<'_>) -> io::Result<ExitStatus> {
        // A name without a slash is looked for in PATH.
        let is_path = script.as_encoded_bytes().contains(&b'/');
        let program = if is_path { self.work.join(script).into() } else { script.clone() };
        let stream = || match &self.log {
            Some(log) => log.try_clone().map(Stdio::from),
            None => Ok(Stdio::null()),
        };
        let mut command = Command::new(program);
        command
            .arg0(script)
            .current_dir(&self.work)
            .env("CRTOOLS_SCRIPT_ACTION", moment.point.name())
            .env("CRTOOLS_IMAGE_DIR", moment.images)
            .env_remove("CRTOOLS_INIT_PID")
            .stdin(Stdio::null())
            .stdout(stream()?)
            .stderr(stream()?);
        if let Some(root) = moment.root {
            command.env("CRTOOLS_INIT_PID", root.to_string());
        }
        standard_streams_only(&mut command);
        command.status()
    }
}

impl Hooks for Scripts {
    fn hang_on(&self, point: Point) -> bool {
        // These are questions of the RPC alone.
        let asked = matches!(point, Point::QueryExtFiles | Point::OrphanPtsMaster);
        !self.scripts.is_empty() && point.is_crius() && !asked
    }

    fn at(&mut self, moment: Moment<'_>) -> Result<(), Refusal> {
        debug!("Running {} scripts", moment.point.name());
        let failed = |script: &OsString| {
            let name = script.display();
            match self.start(script, moment) {
                Ok(status) if status.success() => None,
                Ok(status) => Some(format!("script {name} {}", ended(status))),
                Err(error) => Some(format!("start script {name}: {error}")),
            }
        };
        let failed: Vec<_> = self.scripts.iter().rev().filter_map(failed).collect();
        if failed.is_empty() { Ok(()) } else { Err(ScriptsFailed(failed).into()) }
    }
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (_, Some(signal)) => format!("was killed by signal {signal}"),
        _ => format!("ended: {status}"),
    }
}

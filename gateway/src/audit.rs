//! The audit: who asked for what, from where, and what came of it. One line of JSON each, in a file a day.
//!
//! A record is made of each request that changes something, has a checkpoint sent away, or is refused for who sent it, and of the end of each job. Records of who is
//! not known are limited in number, so that nobody fills the disk with them; how many were left out is said in the next.

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use api::{Code, Job, JobState};
use axum::http::{Method, StatusCode};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde::Serialize;
use tracing_appender::rolling::{InitError, RollingFileAppender, Rotation};

/// So many records a second are made of who is not known.
const OF_STRANGERS: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// So much of a path is noted, in bytes.
const LONGEST_PATH: usize = 1024;
/// What the files are named by, before and after the day.
pub(crate) const NAME: (&str, &str) = ("audit", "jsonl");

/// Its directory's name in the state directory.
pub(crate) const DIRECTORY: &str = "audit";

/// Where the audit is.
#[derive(Clone, Debug, clap::Args)]
pub struct AuditSettings {
    /// Directory of the gateway's own for the audit: who asked for what, and what came of it, as lines of JSON in a file a day
    /// [default: STATE_DIR/audit]
    #[arg(long, value_name = "DIR", env = "STASIS_AUDIT_DIR")]
    pub audit_dir: Option<PathBuf>,
    /// For so many days it is kept
    #[arg(
        long,
        value_name = "DAYS",
        default_value_t = 400,
        env = "STASIS_AUDIT_DAYS",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub audit_days: u16,
}

impl AuditSettings {
    /// The directory.
    #[must_use]
    pub fn directory(&self, state: &Path) -> PathBuf {
        self.audit_dir.clone().unwrap_or_else(|| state.join(DIRECTORY))
    }
}

/// The audit. A clone is the same.
#[derive(Clone, Debug)]
pub struct Audit(Arc<State>);

#[derive(Debug)]
struct State {
    to: Mutex<To>,
    strangers: DefaultDirectRateLimiter,
    left_out: AtomicU64,
}

#[derive(Debug)]
enum To {
    Files(RollingFileAppender),
    Nowhere,
}

impl Write for To {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Files(files) => files.write(bytes),
            Self::Nowhere => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Files(files) => files.flush(),
            Self::Nowhere => Ok(()),
        }
    }
}

/// What a request was about, which its handler says in the extensions of the answer.
#[derive(Clone, Debug)]
pub(crate) enum Object {
    /// A job that was begun.
    Job(Arc<Job>),
    /// Something else, by its name.
    Named(String),
}

/// A request that was answered.
#[derive(Debug)]
pub(crate) struct Answered<'a> {
    /// Who sent it; `None`: nobody who is known.
    pub(crate) who: Option<&'a str>,
    /// From where.
    pub(crate) from: &'a str,
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) status: StatusCode,
    pub(crate) code: Option<Code>,
    pub(crate) object: Option<&'a Object>,
}

#[derive(Serialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Record<'a> {
    Request {
        who: Option<&'a str>,
        from: &'a str,
        method: &'a str,
        path: &'a str,
        status: u16,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<Code>,
        #[serde(skip_serializing_if = "Option::is_none")]
        object: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        job: Option<About<'a>>,
        #[serde(skip_serializing_if = "is_zero")]
        left_out: u64,
    },
    Job {
        who: &'a str,
        job: About<'a>,
        state: JobState,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<Code>,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a str>,
    },
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What a job is about.
#[derive(Serialize)]
struct About<'a> {
    id: &'a str,
    kind: &'a str,
    directory: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(skip_serializing_if = "<[i32]>::is_empty")]
    pids: &'a [i32],
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leave_running: Option<bool>,
}

impl<'a> About<'a> {
    fn of(job: &'a Job) -> Self {
        Self {
            id: &job.id,
            kind: job.kind.name(),
            directory: job.directory.as_str(),
            pid: job.pid,
            pids: &job.pids,
            container: job.container.as_deref(),
            leave_running: job.leave_running,
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    record: Record<'a>,
}

impl Audit {
    /// One in a directory, where files that are older than so many days are removed.
    ///
    /// # Errors
    /// If no file can be made there.
    pub fn in_directory(directory: &Path, days: u16) -> Result<Self, InitError> {
        let files = RollingFileAppender::builder()
            .rotation(Rotation::DAILY)
            .filename_prefix(NAME.0)
            .filename_suffix(NAME.1)
            .max_log_files(usize::from(days))
            .build(directory)?;
        Ok(Self::to(To::Files(files)))
    }

    /// One that is kept nowhere.
    #[must_use]
    pub fn nowhere() -> Self {
        Self::to(To::Nowhere)
    }

    fn to(to: To) -> Self {
        let strangers = RateLimiter::direct(Quota::per_second(OF_STRANGERS));
        Self(Arc::new(State { to: Mutex::new(to), strangers, left_out: AtomicU64::new(0) }))
    }

    /// Notes a request, if it is one to be noted.
    pub(crate) fn answered(&self, request: &Answered<'_>) {
        let refused =
            [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::MISDIRECTED_REQUEST];
        // What a handler names is to be noted, also where nothing changes.
        let is_noted = refused.contains(&request.status) || request.object.is_some();
        if request.method.is_safe() && !is_noted {
            return;
        }
        // Nor does anybody by what is refused because there is too much of it.
        let many = request.who.is_none() || request.status == StatusCode::TOO_MANY_REQUESTS;
        if many && self.0.strangers.check().is_err() {
            self.0.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let job = match request.object {
            Some(Object::Job(job)) => Some(About::of(job)),
            _ => None,
        };
        let object = match request.object {
            Some(Object::Named(name)) => Some(name.as_str()),
            _ => None,
        };
        self.note(Record::Request {
            who: request.who,
            from: request.from,
            method: request.method.as_str(),
            path: cut(request.path),
            status: request.status.as_u16(),
            code: request.code,
            object,
            job,
            left_out: self.0.left_out.swap(0, Ordering::Relaxed),
        });
    }

    /// Notes what came of a job.
    pub(crate) fn ended(&self, job: &Job) {
        self.note(Record::Job {
            who: &job.asked_by,
            job: About::of(job),
            state: job.state,
            code: job.error.as_ref().map(|error| error.code),
            message: job.error.as_ref().map(|error| error.message.as_str()),
        });
    }

    fn note(&self, record: Record<'_>) {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let line = serde_json::to_vec(&Line { time, record }).map_err(io::Error::from);
        let mut to = self.0.to.lock().unwrap_or_else(PoisonError::into_inner);
        let written = line.and_then(|mut line| {
            line.push(b'\n');
            to.write_all(&line)
        });
        if let Err(error) = written {
            tracing::error!("write the audit: {error}; make room where --audit-dir is");
        }
    }
}

/// The beginning of a path, which may be as long as a head.
fn cut(path: &str) -> &str {
    let mut end = path.len().min(LONGEST_PATH);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    &path[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(audit: &Audit, who: Option<&str>) {
        audit.answered(&Answered {
            who,
            from: "127.0.0.1:1",
            method: &Method::GET,
            path: "/v1/\"checkpoints\"\n",
            status: StatusCode::UNAUTHORIZED,
            code: Some(Code::Unauthenticated),
            object: None,
        });
    }

    #[test]
    fn a_flood_of_strangers_fills_no_disk_and_hides_nobody() {
        let place = tempfile::tempdir().unwrap();
        let audit = Audit::in_directory(place.path(), 3).unwrap();
        (0..1000).for_each(|_| refused(&audit, None));
        refused(&audit, Some("token ci"));
        let file = std::fs::read_dir(place.path()).unwrap().next().unwrap().unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!((2..100).contains(&lines.len()), "{}", lines.len());
        assert_eq!(lines[0]["path"], "/v1/\"checkpoints\"\n");
        let last = lines.last().unwrap();
        assert_eq!((&last["who"], &last["code"]), (&"token ci".into(), &"unauthenticated".into()));
        let told: u64 = lines.iter().filter_map(|line| line["left_out"].as_u64()).sum();
        assert_eq!(told + lines.len() as u64, 1001);
    }

    #[test]
    fn what_is_only_read_is_not_noted() {
        let place = tempfile::tempdir().unwrap();
        let audit = Audit::in_directory(place.path(), 3).unwrap();
        let request = Answered {
            who: Some("token"),
            from: "unix",
            method: &Method::GET,
            path: "/v1/jobs",
            status: StatusCode::OK,
            code: None,
            object: None,
        };
        audit.answered(&request);
        audit.answered(&Answered { method: &Method::DELETE, ..request });
        let file = std::fs::read_dir(place.path()).unwrap().next().unwrap().unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("\"DELETE\"") && text.contains("\"record\":\"request\""), "{text}");
    }
}

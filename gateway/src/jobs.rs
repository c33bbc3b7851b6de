//! Jobs: what was asked for, and what came of it. They outlive the gateway.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::{
    CheckpointSummary, Code, ContainerCheckpoint, Directory, DumpSummary, ErrorDetail, Job,
    JobKind, JobList, JobQuery, JobState, Labels, Priority, Progress, RestoreSummary, RestoredTree,
    TogetherSummary, User, Verification,
};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use service::Page;
use tokio::sync::{broadcast, watch};

use crate::callers::Asker;
use crate::state::State;

/// Of one who asks, so many jobs that are done are remembered, and as many that have failed: the oldest are forgotten first, and
/// a flood of the one kind takes none of the other's room.
const KEPT: u32 = 1000;
/// Who listens and is so many changes behind has lost some.
const CHANGES: usize = 256;
/// So many jobs of one user may be at work at a time; of one that is of several trees each tree counts.
pub(crate) const AT_WORK: u64 = 4;
/// And so many of all users: one may have many numbers.
const AT_WORK_OF_USERS: u64 = 32;

/// The jobs of this gateway.
#[derive(Clone, Debug)]
pub struct Jobs {
    state: State,
    /// Counts finished jobs, for those who wait for one.
    finished: Arc<watch::Sender<u64>>,
    /// For those who listen.
    changes: broadcast::Sender<Change>,
    /// How far those are that are at work, by their ids.
    progress: Arc<Mutex<HashMap<String, Progress>>>,
}

/// A job that has begun or ended, and the user that asked for it; `None`: somebody who may do everything.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) user: Option<u32>,
    pub(crate) job: Arc<Job>,
}

/// A job that is to begin.
#[derive(Clone, Debug)]
pub(crate) struct NewJob {
    pub(crate) id: String,
    pub(crate) asker: Asker,
    pub(crate) priority: Priority,
    /// Whether it has to wait for its turn.
    pub(crate) queued: bool,
    /// What it does, as JSON.
    pub(crate) work: String,
    pub(crate) kind: JobKind,
    pub(crate) target: Target,
    pub(crate) directory: Directory,
    pub(crate) leave_running: Option<bool>,
    pub(crate) labels: Labels,
    /// By what a request that is sent again is known.
    pub(crate) key: Option<Key>,
}

/// What a request is called by who sends it (`Idempotency-Key`), and what is in it: of one that is sent again only one job is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) request: String,
}

/// Why there is no new job.
#[derive(Debug)]
pub(crate) enum NoJob {
    /// The request was sent before: this came of it.
    Again(Box<Job>),
    /// Another request was sent by that name.
    OtherRequest,
    /// The id of a job at work on the same directory, or one above or below it.
    Busy(String),
    /// The id of a job at work on the same process, or one of the same.
    SameProcess(String),
    /// The user has as many at work as one may have.
    TooMany,
    /// It cannot be remembered.
    Lost(rusqlite::Error),
}

impl From<rusqlite::Error> for NoJob {
    fn from(error: rusqlite::Error) -> Self {
        Self::Lost(error)
    }
}

/// A job of the gateway before this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundAgain {
    pub(crate) job: Job,
    /// On whose behalf; `None`: of somebody who may do everything.
    pub(crate) user: Option<User>,
    /// What it does, as JSON.
    pub(crate) work: Option<String>,
}

/// What a job is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The tree of a process.
    Process(i32),
    /// Those of several processes, in one frozen moment.
    Processes(Vec<i32>),
    /// A container, by the name that it is asked for by.
    Container(String),
    /// What is in the images.
    Images,
}

/// What came of a job.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Dumped(DumpSummary),
    Together(TogetherSummary),
    Checkpointed(ContainerCheckpoint),
    Restored(RestoreSummary),
    Verified(Verification),
    /// The service that was at work has ended; the checkpoint is there.
    Found(CheckpointSummary),
    /// The same of checkpoints of one moment.
    FoundTogether,
    /// The service that was at work has ended; the tree is there.
    FoundTree(RestoredTree),
    Failed(ErrorDetail),
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Jobs {
    /// Those that are remembered in a database.
    #[must_use]
    pub fn of(state: State) -> Self {
        let finished = Arc::new(watch::channel(0).0);
        let changes = broadcast::channel(CHANGES).0;
        Self { state, finished, changes, progress: Arc::default() }
    }

    /// Asks something of them that the database is asked for.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let jobs = self.clone();
        self.state.aside(move || question(&jobs)).await
    }

    /// What begins and ends from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn tell(&self, user: Option<u32>, job: &Job) {
        // Without listeners there is nobody to tell.
        drop(self.changes.send(Change { user, job: Arc::new(job.clone()) }));
    }

    /// Whether nobody has sent a request of that name before.
    pub(crate) fn sent_before(&self, asker: &Asker, key: &Key) -> Result<(), NoJob> {
        sent_before(&self.state.lock(), &asker.name, key)
    }

    /// Notes a job that begins.
    pub(crate) fn begin(&self, new: NewJob) -> Result<Job, NoJob> {
        let NewJob { id, asker, kind, target, directory, leave_running, labels, key, .. } = new;
        let (priority, work) = (new.priority, new.work);
        let mut connection = self.state.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let user = asker.user.map(|user| user.uid);
        if let Some(key) = &key {
            sent_before(&transaction, &asker.name, key)?;
        }
        let (pid, pids, container) = match target {
            Target::Process(pid) => (Some(pid), Vec::new(), None),
            Target::Processes(pids) => (None, pids, None),
            Target::Container(name) => (None, Vec::new(), Some(name)),
            Target::Images => (None, Vec::new(), None),
        };
        let whole = whole_name(&asker, &directory);
        let all: Vec<i32> = pids.iter().copied().chain(pid).collect();
        not_busy(&transaction, user, &whole, &all)?;
        let job = Job {
            id,
            kind,
            state: if new.queued { JobState::Queued } else { JobState::Running },
            asked_by: asker.to_string(),
            priority,
            progress: None,
            cancelled_by: None,
            pid,
            pids,
            container,
            directory,
            leave_running,
            labels,
            created_ms: now_ms(),
            finished_ms: None,
            found_again: false,
            dump: None,
            together: None,
            checkpointed: None,
            restore: None,
            verified: None,
            error: None,
        };
        let (name, request) = key.map(|key| (key.name, key.request)).unzip();
        transaction.execute(
            "INSERT INTO jobs
                 (id, user, group_id, kind, state, directory, pid, key, request, job, asked_by,
                  work)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            params![
                job.id,
                user,
                asker.user.map(|user| user.gid),
                kind.name(),
                job.state.name(),
                whole,
                pid,
                name,
                request,
                text(&job)?,
                job.asked_by,
                work
            ],
        )?;
        transaction.commit()?;
        drop(connection);
        self.tell(user, &job);
        Ok(job)
    }

    /// Changes what is told of a job that is not over; `None` if there is none of that id, or it is over.
    fn change(
        &self,
        id: &str,
        change: impl FnOnce(&mut Job),
    ) -> Result<Option<Job>, rusqlite::Error> {
        let mut connection = self.state.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found = transaction
            .query_row("SELECT job, user FROM jobs WHERE id = ?1", [id], |row| {
                Ok((job(row)?, row.get::<_, Option<u32>>(1)?))
            })
            .optional()?;
        let Some((mut job, user)) = found.filter(|(job, _)| !job.state.is_over()) else {
            return Ok(None);
        };
        change(&mut job);
        transaction.execute(
            "UPDATE jobs SET state = ?2, job = ?3 WHERE id = ?1",
            params![id, job.state.name(), text(&job)?],
        )?;
        transaction.commit()?;
        drop(connection);
        self.tell(user, &job);
        Ok(Some(job))
    }

    /// It is a job's turn.
    pub(crate) fn started(&self, id: &str) -> Result<Option<Job>, rusqlite::Error> {
        self.change(id, |job| job.state = JobState::Running)
    }

    /// Notes who has asked for a job to be cancelled; `None`: it is not to be, after all.
    pub(crate) fn cancelling(
        &self,
        id: &str,
        by: Option<&Asker>,
    ) -> Result<Option<Job>, rusqlite::Error> {
        self.change(id, |job| job.cancelled_by = by.map(ToString::to_string))
    }

    fn how_far(&self) -> MutexGuard<'_, HashMap<String, Progress>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job with how far it is.
    fn with_progress(&self, job: Job) -> Job {
        let progress = self.how_far().get(&job.id).cloned().filter(|_| !job.state.is_over());
        Job { progress, ..job }
    }

    /// Tells how far a job is.
    pub(crate) fn is_so_far(&self, job: &Job, user: Option<u32>, progress: Progress) {
        let before = self.how_far().insert(job.id.clone(), progress.clone());
        if before.as_ref() == Some(&progress) {
            return;
        }
        // As it is by now: somebody may have cancelled it.
        let found =
            self.state.lock().query_row("SELECT job FROM jobs WHERE id = ?1", [&job.id], self::job);
        if let Ok(job) = found
            && !job.state.is_over()
        {
            self.tell(user, &Job { progress: Some(progress), ..job });
        }
    }

    /// Notes what came of a job; `None` if there is none of that id.
    ///
    /// # Errors
    /// If it cannot be remembered: then it is looked for when the gateway is started again.
    pub(crate) fn finish(
        &self,
        id: &str,
        outcome: Outcome,
    ) -> Result<Option<Job>, rusqlite::Error> {
        let finished = self.note_end(id, outcome);
        self.how_far().remove(id);
        self.finished.send_modify(|count| *count += 1);
        finished
    }

    fn note_end(&self, id: &str, outcome: Outcome) -> Result<Option<Job>, rusqlite::Error> {
        let mut connection = self.state.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found = transaction
            .query_row("SELECT job, user FROM jobs WHERE id = ?1", [id], |row| {
                Ok((job(row)?, row.get::<_, Option<u32>>(1)?))
            })
            .optional()?;
        let Some((mut job, user)) = found else { return Ok(None) };
        tell(&mut job, outcome);
        transaction.execute(
            "UPDATE jobs SET state = ?2, job = ?3 WHERE id = ?1",
            params![id, job.state.name(), text(&job)?],
        )?;
        // The oldest of those that ended in the same way are forgotten.
        transaction.execute(
            "DELETE FROM jobs WHERE user IS ?1 AND state = ?2 AND number <= (
                SELECT number FROM jobs WHERE user IS ?1 AND state = ?2
                ORDER BY number DESC LIMIT 1 OFFSET ?3)",
            params![user, job.state.name(), KEPT],
        )?;
        transaction.commit()?;
        drop(connection);
        self.tell(user, &job);
        Ok(Some(job))
    }

    /// The id of a job that is at work on a directory, or on one above or below it.
    pub(crate) fn at_work_on(
        &self,
        asker: &Asker,
        directory: &Directory,
    ) -> Result<Option<String>, rusqlite::Error> {
        let whole = whole_name(asker, directory);
        match not_busy(&self.state.lock(), None, &whole, &[]) {
            Err(NoJob::Busy(id)) => Ok(Some(id)),
            Err(NoJob::Lost(error)) => Err(error),
            Ok(()) | Err(_) => Ok(None),
        }
    }

    /// The jobs that were at work, or waited for their turn, when the gateway ended. They are and do still: they are said to have been
    /// found again.
    pub(crate) fn found_again(&self) -> Result<Vec<FoundAgain>, rusqlite::Error> {
        let mut connection = self.state.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut found: Vec<FoundAgain> = transaction
            .prepare(
                "SELECT job, user, group_id, work FROM jobs WHERE state IN ('running', 'queued')
                 ORDER BY number",
            )?
            .query_map([], |row| {
                let user = row.get::<_, Option<u32>>(1)?.zip(row.get::<_, Option<u32>>(2)?);
                let user = user.map(|(uid, gid)| User { uid, gid });
                Ok(FoundAgain { job: job(row)?, user, work: row.get(3)? })
            })?
            .collect::<Result<_, _>>()?;
        for FoundAgain { job, .. } in &mut found {
            job.found_again = true;
            let told = params![job.id, text(job)?];
            transaction.execute("UPDATE jobs SET job = ?2 WHERE id = ?1", told)?;
        }
        transaction.commit()?;
        Ok(found)
    }

    /// A job by its id.
    pub(crate) fn get(&self, id: &str, asker: &Asker) -> Result<Option<Job>, rusqlite::Error> {
        let connection = self.state.lock();
        let mut query = connection
            .prepare_cached("SELECT job FROM jobs WHERE id = ?1 AND (?2 IS NULL OR user = ?2)")?;
        let found =
            query.query_row(params![id, asker.user.map(|user| user.uid)], job).optional()?;
        let found = found.filter(|job| job.labels.have(asker.labels()));
        Ok(found.map(|job| self.with_progress(job)))
    }

    /// A job by its id, when it is finished or after a time.
    pub(crate) async fn wait(
        &self,
        id: &str,
        asker: &Asker,
        time: Duration,
    ) -> Result<Option<Job>, rusqlite::Error> {
        let mut finished = self.finished.subscribe();
        let get = || {
            let (id, asker) = (id.to_owned(), asker.clone());
            self.ask(move |jobs| jobs.get(&id, &asker))
        };
        let end = tokio::time::Instant::now() + time;
        loop {
            match get().await {
                Ok(Some(job)) if !job.state.is_over() => {}
                over => return over,
            }
            match tokio::time::timeout_at(end, finished.changed()).await {
                Ok(Ok(())) => {}
                // Over time: the job is told as it is.
                Ok(Err(_)) | Err(_) => return get().await,
            }
        }
    }

    /// A page of the jobs that one who asks may see and wants, newest first.
    pub(crate) fn list(
        &self,
        asker: &Asker,
        wanted: &JobQuery,
        page: Page<i64>,
    ) -> Result<JobList, rusqlite::Error> {
        let connection = self.state.lock();
        let mut query = connection.prepare_cached(
            "SELECT job, number FROM jobs
             WHERE (?1 IS NULL OR user = ?1) AND (?2 IS NULL OR state = ?2)
               AND (?3 IS NULL OR kind = ?3) AND (?4 IS NULL OR directory = ?4)
               AND (?5 IS NULL OR number < ?5)
               AND NOT EXISTS (
                   SELECT 1 FROM json_each(?7) AS bound
                   WHERE json_extract(job, '$.labels.\"' || bound.key || '\"') IS NOT bound.value)
             ORDER BY number DESC LIMIT ?6",
        )?;
        let asked = params![
            asker.user.map(|user| user.uid),
            wanted.state.map(JobState::name),
            wanted.kind.map(JobKind::name),
            wanted.directory.as_ref().map(|directory| whole_name(asker, directory)),
            page.after,
            // One more tells whether there are more.
            page.limit + 1,
            serde_json::to_string(asker.labels())
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?,
        ];
        let found = query.query_map(asked, |row| Ok((job(row)?, row.get::<_, i64>(1)?)))?;
        let mut found = found.collect::<Result<Vec<_>, _>>()?;
        let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|(_, number)| number.to_string());
        let jobs = found.into_iter().map(|(job, _)| self.with_progress(job)).collect();
        Ok(JobList { jobs, next })
    }
}

fn text(job: &Job) -> Result<String, rusqlite::Error> {
    serde_json::to_string(job)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// The job of a row, which is its first column.
fn job(row: &Row<'_>) -> Result<Job, rusqlite::Error> {
    let text: String = row.get(0)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
    })
}

/// Whether a request of that name was sent before.
fn sent_before(connection: &Connection, asked_by: &str, key: &Key) -> Result<(), NoJob> {
    let found = connection
        .query_row(
            "SELECT job, request FROM jobs WHERE asked_by = ?1 AND key = ?2",
            params![asked_by, key.name],
            |row| Ok((job(row)?, row.get::<_, String>(1)?)),
        )
        .optional()?;
    match found {
        None => Ok(()),
        Some((job, request)) if request == key.request => Err(NoJob::Again(Box::new(job))),
        Some(_) => Err(NoJob::OtherRequest),
    }
}

/// What a directory is called from the whole checkpoint root: so those of several who ask are compared.
fn whole_name(asker: &Asker, directory: &Directory) -> String {
    match asker.user {
        Some(user) => format!("users/{}/{directory}", user.uid),
        None => directory.to_string(),
    }
}

/// Whether nothing speaks against another job of a user's on that directory and these processes.
fn not_busy(
    connection: &Connection,
    user: Option<u32>,
    whole: &str,
    pids: &[i32],
) -> Result<(), NoJob> {
    let mut query = connection.prepare_cached(
        "SELECT id, directory, pid, user, json_extract(job, '$.pids') FROM jobs
         WHERE state IN ('running', 'queued')",
    )?;
    let mut rows = query.query([])?;
    let (mut own, mut of_users) = (0, 0);
    let below = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    while let Some(row) = rows.next()? {
        let (id, other, process): (String, String, Option<i32>) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        let asked_by: Option<u32> = row.get(3)?;
        let several = row.get::<_, Option<String>>(4)?;
        let mut processes: Vec<i32> =
            several.and_then(|it| serde_json::from_str(&it).ok()).unwrap_or_default();
        processes.extend(process);
        own += if asked_by == user { weight(&processes) } else { 0 };
        of_users += if asked_by.is_some() { weight(&processes) } else { 0 };
        if below(&other, whole) || below(whole, &other) {
            return Err(NoJob::Busy(id));
        }
        // Whether it is another's at all is for the dumper to say, who has one dump of a process at a time.
        if asked_by == user && pids.iter().any(|pid| processes.contains(pid)) {
            return Err(NoJob::SameProcess(id));
        }
    }
    let more = weight(pids);
    let too_many = own + more > AT_WORK || of_users + more > AT_WORK_OF_USERS;
    match user.is_some() && too_many {
        true => Err(NoJob::TooMany),
        false => Ok(()),
    }
}

/// As how many a job counts that is about these processes.
fn weight(pids: &[i32]) -> u64 {
    pids.len().max(1) as u64
}

/// Says of a job what came of it.
fn tell(job: &mut Job, outcome: Outcome) {
    job.finished_ms = Some(now_ms());
    job.state = JobState::Done;
    match outcome {
        Outcome::Dumped(summary) => job.dump = Some(summary),
        Outcome::Together(summary) => job.together = Some(summary),
        Outcome::FoundTogether => {}
        Outcome::Checkpointed(summary) => job.checkpointed = Some(summary),
        Outcome::Restored(summary) => {
            job.pid = Some(summary.pid);
            job.restore = Some(summary);
        }
        Outcome::Verified(found) => job.verified = Some(found),
        // Of an encrypted one it is not known.
        Outcome::Found(summary) => {
            job.pid = job.pid.or(Some(summary.pid).filter(|_| !summary.encrypted));
        }
        Outcome::FoundTree(tree) => job.pid = Some(tree.pid),
        Outcome::Failed(error) => {
            let cancelled = job.cancelled_by.is_some() || error.code == Code::Cancelled;
            job.state = if cancelled { JobState::Cancelled } else { JobState::Failed };
            job.error = Some(error);
        }
    }
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;

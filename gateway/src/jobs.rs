//! Jobs: what was asked for, and what came of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::{
    ContainerCheckpoint, Directory, DumpSummary, ErrorDetail, Job, JobKind, JobState,
    RestoreSummary,
};
use tokio::sync::watch;

use crate::callers::Asker;

/// Of one who asks, finished jobs beyond this number are forgotten, the oldest first.
const KEPT: usize = 1000;
/// So many jobs of one user may be at work at a time.
const AT_WORK: usize = 4;

/// The jobs of this gateway, oldest first.
#[derive(Clone, Debug)]
pub struct Jobs {
    jobs: Arc<Mutex<VecDeque<StoredJob>>>,
    /// Counts finished jobs, for those who wait for one.
    finished: Arc<watch::Sender<u64>>,
}

/// A job, and the user that asked for it; `None`: somebody who may do everything.
#[derive(Clone, Debug)]
struct StoredJob {
    user: Option<u32>,
    job: Job,
}

impl StoredJob {
    fn is_running(&self) -> bool {
        self.job.state == JobState::Running
    }

    /// A user sees his own.
    fn is_seen_by(&self, asker: Asker) -> bool {
        asker.user.is_none_or(|user| self.user == Some(user.uid))
    }
}

/// Why there is no job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoJob {
    /// The id of a job at work on the same directory, or one above or below it.
    Busy(String),
    /// The user has as many at work as one may have.
    TooMany,
}

/// What a job is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The tree of a process.
    Process(i32),
    /// A container, by the name that it is asked for by.
    Container(String),
    /// What is in the images.
    Images,
}

/// What came of a job.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Dumped(DumpSummary),
    Checkpointed(ContainerCheckpoint),
    Restored(RestoreSummary),
    Failed(ErrorDetail),
}

impl Default for Jobs {
    fn default() -> Self {
        Self { jobs: Arc::default(), finished: Arc::new(watch::channel(0).0) }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, VecDeque<StoredJob>> {
        // A panic can leave nothing half done here: each change is one assignment or push.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a job that begins.
    pub(crate) fn begin(
        &self,
        kind: JobKind,
        target: Target,
        directory: Directory,
        asker: Asker,
    ) -> Result<Job, NoJob> {
        let mut jobs = self.lock();
        let user = asker.user.map(|user| user.uid);
        let own = |kept: &&StoredJob| kept.user == user;
        let mut running = jobs.iter().filter(own).filter(|kept| kept.is_running());
        if let Some(other) = running.clone().find(|kept| kept.job.directory.overlaps(&directory)) {
            return Err(NoJob::Busy(other.job.id.clone()));
        }
        if user.is_some() && running.nth(AT_WORK - 1).is_some() {
            return Err(NoJob::TooMany);
        }
        while jobs.iter().filter(own).count() >= KEPT
            && let Some(oldest) = jobs.iter().position(|kept| own(&kept) && !kept.is_running())
        {
            jobs.remove(oldest);
        }
        let (pid, container) = match target {
            Target::Process(pid) => (Some(pid), None),
            Target::Container(name) => (None, Some(name)),
            Target::Images => (None, None),
        };
        let job = Job {
            id: uuid::Uuid::new_v4().to_string(),
            kind,
            state: JobState::Running,
            asked_by: asker.to_string(),
            pid,
            container,
            directory,
            created_ms: now_ms(),
            finished_ms: None,
            dump: None,
            checkpointed: None,
            restore: None,
            error: None,
        };
        jobs.push_back(StoredJob { user, job: job.clone() });
        Ok(job)
    }

    /// Notes what came of a job.
    pub(crate) fn finish(&self, id: &str, outcome: Outcome) {
        if let Some(StoredJob { job, .. }) = self.lock().iter_mut().find(|kept| kept.job.id == id) {
            job.finished_ms = Some(now_ms());
            match outcome {
                Outcome::Dumped(summary) => {
                    job.state = JobState::Done;
                    job.dump = Some(summary);
                }
                Outcome::Checkpointed(summary) => {
                    job.state = JobState::Done;
                    job.checkpointed = Some(summary);
                }
                Outcome::Restored(summary) => {
                    job.state = JobState::Done;
                    job.pid = Some(summary.pid);
                    job.restore = Some(summary);
                }
                Outcome::Failed(error) => {
                    job.state = JobState::Failed;
                    job.error = Some(error);
                }
            }
        }
        self.finished.send_modify(|count| *count += 1);
    }

    /// A job by its id.
    pub(crate) fn get(&self, id: &str, asker: Asker) -> Option<Job> {
        let jobs = self.lock();
        let found = jobs.iter().find(|kept| kept.job.id == id && kept.is_seen_by(asker));
        found.map(|kept| kept.job.clone())
    }

    /// A job by its id, when it is finished or after a time.
    pub(crate) async fn wait(&self, id: &str, asker: Asker, time: Duration) -> Option<Job> {
        let mut finished = self.finished.subscribe();
        let is_over = |job: Option<Job>| job.is_none_or(|job| job.state != JobState::Running);
        let done = finished.wait_for(|_| is_over(self.get(id, asker)));
        // Over time or finished: either way the job is told as it is.
        match tokio::time::timeout(time, done).await {
            Ok(_) | Err(_) => self.get(id, asker),
        }
    }

    /// The jobs that one who asks may see, newest first.
    pub(crate) fn list(&self, asker: Asker) -> Vec<Job> {
        let jobs = self.lock();
        let seen = jobs.iter().rev().filter(|kept| kept.is_seen_by(asker));
        seen.map(|kept| kept.job.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use api::User;

    use super::*;
    use crate::callers::Caller;

    const ROOT: Asker = Asker { caller: Caller::Token, user: None };

    fn user(uid: u32) -> Asker {
        let user = User { uid, gid: 1 };
        Asker { caller: Caller::User(user), user: Some(user) }
    }

    fn directory(name: &str) -> Directory {
        name.parse().unwrap()
    }

    fn failed() -> Outcome {
        Outcome::Failed(ErrorDetail::default())
    }

    #[test]
    fn one_job_at_a_time_works_on_a_directory() {
        let jobs = Jobs::default();
        let first =
            jobs.begin(JobKind::Checkpoint, Target::Process(7), directory("a"), ROOT).unwrap();
        assert_eq!(
            jobs.begin(JobKind::Restore, Target::Images, directory("a"), ROOT),
            Err(NoJob::Busy(first.id.clone()))
        );
        jobs.begin(JobKind::Checkpoint, Target::Process(7), directory("b"), ROOT).unwrap();
        jobs.finish(&first.id, failed());
        jobs.begin(JobKind::Restore, Target::Images, directory("a"), ROOT).unwrap();
        let order: Vec<_> = jobs.list(ROOT).into_iter().map(|job| job.directory).collect();
        assert_eq!(order, [directory("a"), directory("b"), directory("a")]);
    }

    #[test]
    fn a_user_has_jobs_of_his_own_and_not_too_many() {
        let jobs = Jobs::default();
        let begin = |asker, name| {
            jobs.begin(JobKind::Checkpoint, Target::Process(7), directory(name), asker)
        };
        let roots = begin(ROOT, "a").unwrap();
        let his = begin(user(1), "a").unwrap();
        assert_eq!(begin(user(1), "a/b"), Err(NoJob::Busy(his.id.clone())), "below it");
        assert_eq!((jobs.list(user(1)).len(), jobs.list(ROOT).len()), (1, 2));
        assert_eq!(jobs.list(user(2)), []);
        assert!(jobs.get(&his.id, user(1)).is_some());
        assert_eq!(jobs.get(&his.id, user(2)), None);
        assert_eq!(jobs.get(&roots.id, user(1)), None);
        for name in ["b", "c", "d"] {
            begin(user(1), name).unwrap();
        }
        assert_eq!(begin(user(1), "e"), Err(NoJob::TooMany));
        begin(user(2), "e").unwrap();
        jobs.finish(&his.id, failed());
        begin(user(1), "e").unwrap();
    }

    #[test]
    fn old_jobs_are_forgotten_and_running_ones_are_not() {
        let jobs = Jobs::default();
        let running = jobs
            .begin(JobKind::Checkpoint, Target::Process(7), directory("running"), ROOT)
            .unwrap();
        for number in 0..KEPT + 5 {
            let name = format!("d{number}");
            let job = jobs
                .begin(JobKind::Checkpoint, Target::Process(7), directory(&name), ROOT)
                .unwrap();
            jobs.finish(&job.id, failed());
        }
        assert_eq!(jobs.list(ROOT).len(), KEPT);
        assert!(jobs.get(&running.id, ROOT).is_some());
    }

    #[tokio::test]
    async fn waiting_ends_with_the_job_or_the_time() {
        let jobs = Jobs::default();
        let job =
            jobs.begin(JobKind::Checkpoint, Target::Process(7), directory("a"), ROOT).unwrap();
        let early = jobs.wait(&job.id, ROOT, Duration::from_millis(5)).await.unwrap();
        assert_eq!(early.state, JobState::Running);
        let waiting = tokio::spawn({
            let (jobs, id) = (jobs.clone(), job.id.clone());
            async move { jobs.wait(&id, ROOT, Duration::from_secs(60)).await }
        });
        tokio::task::yield_now().await;
        jobs.finish(&job.id, failed());
        assert_eq!(waiting.await.unwrap().unwrap().state, JobState::Failed);
        assert_eq!(jobs.wait("none", ROOT, Duration::from_secs(60)).await, None);
    }
}

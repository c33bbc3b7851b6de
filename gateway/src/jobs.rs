//! Jobs: what was asked for, and what came of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::{Directory, DumpSummary, ErrorDetail, Job, JobKind, JobState, RestoreSummary};
use tokio::sync::watch;

/// Finished jobs beyond this number are forgotten, the oldest first.
const KEPT: usize = 1000;

/// The jobs of this gateway, oldest first.
#[derive(Clone, Debug)]
pub struct Jobs {
    jobs: Arc<Mutex<VecDeque<Job>>>,
    /// Counts finished jobs, for those who wait for one.
    finished: Arc<watch::Sender<u64>>,
}

/// What came of a job.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Dumped(DumpSummary),
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
    fn lock(&self) -> MutexGuard<'_, VecDeque<Job>> {
        // A panic can leave nothing half done here: each change is one assignment or push.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a job that begins; the error is the id of a job at work on the same directory.
    pub(crate) fn begin(
        &self,
        kind: JobKind,
        pid: Option<i32>,
        directory: Directory,
    ) -> Result<Job, String> {
        let mut jobs = self.lock();
        let busy = |job: &&Job| job.state == JobState::Running && job.directory == directory;
        if let Some(other) = jobs.iter().find(busy) {
            return Err(other.id.clone());
        }
        while jobs.len() >= KEPT
            && let Some(oldest) = jobs.iter().position(|job| job.state != JobState::Running)
        {
            jobs.remove(oldest);
        }
        let job = Job {
            id: uuid::Uuid::new_v4().to_string(),
            kind,
            state: JobState::Running,
            pid,
            directory,
            created_ms: now_ms(),
            finished_ms: None,
            dump: None,
            restore: None,
            error: None,
        };
        jobs.push_back(job.clone());
        Ok(job)
    }

    /// Notes what came of a job.
    pub(crate) fn finish(&self, id: &str, outcome: Outcome) {
        if let Some(job) = self.lock().iter_mut().find(|job| job.id == id) {
            job.finished_ms = Some(now_ms());
            match outcome {
                Outcome::Dumped(summary) => {
                    job.state = JobState::Done;
                    job.dump = Some(summary);
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
    pub(crate) fn get(&self, id: &str) -> Option<Job> {
        self.lock().iter().find(|job| job.id == id).cloned()
    }

    /// A job by its id, when it is finished or after a time.
    pub(crate) async fn wait(&self, id: &str, time: Duration) -> Option<Job> {
        let mut finished = self.finished.subscribe();
        let done =
            finished.wait_for(|_| self.get(id).is_none_or(|job| job.state != JobState::Running));
        // Over time or finished: either way the job is told as it is.
        match tokio::time::timeout(time, done).await {
            Ok(_) | Err(_) => self.get(id),
        }
    }

    /// All jobs, newest first.
    pub(crate) fn list(&self) -> Vec<Job> {
        self.lock().iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> Directory {
        name.parse().unwrap()
    }

    fn failed() -> Outcome {
        Outcome::Failed(ErrorDetail::default())
    }

    #[test]
    fn one_job_at_a_time_works_on_a_directory() {
        let jobs = Jobs::default();
        let first = jobs.begin(JobKind::Checkpoint, Some(7), directory("a")).unwrap();
        assert_eq!(jobs.begin(JobKind::Restore, None, directory("a")), Err(first.id.clone()));
        jobs.begin(JobKind::Checkpoint, Some(7), directory("b")).unwrap();
        jobs.finish(&first.id, failed());
        jobs.begin(JobKind::Restore, None, directory("a")).unwrap();
        let order: Vec<_> = jobs.list().into_iter().map(|job| job.directory).collect();
        assert_eq!(order, [directory("a"), directory("b"), directory("a")]);
    }

    #[test]
    fn old_jobs_are_forgotten_and_running_ones_are_not() {
        let jobs = Jobs::default();
        let running = jobs.begin(JobKind::Checkpoint, Some(7), directory("running")).unwrap();
        for number in 0..KEPT + 5 {
            let name = format!("d{number}");
            let job = jobs.begin(JobKind::Checkpoint, Some(7), directory(&name)).unwrap();
            jobs.finish(&job.id, failed());
        }
        assert_eq!(jobs.list().len(), KEPT);
        assert!(jobs.get(&running.id).is_some());
    }

    #[tokio::test]
    async fn waiting_ends_with_the_job_or_the_time() {
        let jobs = Jobs::default();
        let job = jobs.begin(JobKind::Checkpoint, Some(7), directory("a")).unwrap();
        let early = jobs.wait(&job.id, Duration::from_millis(5)).await.unwrap();
        assert_eq!(early.state, JobState::Running);
        let waiting = tokio::spawn({
            let (jobs, id) = (jobs.clone(), job.id.clone());
            async move { jobs.wait(&id, Duration::from_secs(60)).await }
        });
        tokio::task::yield_now().await;
        jobs.finish(&job.id, failed());
        assert_eq!(waiting.await.unwrap().unwrap().state, JobState::Failed);
        assert_eq!(jobs.wait("none", Duration::from_secs(60)).await, None);
    }
}

//! The policies that there are, in the database.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::{Policy, PolicyRun, PolicySpec};
use rusqlite::params;
use tokio::sync::Notify;

use super::schedule::Schedule;
use crate::jobs::now_ms;
use crate::state::State;

/// So many there are at most.
const MOST: usize = 1000;

/// The policies. A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct Policies {
    state: State,
    /// They are changed one after the other. Who holds it may wait for a disk.
    changes: Arc<Mutex<()>>,
    /// It is locked for moments.
    kept: Arc<Mutex<Kept>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Kept {
    all: BTreeMap<String, Policy>,
    at_work: HashSet<String>,
}

/// Why a policy is not as somebody wants it.
#[derive(Debug)]
pub(crate) enum NotSet {
    /// It has another version than was expected.
    Other(Option<u64>),
    /// There are as many as may be.
    TooMany,
    /// It cannot be remembered.
    Lost(rusqlite::Error),
}

impl From<rusqlite::Error> for NotSet {
    fn from(error: rusqlite::Error) -> Self {
        Self::Lost(error)
    }
}

/// Which version somebody means to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Any,
    /// Any that there is.
    Some,
    /// None: it is to be made.
    None,
    /// The one with this tag.
    Version(String),
}

impl Expected {
    fn meets(&self, found: Option<&Policy>) -> bool {
        match self {
            Self::Any => true,
            Self::Some => found.is_some(),
            Self::None => found.is_none(),
            Self::Version(tag) => found.is_some_and(|policy| policy.tag() == *tag),
        }
    }
}

impl Policies {
    /// Those that are remembered in a database.
    pub(crate) fn of(state: State) -> Result<Self, rusqlite::Error> {
        let all = state
            .lock()
            .prepare("SELECT policy FROM policies")?
            .query_map([], |row| {
                let text: String = row.get(0)?;
                serde_json::from_str(&text).map_err(|error| {
                    let kind = rusqlite::types::Type::Text;
                    rusqlite::Error::FromSqlConversionFailure(0, kind, error.into())
                })
            })?
            .map(|policy| policy.map(|policy: Policy| (policy.name.clone(), policy)))
            .collect::<Result<_, _>>()?;
        let kept = Arc::new(Mutex::new(Kept { all, at_work: HashSet::new() }));
        Ok(Self { state, changes: Arc::default(), kept, changed: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, which is written.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let policies = self.clone();
        self.state.aside(move || question(&policies)).await
    }

    /// All of them, by name.
    pub(crate) fn list(&self) -> Vec<Policy> {
        self.lock().all.values().map(with_next).collect()
    }

    pub(crate) fn get(&self, name: &str) -> Option<Policy> {
        self.lock().all.get(name).map(with_next)
    }

    /// Makes a policy, or changes what it does.
    pub(crate) fn set(
        &self,
        name: &str,
        spec: PolicySpec,
        expected: &Expected,
    ) -> Result<Policy, NotSet> {
        let _one = self.change();
        let (before, there) = {
            let kept = self.lock();
            (kept.all.get(name).cloned(), kept.all.len())
        };
        let before = before.as_ref();
        let version = before.map(|policy| policy.version);
        if !expected.meets(before) {
            return Err(NotSet::Other(version));
        }
        if before.is_none() && there >= MOST {
            return Err(NotSet::TooMany);
        }
        // One that is only paused, or goes on, means what it meant.
        let same = before
            .filter(|policy| PolicySpec { paused: spec.paused, ..policy.spec.clone() } == spec);
        let process = match same {
            Some(policy) => policy.process.clone(),
            None => spec.select.pid.and_then(service::process_identity),
        };
        let policy = Policy {
            name: name.to_owned(),
            version: version.unwrap_or(0) + 1,
            generation: before.map_or_else(
                || uuid::Uuid::new_v4().simple().to_string(),
                |policy| policy.generation.clone(),
            ),
            process,
            spec,
            changed_ms: now_ms(),
            next_ms: None,
            good_ms: before.and_then(|policy| policy.good_ms),
            last: before.and_then(|policy| policy.last.clone()),
        };
        self.write(&policy)?;
        let told = with_next(&policy);
        self.lock().all.insert(name.to_owned(), policy);
        self.changed.notify_one();
        Ok(told)
    }

    /// Removes a policy; whether there was one.
    pub(crate) fn remove(&self, name: &str, expected: &Expected) -> Result<bool, NotSet> {
        let _one = self.change();
        let found = self.lock().all.get(name).cloned();
        if let Some(found) = &found
            && !expected.meets(Some(found))
        {
            return Err(NotSet::Other(Some(found.version)));
        }
        self.state.lock().execute("DELETE FROM policies WHERE name = ?1", [name])?;
        Ok(self.lock().all.remove(name).is_some())
    }

    fn write(&self, policy: &Policy) -> Result<(), rusqlite::Error> {
        let text = serde_json::to_string(policy)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        self.state.lock().execute(
            "INSERT OR REPLACE INTO policies (name, policy) VALUES (?1, ?2)",
            params![policy.name, text],
        )?;
        Ok(())
    }

    /// Notes how a run fares.
    pub(crate) fn note(&self, name: &str, run: &PolicyRun) {
        self.note_both(name, run, false, |_| ());
    }

    /// Notes it together with something else, so that nobody sees one without the other. `good`: it has taken checkpoints of all.
    fn note_both(&self, name: &str, run: &PolicyRun, good: bool, other: impl FnOnce(&mut Kept)) {
        let _one = self.change();
        let policy = {
            let mut kept = self.lock();
            other(&mut kept);
            let Some(policy) = kept.all.get_mut(name) else { return };
            policy.last = Some(run.clone());
            if good {
                policy.good_ms = run.finished_ms;
            }
            policy.clone()
        };
        // What is not written is forgotten with the gateway: then the policy is at work a little earlier.
        if let Err(error) = self.write(&policy) {
            tracing::error!("note how policy {name} fares: {error}");
        }
    }

    /// Says that a policy is at work, while what is returned lives; `None`: it was before, or there is none of that name.
    pub(crate) fn begin(&self, name: &str) -> Option<(Policy, AtWork)> {
        let mut kept = self.lock();
        let policy = kept.all.get(name)?.clone();
        let begun = kept.at_work.insert(name.to_owned());
        begun.then(|| {
            let name = name.to_owned();
            (policy, AtWork { policies: self.clone(), name, has_ended: false })
        })
    }

    /// Those that are to be at work now, and in how many milliseconds the next one is.
    pub(crate) fn due(&self) -> (Vec<String>, Option<u64>) {
        let (now, kept) = (now_ms(), self.lock());
        let idle = kept.all.values().filter(|policy| !kept.at_work.contains(&policy.name));
        let times = idle.filter_map(|policy| Some((&policy.name, next(policy)?)));
        let (due, later): (Vec<_>, Vec<_>) = times.partition(|(_, at)| *at <= now);
        let due = due.into_iter().map(|(name, _)| name.clone()).collect();
        (due, later.into_iter().map(|(_, at)| at - now).min())
    }

    /// Completes when a policy has changed, or has ended its work.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// A policy at work.
#[derive(Debug)]
pub(crate) struct AtWork {
    policies: Policies,
    name: String,
    has_ended: bool,
}

impl AtWork {
    /// Notes how its run has ended: whoever sees that may have it at work anew. `good`: it has taken checkpoints of all.
    pub(crate) fn end(mut self, run: &PolicyRun, good: bool) {
        let name = &self.name;
        self.policies.note_both(name, run, good, |kept| {
            kept.at_work.remove(name);
        });
        self.has_ended = true;
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if !self.has_ended {
            self.policies.lock().at_work.remove(&self.name);
        }
        self.policies.changed.notify_one();
    }
}

/// When a policy is at work next.
fn next(policy: &Policy) -> Option<u64> {
    if policy.spec.paused {
        return None;
    }
    let schedule = Schedule::of(&policy.spec).ok()?;
    // One that a gateway was at when it ended is begun anew.
    if policy.last.as_ref().is_some_and(|run| run.finished_ms.is_none()) {
        return policy.last.as_ref().map(|run| run.started_ms);
    }
    // A run that was missed while there was no gateway is made up for, once.
    schedule.after(policy.last.as_ref().map_or(policy.changed_ms, |run| run.started_ms))
}

fn with_next(policy: &Policy) -> Policy {
    Policy { next_ms: next(policy), ..policy.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(every: &str) -> PolicySpec {
        PolicySpec { every: Some(every.to_owned()), ..PolicySpec::default() }
    }

    #[test]
    fn a_policy_is_due_after_its_time_and_not_twice_at_once() {
        let state = State::forgotten().unwrap();
        let policies = Policies::of(state.clone()).unwrap();
        policies.set("p", spec("1h"), &Expected::Any).unwrap();
        let (due, wait) = policies.due();
        assert!(due.is_empty() && wait.is_some_and(|wait| wait > 3_500_000));
        let long_ago = PolicyRun { started_ms: 1, finished_ms: Some(2), ..PolicyRun::default() };
        policies.note_both("p", &long_ago, true, |_| ());
        assert_eq!(policies.due().0, ["p"]);
        // Another gateway knows it.
        let again = Policies::of(state).unwrap();
        assert_eq!(again.due().0, ["p"]);
        assert_eq!(again.get("p").unwrap().good_ms, Some(2));
        let (_, at_work) = policies.begin("p").unwrap();
        assert!(policies.due().0.is_empty() && policies.begin("p").is_none());
        drop(at_work);
        assert_eq!(policies.due().0, ["p"]);
        policies.set("p", PolicySpec { paused: true, ..spec("1h") }, &Expected::Any).unwrap();
        assert!(policies.due().0.is_empty() && policies.get("p").unwrap().next_ms.is_none());
    }

    #[test]
    fn a_number_means_the_process_that_has_it_when_the_policy_is_made() {
        let policies = Policies::of(State::forgotten().unwrap()).unwrap();
        let own = std::process::id() as i32;
        let mut wanted = spec("1h");
        wanted.select.pid = Some(own);
        let made = policies.set("p", wanted.clone(), &Expected::Any).unwrap();
        assert_eq!(made.process, service::process_identity(own));
        assert!(made.process.is_some());
        // As if another one had had the number.
        policies.lock().all.get_mut("p").unwrap().process = Some("before".to_owned());
        wanted.paused = true;
        let paused = policies.set("p", wanted.clone(), &Expected::Any).unwrap();
        assert_eq!(paused.process.as_deref(), Some("before"), "pausing changes nothing of it");
        wanted.max_freeze_ms = Some(7);
        let changed = policies.set("p", wanted, &Expected::Any).unwrap();
        assert_eq!(changed.process, made.process);
    }

    #[test]
    fn of_two_who_change_one_the_second_is_told() {
        let policies = Policies::of(State::forgotten().unwrap()).unwrap();
        let first = policies.set("p", spec("1h"), &Expected::None).unwrap();
        assert!(matches!(
            policies.set("p", spec("2h"), &Expected::None),
            Err(NotSet::Other(Some(1)))
        ));
        let known = Expected::Version(first.tag());
        let second = policies.set("p", spec("2h"), &known).unwrap();
        assert_eq!(second.version, 2);
        assert!(matches!(policies.set("p", spec("3h"), &known), Err(NotSet::Other(Some(2)))));
        assert!(matches!(policies.remove("p", &known), Err(NotSet::Other(Some(2)))));
        assert!(policies.remove("p", &Expected::Version(second.tag())).unwrap());
        assert!(!policies.remove("p", &Expected::Any).unwrap());
        // One that is made anew is another, of whatever version.
        let anew = policies.set("p", spec("1h"), &Expected::None).unwrap();
        assert_eq!(anew.version, first.version);
        assert!(matches!(policies.set("p", spec("2h"), &known), Err(NotSet::Other(Some(1)))));
        assert!(policies.set("p", spec("2h"), &Expected::Version(anew.tag())).is_ok());
    }
}

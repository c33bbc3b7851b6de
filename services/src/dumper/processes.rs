//! `GET /v1/processes`. To look at all processes takes many milliseconds of a processor: what was found is told again for a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::{ProcessList, ProcessQuery, ProcessSummary, User};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use collector::Home;
use dumper::ps;
use kernel::rights;
use prometheus::Histogram;
use service::metrics::{Metrics, definitions as are};
use service::{OnBehalfOf, Page, Problem, blocking, chain};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

/// For so long what was found is told again if nothing is said.
const USUAL_AGE: Duration = Duration::from_secs(1);
/// What was found is told again for at least so many times as long as it took to find: so little of a processor is taken at most.
const COST: u32 = 10;
/// Older than that nothing is told, and no more than that is waited for.
const OLDEST: Duration = Duration::from_secs(10);
/// So many users are looked for at once.
const AT_ONCE: usize = 2;
/// Of so many users it is kept what was found for them.
const USERS: usize = 64;

/// What was found at a time.
#[derive(Debug)]
struct Seen {
    list: ProcessList,
    at: Instant,
    took: Duration,
}

/// What was found for one who asks, the newest.
#[derive(Clone, Debug, Default)]
struct Latest {
    seen: Arc<Mutex<Option<Arc<Seen>>>>,
    /// Held by who looks.
    looking: Arc<AsyncMutex<()>>,
}

/// By uid and gid; `None`: for who may do everything.
type ByUser = BTreeMap<Option<(u32, u32)>, Latest>;

#[derive(Clone, Debug)]
struct Processes {
    programs: Home,
    by_user: Arc<Mutex<ByUser>>,
    /// So many look at once, for all who ask.
    at_once: Arc<Semaphore>,
    /// How long looks took.
    looks: Histogram,
    /// How old the lists were that were told.
    ages: Histogram,
}

/// The router of this path, with its metrics registered.
///
/// # Errors
/// If they are registered already.
pub(super) fn router(programs: Home, metrics: &Metrics) -> Result<Router, prometheus::Error> {
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let looks = metrics.histogram(&are::PROCESS_LOOK_SECONDS)?;
    let ages = metrics.histogram(&are::PROCESS_LIST_AGE)?;
    let processes = Processes { programs, by_user: Arc::default(), at_once, looks, ages };
    Ok(Router::new().route("/v1/processes", get(list)).with_state(processes))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Latest {
    fn seen(&self) -> Option<Arc<Seen>> {
        lock(&self.seen).clone()
    }

    /// What was found no longer ago than `age`; it is looked for if there is none, by one at a time. Who would wait has what is a
    /// little older while another one looks.
    async fn no_older(
        &self,
        Processes { programs, at_once, looks, .. }: &Processes,
        user: Option<User>,
        age: Duration,
    ) -> Result<Arc<Seen>, Problem> {
        let good = |seen: &Arc<Seen>| {
            let kept = if age.is_zero() { age } else { age.max(seen.took * COST).min(OLDEST) };
            seen.at.elapsed() < kept
        };
        if let Some(seen) = self.seen().filter(good) {
            return Ok(seen);
        }
        let asked = Instant::now();
        let looking = match Arc::clone(&self.looking).try_lock_owned() {
            Ok(looking) => looking,
            Err(_) => {
                let usable = |seen: &Arc<Seen>| !age.is_zero() && seen.at.elapsed() < OLDEST;
                if let Some(seen) = self.seen().filter(usable) {
                    return Ok(seen);
                }
                let looking = Arc::clone(&self.looking).lock_owned().await;
                // Somebody has begun to look since.
                if let Some(seen) = self.seen().filter(|seen| seen.at >= asked) {
                    return Ok(seen);
                }
                looking
            }
        };
        let at_once = Arc::clone(at_once).acquire_owned().await;
        let (programs, looks, kept) = (programs.clone(), looks.clone(), Arc::clone(&self.seen));
        // To its end, also if who asked hangs up: otherwise each who does would begin another one.
        blocking(move || {
            let (_looking, _at_once, at) = (looking, at_once, Instant::now());
            let list = look(&programs, user)?;
            let seen = Arc::new(Seen { list, at, took: at.elapsed() });
            looks.observe(seen.took.as_secs_f64());
            *lock(&kept) = Some(Arc::clone(&seen));
            Ok(seen)
        })
        .await
    }
}

fn look(programs: &Home, user: Option<User>) -> Result<ProcessList, Problem> {
    let user = user.map(|User { uid, gid }| rights::User { uid, gid });
    ps::list(programs, user).map_err(|error| {
        let message = format!("list the processes: {}", chain(&error));
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    })
}

async fn list(
    State(state): State<Processes>,
    OnBehalfOf(user): OnBehalfOf,
    query: Result<Query<ProcessQuery>, QueryRejection>,
) -> Result<Json<ProcessList>, Problem> {
    let Query(asked) = query.map_err(|rejection| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, rejection.body_text())
            .remedy("send limit, cursor, pid, comm, command, cgroup, unit, uid, dumpable, programs or max_age")
    })?;
    let page = Page::<i32>::asked(asked.limit, asked.cursor.as_deref())?;
    let age = asked.max_age.as_deref().map(humantime::parse_duration).transpose();
    let age = age.map_err(|error| {
        Problem::field("max_age", error.to_string()).remedy("send a time (0s, 500ms, 5s)")
    })?;
    let latest = {
        let mut by_user = lock(&state.by_user);
        let key = user.map(|user| (user.uid, user.gid));
        if by_user.len() >= USERS && !by_user.contains_key(&key) {
            // What is found for who may do everything stays.
            by_user.retain(|user, _| user.is_none());
        }
        by_user.entry(key).or_default().clone()
    };
    let seen = latest.no_older(&state, user, age.unwrap_or(USUAL_AGE)).await?;
    state.ages.observe(seen.at.elapsed().as_secs_f64());
    Ok(Json(page_of(&seen.list, &asked, page)))
}

fn page_of(list: &ProcessList, asked: &ProcessQuery, page: Page<i32>) -> ProcessList {
    let wanted = |found: &&ProcessSummary| {
        page.after.is_none_or(|after| found.pid > after)
            && asked.pid.is_none_or(|pid| found.pid == pid)
            && asked.comm.as_ref().is_none_or(|comm| found.comm == *comm)
            && asked.command.as_ref().is_none_or(|text| found.command.contains(text))
            && asked.cgroup.as_ref().is_none_or(|cgroup| found.is_in_cgroup(cgroup))
            && asked.unit.as_ref().is_none_or(|unit| found.is_of_unit(unit))
            && asked.uid.is_none_or(|uid| found.uid == uid)
            && asked.dumpable.is_none_or(|dumpable| found.dumpable == dumpable)
            && asked.programs.is_none_or(|programs| found.command.is_empty() != programs)
    };
    let mut found = list.processes.iter().filter(wanted);
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let processes: Vec<_> = found.by_ref().take(limit).cloned().collect();
    let last = processes.last().filter(|_| found.next().is_some());
    let next = last.map(|last| last.pid.to_string());
    ProcessList { processes, as_of_ms: list.as_of_ms, next }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_by_pid() {
        let process = |pid| ProcessSummary {
            pid,
            ppid: 1,
            comm: format!("c{}", pid % 2),
            command: String::new(),
            uid: 0,
            cgroup: Some(format!("/system.slice/{pid}.service/x")),
            threads: 1,
            memory_bytes: 0,
            dumpable: true,
            refusals: Vec::new(),
        };
        let processes = [3, 4, 8, 9, 11].map(process).to_vec();
        let list = ProcessList { processes, as_of_ms: 7, next: None };
        let page = |query: &ProcessQuery, after| {
            let page = page_of(&list, query, Page { limit: 2, after });
            (page.processes.iter().map(|it| it.pid).collect::<Vec<_>>(), page.next)
        };
        let all = ProcessQuery::default();
        assert_eq!(page(&all, None), (vec![3, 4], Some("4".to_owned())));
        assert_eq!(page(&all, Some(4)), (vec![8, 9], Some("9".to_owned())));
        assert_eq!(page(&all, Some(9)), (vec![11], None));
        let odd = ProcessQuery { comm: Some("c1".to_owned()), ..ProcessQuery::default() };
        assert_eq!(page(&odd, Some(3)), (vec![9, 11], None));
        let of = |unit: &str, cgroup: &str| {
            let (unit, cgroup) = (Some(unit.to_owned()), Some(cgroup.to_owned()));
            page(&ProcessQuery { unit, cgroup, ..ProcessQuery::default() }, None).0
        };
        assert_eq!(of("4.service", "/system.slice/"), [4]);
        assert_eq!(of("4.service", "/system.slice/4"), [] as [i32; 0]);
        assert_eq!(of("4.serv", ""), [] as [i32; 0]);
    }
}

//! What a service was asked to do, by the names that who asked gave: whoever lost the connection, or was started anew, asks
//! what came of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::{Operation, OperationState, Progress, User};
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;

use crate::{OnBehalfOf, Problem};

/// So many are remembered; the oldest that have ended are forgotten first.
const KEPT: usize = 1000;

/// The longest name.
const LONGEST: usize = 64;

/// What a service was asked to do, since it was started. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Operations(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    by_name: BTreeMap<String, Entry>,
    /// The oldest first.
    order: VecDeque<String>,
}

#[derive(Debug)]
struct Entry {
    user: Option<User>,
    operation: Operation,
    progress: OperationProgress,
    cancel: Canceller,
    /// It was asked for before it had come, and is not to be begun: whoever asks again hears the same.
    never: bool,
}

/// What cancels an operation; `None`: it cannot be.
#[derive(Clone, Default)]
struct Canceller(Option<Arc<dyn Fn() + Send + Sync>>);

impl std::fmt::Debug for Canceller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Canceller(…)" } else { "Canceller(none)" })
    }
}

/// How far an operation is. A clone tells of the same.
#[derive(Clone, Debug, Default)]
pub struct OperationProgress(Arc<Mutex<Option<Progress>>>);

impl OperationProgress {
    fn lock(&self) -> MutexGuard<'_, Option<Progress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step begins, which will move so many bytes, where that is known.
    pub fn begin(&self, step: &str, total_bytes: Option<u64>) {
        *self.lock() = Some(Progress { step: step.to_owned(), done_bytes: 0, total_bytes });
    }

    /// The step has moved so many bytes more.
    pub fn advance(&self, bytes: u64) {
        if let Some(progress) = self.lock().as_mut() {
            progress.done_bytes = progress.done_bytes.saturating_add(bytes);
        }
    }
}

impl Entry {
    fn new(user: Option<User>, operation: Operation) -> Self {
        Self {
            user,
            operation,
            progress: OperationProgress::default(),
            cancel: Canceller::default(),
            never: false,
        }
    }

    /// One that is not to be begun.
    fn never() -> Self {
        let operation = Operation { state: OperationState::Failed, ..Operation::default() };
        Self { never: true, ..Self::new(None, operation) }
    }

    /// As it is told.
    fn told(&self) -> Operation {
        let at_work = self.operation.state == OperationState::Running;
        let progress = at_work.then(|| self.progress.lock().clone()).flatten();
        Operation { progress, ..self.operation.clone() }
    }
}

impl Kept {
    /// One that was begun, if who asks may know of it.
    fn known(&self, name: &str, user: Option<User>) -> Option<&Entry> {
        let may = |it: &&Entry| !it.never && (user.is_none() || it.user == user);
        self.by_name.get(name).filter(may)
    }

    /// Forgets the oldest that have ended.
    fn make_room(&mut self) {
        while self.order.len() >= KEPT {
            let ended = |name: &String| {
                let at_work = |it: &Entry| it.operation.state == OperationState::Running;
                !self.by_name.get(name).is_some_and(at_work)
            };
            let Some(oldest) = self.order.iter().position(ended) else { break };
            if let Some(name) = self.order.remove(oldest) {
                self.by_name.remove(&name);
            }
        }
    }
}

/// The name that who asks gave to what is to be done ([`Operation::HEADER`]); `None`: nobody will ask for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationName(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for OperationName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(Operation::HEADER) else { return Ok(Self(None)) };
        let good = |name: &&str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !name.is_empty() && name.len() <= LONGEST && name.bytes().all(plain)
        };
        let name = value.to_str().ok().filter(good).ok_or_else(|| {
            let header = Operation::HEADER;
            Problem::new(StatusCode::BAD_REQUEST, format!("header {header} is no name"))
                .remedy(format!("send at most {LONGEST} letters, digits and -"))
        })?;
        Ok(Self(Some(name.to_owned())))
    }
}

/// An operation that is at work. Dropped without an end, it has failed.
#[derive(Debug)]
pub struct Begun {
    operations: Operations,
    name: Option<String>,
}

impl Operations {
    /// The paths by which they are asked for.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/v1/operations/{name}", get(one).delete(forbid))
            .route("/v1/operations/{name}/cancel", post(cancel))
            .with_state(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Each change is one assignment or push.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something begins.
    ///
    /// # Errors
    /// If something has that name.
    pub fn begin(&self, name: OperationName, user: Option<User>) -> Result<Begun, Problem> {
        let OperationName(name) = name;
        if let Some(name) = &name {
            let mut kept = self.lock();
            kept.make_room();
            if kept.by_name.contains_key(name) {
                let message = format!("operation {name} has been asked for already");
                return Err(Problem::new(StatusCode::CONFLICT, message)
                    .remedy(format!("GET /v1/operations/{name} tells what becomes of it")));
            }
            kept.by_name.insert(name.clone(), Entry::new(user, Operation::default()));
            kept.order.push_back(name.clone());
        }
        Ok(Begun { operations: self.clone(), name })
    }
}

impl Begun {
    /// Where it says how far it is.
    #[must_use]
    pub fn progress(&self) -> OperationProgress {
        let kept = self.operations.lock();
        let entry = self.name.as_ref().and_then(|name| kept.by_name.get(name));
        entry.map(|entry| entry.progress.clone()).unwrap_or_default()
    }

    /// Says how it is cancelled. What comes of it is noted as usual.
    pub fn cancelled_by(&self, cancel: impl Fn() + Send + Sync + 'static) {
        let mut kept = self.operations.lock();
        if let Some(entry) = self.name.as_ref().and_then(|name| kept.by_name.get_mut(name)) {
            entry.cancel = Canceller(Some(Arc::new(cancel)));
        }
    }

    /// Notes what came of it.
    pub fn end<A: Serialize>(mut self, outcome: Result<&A, &Problem>) {
        let ended = match outcome {
            Ok(answer) => Operation {
                state: OperationState::Done,
                answer: serde_json::to_value(answer).ok(),
                ..Operation::default()
            },
            Err(problem) => Operation {
                state: OperationState::Failed,
                status: Some(problem.status.as_u16()),
                error: Some(problem.detail.clone()),
                ..Operation::default()
            },
        };
        self.note(ended);
    }

    fn note(&mut self, ended: Operation) {
        let Some(name) = self.name.take() else { return };
        if let Some(entry) = self.operations.lock().by_name.get_mut(&name) {
            entry.operation = ended;
            // What cancels it may hold what has ended.
            entry.cancel = Canceller::default();
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let message = "the service gave it up";
        let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message);
        self.note(Operation {
            state: OperationState::Failed,
            status: Some(problem.status.as_u16()),
            error: Some(problem.detail),
            ..Operation::default()
        });
    }
}

impl Operations {
    /// Has an operation that is not known not begun any more: a request for it may still be on its way. Whether it is not known.
    fn forbid(&self, name: &str) -> bool {
        let mut kept = self.lock();
        if let Some(entry) = kept.by_name.get(name) {
            return entry.never;
        }
        if name.len() > LONGEST {
            return true;
        }
        kept.make_room();
        kept.by_name.insert(name.to_owned(), Entry::never());
        kept.order.push_back(name.to_owned());
        true
    }
}

/// What came of it; if it is not known, it is not to be begun any more.
async fn forbid(
    State(operations): State<Operations>,
    OnBehalfOf(user): OnBehalfOf,
    Path(name): Path<String>,
) -> Result<Json<Operation>, Problem> {
    if operations.forbid(&name) {
        return Err(unknown(&name));
    }
    one(State(operations), OnBehalfOf(user), Path(name)).await
}

/// Cancels it, and tells it as it is then: what comes of that shows when it ends. If it is not known, it is not to be begun any more.
async fn cancel(
    State(operations): State<Operations>,
    OnBehalfOf(user): OnBehalfOf,
    Path(name): Path<String>,
) -> Result<Json<Operation>, Problem> {
    if operations.forbid(&name) {
        return Err(unknown(&name));
    }
    let found = {
        let kept = operations.lock();
        kept.known(&name, user).map(|it| (it.told(), it.cancel.clone()))
    };
    match found {
        None => Err(unknown(&name)),
        Some((told, _)) if told.state != OperationState::Running => Ok(Json(told)),
        Some((told, Canceller(Some(cancel)))) => {
            cancel();
            Ok(Json(told))
        }
        Some((_, Canceller(None))) => {
            let message = format!("operation {name} cannot be cancelled");
            Err(Problem::new(StatusCode::CONFLICT, message).remedy("wait until it has ended"))
        }
    }
}

fn unknown(name: &str) -> Problem {
    let message = format!("no operation {name} since this service was started");
    Problem::new(StatusCode::NOT_FOUND, message)
        .remedy("look for what it would have made: its checkpoint, or its processes")
}

async fn one(
    State(operations): State<Operations>,
    OnBehalfOf(user): OnBehalfOf,
    Path(name): Path<String>,
) -> Result<Json<Operation>, Problem> {
    let kept = operations.lock();
    kept.known(&name, user).map(|it| Json(it.told())).ok_or_else(|| unknown(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> OperationName {
        OperationName(Some(name.to_owned()))
    }

    fn state(operations: &Operations, name: &str) -> Option<OperationState> {
        operations.lock().by_name.get(name).map(|entry| entry.operation.state)
    }

    #[test]
    fn an_operation_ends_once_and_is_not_begun_again() {
        let operations = Operations::default();
        let begun = operations.begin(name("a"), None).unwrap();
        assert_eq!(state(&operations, "a"), Some(OperationState::Running));
        let again = operations.begin(name("a"), None).unwrap_err();
        assert_eq!(again.status, StatusCode::CONFLICT);
        begun.end(Ok(&7));
        assert_eq!(state(&operations, "a"), Some(OperationState::Done));
        // One that ends without a word, as when its thread panics, has failed.
        drop(operations.begin(name("b"), None).unwrap());
        assert_eq!(state(&operations, "b"), Some(OperationState::Failed));
        operations.begin(OperationName(None), None).unwrap().end(Ok(&7));
        assert_eq!(operations.lock().by_name.len(), 2);
    }

    #[test]
    fn those_at_work_are_not_forgotten() {
        let operations = Operations::default();
        let first = operations.begin(name("first"), None).unwrap();
        for number in 0..KEPT + 10 {
            operations.begin(name(&number.to_string()), None).unwrap().end(Ok(&number));
        }
        assert_eq!(operations.lock().by_name.len(), KEPT);
        assert_eq!(state(&operations, "first"), Some(OperationState::Running));
        assert_eq!(state(&operations, "5"), None);
        first.end(Ok(&0));
    }

    #[tokio::test]
    async fn what_can_be_cancelled_is_and_what_is_not_known_is_not_begun() {
        let operations = Operations::default();
        let ask = async |name: &str| {
            let path = Path(name.to_owned());
            cancel(State(operations.clone()), OnBehalfOf(None), path).await
        };
        let begun = operations.begin(name("a"), None).unwrap();
        assert_eq!(ask("a").await.unwrap_err().status, StatusCode::CONFLICT);
        let cancelled = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = cancelled.clone();
        begun.cancelled_by(move || flag.store(true, std::sync::atomic::Ordering::Relaxed));
        begun.progress().begin("write", Some(10));
        begun.progress().advance(3);
        let told = ask("a").await.unwrap().0;
        let progress = told.progress.unwrap();
        assert_eq!((progress.step.as_str(), progress.done_bytes), ("write", 3));
        assert!(cancelled.load(std::sync::atomic::Ordering::Relaxed));
        begun.end(Ok(&7));
        let told = ask("a").await.unwrap().0;
        assert_eq!((told.state, told.progress), (OperationState::Done, None));
        // Whoever asks twice, because the first answer was lost or did not help, hears nothing else.
        for _ in 0..2 {
            assert_eq!(ask("b").await.unwrap_err().status, StatusCode::NOT_FOUND);
            let path = Path("b".to_owned());
            let given_up = forbid(State(operations.clone()), OnBehalfOf(None), path).await;
            assert_eq!(given_up.unwrap_err().status, StatusCode::NOT_FOUND);
        }
        assert_eq!(operations.begin(name("b"), None).unwrap_err().status, StatusCode::CONFLICT);
        let user = User { uid: 7, gid: 7 };
        let other = cancel(State(operations.clone()), OnBehalfOf(Some(user)), Path("a".to_owned()));
        assert_eq!(other.await.unwrap_err().status, StatusCode::NOT_FOUND, "another's");
    }
}

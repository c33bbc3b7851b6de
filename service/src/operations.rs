//! What a service was asked to do, by the names that who asked gave: whoever lost the connection, or was started anew, asks
//! what came of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::{ErrorDetail, Operation, OperationState, User};
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::get;
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
    by_name: BTreeMap<String, (Option<User>, Operation)>,
    /// The oldest first.
    order: VecDeque<String>,
}

impl Kept {
    /// Forgets the oldest that have ended.
    fn make_room(&mut self) {
        while self.order.len() >= KEPT {
            let ended = |name: &String| {
                let at_work = |(_, it): &(_, Operation)| it.state == OperationState::Running;
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
            kept.by_name.insert(name.clone(), (user, Operation::default()));
            kept.order.push_back(name.clone());
        }
        Ok(Begun { operations: self.clone(), name })
    }
}

impl Begun {
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
        if let Some((_, operation)) = self.operations.lock().by_name.get_mut(&name) {
            *operation = ended;
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

/// What came of it; if it is not known, it is not to be begun any more: a request for it may still be on its way.
async fn forbid(
    State(operations): State<Operations>,
    OnBehalfOf(user): OnBehalfOf,
    Path(name): Path<String>,
) -> Result<Json<Operation>, Problem> {
    {
        let mut kept = operations.lock();
        if !kept.by_name.contains_key(&name) && name.len() <= LONGEST {
            kept.make_room();
            let message = "it was given up before it was begun".to_owned();
            let error = Some(ErrorDetail { message, ..ErrorDetail::default() });
            let state = OperationState::Failed;
            let never = Operation { state, status: Some(409), error, ..Operation::default() };
            kept.by_name.insert(name.clone(), (user, never));
            kept.order.push_back(name.clone());
            return Err(unknown(&name));
        }
    }
    one(State(operations), OnBehalfOf(user), Path(name)).await
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
    let found = kept.by_name.get(&name).filter(|(asker, _)| user.is_none() || *asker == user);
    found.map(|(_, operation)| Json(operation.clone())).ok_or_else(|| unknown(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> OperationName {
        OperationName(Some(name.to_owned()))
    }

    fn state(operations: &Operations, name: &str) -> Option<OperationState> {
        operations.lock().by_name.get(name).map(|(_, operation)| operation.state)
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
}

//! The checkpoints that dumps at work leave pages to.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use service::Problem;

/// The checkpoints that dumps at work leave pages to: nobody removes them meanwhile.
#[derive(Clone, Debug, Default)]
pub(super) struct Parents(Arc<Mutex<Vec<PathBuf>>>);

/// One that a dump leaves pages to.
#[derive(Debug)]
pub(super) struct Parent {
    all: Parents,
    path: PathBuf,
}

impl Parents {
    fn lock(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the checkpoint at a path stay for as long as what is given back does.
    pub(super) fn keep(&self, path: PathBuf) -> Parent {
        self.lock().push(path.clone());
        Parent { all: self.clone(), path }
    }

    /// Whether a dump is leaving pages to what is at a path, or to what lies below that. `remove` is done before another dump begins to.
    pub(super) fn unless_used<T>(
        &self,
        path: &Path,
        remove: impl FnOnce() -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let used = self.lock();
        if used.iter().any(|other| other.starts_with(path)) {
            let message = "a dump that is at work leaves pages to it";
            return Err(Problem::new(StatusCode::CONFLICT, message)
                .of("directory")
                .remedy("wait until that has ended: GET /v1/jobs lists them"));
        }
        remove()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let mut used = self.all.lock();
        if let Some(at) = used.iter().position(|other| *other == self.path) {
            used.swap_remove(at);
        }
    }
}

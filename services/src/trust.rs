//! Keys that cannot be used when they are needed: they are read anew for each dump and each restore, so that another key is used as soon as
//! its file is there.

use axum::http::StatusCode;
use images::KeyError;
use service::{Problem, chain};

/// What helps.
pub(crate) const REMEDY: &str = "put the key back, or start the service with another one";

/// That keys cannot be used which could when the service started.
pub(crate) fn no_key(error: &KeyError) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, chain(error)).remedy(REMEDY)
}

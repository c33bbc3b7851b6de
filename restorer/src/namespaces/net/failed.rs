//! What is said of a step that failed.

use std::io;

use crate::error::Error;

/// A step of the filling failed.
pub(super) fn failed(doing: impl AsRef<str>) -> impl FnOnce(io::Error) -> Error {
    Error::kernel(format!("{} in a new network namespace", doing.as_ref()))
}

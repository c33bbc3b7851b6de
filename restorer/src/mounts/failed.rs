//! What is said of a step that failed.

use std::io;

use super::plan::Mount;
use crate::error::Error;

/// What errors of a mount say.
pub(super) fn failed(mount: &Mount, what: &str) -> impl FnOnce(io::Error) -> Error + use<> {
    Error::kernel(format!("{what} {}", mount.shown()))
}

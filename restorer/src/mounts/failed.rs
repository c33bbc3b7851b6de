//! What is said of a step that failed.

use std::io;
use std::path::Path;

use support::mounts::{PLACE_IS_GONE, SOURCE_IS_GONE};

use super::plan::Mount;
use crate::error::Error;

/// What errors of a mount say.
pub(super) fn failed(mount: &Mount, what: &str) -> impl FnOnce(io::Error) -> Error + use<> {
    Error::kernel(format!("{what} {}", mount.shown()))
}

/// What is said of a mount that could not be placed.
pub(super) fn without_place(mount: &Mount, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::refused(PLACE_IS_GONE.of(0, mount.shown())),
        _ => failed(mount, "place")(error),
    }
}

/// What is said of a mount of which what it comes from could not be copied.
pub(super) fn without_source(mount: &Mount, from: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::refused(SOURCE_IS_GONE.of(0, mount.shown())),
        _ => failed(mount, &format!("copy {} for", from.display()))(error),
    }
}

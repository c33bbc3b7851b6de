//! The engines behind sockets: one module for each service, with its settings, the privileges that
//! it keeps, its paths and its metrics. The engines themselves know nothing of HTTP.
//!
//! The programs in `bin/` call one `main` each.

pub mod access;
pub mod collector;
pub mod dumper;
pub mod freezer;
pub mod restorer;
mod trust;

use std::error::Error;
use std::io;
use std::path::PathBuf;

use axum::http::StatusCode;
use images::Progress;
use nix::libc;
use service::{OperationProgress, Problem, chain};

/// Tells who asked how far a dump or a restore is.
#[derive(Debug)]
struct Told(OperationProgress);

impl Progress for Told {
    fn begin(&mut self, step: &str, total: Option<u64>) {
        self.0.begin(step, total);
    }

    fn advance(&mut self, bytes: u64) {
        self.0.advance(bytes);
    }
}

/// Undoes what others, which were killed, have left done; the folder in which that is written down.
fn undo_left(settings: &service::Settings) -> PathBuf {
    let place = settings.run_dir.join(::freezer::UNDO);
    ::freezer::undo_left(&place);
    place
}

/// Whether an error is that a file system is full, or a quota reached.
fn has_no_room(error: &(dyn Error + 'static)) -> bool {
    let full = |number| matches!(number, libc::ENOSPC | libc::EDQUOT);
    let mut cause = Some(error);
    while let Some(error) = cause {
        let number = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if number.is_some_and(full) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// That it is.
fn no_room(error: &(dyn Error + 'static)) -> Problem {
    Problem::new(StatusCode::INSUFFICIENT_STORAGE, chain(error))
        .remedy("make room where the checkpoint root is: DELETE /v1/checkpoints/DIRECTORY")
}

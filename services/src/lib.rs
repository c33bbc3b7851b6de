//! The engines behind sockets: one module for each service, with its settings, the privileges that
//! it keeps, its paths and its metrics. The engines themselves know nothing of HTTP.
//!
//! The programs in `bin/` call one `main` each.

pub mod collector;
pub mod dumper;
pub mod freezer;
pub mod restorer;

use std::path::PathBuf;

/// Undoes what others, which were killed, have left done; the folder in which that is written down.
fn undo_left(settings: &service::Settings) -> PathBuf {
    let place = settings.run_dir.join(::freezer::UNDO);
    ::freezer::undo_left(&place);
    place
}

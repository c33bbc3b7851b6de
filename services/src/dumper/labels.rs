//! The labels of checkpoints: a file beside the images, so that they go wherever these go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use api::Labels;
use axum::http::StatusCode;
use service::Problem;

/// The file of a checkpoint's labels.
const LABELS: &str = "stasis-labels.json";
/// More than all labels take.
const LONGEST_LABELS: u64 = 64 * 1024;

/// The labels of a checkpoint. What cannot be read is none: they are a help, and no part of it.
pub(super) fn read(path: &Path) -> Labels {
    let read = || {
        let mut text = String::new();
        File::open(path.join(LABELS)).ok()?.take(LONGEST_LABELS).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    };
    read().unwrap_or_default()
}

/// Writes the labels of a checkpoint, all at once.
pub(super) fn write(path: &Path, labels: &Labels) -> Result<(), Problem> {
    let new = path.join(format!(".{LABELS}.new"));
    let write = || {
        let text = serde_json::to_vec(labels)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.custom_flags(nix::libc::O_NOFOLLOW);
        let mut file = options.open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, path.join(LABELS))
    };
    write().map_err(|error: io::Error| {
        let message = format!("write the labels: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    })
}

/// Writes the labels of a checkpoint that has just been made. It is there: that it has no labels is no reason to lose it, and is said.
pub(super) fn give(path: &Path, labels: &Labels) -> Result<(), String> {
    if labels.is_empty() {
        return Ok(());
    }
    write(path, labels).map_err(|problem| problem.detail.message)
}

//! The labels of checkpoints: a file beside the images, so that they go wherever these go.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use api::{Labels, TogetherSummary};
use images::names::LABELS;
use nix::libc;

/// More than all labels take.
const LONGEST_LABELS: u64 = 64 * 1024;

/// The labels of a checkpoint. What cannot be read is none, which is said in the log: they are a help, and no part of it.
#[must_use]
pub fn read(path: &Path) -> Labels {
    let read = || {
        let mut options = OpenOptions::new();
        // What hangs on a fifo holds up all lists, and a link may lead anywhere.
        options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = options.open(path.join(LABELS))?;
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut text = String::new();
        file.take(LONGEST_LABELS).read_to_string(&mut text)?;
        serde_json::from_str(&text).map_err(io::Error::from)
    };
    read().unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!("labels of {}: {error}", path.display());
        }
        Labels::default()
    })
}

/// Writes the labels of a checkpoint, all at once.
///
/// # Errors
/// As the file system's.
pub fn write(path: &Path, labels: &Labels) -> io::Result<()> {
    let new = path.join(format!(".{LABELS}.{}", uuid::Uuid::new_v4().simple()));
    let text = serde_json::to_vec(labels)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&new)?;
    let written = file.write_all(&text).and_then(|()| file.sync_all());
    written.and_then(|()| fs::rename(&new, path.join(LABELS))).inspect_err(|_| {
        // What cannot be written is not to stay in part.
        drop(fs::remove_file(&new));
    })
}

/// A new name for checkpoints that are of one moment.
#[must_use]
pub fn new_moment() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..16].to_owned()
}

/// The labels of a checkpoint, with the one that says of which moment it is.
///
/// # Errors
/// If another such label is wanted, or there are as many as may be.
pub fn of_moment(id: &str, wanted: &Labels) -> Result<Labels, String> {
    let label = TogetherSummary::LABEL;
    let own = format!("{label}={id}").parse::<Labels>().map_err(|error| error.to_string())?;
    let all = wanted.and(&own);
    all.ok_or_else(|| format!("label {label} says which are of one moment, and the others leave no room for it, or say another"))
}

/// Writes the labels of a checkpoint that has just been made. It is there: that it has none is no reason to lose it, and is what this says.
#[must_use]
pub fn unlabelled(path: &Path, labels: Option<&Labels>) -> Option<String> {
    let labels = labels.filter(|labels| !labels.is_empty())?;
    let written = write(path, labels);
    written.err().map(|error| format!("write the labels of {}: {error}", path.display()))
}

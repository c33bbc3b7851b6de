//! What a checkpoint says of itself in short.

use std::path::Path;
use std::time::UNIX_EPOCH;

use api::{CheckpointSummary, Directory};
use images::{Access, Images, names};

use crate::labels;

/// What the images in a directory say; `None` where there are none.
#[must_use]
pub fn summarize(path: &Path, directory: Directory) -> Option<CheckpointSummary> {
    let created = path.join("inventory.img").metadata().ok().filter(|found| found.is_file())?;
    let since = created.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut summary = CheckpointSummary {
        directory,
        created_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        image_bytes: 0,
        pid: 0,
        comm: String::new(),
        processes: 0,
        threads: 0,
        frozen_us: None,
        parent: None,
        labels: labels::read(path),
        uploaded: path.join(names::UPLOADED).symlink_metadata().is_ok(),
        signed_by: Vec::new(),
        encrypted: false,
        damage: None,
    };
    let images = Images::open_locked(path, &Access::default());
    if let Err(error) = images.and_then(|images| fill(&mut summary, &images)) {
        summary.damage = Some(error.in_full());
    }
    Some(summary)
}

fn fill(summary: &mut CheckpointSummary, images: &Images) -> Result<(), images::Error> {
    summary.signed_by = images.signers()?.iter().map(ToString::to_string).collect();
    summary.image_bytes = images.files()?.iter().map(|file| file.size).sum();
    summary.encrypted = images.is_encrypted();
    let stats = images.read_one(&names::stats_dump())?;
    summary.frozen_us = stats.and_then(|stats| stats.dump).map(|dump| dump.frozen_time.into());
    // Who is in it is nobody's to know who has no keys.
    if images.is_locked() {
        return Ok(());
    }
    let tree = images.read_all(&names::pstree())?;
    summary.processes = tree.len() as u64;
    summary.threads = tree.iter().map(|process| process.threads.len() as u64).sum();
    if let Some(root) = tree.first() {
        summary.pid = root.pid.cast_signed();
        let core = images.require(&names::core(root.pid))?;
        let comm = core.tc.map(|task| task.comm).unwrap_or_default();
        summary.comm = String::from_utf8_lossy(&comm).into_owned();
    }
    Ok(())
}

//! What differs between two checkpoints: tasks, memory, files.
//!
//! Contents of memory are compared page by page, by what the images hold, wherever the pages are: in the checkpoint or in its parents.
//! A page that both have from the same place is not read. What is in memory at a time is what the images say, and a piece of either's
//! pages.

mod contents;
mod files;
mod lists;
mod memory;
mod tasks;

use api::{ComparedCheckpoint, Comparison};
use images::{Checkpoint, Error, Images, names};

/// Compares two checkpoints.
///
/// # Errors
/// If one of them cannot be read whole.
pub fn compare(before: &Images, after: &Images) -> Result<Comparison, Error> {
    let before = Checkpoint::load(before.clone())?;
    let after = Checkpoint::load(after.clone())?;
    let tasks = tasks::compare(&before, &after);
    let files = files::compare(&before, &after);
    let memory = memory::compare(&before, &after)?;
    Ok(Comparison {
        same: tasks::is_same(&tasks) && files::is_same(&files) && memory.mappings.is_empty(),
        before: compared(&before)?,
        after: compared(&after)?,
        tasks,
        memory,
        files,
    })
}

fn compared(checkpoint: &Checkpoint) -> Result<ComparedCheckpoint, Error> {
    let images = &checkpoint.images;
    let own = checkpoint.processes.iter().filter_map(|process| process.body.as_ref());
    let maps = own.map(|body| &body.pages).chain(checkpoint.shared_memory.values());
    let (mut stored_bytes, mut parent_bytes) = (0_u64, 0_u64);
    for run in maps.flat_map(|map| &map.runs) {
        if run.is_stored() {
            stored_bytes = stored_bytes.saturating_add(run.bytes());
        } else if run.in_parent() {
            parent_bytes = parent_bytes.saturating_add(run.bytes());
        }
    }
    let pipes = checkpoint.pipes.iter().chain(&checkpoint.fifos).map(|pipe| pipe.payload.size);
    let packets = checkpoint.packets.iter().map(|packet| packet.payload.size);
    let stats = images.read_one(&names::stats_dump())?.and_then(|stats| stats.dump);
    let threads: usize = checkpoint.processes.iter().map(|process| process.threads.len()).sum();
    Ok(ComparedCheckpoint {
        directory: images.path().display().to_string(),
        processes: checkpoint.processes.len() as u64,
        threads: threads as u64,
        image_bytes: images.files()?.iter().map(|file| file.size).sum(),
        stored_bytes,
        parent_bytes,
        queued_bytes: pipes.chain(packets).sum(),
        frozen_us: stats.map(|stats| stats.frozen_time.into()),
    })
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;

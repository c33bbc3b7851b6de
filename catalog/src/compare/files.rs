//! Descriptors that were opened, closed, or refer to something else.

use std::collections::BTreeMap;

use api::{BeforeAfter, ChangedFile, ComparedFile, FileChanges, FileWords};
use images::Checkpoint;

use super::lists::keep;
use crate::describe;

pub(super) const fn is_same(changes: &FileChanges) -> bool {
    changes.opened.is_empty() && changes.closed.is_empty() && changes.changed.is_empty()
}

pub(super) fn compare(before: &Checkpoint, after: &Checkpoint) -> FileChanges {
    let (old, new) = (descriptors(before), descriptors(after));
    let told = |(process, descriptor): (u32, u32), file: &FileWords| {
        let (process, descriptor) = (process.into(), descriptor.into());
        ComparedFile { process, descriptor, file: file.clone() }
    };
    let mut changes = FileChanges::default();
    for (&key, file) in old.iter().filter(|(key, _)| !new.contains_key(key)) {
        changes.closed.push(told(key, file));
    }
    for (&(process, descriptor), after) in &new {
        match old.get(&(process, descriptor)) {
            None => changes.opened.push(told((process, descriptor), after)),
            Some(before) if before == after => {}
            Some(before) => changes.changed.push(ChangedFile {
                process: process.into(),
                descriptor: descriptor.into(),
                before: before.clone(),
                after: after.clone(),
            }),
        }
    }
    keep(&mut changes.opened, &mut changes.left_out);
    keep(&mut changes.closed, &mut changes.left_out);
    keep(&mut changes.changed, &mut changes.left_out);
    let mut count = |checkpoint: &Checkpoint, one: fn(&mut BeforeAfter) -> &mut u64| {
        for file in describe::open_files(checkpoint) {
            *one(changes.kinds.entry(describe::kind(file).to_owned()).or_default()) += 1;
        }
    };
    count(before, |kinds| &mut kinds.before);
    count(after, |kinds| &mut kinds.after);
    changes
}

/// What the descriptors of all processes refer to, by process and number.
fn descriptors(checkpoint: &Checkpoint) -> BTreeMap<(u32, u32), FileWords> {
    let mut found = BTreeMap::new();
    for process in &checkpoint.processes {
        let table =
            process.body.as_ref().and_then(|body| checkpoint.files.tables.get(&body.ids.files_id));
        for info in table.into_iter().flatten() {
            let file = checkpoint.files.entries.get(&info.id);
            let kind = file.map_or("unknown", |file| describe::kind(file)).to_owned();
            let what = file.map(|file| describe::what(checkpoint, file)).unwrap_or_default();
            found.insert((process.pid, info.fd), FileWords { kind, what });
        }
    }
    found
}

//! Descriptors that were opened, closed, or refer to something else.

use std::collections::BTreeMap;

use api::{BeforeAfter, ChangedFile, ComparedFile, FileChanges, FileWords};
use images::Checkpoint;

use super::lists::tell;
use crate::describe;

pub(super) const fn is_same(changes: &FileChanges) -> bool {
    changes.opened.is_empty() && changes.closed.is_empty() && changes.changed.is_empty()
}

pub(super) fn compare(before: &Checkpoint, after: &Checkpoint) -> FileChanges {
    let (old, new) = (descriptors(before), descriptors(after));
    let told = |(process, descriptor): (u32, u32), file: FileWords| {
        let (process, descriptor) = (process.into(), descriptor.into());
        ComparedFile { process, descriptor, file }
    };
    let mut changes = FileChanges::default();
    let FileChanges { opened, closed, changed, left_out, .. } = &mut changes;
    for (&key, &file) in old.iter().filter(|(key, _)| !new.contains_key(key)) {
        tell(closed, left_out, || told(key, words(before, file)));
    }
    for (&(process, descriptor), &file) in &new {
        let now = words(after, file);
        match old.get(&(process, descriptor)).map(|was| words(before, *was)) {
            None => tell(opened, left_out, || told((process, descriptor), now)),
            Some(was) if was == now => {}
            Some(was) => tell(changed, left_out, || ChangedFile {
                process: process.into(),
                descriptor: descriptor.into(),
                before: was,
                after: now,
            }),
        }
    }
    let mut count = |checkpoint: &Checkpoint, one: fn(&mut BeforeAfter) -> &mut u64| {
        for file in describe::open_files(checkpoint) {
            *one(changes.kinds.entry(describe::kind(file).to_owned()).or_default()) += 1;
        }
    };
    count(before, |kinds| &mut kinds.before);
    count(after, |kinds| &mut kinds.after);
    changes
}

/// The files that the descriptors of all processes refer to, by process and number.
fn descriptors(checkpoint: &Checkpoint) -> BTreeMap<(u32, u32), u32> {
    let mut found = BTreeMap::new();
    for process in &checkpoint.processes {
        let table =
            process.body.as_ref().and_then(|body| checkpoint.files.tables.get(&body.ids.files_id));
        for info in table.into_iter().flatten() {
            found.insert((process.pid, info.fd), info.id);
        }
    }
    found
}

fn words(checkpoint: &Checkpoint, file: u32) -> FileWords {
    let file = checkpoint.files.entries.get(&file);
    let kind = file.map_or("unknown", |file| describe::kind(file)).to_owned();
    let what = file.map(|file| describe::what(checkpoint, file)).unwrap_or_default();
    FileWords { kind, what }
}

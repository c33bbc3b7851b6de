//! A whole checkpoint, made from one of the recorded sets by changing it as the input says.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use images::store::Memory;
use images::{Checkpoint, Images};

/// The recorded sets.
const SETS: [&str; 5] = ["minimal", "busy", "family", "ghosts", "terminal"];

/// A recorded set: names and contents.
struct Set {
    files: Vec<(String, Vec<u8>)>,
}

thread_local! {
    static LOADED: OnceCell<Vec<Set>> = const { OnceCell::new() };
}

/// Takes a set, changes it and reads it.
///
/// The first byte chooses the set. Then come changes, six bytes each and what some of them insert: file, kind,
/// offset (two bytes), length, where it goes on.
pub fn image_dir(input: &[u8]) {
    let Some((set, changes)) = input.split_first() else { return };
    LOADED.with(|loaded| {
        let sets = loaded.get_or_init(|| SETS.map(Set::load).into());
        sets[usize::from(*set) % sets.len()].read_changed(changes);
    });
}

impl Set {
    fn load(name: &str) -> Self {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/criu-4.2").join(name);
        let mut files = Vec::new();
        for entry in fs::read_dir(from).expect("a recorded set") {
            let path = entry.expect("an image").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            files.push((name.to_owned(), fs::read(&path).expect("an image")));
        }
        files.sort();
        Self { files }
    }

    fn read_changed(&self, changes: &[u8]) {
        let changed = self.changed(changes);
        let there = self.files.iter().enumerate().filter_map(|(file, (name, bytes))| {
            let bytes = changed.get(&file).map_or(Some(bytes), Option::as_ref)?;
            Some((name.clone(), bytes.clone()))
        });
        let place = Memory::default();
        place.put(Path::new("set"), there);
        let store = place.open(Path::new("set")).expect("what was put there");
        if let Ok(checkpoint) = Images::of(Arc::new(store)).and_then(Checkpoint::load) {
            // What was accepted must hold what it promises.
            for process in &checkpoint.processes {
                assert_ne!(process.body.is_some(), process.threads.is_empty());
            }
            assert!(checkpoint.images.files().is_ok());
        }
    }

    /// The files that the changes leave different; `None` for one that is removed.
    fn changed(&self, mut changes: &[u8]) -> BTreeMap<usize, Option<Vec<u8>>> {
        let mut changed = BTreeMap::new();
        while let [file, kind, low, high, length, rest @ ..] = changes {
            let file = usize::from(*file) % self.files.len();
            let bytes = changed.entry(file).or_insert_with(|| Some(self.files[file].1.clone()));
            let (new, rest) = rest.split_at(usize::from(*length).min(rest.len()));
            changes = rest;
            let Some(image) = bytes else { continue };
            let offset = usize::from(u16::from_le_bytes([*low, *high])).min(image.len());
            match kind % 8 {
                0..3 => {
                    let end = (offset + new.len()).min(image.len());
                    image[offset..end].copy_from_slice(&new[..end - offset]);
                }
                3 | 4 => drop(image.splice(offset..offset, new.iter().copied())),
                5 => image.truncate(offset),
                6 => image.extend_from_slice(new),
                _ => *bytes = None,
            }
        }
        changed
    }
}

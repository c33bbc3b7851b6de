//! A whole checkpoint, made from one of the recorded sets by changing it as the input says.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use images::{Checkpoint, ImageDir};

/// The recorded sets.
const SETS: [&str; 5] = ["minimal", "busy", "family", "ghosts", "terminal"];

/// A copy of a recorded set, on a file system in memory where there is one.
struct Set {
    place: tempfile::TempDir,
    files: Vec<(PathBuf, Vec<u8>)>,
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
        let memory = Path::new("/dev/shm");
        let place =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }
                .expect("a temporary directory");
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/criu-4.2").join(name);
        let mut files = Vec::new();
        for entry in fs::read_dir(from).expect("a recorded set") {
            let path = entry.expect("an image").path();
            let bytes = fs::read(&path).expect("an image");
            let to = place.path().join(path.file_name().expect("a name"));
            fs::write(&to, &bytes).expect("a copy");
            files.push((to, bytes));
        }
        files.sort();
        Self { place, files }
    }

    fn read_changed(&self, changes: &[u8]) {
        let changed = self.changed(changes);
        for (file, bytes) in &changed {
            let path = &self.files[*file].0;
            match bytes {
                Some(bytes) => fs::write(path, bytes).expect("write a changed image"),
                None => fs::remove_file(path).expect("remove an image"),
            }
        }
        if let Ok(checkpoint) = ImageDir::open(self.place.path()).and_then(Checkpoint::load) {
            // What was accepted must hold what it promises.
            for process in &checkpoint.processes {
                assert!(process.body.is_some() == !process.threads.is_empty());
            }
            assert!(checkpoint.dir.files().is_ok());
        }
        for file in changed.keys() {
            let (path, bytes) = &self.files[*file];
            fs::write(path, bytes).expect("put an image back");
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

//! The checkpoints below a directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use api::{CheckpointList, CheckpointSummary, Directory, UnfinishedCheckpoint};
use images::names;

use crate::summary::summarize;

/// Deepest nesting of directories that is searched for checkpoints.
const DEEPEST: usize = 8;
/// Most directories that are looked into.
const MOST: usize = 1_000_000;

/// What there is below a directory.
#[derive(Debug, Default)]
pub struct Listed {
    /// The checkpoints, and what is being written, named from there.
    pub list: CheckpointList,
    /// Checkpoints whose names are none that services take ([`Directory`]).
    pub unnamed: Vec<PathBuf>,
}

/// Shows a directory and every one below it, hidden ones left out, with its name from there; of the first that is empty, and `None` of
/// one whose name is no [`Directory`]. One that is inside a checkpoint is shown, too: it may have been made by others. Symbolic links
/// are not followed.
///
/// # Errors
/// If the directory cannot be read; what cannot be read below it is left out.
pub fn walk(root: &Path, show: &mut dyn FnMut(&Path, Option<&str>)) -> io::Result<()> {
    fs::read_dir(root)?;
    let mut waiting = vec![(root.to_owned(), Some(String::new()), 0)];
    let mut seen = 0;
    while let Some((path, name, depth)) = waiting.pop() {
        seen += 1;
        show(&path, name.as_deref());
        if depth == DEEPEST || seen == MOST {
            continue;
        }
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            let own = entry.file_name();
            // Hidden ones are being written, and what was copied early is part of a checkpoint.
            let is_ours = own == names::PRE_COPY || own.as_encoded_bytes().starts_with(b".");
            if !is_ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let below = name.as_deref().zip(own.to_str()).map(|(name, own)| join(name, own));
                let below = below.filter(|below| below.parse::<Directory>().is_ok());
                waiting.push((entry.path(), below, depth + 1));
            }
        }
    }
    Ok(())
}

fn join(name: &str, part: &str) -> String {
    if name.is_empty() { part.to_owned() } else { format!("{name}/{part}") }
}

/// The checkpoints below a directory, by their names from there.
///
/// # Errors
/// If the directory cannot be read.
pub fn list(root: &Path) -> io::Result<Listed> {
    let mut found = Listed::default();
    let mut all: Vec<(PathBuf, CheckpointSummary)> = Vec::new();
    let real = root.canonicalize()?;
    walk(&real, &mut |path, name| {
        match name.and_then(|name| name.parse::<Directory>().ok()) {
            Some(directory) => {
                all.extend(summarize(path, directory).map(|summary| (path.to_owned(), summary)));
            }
            None if path != real && path.join(names::inventory().name()).is_file() => {
                found.unnamed.push(path.to_owned());
            }
            None => {}
        }
        if let Some(name) = name {
            found.list.unfinished.extend(unfinished(path, name));
        }
    })?;
    for (path, mut summary) in all {
        let parents = images::parents_of(&path);
        let below = |path: &PathBuf| path.strip_prefix(&real).ok()?.to_str()?.parse().ok();
        summary.parent = parents.iter().find_map(below);
        found.list.checkpoints.push(summary);
    }
    found.list.checkpoints.sort_by(|a, b| a.directory.cmp(&b.directory));
    found.list.unfinished.sort_by(|a, b| a.path.cmp(&b.path));
    found.unnamed.sort();
    Ok(found)
}

/// What is being written in a directory, or was left by who began to.
fn unfinished(path: &Path, name: &str) -> Vec<UnfinishedCheckpoint> {
    let there = images::unfinished(path).unwrap_or_default().into_iter();
    there
        .map(|there| {
            let own = there.path.file_name().unwrap_or_default().to_string_lossy();
            let (bytes, being_written) = (there.bytes, there.being_written);
            UnfinishedCheckpoint { path: join(name, &own), bytes, being_written }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(names: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            let path = root.path().join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("inventory.img"), b"").unwrap();
        }
        root
    }

    #[test]
    fn checkpoints_are_found_and_nothing_else() {
        let root = place(&["b", "b/inside", "b/pre-copy", "a/one", "a/two", ".b.stasis-tmp-1"]);
        fs::create_dir(root.path().join("empty")).unwrap();
        std::os::unix::fs::symlink("/", root.path().join("link")).unwrap();
        let listed = list(root.path()).unwrap();
        let names: Vec<_> =
            listed.list.checkpoints.iter().map(|found| found.directory.as_str()).collect();
        assert_eq!(names, ["a/one", "a/two", "b", "b/inside"]);
        assert!(listed.list.checkpoints[0].damage.is_some(), "an empty image is none");
        assert!(listed.unnamed.is_empty());
    }

    #[test]
    fn what_has_a_name_that_services_do_not_take_is_told_apart() {
        let root = place(&["good", "not so good", "not so good/below"]);
        let listed = list(root.path()).unwrap();
        assert_eq!(listed.list.checkpoints.len(), 1);
        let real = root.path().canonicalize().unwrap();
        assert_eq!(listed.unnamed, [real.join("not so good"), real.join("not so good/below")]);
    }

    #[test]
    fn no_directory_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let error = list(&root.path().join("none")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

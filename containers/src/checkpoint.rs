//! Has an engine checkpoint a container.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use api::{ContainerCheckpoint, DumpSummary};
use images::{Images, names};
use support::{containers, word};

use crate::container::Container;
use crate::error::Error;
use crate::own_criu;
use crate::places::Places;
use crate::run::{Run, on_path, said};
use crate::words::{Asked, of, of_dry_run};

/// A directory for images that goes again unless it is kept, or holds a checkpoint: the container may have ended with
/// it, whatever the engine says.
struct Made(Option<PathBuf>);

impl Made {
    fn make(path: Option<PathBuf>) -> Result<Self, Error> {
        if let Some(path) = &path {
            let failed = |source| Error::Directory { path: path.clone(), source };
            DirBuilder::new().mode(0o700).create(path).map_err(failed)?;
        }
        Ok(Self(path))
    }

    /// The errors in the log that a dump has left in it.
    fn errors(&self) -> String {
        self.0.as_deref().map(errors).unwrap_or_default()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // The last image to be written.
        if let Some(path) = self.0.as_ref().filter(|path| !path.join("inventory.img").exists()) {
            // What cannot be removed is met by who uses the directory next.
            fs::remove_dir_all(path).unwrap_or_default();
        }
    }
}

/// Has its engine checkpoint a container, with our `criu`.
///
/// # Errors
/// If something speaks against it, or the engine's command fails: then the container runs on.
pub fn checkpoint(
    container: &Container,
    asked: &Asked,
    places: &Places,
) -> Result<ContainerCheckpoint, Error> {
    let words = of(container, asked, &made_up()).map_err(Error::Refused)?;
    let program = on_path(words.program).ok_or_else(|| {
        Error::Refused(vec![container.refused(containers::without_command(words.program))])
    })?;
    let first = own_criu::directory(&places.run_dir)?;
    let with = environment(&first, places);
    let mut made = Made::make(words.made)?;
    let run = Run { program: &program, words: &words.words, with: &with, patience: None };
    let ended = run.end()?;
    if !ended.success {
        let mut said = format!("{}{}", said(&ended.err), made.errors());
        if let Some(path) = made.0.as_ref().filter(|path| path.join("inventory.img").exists()) {
            said += &format!("; a checkpoint is in {} all the same", path.display());
        }
        return Err(Error::Failed { command: run.called(), said });
    }
    made.0 = None;
    let summary = container.summary();
    let images = asked.directory.as_deref();
    Ok(ContainerCheckpoint {
        engine: summary.engine,
        name: summary.name.clone(),
        id: summary.id.clone(),
        images: images.map(|path| path.to_string_lossy().into_owned()),
        frozen_us: images.and_then(frozen),
        restore: words.restore.map(|line| match summary.engine {
            // Docker's daemon calls what is on its own PATH.
            api::ContainerEngine::Docker => line,
            _ => format!("PATH={}:$PATH {line}", word(&first.to_string_lossy())),
        }),
        warnings: Vec::new(),
    })
}

/// Finds out what a checkpoint of a container would cost, and what would be refused: all is done as for one that runs on, which it does,
/// and nothing is written. Its engine hears nothing of it.
///
/// # Errors
/// If something speaks against it, or the command fails: the container runs on in any case.
pub fn try_out(
    container: &Container,
    asked: &Asked,
    places: &Places,
) -> Result<DumpSummary, Error> {
    // It is made for the checkpoint.
    if let Some(path) = asked.directory.as_ref().filter(|path| path.exists()) {
        let source = io::ErrorKind::AlreadyExists.into();
        return Err(Error::Directory { path: path.clone(), source });
    }
    let first = own_criu::directory(&places.run_dir)?;
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Place { operation, path, source }
    };
    // Whoever runs the container leaves files of its own there.
    let scratch = tempfile::Builder::new().prefix("dry-run-").tempdir_in(&places.run_dir);
    let scratch = scratch.map_err(failed("make a directory in", &places.run_dir))?;
    let words = of_dry_run(container, asked, scratch.path()).map_err(Error::Refused)?;
    let program = on_path(words.program).ok_or_else(|| {
        Error::Refused(vec![container.refused(containers::without_command(words.program))])
    })?;
    let told = scratch.path().join("dry-run.json");
    let mut with = environment(&first, places);
    with.push(("STASIS_DRY_RUN", (&told).into()));
    let run = Run { program: &program, words: &words.words, with: &with, patience: None };
    let ended = run.end()?;
    if !ended.success {
        let said = format!("{}{}", said(&ended.err), errors(scratch.path()));
        return Err(Error::Failed { command: run.called(), said });
    }
    let told = fs::read(&told).map_err(failed("read", &told))?;
    serde_json::from_slice(&told).map_err(|source| Error::Strange { command: run.called(), source })
}

/// The errors in the log that a dump has left in a directory.
fn errors(directory: &Path) -> String {
    let log = fs::read(directory.join("dump.log"));
    let log = String::from_utf8_lossy(log.as_deref().unwrap_or_default()).into_owned();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("Error")).collect();
    let last = errors.len().saturating_sub(5);
    said(errors.get(last..).unwrap_or_default().join("\n").as_bytes())
}

/// What an engine is given in its environment.
fn environment(first: &Path, places: &Places) -> Vec<(&'static str, OsString)> {
    let own = [("PATH", own_criu::path_with(first)), ("STASIS_RUN_DIR", (&places.run_dir).into())];
    own.into_iter().chain(places.environment.iter().cloned()).collect()
}

/// A name for a checkpoint that an engine keeps by one.
fn made_up() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("stasis-{}", since.as_millis())
}

/// How long the tree stood still, as the images tell.
fn frozen(images: &Path) -> Option<u64> {
    let stats = Images::open(images).ok()?.read_one(&names::stats_dump()).ok()??;
    stats.dump.map(|dump| dump.frozen_time.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_unless_it_holds_a_checkpoint() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("images");
        let made = Made::make(Some(path.clone())).unwrap();
        assert!(Made::make(Some(path.clone())).is_err());
        fs::write(path.join("dump.log"), "x\n(00.1) Error (a.rs:1): no\n").unwrap();
        assert_eq!(made.errors(), ": (00.1) Error (a.rs:1): no");
        drop(made);
        assert!(!path.exists());
        let made = Made::make(Some(path.clone())).unwrap();
        fs::write(path.join("inventory.img"), "").unwrap();
        drop(made);
        assert!(path.exists());
    }
}

//! Notes of what was restored, for those who ask later: `RUN_DIR/restores/PID.json`.
//!
//! A note is made before the tree is let go, for afterwards it may be too late. It is true as long as
//! there is the very process that it names, known by its pid and by when it was started: a tree
//! that was not let go, or has ended, has none. So nobody has to take a note back.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use api::{Labels, RestoreSummary};
use ids::HostPid;
use kernel::procfs::{Dir, ProcFile, Stat};
use serde::{Deserialize, Serialize};

use crate::options::RestoreReport;

/// Bytes that no note reaches.
const LONGEST: u64 = 1 << 17;

/// A tree that was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When its root was started, in ticks since the machine was.
    pub started: u64,
    /// Where its images are.
    pub images: PathBuf,
    /// What they were called by.
    #[serde(default)]
    pub labels: Labels,
    /// What the restore said of itself.
    pub summary: RestoreSummary,
}

impl From<&RestoreReport> for RestoreSummary {
    fn from(report: &RestoreReport) -> Self {
        Self {
            pid: report.pid.get(),
            total_us: u64::try_from(report.total.as_micros()).unwrap_or(u64::MAX),
            processes: report.processes as u64,
            threads: report.threads as u64,
            pages_restored: report.pages_restored,
        }
    }
}

impl Record {
    pub(crate) fn of(report: &RestoreReport, images: &Path, labels: &Labels) -> Self {
        Self {
            started: crate::holder::started(report.pid).unwrap_or(0),
            images: images.canonicalize().unwrap_or_else(|_| images.to_owned()),
            labels: labels.clone(),
            summary: report.into(),
        }
    }

    /// Writes it down. That it cannot be is no reason not to restore.
    pub(crate) fn keep(&self, place: &Path) {
        // Which trees there are, and of whom, is not for everybody.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(place);
        let written = made.and_then(|()| {
            let text = serde_json::to_vec(self).map_err(io::Error::other)?;
            let name = format!("{}.json", self.summary.pid);
            // One name for each root: what a killed restore leaves, the next one writes over.
            let new = place.join(format!(".{name}.new"));
            std::fs::write(&new, text)?;
            std::fs::rename(&new, place.join(name))
        });
        if let Err(error) = written {
            tracing::warn!("note the restored tree in {}: {error}", place.display());
        }
    }

    /// The restored tree whose root is `pid`, if it is there.
    #[must_use]
    pub fn of_root(place: &Path, pid: HostPid) -> Option<Self> {
        Self::read(&place.join(format!("{pid}.json"))).filter(Self::is_true)
    }

    /// All restored trees that are there. Notes of others are taken away.
    #[must_use]
    pub fn all(place: &Path) -> Vec<Self> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match Self::read(&path).filter(Self::is_true) {
                Some(record) => found.push(record),
                // Another may have taken it away already.
                None => drop(std::fs::remove_file(&path)),
            }
        }
        found
    }

    fn read(path: &Path) -> Option<Self> {
        use std::io::Read;
        let mut text = Vec::new();
        std::fs::File::open(path).ok()?.take(LONGEST).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Whether its root is there.
    #[must_use]
    pub fn is_true(&self) -> bool {
        HostPid::new(self.summary.pid).is_some_and(|root| {
            let stat = Dir::open(root).and_then(|dir| Stat::read(&dir));
            stat.is_ok_and(|stat| stat.start_time == self.started && !stat.is_dead())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_true_as_long_as_the_process_is_there() {
        let place = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = HostPid::from(&child);
        let report = RestoreReport {
            pid,
            total: std::time::Duration::ZERO,
            births: std::time::Duration::ZERO,
            processes: 1,
            threads: 1,
            pages_restored: 0,
            untold: None,
        };
        let record = Record::of(&report, Path::new("/images"), &"app=web".parse().unwrap());
        let notes = place.path().join("restores");
        record.keep(&notes);
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&notes.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(Record::of_root(&notes, pid), Some(record.clone()));
        assert_eq!(Record::all(&notes), std::slice::from_ref(&record));
        let earlier = Record { started: record.started - 1, ..record };
        assert!(!earlier.is_true(), "another process had the number");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Record::of_root(&notes, pid), None);
        assert_eq!(Record::all(&notes), []);
        assert_eq!(std::fs::read_dir(&notes).unwrap().count(), 0);
    }
}

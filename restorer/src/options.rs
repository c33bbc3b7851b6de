//! What a restore is asked for, and what it says of itself.

use std::path::PathBuf;
use std::time::Duration;

use crate::files::{Trust, Validation};

/// What becomes of the tree once it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterRestore {
    /// It runs.
    Resume,
    /// It stays, stopped as by `SIGSTOP`.
    Stop,
}

/// What becomes of the control groups of the images. The words are CRIU's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cgroups {
    /// The tree stays in those of whoever restores it.
    Ignore,
    /// It goes back into its own, which must be there; their settings are left alone.
    None,
    /// It goes back into its own, which must be there and are set as they were.
    Props,
    /// Those that are gone are made and set as they were; others are left alone.
    #[default]
    Soft,
    /// Those that are gone are made, and all are set as they were.
    Full,
    /// None of them may be there: all are made.
    Strict,
}

impl std::str::FromStr for Cgroups {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "ignore" => Self::Ignore,
            "none" => Self::None,
            "props" => Self::Props,
            "soft" => Self::Soft,
            "full" => Self::Full,
            "strict" => Self::Strict,
            _ => return Err("ignore, none, props, soft, full or strict is expected".to_owned()),
        })
    }
}

/// Another place for the groups of a hierarchy, or of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRoot {
    /// A controller of the hierarchy, or `name=…`.
    pub controller: Option<String>,
    /// The group that takes the place of the highest one that the tree was in.
    pub path: PathBuf,
}

impl std::str::FromStr for CgroupRoot {
    type Err = String;

    /// Reads `[CONTROLLER:]/PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (controller, path) = match text.split_once(':') {
            Some((controller, path)) => (Some(controller.to_owned()), path),
            None => (None, text),
        };
        let plain = path.starts_with('/') && !path.split('/').any(|part| part == "..");
        if !plain {
            return Err("[CONTROLLER:]/PATH is expected".to_owned());
        }
        let path = path.trim_end_matches('/');
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { controller, path: path.into() })
    }
}

/// What a restore is asked for.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Directory that holds the images.
    pub images_dir: PathBuf,
    /// What becomes of the tree.
    pub after: AfterRestore,
    /// The root joins the caller's session (and terminal) instead of one of its own.
    pub shell_job: bool,
    /// Root directory that the paths in the images are relative to; `None` for the caller's.
    pub root: Option<PathBuf>,
    /// Make the root a sibling of the caller (`CLONE_PARENT`), not its child.
    pub sibling: bool,
    /// The caller, whose child the root is, ends while the root is to run on: refused for a root that
    /// asked for a signal at its parent's death (`PR_SET_PDEATHSIG`).
    pub detached: bool,
    /// What becomes of its control groups.
    pub cgroups: Cgroups,
    /// Other places for them.
    pub cgroup_roots: Vec<CgroupRoot>,
    /// What is believed of the paths in the images.
    pub trust: Trust,
    /// What of the files is compared with what the images say.
    pub validation: Validation,
    /// User and primary group of who asks, if that is somebody who may not do everything: all tasks
    /// must have been his alone.
    pub on_behalf_of: Option<(u32, u32)>,
}

/// What a restore says of itself.
#[derive(Clone, Debug, Default)]
pub struct RestoreReport {
    /// Pid of the restored root.
    pub pid: i32,
    /// The whole restore.
    pub total: Duration,
    /// Processes restored, zombies included.
    pub processes: usize,
    /// Threads restored.
    pub threads: usize,
    /// Pages put back.
    pub pages_restored: u64,
}

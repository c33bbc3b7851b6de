//! What is said of control groups. The words are CRIU's.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What becomes of the control groups of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CgroupsMode {
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

impl FromStr for CgroupsMode {
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

impl CgroupRoot {
    /// The one for a hierarchy, by the hierarchy's name as `/proc/PID/cgroup` has it (`cpu,cpuacct`): one
    /// for a controller of it counts more than one for all.
    #[must_use]
    pub fn of<'a>(roots: &'a [Self], hierarchy: &str) -> Option<&'a Self> {
        let named = |name: &String| hierarchy.split(',').any(|known| known == name);
        let own = roots.iter().find(|root| root.controller.as_ref().is_some_and(named));
        own.or_else(|| roots.iter().find(|root| root.controller.is_none()))
    }
}

impl FromStr for CgroupRoot {
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

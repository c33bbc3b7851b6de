//! Where things are on this machine that a request does not name.

use std::path::PathBuf;

use collector::Home;

/// Where things are on this machine that a request does not name.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where it is noted down what is tracked, what was restored and what is to be undone.
    pub run_dir: PathBuf,
    /// Where eBPF programs are found, or left for others.
    pub programs: Home,
    /// Files from which options are read unless told otherwise, in this order.
    pub configuration: Vec<PathBuf>,
    /// A file from which options are read in any case.
    pub configuration_too: Option<PathBuf>,
    /// A dump is tried out, of a tree that runs on, and this file is told as JSON what it would be ([`api::DumpSummary`]): nothing is
    /// written, and neither an action script nor who sent the request is told of its steps.
    pub dry_run: Option<PathBuf>,
}

impl Host {
    /// As the environment says.
    #[must_use]
    pub fn of_the_environment() -> Self {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        let home = path("HOME").map(|home| home.join(".criu/default.conf"));
        let system = PathBuf::from("/etc/criu/default.conf");
        Self {
            run_dir: path("STASIS_RUN_DIR").unwrap_or_else(|| "/run/stasis".into()),
            programs: Home::at(path("STASIS_BPF_DIR"), path("STASIS_CACHE_DIR")),
            configuration: [Some(system), home].into_iter().flatten().collect(),
            configuration_too: path("CRIU_CONFIG_FILE"),
            dry_run: path("STASIS_DRY_RUN"),
        }
    }
}

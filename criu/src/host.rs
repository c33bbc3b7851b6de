//! Where things are on this machine that a request does not name.

use std::path::{Path, PathBuf};

use collector::Home;

/// Where things are on this machine that a request does not name.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where it is noted down what is tracked, what was restored and what is to be undone.
    pub run_dir: PathBuf,
    /// Where eBPF programs are found, or left for others.
    pub programs: Home,
    /// Files from which CRIU would read options unasked, in its order.
    pub configuration: Vec<PathBuf>,
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
            configuration: [Some(system), home, path("CRIU_CONFIG_FILE")]
                .into_iter()
                .flatten()
                .collect(),
        }
    }

    /// The first file of options that is there.
    pub(crate) fn configuration(&self) -> Option<&Path> {
        self.configuration.iter().map(PathBuf::as_path).find(|file| file.exists())
    }
}

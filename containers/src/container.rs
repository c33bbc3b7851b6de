//! What is known of one container.

use std::path::PathBuf;

use api::{ContainerEngine, ContainerState, ContainerSummary};
use ids::HostPid;
use support::Refusal;

/// One container, and how its engine is asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// What is said of it.
    pub(crate) summary: ContainerSummary,
    /// Its bundle, as far as runc or crun are asked themselves.
    pub(crate) bundle: String,
    /// The state directory that runc or crun are asked with, or the socket of Docker's daemon.
    pub(crate) place: PathBuf,
    /// Another engine that has it run by this one, as far as it shows.
    pub(crate) owner: Option<&'static str>,
    /// The same container as runc or crun knows it, which its engine has it run by.
    pub(crate) below: Option<Box<Self>>,
}

impl Container {
    /// One that nothing speaks against yet.
    pub(crate) fn new(
        engine: ContainerEngine,
        id: String,
        name: String,
        pid: Option<HostPid>,
        state: ContainerState,
    ) -> Self {
        let pid = pid.map(HostPid::get);
        let refusals = Vec::new();
        let namespace = None;
        let summary = ContainerSummary {
            engine,
            name,
            id,
            namespace,
            pid,
            state,
            checkpointable: true,
            refusals,
        };
        Self { summary, bundle: String::new(), place: PathBuf::new(), owner: None, below: None }
    }

    /// What is said of it.
    #[must_use]
    pub const fn summary(&self) -> &ContainerSummary {
        &self.summary
    }

    /// Its first process.
    pub(crate) fn first(&self) -> Option<HostPid> {
        self.summary.pid.and_then(HostPid::new)
    }

    /// Notes what speaks against a checkpoint of it.
    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        let refused = self.refused(refusal);
        self.summary.refusals.push(refused);
        self.summary.checkpointable = false;
    }

    /// A refusal of this container.
    pub(crate) fn refused(&self, refusal: Refusal) -> api::Unsupported {
        let summary = &self.summary;
        let pid = summary.pid.unwrap_or_default();
        support::containers::called(refusal, pid, summary.engine.name(), &summary.name)
    }

    /// Whose it is, for people.
    pub(crate) fn whose(&self) -> String {
        let summary = &self.summary;
        let id = &summary.id;
        match &summary.namespace {
            Some(namespace) => format!("{} (namespace {namespace}, id {id})", summary.engine),
            None => format!("{} (id {id})", summary.engine),
        }
    }
}

/// Whether a text can be an id: one word that leads to no other directory.
pub(crate) fn is_id(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    !text.is_empty()
        && text.len() <= 1024
        && text.chars().all(plain)
        && !text.trim_matches('.').is_empty()
}

/// A state by the word that engines have for it.
pub(crate) fn state(word: &str) -> ContainerState {
    match word {
        "running" => ContainerState::Running,
        "paused" => ContainerState::Paused,
        "created" | "configured" | "initialized" | "creating" => ContainerState::Created,
        // Whatever else it is, it does not run: exited, dead, stopping, removing, restarting.
        _ => ContainerState::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_lead_nowhere() {
        for id in ["-x", "a", "web.1", "061eefec5d53", "a_b+c", "..a"] {
            assert!(is_id(id), "{id}");
        }
        for none in ["", ".", "..", "a/b", "/", "a b", "a\n", "ä", "\u{1b}[2J"] {
            assert!(!is_id(none), "{none:?}");
        }
        assert!(!is_id(&"x".repeat(1025)));
    }
}

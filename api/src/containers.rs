//! Containers, which their engines checkpoint.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use support::Unsupported;
use utoipa::ToSchema;

use crate::{Directory, Labels};

/// Who runs a container. One that several know belongs to the first of them.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ContainerEngine {
    /// Docker.
    Docker,
    /// containerd, also for Kubernetes.
    Containerd,
    /// Podman.
    Podman,
    /// crun.
    Crun,
    /// runc.
    Runc,
}

impl ContainerEngine {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Docker, Self::Containerd, Self::Podman, Self::Crun, Self::Runc];

    /// Its name, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::Crun => "crun",
            Self::Runc => "runc",
        }
    }
}

impl fmt::Display for ContainerEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownEngine;

impl fmt::Display for UnknownEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the engines are docker, containerd, podman, crun and runc")
    }
}

impl std::error::Error for UnknownEngine {}

impl FromStr for ContainerEngine {
    type Err = UnknownEngine;

    fn from_str(text: &str) -> Result<Self, UnknownEngine> {
        Self::ALL.into_iter().find(|engine| engine.name() == text).ok_or(UnknownEngine)
    }
}

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// It was made, and has not been started.
    Created,
    /// It runs.
    Running,
    /// It stands still.
    Paused,
    /// It has ended.
    Stopped,
}

impl fmt::Display for ContainerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerSummary {
    /// Who runs it.
    pub engine: ContainerEngine,
    /// Its name where it has one, else its id.
    pub name: String,
    /// Its id.
    pub id: String,
    /// The namespace of its engine's that it is in (containerd's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its first process, while it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// What it does.
    pub state: ContainerState,
    /// Whether nothing known speaks against a checkpoint by its engine.
    pub checkpointable: bool,
    /// What speaks against it.
    pub refusals: Vec<Unsupported>,
}

/// `GET /v1/containers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerList {
    /// The containers by engine and name.
    pub containers: Vec<ContainerSummary>,
    /// Engines that are there and did not answer, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<String>,
}

/// `POST /v1/container-dumps` of the dumper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainerDumpRequest {
    /// The container, by name or id.
    pub container: String,
    /// Its engine, where several have one of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<ContainerEngine>,
    /// Directory of the images under the dumper's checkpoint root, for engines that do not keep them themselves.
    pub directory: Directory,
    /// Whether the directory was asked for, not made up: an engine that keeps its images itself refuses it then.
    pub directory_wanted: bool,
    /// Whether the container runs on; otherwise it is ended.
    pub leave_running: bool,
    /// Find out what would be refused, for how long it would stand still, and how large the images would be
    /// (`POST /v1/container-dry-runs`): nothing is written, and its engine hears nothing of it.
    #[serde(default)]
    pub dry_run: bool,
    /// It may have a terminal, or a session, of outside.
    #[serde(default)]
    pub shell_job: bool,
    /// TCP connections are carried.
    #[serde(default)]
    pub tcp_established: bool,
    /// What the checkpoint is to be called by, where it is under the checkpoint root.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// What became of a container's checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerCheckpoint {
    /// Who made it.
    pub engine: ContainerEngine,
    /// The container's name.
    pub name: String,
    /// The container's id.
    pub id: String,
    /// The directory of its images; absent where the engine keeps them itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<String>,
    /// How long it stood still, where the images tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_us: Option<u64>,
    /// The command by which it comes back, where its engine has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<String>,
    /// What is not as it was asked for, though the checkpoint is whole.
    #[serde(default)]
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_have_one_name_everywhere() {
        for engine in ContainerEngine::ALL {
            assert_eq!(engine.name().parse(), Ok(engine));
            assert_eq!(engine.to_string(), engine.name());
        }
        assert_eq!("Docker".parse::<ContainerEngine>(), Err(UnknownEngine));
    }
}

//! Containers: why one is not checkpointed through its engine.

use crate::unsupported::{Refusal, Unsupported, word};

/// One that does not run.
#[must_use]
pub fn not_running(state: &str) -> Refusal {
    Refusal::new(format!("it is {state}, and nothing of it runs"), "start it by its engine")
}

/// One that is paused, of an engine that checkpoints no such.
pub const PAUSED: Refusal = Refusal::fixed(
    "it is paused, and its engine checkpoints only what runs",
    "unpause it by its engine before the dump",
);

/// One of an engine that this one only runs containers for.
#[must_use]
pub fn of_another_engine(owner: &str) -> Refusal {
    Refusal::new(
        format!("it belongs to {owner}, which does not say that it knows it"),
        format!(
            "start {owner}, or have its command on PATH: a checkpoint behind its back would confuse it"
        ),
    )
}

/// An engine whose command is not there.
#[must_use]
pub fn without_command(command: &str) -> Refusal {
    Refusal::new(
        format!("its engine is asked by `{command}`, which is not on PATH"),
        format!("install {command}, or add its directory to PATH"),
    )
}

/// A container that neither runc nor crun is seen to run for its engine.
#[must_use]
pub fn without_runtime(engine: &str) -> Refusal {
    Refusal::new(
        format!("a dry run asks runc or crun, which {engine} has its containers run by, and neither lists it"),
        "name their state directories (STASIS_RUNC_STATE, STASIS_CRUN_STATE, STASIS_CONTAINERD_STATE), or checkpoint it with leave-running"
            .to_owned(),
    )
}

/// An engine that was built without what it calls CRIU by.
#[must_use]
pub fn built_without_criu(command: &str) -> Refusal {
    Refusal::new(
        format!("`{command}` was built without support of CRIU (its --version has no +CRIU)"),
        format!("put a {command} that was built with libcriu first on PATH"),
    )
}

/// Docker's daemon without what takes checkpoints.
pub const NOT_EXPERIMENTAL: Refusal = Refusal::fixed(
    "Docker's daemon takes checkpoints only with its experimental features",
    "set \"experimental\": true in /etc/docker/daemon.json and restart the daemon",
);

/// An engine's daemon that finds another `criu` than that of stasis, or none, on its own PATH.
#[must_use]
pub fn other_criu(found: Option<&str>, first: &str, own: &str) -> Refusal {
    let reason = match found {
        Some(found) => {
            format!("its engine's daemon would call {}, which is not stasis", word(found))
        }
        None => "its engine's daemon finds no `criu` on its PATH".to_owned(),
    };
    let at = format!("{}/criu", first.trim_end_matches('/'));
    Refusal::new(reason, format!("ln -sf {} {}, which comes first there", word(own), word(&at)))
}

/// An option that the engine's own command does not have.
#[must_use]
pub fn without_option(engine: &str, option: &str) -> Refusal {
    Refusal::new(
        format!("{engine} checkpoints without anything like {option}"),
        format!("leave {option} out"),
    )
}

/// A directory for an engine that keeps its checkpoints itself.
pub const KEEPS_ITSELF: Refusal = Refusal::fixed(
    "Podman keeps its checkpoints itself, with the container",
    "leave the directory out; `podman container checkpoint --export FILE` makes an archive",
);

/// No directory, for an engine that keeps no checkpoints.
#[must_use]
pub fn without_directory(engine: &str) -> Refusal {
    Refusal::new(
        format!("{engine} keeps no checkpoints itself"),
        "name a directory with --directory",
    )
}

/// What a container is called where something of it is refused.
#[must_use]
pub fn called(refusal: Refusal, task: impl Into<i32>, engine: &str, name: &str) -> Unsupported {
    refusal.of(task, format!("container {name} of {engine}"))
}

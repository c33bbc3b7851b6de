//! Asks the engines that are there which containers they have.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use api::{ContainerEngine, ContainerList, ContainerState, ContainerSummary};
use support::containers;

use crate::choose::{find, merged};
use crate::container::{Container, is_id};
use crate::error::Error;
use crate::places::{Places, believed};
use crate::run::{PATIENCE, Run, on_path};
use crate::{docker, oci, own_criu, podman, shim};

/// The containers of this machine.
#[derive(Debug)]
pub struct Listing {
    pub(crate) containers: Vec<Container>,
    pub(crate) silent: Vec<String>,
}

impl Listing {
    /// The one of a name or an id.
    ///
    /// # Errors
    /// If there is none, or there are several.
    pub fn find(&self, name: &str, engine: Option<ContainerEngine>) -> Result<&Container, Error> {
        find(&self.containers, &self.silent, name, engine)
    }

    /// All of them, as they are told to people.
    #[must_use]
    pub fn told(self) -> ContainerList {
        let summaries = self.containers.into_iter().map(|container| container.summary);
        let containers: Vec<ContainerSummary> = summaries.collect();
        ContainerList { containers, silent: self.silent }
    }
}

/// Asks all engines. One that is there and does not answer is named, and hides no other.
#[must_use]
pub fn list(places: &Places) -> Listing {
    let mut all = Vec::new();
    let mut silent = Vec::new();
    type Ask = fn(&Places) -> Result<Vec<Container>, Error>;
    let asked: [(ContainerEngine, Ask); 5] = [
        (ContainerEngine::Docker, docker_containers),
        (ContainerEngine::Containerd, containerd_containers),
        (ContainerEngine::Podman, podman_containers),
        (ContainerEngine::Crun, crun_containers),
        (ContainerEngine::Runc, runc_containers),
    ];
    for (engine, ask) in asked {
        match ask(places) {
            Ok(found) => all.extend(found),
            Err(error) => silent.push(format!("{engine}: {}", chain(&error))),
        }
    }
    Listing { containers: merged(all), silent }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn ask(program: &Path, words: &[OsString]) -> Result<Vec<u8>, Error> {
    Run { program, words, with: &[], patience: Some(PATIENCE) }.succeed()
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// What a command that could not be understood is called.
fn strange(command: &str) -> impl FnOnce(serde_json::Error) -> Error {
    let command = command.to_owned();
    |source| Error::Strange { command, source }
}

/// Refuses those that do not run, and of those that do what `why` finds.
fn judged(
    mut all: Vec<Container>,
    mut why: impl FnMut(&Container) -> Vec<support::Refusal>,
) -> Vec<Container> {
    for one in &mut all {
        let state = one.summary.state;
        let found = match state {
            ContainerState::Running | ContainerState::Paused => why(one),
            _ => vec![containers::not_running(&state.to_string())],
        };
        found.into_iter().for_each(|refusal| one.refuse(refusal));
    }
    all
}

/// The containers of a state directory of runc or crun.
fn oci_containers(
    program: &str,
    engine: ContainerEngine,
    place: &Path,
    namespace: Option<&str>,
) -> Result<Vec<Container>, Error> {
    let Some(place) = believed(place)? else { return Ok(Vec::new()) };
    let failed = |source| Error::Place { operation: "list", path: place.clone(), source };
    if fs::read_dir(&place).map_err(failed)?.next().is_none() {
        return Ok(Vec::new());
    }
    let Some(found) = on_path(program) else {
        let source = std::io::Error::other("not on PATH");
        return Err(Error::Run { command: program.to_owned(), source });
    };
    let list = ["list", "--format", "json"].map(OsString::from);
    let list = [&["--root".into(), place.clone().into()], &list[..]].concat();
    let text = ask(&found, &list)?;
    oci::parse(engine, &place, namespace, &text).map_err(strange(program))
}

fn runc_containers(places: &Places) -> Result<Vec<Container>, Error> {
    let all = oci_containers("runc", ContainerEngine::Runc, &places.runc, None)?;
    Ok(judged(all, |_| Vec::new()))
}

fn crun_containers(places: &Places) -> Result<Vec<Container>, Error> {
    let all = oci_containers("crun", ContainerEngine::Crun, &places.crun, None)?;
    if all.is_empty() {
        return Ok(all);
    }
    let able = match on_path("crun") {
        Some(crun) => ask(&crun, &words(&["--version"]))?.windows(5).any(|part| part == b"+CRIU"),
        None => false,
    };
    let why = (!able).then(|| containers::built_without_criu("crun"));
    Ok(judged(all, |_| why.iter().cloned().collect()))
}

fn podman_containers(_: &Places) -> Result<Vec<Container>, Error> {
    let Some(podman) = on_path("podman") else { return Ok(Vec::new()) };
    let text = ask(&podman, &words(&podman::LIST))?;
    let all = podman::parse(&text).map_err(strange("podman ps"))?;
    let is_paused = |one: &Container| one.summary.state == ContainerState::Paused;
    Ok(judged(all, |one| is_paused(one).then_some(containers::PAUSED).into_iter().collect()))
}

fn docker_containers(_: &Places) -> Result<Vec<Container>, Error> {
    let host = std::env::var("DOCKER_HOST").ok();
    let (Some(program), Some(socket)) = (on_path("docker"), docker::socket(host.as_deref())) else {
        return Ok(Vec::new());
    };
    if !socket.exists() {
        return Ok(Vec::new());
    }
    let at = ["--host".to_owned(), format!("unix://{}", socket.display())].map(OsString::from);
    let words = |own: &[&str]| [&at[..], &words(own)].concat();
    let ids = docker::ids(&ask(&program, &words(&docker::LIST))?);
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut inspect = words(&docker::INSPECT);
    inspect.push("--".into());
    inspect.extend(ids.iter().map(OsString::from));
    // One that has gone meanwhile fails it, and the others are told all the same.
    let told =
        Run { program: &program, words: &inspect, with: &[], patience: Some(PATIENCE) }.end()?;
    let mut all = docker::parse(socket, &told.out).map_err(strange("docker inspect"))?;
    for one in &mut all {
        one.below = shim::below(one).map(Box::new);
    }
    let experimental = ask(&program, &words(&docker::EXPERIMENTAL))?;
    let able = experimental.trim_ascii() == b"true";
    Ok(judged(all, |one| {
        let experimental = (!able).then_some(containers::NOT_EXPERIMENTAL);
        experimental.into_iter().chain(criu_of_daemon(one)).collect()
    }))
}

/// The namespaces of containerd's that have a state directory.
fn namespaces(place: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let Some(place) = believed(place)? else { return Ok(Vec::new()) };
    let failed = |source| Error::Place { operation: "list", path: place.clone(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(&place).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string().ok().filter(|name| is_id(name));
        if let (Some(name), true) = (name, entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn containerd_containers(places: &Places) -> Result<Vec<Container>, Error> {
    let mut all = Vec::new();
    for (namespace, place) in namespaces(&places.containerd)? {
        let engine = ContainerEngine::Containerd;
        all.extend(oci_containers("runc", engine, &place, Some(&namespace))?);
    }
    let command = on_path("ctr").is_none().then(|| containers::without_command("ctr"));
    Ok(judged(all, |one| command.iter().cloned().chain(criu_of_daemon(one)).collect()))
}

/// What speaks against a container whose engine's daemon calls `criu` by a PATH of its own.
fn criu_of_daemon(container: &Container) -> Option<support::Refusal> {
    let of_daemon = own_criu::of_daemon(container.first()?)?;
    let found = of_daemon.found.as_deref();
    if found.is_some_and(own_criu::is_ours) {
        return None;
    }
    let own = own_criu::program().ok()?;
    let found = found.map(|path| path.to_string_lossy().into_owned());
    let first = of_daemon.first.to_string_lossy();
    Some(containers::other_criu(found.as_deref(), &first, &own.to_string_lossy()))
}

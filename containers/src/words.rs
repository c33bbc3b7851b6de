//! The words of an engine's command that checkpoints a container, and of the one that brings it back.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use api::{ContainerEngine, ContainerState, Unsupported};
use support::{Refusal, containers, word};

use crate::container::Container;

/// What is asked of a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Where the images go, an absolute path; an engine that keeps them itself is given none.
    pub directory: Option<PathBuf>,
    /// The container runs on.
    pub leave_running: bool,
    /// TCP connections are carried.
    pub tcp_established: bool,
    /// Unix sockets may be connected to processes outside.
    pub ext_unix_sk: bool,
    /// Its session or terminal may be of outside.
    pub shell_job: bool,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Words {
    /// The command.
    pub(crate) program: &'static str,
    /// Its words.
    pub(crate) words: Vec<OsString>,
    /// A directory that has to be made before.
    pub(crate) made: Option<PathBuf>,
    /// The words of the command that brings it back, where its engine has one: a shell's line.
    pub(crate) restore: Option<String>,
}

/// An option of stasis that some engines have under the same name, and whether it was asked for.
type Wanted = (&'static str, bool);

impl Asked {
    const fn options(&self) -> [Wanted; 3] {
        [
            ("--tcp-established", self.tcp_established),
            ("--ext-unix-sk", self.ext_unix_sk),
            ("--shell-job", self.shell_job),
        ]
    }
}

/// The words of the command for a container; `kept_as` is the name of the checkpoint, for an engine that keeps checkpoints by name.
///
/// # Errors
/// With what speaks against it.
pub(crate) fn of(
    container: &Container,
    asked: &Asked,
    kept_as: &str,
) -> Result<Words, Vec<Unsupported>> {
    let engine = container.summary.engine;
    let mut refused = container.summary.refusals.clone();
    let mut refuse = |refusal: Refusal| refused.push(container.refused(refusal));
    let known: &[&str] = match engine {
        ContainerEngine::Runc | ContainerEngine::Crun => {
            &["--tcp-established", "--ext-unix-sk", "--shell-job"]
        }
        ContainerEngine::Podman => &["--tcp-established"],
        ContainerEngine::Docker | ContainerEngine::Containerd => &[],
    };
    let wanted =
        asked.options().into_iter().filter(|(_, wanted)| *wanted).map(|(option, _)| option);
    let (options, unknown): (Vec<&str>, Vec<&str>) =
        wanted.partition(|option| known.contains(option));
    for option in unknown {
        refuse(containers::without_option(engine.name(), option));
    }
    match &asked.directory {
        None if keeps_none(engine) => refuse(containers::without_directory(engine.name())),
        Some(_) if engine == ContainerEngine::Podman => refuse(containers::KEEPS_ITSELF),
        _ => {}
    }
    let state = container.summary.state;
    if !matches!(state, ContainerState::Running | ContainerState::Paused) && refused.is_empty() {
        refused.push(container.refused(containers::not_running(&state.to_string())));
    }
    if !refused.is_empty() {
        return Err(refused);
    }
    let directory = asked.directory.as_deref().unwrap_or(Path::new(""));
    Ok(match engine {
        ContainerEngine::Runc => oci("runc", container, asked, &options, directory),
        ContainerEngine::Crun => oci("crun", container, asked, &options, directory),
        ContainerEngine::Podman => podman(container, asked, &options),
        ContainerEngine::Docker => docker(container, asked, kept_as),
        ContainerEngine::Containerd => containerd(container, asked, directory),
    })
}

/// Whether an engine has to be told where images go.
const fn keeps_none(engine: ContainerEngine) -> bool {
    !matches!(engine, ContainerEngine::Podman | ContainerEngine::Docker)
}

/// The words of the command that tries a checkpoint of a container out: that of runc or crun, whichever has run it, as nothing is to become
/// known to its engine.
///
/// # Errors
/// With what speaks against it.
pub(crate) fn of_dry_run(
    container: &Container,
    asked: &Asked,
    directory: &Path,
) -> Result<Words, Vec<Unsupported>> {
    // One that is named is judged, and nothing comes to it; who needs one and names none may do without for this.
    let made_up = keeps_none(container.summary.engine).then(|| directory.to_owned());
    let asked = Asked {
        directory: asked.directory.clone().or(made_up),
        leave_running: true,
        ..asked.clone()
    };
    // What speaks against the checkpoint.
    of(container, &asked, "a-dry-run")?;
    let of_engine = |one: &Container| match one.summary.engine {
        // It has runc run all of its containers.
        ContainerEngine::Runc | ContainerEngine::Containerd => Some("runc"),
        ContainerEngine::Crun => Some("crun"),
        ContainerEngine::Podman | ContainerEngine::Docker => None,
    };
    let below = container.below.as_deref();
    let found = [Some(container), below].into_iter().flatten();
    let found = found.filter_map(|one| Some((of_engine(one)?, one))).next();
    let Some((program, one)) = found else {
        let name = container.summary.engine.name();
        return Err(vec![container.refused(containers::without_runtime(name))]);
    };
    let options: Vec<&str> = asked
        .options()
        .into_iter()
        .filter(|(_, wanted)| *wanted)
        .map(|(option, _)| option)
        .collect();
    Ok(oci(program, one, &asked, &options, directory))
}

/// Words, then `--` and those that an engine or a user has chosen.
fn words(own: &[&str], chosen: &[&str]) -> Vec<OsString> {
    own.iter().chain(&["--"]).chain(chosen).map(OsString::from).collect()
}

/// A shell's line.
fn line(words: &[OsString]) -> String {
    words.iter().map(|one| word(&one.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn restore(program: &str, asked: &Asked, words: &[OsString]) -> Option<String> {
    (!asked.leave_running).then(|| format!("{program} {}", line(words)))
}

/// An option of a path, and the path.
fn with_path(option: &str, path: &Path) -> [OsString; 2] {
    [option.into(), path.into()]
}

fn oci(
    program: &'static str,
    container: &Container,
    asked: &Asked,
    options: &[&str],
    directory: &Path,
) -> Words {
    let id = container.summary.id.as_str();
    let root = with_path("--root", &container.place);
    let images = with_path("--image-path", directory);
    let leave: &[&str] = if asked.leave_running { &["--leave-running"] } else { &[] };
    let own = [leave, &["--file-locks"], options].concat();
    // Its log and its times lie beside the images.
    let work = with_path("--work-path", directory);
    let head = |verb: &str| [&root[..], &[verb.into()], &images].concat();
    let checkpoint = [head("checkpoint"), work.to_vec(), words(&own, &[id])].concat();
    let own = [&["--detach", "--file-locks"], options].concat();
    let bundle = with_path("--bundle", Path::new(&container.bundle));
    let back = [head("restore"), bundle.to_vec(), words(&own, &[id])].concat();
    let restore = restore(program, asked, &back);
    Words { program, words: checkpoint, made: Some(directory.to_owned()), restore }
}

fn podman(container: &Container, asked: &Asked, options: &[&str]) -> Words {
    let id = container.summary.id.as_str();
    let leave: &[&str] = if asked.leave_running { &["--leave-running"] } else { &[] };
    let head = |verb: &'static str| vec!["container", verb, "--file-locks"];
    let checkpoint = [&head("checkpoint")[..], leave, options].concat();
    let back = words(&[&head("restore")[..], options].concat(), &[id]);
    let restore = restore("podman", asked, &back);
    Words { program: "podman", words: words(&checkpoint, &[id]), made: None, restore }
}

fn docker(container: &Container, asked: &Asked, kept_as: &str) -> Words {
    let id = container.summary.id.as_str();
    let host: OsString = format!("unix://{}", container.place.display()).into();
    let leave: &[&str] = if asked.leave_running { &["--leave-running"] } else { &[] };
    let own = [&["checkpoint", "create"], leave].concat();
    let mut checkpoint: Vec<OsString> = vec!["--host".into(), host.clone()];
    checkpoint.extend(own.into_iter().map(OsString::from));
    let directory = asked.directory.as_deref();
    let named = directory.and_then(|path| Some((path.parent()?, path.file_name()?.to_str()?)));
    let (above, name) = match named {
        Some((above, name)) => (Some(above), name),
        None => (None, kept_as),
    };
    checkpoint.extend(above.iter().flat_map(|above| with_path("--checkpoint-dir", above)));
    checkpoint.extend(words(&[], &[id, name]));
    let mut back = vec!["--host".into(), host, "start".into(), "--checkpoint".into(), name.into()];
    back.extend(words(&[], &[id]));
    // Docker starts from its own checkpoints alone.
    let restore = restore("docker", asked, &back).filter(|_| above.is_none());
    Words { program: "docker", words: checkpoint, made: None, restore }
}

fn containerd(container: &Container, asked: &Asked, directory: &Path) -> Words {
    let id = container.summary.id.as_str();
    let namespace = container.summary.namespace.as_deref().unwrap_or("default");
    let exit: &[&str] = if asked.leave_running { &[] } else { &["--exit"] };
    let paths = [with_path("--image-path", directory), with_path("--work-path", directory)];
    let mut checkpoint: Vec<OsString> = vec!["--namespace".into(), namespace.into()];
    checkpoint.extend(["tasks", "checkpoint"].map(OsString::from));
    checkpoint.extend(paths.into_iter().flatten());
    checkpoint.extend(words(exit, &[id]));
    // ctr has no command that starts a task from images in a directory.
    Words { program: "ctr", words: checkpoint, made: Some(directory.to_owned()), restore: None }
}

#[cfg(test)]
mod tests {
    use ids::HostPid;

    use super::*;
    use crate::container::state;

    fn container(engine: ContainerEngine, id: &str, word: &str) -> Container {
        let mut container =
            Container::new(engine, id.into(), "web".into(), HostPid::new(7), state(word));
        container.place = "/run/place".into();
        container.bundle = "/srv/its bundle".into();
        container
    }

    fn into(directory: &str) -> Asked {
        Asked { directory: Some(directory.into()), ..Asked::default() }
    }

    fn checkpoint(container: &Container, asked: &Asked) -> String {
        let words = of(container, asked, "kept").unwrap();
        format!("{} {}", words.program, line(&words.words))
    }

    #[test]
    fn what_others_chose_stands_behind_two_dashes() {
        let all = Asked { leave_running: true, tcp_established: true, ..into("/i") };
        let said = checkpoint(&container(ContainerEngine::Runc, "-x", "running"), &all);
        assert_eq!(
            said,
            "runc --root /run/place checkpoint --image-path /i --work-path /i --leave-running --file-locks \
             --tcp-established -- -x"
        );
        let said =
            checkpoint(&container(ContainerEngine::Podman, "06", "running"), &Asked::default());
        assert_eq!(said, "podman container checkpoint --file-locks -- 06");
        let docker = container(ContainerEngine::Docker, "8b", "paused");
        assert_eq!(
            checkpoint(&docker, &Asked::default()),
            "docker --host unix:///run/place checkpoint create -- 8b kept"
        );
        assert_eq!(
            checkpoint(&docker, &into("/a/b")),
            "docker --host unix:///run/place checkpoint create --checkpoint-dir /a -- 8b b"
        );
        let said = checkpoint(&container(ContainerEngine::Containerd, "c", "running"), &into("/i"));
        assert_eq!(
            said,
            "ctr --namespace default tasks checkpoint --image-path /i --work-path /i --exit -- c"
        );
    }

    #[test]
    fn what_has_ended_is_told_how_it_comes_back() {
        let back = |engine, asked: &Asked| {
            of(&container(engine, "x", "running"), asked, "kept").unwrap().restore
        };
        let asked = Asked { shell_job: true, ..into("/i") };
        assert_eq!(
            back(ContainerEngine::Crun, &asked).unwrap(),
            "crun --root /run/place restore --image-path /i --bundle '/srv/its bundle' --detach --file-locks \
             --shell-job -- x"
        );
        let tcp = Asked { tcp_established: true, ..Asked::default() };
        assert_eq!(
            back(ContainerEngine::Podman, &tcp).unwrap(),
            "podman container restore --file-locks --tcp-established -- x"
        );
        assert_eq!(
            back(ContainerEngine::Docker, &Asked::default()).unwrap(),
            "docker --host unix:///run/place start --checkpoint kept -- x"
        );
        assert_eq!(back(ContainerEngine::Docker, &into("/a/b")), None);
        assert_eq!(back(ContainerEngine::Runc, &Asked { leave_running: true, ..into("/i") }), None);
    }

    #[test]
    fn what_an_engine_cannot_do_is_refused_by_name() {
        let reasons = |engine, word, asked: &Asked| {
            let found = of(&container(engine, "x", word), asked, "kept").unwrap_err();
            found.into_iter().map(|one| one.reason).collect::<Vec<_>>().join("; ")
        };
        let jobs = Asked { shell_job: true, ext_unix_sk: true, ..into("/i") };
        let said = reasons(ContainerEngine::Podman, "running", &jobs);
        assert!(said.contains("--shell-job") && said.contains("--ext-unix-sk"), "{said}");
        assert!(said.contains("Podman keeps its checkpoints itself"), "{said}");
        let said = reasons(ContainerEngine::Runc, "running", &Asked::default());
        assert_eq!(said, "runc keeps no checkpoints itself");
        let tcp = Asked { tcp_established: true, ..into("/i") };
        let said = reasons(ContainerEngine::Docker, "running", &tcp);
        assert_eq!(said, "docker checkpoints without anything like --tcp-established");
        for word in ["created", "stopped", "exited", "x"] {
            let said = reasons(ContainerEngine::Runc, word, &into("/i"));
            assert!(said.contains("nothing of it runs"), "{said}");
        }
    }
}

//! One list of what several engines say, and one container of it by its name.

use api::ContainerEngine;

use crate::container::Container;
use crate::error::Error;

/// How much of an id is enough: what engines show of it.
const SHORT_ID: usize = 12;

/// All containers, each once: one that an engine has another engine run is listed as the former's. A container whose owner does not
/// list it stays the lower engine's, and is refused.
pub(crate) fn merged(mut all: Vec<Container>) -> Vec<Container> {
    // An engine comes before those that it has run its containers.
    all.sort_by(|a, b| {
        let key = |one: &Container| {
            (one.summary.engine, one.summary.name.clone(), one.summary.id.clone())
        };
        key(a).cmp(&key(b))
    });
    let mut kept: Vec<Container> = Vec::with_capacity(all.len());
    for one in all {
        match kept.iter_mut().find(|above| is_same(above, &one)) {
            Some(above) => above.below = Some(Box::new(one)),
            None => kept.push(one),
        }
    }
    for one in &mut kept {
        if let Some(owner) = one.owner {
            one.refuse(support::containers::of_another_engine(owner));
        }
    }
    kept
}

/// Whether `below`, which a lower engine lists, is the container `above` of an engine that has the lower one run it.
fn is_same(above: &Container, below: &Container) -> bool {
    if above.summary.engine == below.summary.engine {
        return false;
    }
    let (one, other) = (above.summary.pid, below.summary.pid);
    let by_process = one.is_some() && one == other;
    // What has ended has no process to be told by.
    let by_id = below.owner.is_some() && above.summary.id == below.summary.id;
    by_process || by_id && (one.is_none() || other.is_none())
}

/// The container that is called so; `silent` engines did not answer.
///
/// # Errors
/// If there is none, or several.
pub(crate) fn find<'a>(
    all: &'a [Container],
    silent: &[String],
    name: &str,
    engine: Option<ContainerEngine>,
) -> Result<&'a Container, Error> {
    let of_engine =
        || all.iter().filter(|one| engine.is_none_or(|engine| one.summary.engine == engine));
    let exact = |one: &&Container| one.summary.name == name || one.summary.id == name;
    let short = |one: &&Container| name.len() >= SHORT_ID && one.summary.id.starts_with(name);
    let mut found: Vec<&Container> = of_engine().filter(exact).collect();
    if found.is_empty() {
        found = of_engine().filter(short).collect();
    }
    match found[..] {
        [one] => Ok(one),
        [] => {
            let silent = match silent.is_empty() {
                true => String::new(),
                false => format!(" ({})", silent.join("; ")),
            };
            Err(Error::Unknown { name: name.to_owned(), silent })
        }
        _ => {
            let found: Vec<String> = found.iter().map(|one| one.whose()).collect();
            Err(Error::Several { name: name.to_owned(), found: found.join(", ") })
        }
    }
}

#[cfg(test)]
mod tests {
    use api::ContainerState;
    use ids::HostPid;

    use super::*;
    use crate::container::state;

    fn one(engine: ContainerEngine, id: &str, name: &str, pid: i32, word: &str) -> Container {
        Container::new(engine, id.to_owned(), name.to_owned(), HostPid::new(pid), state(word))
    }

    fn owned(mut container: Container, owner: &'static str) -> Container {
        container.owner = Some(owner);
        container
    }

    #[test]
    fn what_an_engine_has_another_run_is_its_own() {
        use ContainerEngine::{Containerd, Docker, Podman, Runc};
        let all = merged(vec![
            owned(one(Runc, "06aa", "06aa", 7, "running"), "Podman"),
            one(Podman, "06aa", "web", 7, "running"),
            owned(one(Runc, "06bb", "06bb", 0, "stopped"), "Podman"),
            one(Podman, "06bb", "old", 0, "exited"),
            one(Containerd, "8bda", "8bda", 9, "running"),
            one(Docker, "8bda", "db", 9, "running"),
            one(Runc, "mine", "mine", 11, "running"),
        ]);
        let said: Vec<_> =
            all.iter().map(|one| (one.summary.engine, one.summary.name.as_str())).collect();
        assert_eq!(said, [(Docker, "db"), (Podman, "old"), (Podman, "web"), (Runc, "mine")]);
        assert!(all.iter().all(|one| one.summary.checkpointable));
    }

    #[test]
    fn what_an_owner_does_not_know_is_not_touched() {
        let all =
            merged(vec![owned(one(ContainerEngine::Runc, "06", "06", 7, "running"), "Podman")]);
        assert!(!all[0].summary.checkpointable);
        assert!(all[0].summary.refusals[0].reason.contains("belongs to Podman"));
        assert_eq!(all[0].summary.refusals[0].object, "container 06 of runc");
    }

    #[test]
    fn equal_ids_of_two_engines_are_two_containers() {
        use ContainerEngine::{Crun, Runc};
        let all =
            merged(vec![one(Runc, "x", "x", 0, "stopped"), one(Crun, "x", "x", 0, "stopped")]);
        assert_eq!(all.len(), 2);
        // A container of runc that is called as one of another engine, and is another process, is no part of it.
        let all = merged(vec![
            owned(one(Runc, "06", "06", 8, "running"), "Podman"),
            one(ContainerEngine::Podman, "06", "web", 7, "running"),
        ]);
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn names_that_two_have_are_refused_and_the_engine_decides() {
        use ContainerEngine::{Docker, Podman, Runc};
        let long = "061eefec5d533e22";
        let all = [
            one(Docker, "8bda", "web", 7, "running"),
            one(Runc, "web", "web", 8, "running"),
            one(Podman, long, "-rm", 9, "running"),
        ];
        let find = |name: &str, engine| find(&all, &[], name, engine);
        let error = find("web", None).unwrap_err().to_string();
        assert_eq!(
            error,
            r#"several containers are called "web": docker (id 8bda), runc (id web)"#
        );
        assert_eq!(find("web", Some(Runc)).unwrap().summary.pid, Some(8));
        assert_eq!(find("8bda", None).unwrap().summary.pid, Some(7));
        assert_eq!(find("-rm", None).unwrap().summary.state, ContainerState::Running);
        assert_eq!(find(&long[..12], None).unwrap().summary.pid, Some(9));
        for unknown in ["", "we", "../web", "061e", "/", "web "] {
            assert!(matches!(find(unknown, None), Err(Error::Unknown { .. })), "{unknown:?}");
        }
        assert!(find("web", Some(Podman)).is_err());
    }

    #[test]
    fn who_did_not_answer_is_named() {
        let error =
            find(&[], &["podman has not ended after 10 s".to_owned()], "x", None).unwrap_err();
        assert_eq!(error.to_string(), r#"no container "x" (podman has not ended after 10 s)"#);
    }
}

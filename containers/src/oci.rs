//! What runc and crun say of their containers (`list --format json`).

use std::collections::BTreeMap;
use std::path::Path;

use api::ContainerEngine;
use ids::HostPid;
use serde::Deserialize;

use crate::container::{Container, is_id, state};

#[derive(Deserialize)]
struct Listed {
    id: String,
    #[serde(default)]
    pid: i32,
    status: String,
    #[serde(default)]
    bundle: String,
    /// crun does not list them.
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// By what the interface of Kubernetes calls a container of containerd's.
const NAME_OF_CRI: &str = "io.kubernetes.cri.container-name";

/// The containers of a state directory. `namespace` is that of containerd's that the directory is for.
///
/// # Errors
/// If the text is not the JSON that the engines write.
pub(crate) fn parse(
    engine: ContainerEngine,
    place: &Path,
    namespace: Option<&str>,
    text: &[u8],
) -> Result<Vec<Container>, serde_json::Error> {
    // runc writes null where there are none.
    let listed: Option<Vec<Listed>> = serde_json::from_slice(text)?;
    let listed = listed.unwrap_or_default().into_iter().filter(|one| is_id(&one.id));
    Ok(listed.map(|one| container(engine, place, namespace, one)).collect())
}

fn container(
    engine: ContainerEngine,
    place: &Path,
    namespace: Option<&str>,
    listed: Listed,
) -> Container {
    let annotations = listed.annotations.unwrap_or_default();
    let name = namespace.and_then(|_| annotations.get(NAME_OF_CRI));
    let name = name.unwrap_or(&listed.id).clone();
    let pid = HostPid::new(listed.pid);
    let mut container = Container::new(engine, listed.id, name, pid, state(&listed.status));
    container.owner = match namespace {
        Some(_) => None,
        None => owner(&listed.bundle, &annotations),
    };
    container.summary.namespace = namespace.map(str::to_owned);
    container.place = place.to_owned();
    container.bundle = listed.bundle;
    container
}

/// The engine that has runc or crun run a container, by where its bundle is and what it is annotated with.
fn owner(bundle: &str, annotations: &BTreeMap<String, String>) -> Option<&'static str> {
    match annotations.get("io.container.manager").map(String::as_str) {
        Some("libpod") => return Some("Podman"),
        Some("cri-o") => return Some("CRI-O"),
        _ => {}
    }
    let mut parts = bundle.rsplit('/');
    let (last, above) = (parts.next(), parts.nth(1));
    if bundle.contains("/io.containerd.") {
        return Some("containerd");
    }
    let of_storage =
        last == Some("userdata") && above.is_some_and(|dir| dir.ends_with("-containers"));
    of_storage.then_some("Podman or CRI-O")
}

#[cfg(test)]
mod tests {
    use api::ContainerState;

    use super::*;

    fn of(engine: ContainerEngine, namespace: Option<&str>, text: &str) -> Vec<Container> {
        parse(engine, Path::new("/run/x"), namespace, text.as_bytes()).unwrap()
    }

    #[test]
    fn lists_of_runc_are_read() {
        let text = r#"[{"ociVersion":"1.0.2-dev","id":"-x1","pid":27999,"status":"running","bundle":"/b",
            "rootfs":"/b/rootfs","created":"2026-11-29T08:40:38Z","annotations":{"a.b":"c"},"owner":"root"},
            {"ociVersion":"1.0.2-dev","id":"y1","pid":0,"status":"stopped","bundle":"/b","owner":"root"}]"#;
        let found = of(ContainerEngine::Runc, None, text);
        assert_eq!(found[0].summary.id, "-x1");
        assert_eq!(
            (found[0].summary.pid, found[0].summary.state),
            (Some(27999), ContainerState::Running)
        );
        assert_eq!((found[1].summary.pid, found[1].summary.state), (None, ContainerState::Stopped));
        assert_eq!(found[0].owner, None);
        assert_eq!(of(ContainerEngine::Runc, None, "null"), []);
        assert_eq!(of(ContainerEngine::Crun, None, "[\n\n]\n"), []);
    }

    #[test]
    fn what_leads_elsewhere_is_no_container() {
        let text = r#"[{"id":"../../etc","pid":1,"status":"running"},{"id":"","pid":1,"status":"running"},
            {"id":"a\u001b[2J","pid":1,"status":"running"},{"id":"ok","pid":-7,"status":"paused"}]"#;
        let found = of(ContainerEngine::Runc, None, text);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].summary.id.as_str(), found[0].summary.pid), ("ok", None));
        for broken in ["", "{}", "[{}]", "[{\"id\":7,\"status\":\"\"}]", "[[", "\u{0}"] {
            assert!(parse(ContainerEngine::Runc, Path::new("/"), None, broken.as_bytes()).is_err());
        }
    }

    #[test]
    fn owners_show_by_bundle_or_annotation() {
        let of = |bundle: &str, manager: Option<&str>| {
            let manager = manager.map(|name| ("io.container.manager".to_owned(), name.to_owned()));
            owner(bundle, &manager.into_iter().collect())
        };
        assert_eq!(of("/x/vfs-containers/06/userdata", None), Some("Podman or CRI-O"));
        assert_eq!(of("/x/vfs-containers/06/userdata", Some("libpod")), Some("Podman"));
        assert_eq!(of("/x", Some("cri-o")), Some("CRI-O"));
        assert_eq!(
            of("/run/containerd/io.containerd.runtime.v2.task/n/i", None),
            Some("containerd")
        );
        for own in ["/b", "", "/", "userdata", "/home/me/userdata"] {
            assert_eq!(of(own, None), None, "{own}");
        }
    }

    #[test]
    fn containers_of_kubernetes_have_names() {
        let text = r#"[{"id":"06","pid":7,"status":"running","bundle":"/run/containerd/io.containerd.runtime.v2.task/k8s.io/06",
            "annotations":{"io.kubernetes.cri.container-name":"web"}}]"#;
        let found = &of(ContainerEngine::Containerd, Some("k8s.io"), text)[0];
        assert_eq!((found.summary.name.as_str(), found.owner), ("web", None));
        assert_eq!(found.summary.namespace.as_deref(), Some("k8s.io"));
    }
}

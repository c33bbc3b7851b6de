//! What Docker says of its containers (`docker inspect`).

use std::path::Path;

use api::ContainerEngine;
use ids::HostPid;
use serde::Deserialize;

use crate::container::{Container, is_id, state};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    name: String,
    state: State,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: String,
    #[serde(default)]
    pid: i32,
}

/// The words that ask for the ids of all.
pub(crate) const LIST: [&str; 4] = ["ps", "--all", "--quiet", "--no-trunc"];
/// The words that ask for what is known of some, whose ids follow.
pub(crate) const INSPECT: [&str; 3] = ["inspect", "--type", "container"];
/// The words that ask whether the daemon takes checkpoints.
pub(crate) const EXPERIMENTAL: [&str; 3] = ["version", "--format", "{{.Server.Experimental}}"];

/// The ids of a list: one a line.
pub(crate) fn ids(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    text.lines().map(str::trim).filter(|line| is_id(line)).map(str::to_owned).collect()
}

/// The socket of a local daemon that `DOCKER_HOST` names: what is elsewhere has no process here.
pub(crate) fn socket(host: Option<&str>) -> Option<&Path> {
    let path = match host {
        None | Some("") => "/var/run/docker.sock",
        Some(host) => host.strip_prefix("unix://")?,
    };
    Some(Path::new(path)).filter(|path| path.is_absolute())
}

/// What was told of some containers, by the daemon at a socket.
///
/// # Errors
/// If the text is not the JSON that Docker writes.
pub(crate) fn parse(socket: &Path, text: &[u8]) -> Result<Vec<Container>, serde_json::Error> {
    let inspected: Vec<Inspected> = serde_json::from_slice(text)?;
    let inspected = inspected.into_iter().filter(|one| is_id(&one.id));
    Ok(inspected
        .map(|one| {
            let name = one.name.trim_start_matches('/').to_owned();
            let pid = HostPid::new(one.state.pid);
            let state = state(&one.state.status);
            let mut container = Container::new(ContainerEngine::Docker, one.id, name, pid, state);
            container.place = socket.to_owned();
            container
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use api::ContainerState;

    use super::*;

    #[test]
    fn what_docker_tells_is_read() {
        let text = br#"[{"Id":"8bda","Created":"2026","Name":"/aa","State":{"Status":"running","Running":true,
            "Paused":false,"Pid":29569,"Dead":false}},{"Id":"c06a","Name":"/bb","State":{"Status":"paused","Pid":7}}]"#;
        let found = parse(Path::new("/s"), text).unwrap();
        assert_eq!((found[0].summary.name.as_str(), found[0].summary.pid), ("aa", Some(29569)));
        assert_eq!(found[1].summary.state, ContainerState::Paused);
        assert!(parse(Path::new("/s"), b"[{}]").is_err());
        assert_eq!(parse(Path::new("/s"), b"[]").unwrap(), []);
    }

    #[test]
    fn ids_are_words() {
        assert_eq!(ids(b"8bda\nc06a\n\n  \n/etc\n-f x\n"), ["8bda", "c06a"]);
    }

    #[test]
    fn daemons_elsewhere_are_not_asked() {
        assert_eq!(socket(None), Some(Path::new("/var/run/docker.sock")));
        assert_eq!(socket(Some("unix:///x/d.sock")), Some(Path::new("/x/d.sock")));
        for other in ["tcp://1.2.3.4:2375", "ssh://h", "unix://relative", "/x"] {
            assert_eq!(socket(Some(other)), None, "{other}");
        }
    }
}

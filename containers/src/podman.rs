//! What Podman says of its containers (`podman ps --format json`).

use api::ContainerEngine;
use ids::HostPid;
use serde::Deserialize;

use crate::container::{Container, is_id, state};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    pid: i32,
    state: String,
}

/// The words that ask for the list.
pub(crate) const LIST: [&str; 5] = ["ps", "--all", "--no-trunc", "--format", "json"];

/// The containers of the list.
///
/// # Errors
/// If the text is not the JSON that Podman writes.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<Container>, serde_json::Error> {
    let listed: Option<Vec<Listed>> = serde_json::from_slice(text)?;
    let listed = listed.unwrap_or_default().into_iter().filter(|one| is_id(&one.id));
    Ok(listed
        .map(|one| {
            let name = one.names.unwrap_or_default().into_iter().next();
            let name = name.unwrap_or_else(|| one.id.clone());
            let pid = HostPid::new(one.pid);
            Container::new(ContainerEngine::Podman, one.id, name, pid, state(&one.state))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use api::ContainerState;

    use super::*;

    #[test]
    fn lists_of_podman_are_read() {
        let text = br#"[{"AutoRemove":false,"Id":"061e","Names":["a"],"Pid":28414,"Pod":"","State":"running",
            "Labels":null},{"Id":"17c7","Names":null,"Pid":0,"State":"exited"},{"Id":"../x","State":"running"}]"#;
        let found = parse(text).unwrap();
        let said: Vec<_> = found
            .iter()
            .map(|one| (one.summary.name.as_str(), one.summary.pid, one.summary.state))
            .collect();
        assert_eq!(
            said,
            [("a", Some(28414), ContainerState::Running), ("17c7", None, ContainerState::Stopped)]
        );
        assert_eq!(parse(b"null").unwrap(), []);
        assert!(parse(b"Error: x").is_err());
    }
}

//! `stasis track`, `stasis tracks`, `stasis untrack --id`: asks the collector's service, which keeps what
//! is tracked for as long as it runs.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use api::{Track, TrackList, TrackRequest, TrackTarget};
use ids::HostPid;
use service::{Client, ClientError};

use crate::args::{TrackOptions, TracksOptions};
use crate::voice::Voice;
use criu::Failure;
use criu::shell::with_sudo;
use serde_json::json;

pub(crate) fn track(options: &TrackOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let request = request(options);
    let track: Track =
        ask(&options.socket.run_dir, async |client| client.post("/v1/tracks", &request).await)?;
    tell(&track, voice)
}

/// What is asked for by these options.
pub(crate) fn request(options: &TrackOptions) -> TrackRequest {
    TrackRequest {
        pid: options.pid.filter(|_| !options.tree).map(HostPid::get),
        tree: options.pid.filter(|_| options.tree).map(HostPid::get),
        cgroup: options.cgroup.clone(),
        files: options.files,
    }
}

/// Tells of a track that has begun.
pub(crate) fn tell(track: &Track, voice: Voice) -> Result<ExitCode, Failure> {
    voice.print(track, || format!("{}\n", track.id))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn tracks(options: &TracksOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let list: TrackList =
        ask(&options.socket.run_dir, async |client| client.get("/v1/tracks").await)?;
    voice.print(&list, || text(&list))?;
    Ok(ExitCode::SUCCESS)
}

/// Ends a track.
pub(crate) fn end(run_dir: &Path, id: u64, voice: Voice) -> Result<ExitCode, Failure> {
    let path = format!("/v1/tracks/{id}");
    ask(run_dir, async |client| client.delete(&path).await)?;
    tell_ended(id, voice)
}

/// Tells of a track that has ended.
pub(crate) fn tell_ended(id: u64, voice: Voice) -> Result<ExitCode, Failure> {
    voice.sum_up(&json!({"untracked": {"id": id}}), || format!("track {id} has ended\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn ask<T>(
    run_dir: &Path,
    question: impl AsyncFnOnce(Client) -> Result<T, ClientError>,
) -> Result<T, Failure> {
    let socket = run_dir.join("collector.sock");
    let client = Client::new("collector", &socket)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(question(client)).map_err(|error| failure(error, &socket))
}

fn failure(error: ClientError, socket: &Path) -> Failure {
    let is_root = nix::unistd::geteuid().is_root();
    match error {
        // What it takes is told before anything that may be down besides.
        ClientError::Down { .. } if !is_root && is_closed(socket) => {
            Failure::with_remedy(error, format!("run as root: {}", with_sudo()))
        }
        ClientError::Refused { status, detail } if !is_root && status.as_u16() == 403 => {
            Failure::with_remedy(detail.message, format!("run as root: {}", with_sudo()))
        }
        ClientError::Down { .. } => {
            let folder = socket.parent().unwrap_or(socket).display();
            let remedy = format!(
                "start stasis-collector as root, which keeps what is tracked for as long as it runs \
                 (`stasis-collector --run-dir {folder}`), or name its directory with --run-dir"
            );
            Failure::with_remedy(error, remedy)
        }
        ClientError::Refused { detail, .. } => match detail.remedy {
            Some(remedy) => Failure::with_remedy(detail.message, remedy),
            None => detail.message.into(),
        },
        error => error.into(),
    }
}

/// Whether we may not even look whether there is a socket, or not connect to it.
fn is_closed(socket: &Path) -> bool {
    let denied = |error: std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
    std::os::unix::net::UnixStream::connect(socket).is_err_and(denied)
}

/// The list, for people.
pub(crate) fn text(list: &TrackList) -> String {
    let mut text = format!(
        "{:>5} {:>9} {:<6} {:<6} {:>9}  TARGET\n",
        "ID", "PROCESSES", "FILES", "STALE", "LOST"
    );
    for track in &list.tracks {
        let yes = |is: bool| if is { "yes" } else { "no" };
        let target = match &track.target {
            TrackTarget::Pid(pid) => format!("process {pid}"),
            TrackTarget::Tree(root) => format!("tree of {root}"),
            TrackTarget::Cgroup(name) => {
                format!("cgroup {}", name.replace(|c: char| c.is_control(), " "))
            }
        };
        // Writing to a string cannot fail.
        writeln!(
            text,
            "{:>5} {:>9} {:<6} {:<6} {:>9}  {target}",
            track.id,
            track.processes.len(),
            yes(track.files),
            yes(track.stale),
            track.lost
        )
        .unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_track() {
        let track = Track {
            id: 3,
            target: TrackTarget::Cgroup("/box\x1b".to_owned()),
            files: true,
            created_ms: 0,
            stale: false,
            lost: 0,
            tree: 7,
            processes: Vec::new(),
        };
        let shown = text(&TrackList { tracks: vec![track] });
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[0], "   ID PROCESSES FILES  STALE       LOST  TARGET");
        assert_eq!(lines[1], "    3         0 yes    no             0  cgroup /box ");
    }

    #[test]
    fn who_is_to_be_started_is_said() {
        let nowhere = Path::new("/no/such/dir");
        let error = ask(nowhere, async |client| client.get::<TrackList>("/v1/tracks").await);
        let said = error.unwrap_err().to_string();
        assert!(said.contains("start stasis-collector"), "{said}");
    }
}

//! The pages of restored trees and of tracks, and what their buttons do.

use api::{RestoredTree, Track, TrackRequest, TrackTarget};
use axum::extract::{Path, State};
use axum::response::Redirect;
use axum::{Extension, Form};
use maud::{Markup, html};
use serde::Deserialize;
use service::Body;

use super::actions::Begun;
use super::units::ago;
use super::{Failed, views};
use crate::audit::Object;
use crate::callers::{Asker, Checkpoint, May};
use crate::gateway::Gateway;
use crate::{restores, tracks};

pub(super) async fn restored(
    State(gateway): State<Gateway>,
    asker: Asker,
) -> Result<Markup, Failed> {
    let trees = restores::list(&gateway, &asker).await?.restores;
    let known = tracks::list(&gateway, &asker).await.unwrap_or_default();
    let rows = html! {
        table {
            thead { tr { th { "From" } th.number { "Pid" } th { "State" } th {} } }
            tbody {
                @for tree in &trees {
                    tr {
                        td { a href={ "/checkpoints/" (tree.directory) } { (tree.directory) } }
                        td.number data-name="Pid" { (tree.pid) }
                        td { (state(tree)) }
                        td.actions { @if tree.running { (views::track_button(tree.pid, &known)) } }
                    }
                }
            }
        }
        @if trees.is_empty() { p.dim { "None since the restorer was started." } }
    };
    let live = views::live("restores", "/restores", "5s", &rows);
    Ok(views::page(Some(&asker), "/restores", "Restored trees", &live))
}

fn state(tree: &RestoredTree) -> Markup {
    html! {
        @match (tree.running, tree.exit_code, tree.signal) {
            (true, ..) => span.good { "runs" },
            (false, Some(0), _) => span.dim { "has ended" },
            (false, Some(code), _) => span.bad { "has ended with " (code) },
            (false, None, Some(signal)) => span.bad { "was ended by signal " (signal) },
            (false, None, None) => span.dim { "has ended" },
        }
    }
}

pub(super) async fn tracked(
    State(gateway): State<Gateway>,
    asker: Asker,
) -> Result<Markup, Failed> {
    let list = tracks::list(&gateway, &asker).await?;
    let rows = html! {
        table {
            thead { tr {
                th { "Track" } th.number { "Begun" } th.number { "Processes" } th.number { "Changes" } th {} th {}
            } }
            tbody {
                @for track in &list.tracks {
                    tr {
                        td { (of(&track.target)) }
                        td.number data-name="Begun" { (ago(track.created_ms)) }
                        td.number data-name="Processes" { (track.processes.len()) }
                        td.number data-name="Changes" { (changes(track)) }
                        td {
                            @if track.stale { span.bad { "tells nothing for sure" } }
                            @if track.lost > 0 { span.busy { (track.lost) " had no room" } }
                        }
                        td.actions { (views::end_of_track(track.id)) }
                    }
                }
            }
        }
        @if list.tracks.is_empty() { p.dim { "None. The processes have a button that begins one." } }
    };
    let live = views::live("tracks", "/tracks", "3s", &rows);
    Ok(views::page(Some(&asker), "/tracks", "Tracks", &live))
}

fn of(target: &TrackTarget) -> String {
    match target {
        TrackTarget::Pid(pid) => format!("Process {pid}"),
        TrackTarget::Tree(pid) => format!("Tree of {pid}"),
        TrackTarget::Cgroup(name) => format!("Group {name}"),
    }
}

/// How often something has changed that is counted.
fn changes(track: &Track) -> u64 {
    let of_each =
        track.processes.iter().flat_map(|it| [it.threads, it.files, it.memory, it.credentials]);
    of_each.fold(track.tree, u64::saturating_add)
}

#[derive(Debug, Deserialize)]
pub(super) struct TreeForm {
    pid: i32,
}

#[derive(Debug, Deserialize)]
pub(super) struct TrackForm {
    id: String,
}

pub(super) async fn begin(
    State(gateway): State<Gateway>,
    asker: May<Checkpoint>,
    Form(TreeForm { pid }): Form<TreeForm>,
) -> Result<Begun, Failed> {
    let request = TrackRequest { tree: Some(pid), ..TrackRequest::default() };
    let (_, object, _) = tracks::begin(State(gateway), asker, Body(request)).await?;
    Ok((object, Redirect::to("/tracks")))
}

pub(super) async fn stop(
    State(gateway): State<Gateway>,
    asker: May<Checkpoint>,
    Form(TrackForm { id }): Form<TrackForm>,
) -> Result<Begun, Failed> {
    let object = Extension(Object::Named(format!("track {id}")));
    tracks::end(State(gateway), asker, Path(id)).await?;
    Ok((object, Redirect::to("/tracks")))
}

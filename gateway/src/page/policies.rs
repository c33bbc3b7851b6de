//! The pages of policies, and what their buttons do.

use api::{CheckpointList, CheckpointQuery, Keep, Labels, Policy, PolicySpec, Selector};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Redirect;
use axum::{Extension, Form};
use maud::{Markup, html};
use serde::Deserialize;
use service::Body;

use super::actions::{Begun, typed};
use super::units::{ago, bytes, until};
use super::{Failed, views};
use crate::audit::Object;
use crate::callers::Owner;
use crate::gateway::Gateway;
use crate::policy_routes as policies;

/// What a policy selects, in words.
fn selects(select: &Selector) -> String {
    let of = |name: &str, value: &Option<String>| value.as_ref().map(|it| format!("{name} {it}"));
    let parts = [
        of("container", &select.container),
        of("unit", &select.unit),
        of("group", &select.cgroup),
        select.pid.map(|pid| format!("process {pid}")),
        of("program", &select.comm),
        of("command with", &select.command),
        select.uid.map(|uid| format!("user {uid}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// When a policy is at work, in words.
fn when(spec: &PolicySpec) -> String {
    match (&spec.every, &spec.cron) {
        (Some(every), _) => format!("every {every}"),
        (None, Some(cron)) => format!("{cron} (UTC)"),
        (None, None) => String::new(),
    }
}

fn kept(keep: &Keep) -> String {
    let parts = [
        keep.runs.map(|runs| format!("{runs} runs")),
        keep.age.as_ref().map(|age| format!("no older than {age}")),
        keep.bytes.map(|size| format!("at most {}", bytes(size))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "all".to_owned() } else { parts.join(", ") }
}

fn state(policy: &Policy) -> Markup {
    html! {
        @match &policy.last {
            Some(run) if run.finished_ms.is_none() => span { "at work" },
            _ if policy.spec.paused => span.dim { "paused" },
            Some(run) if run.problem.is_some() => span.bad { "failed " (ago(run.started_ms)) },
            Some(run) => span.good { "good " (ago(run.started_ms)) },
            None => span.dim { "not at work yet" },
        }
    }
}

fn button(path: &str, name: &str, word: &str) -> Markup {
    html! {
        form.inline method="post" action=(path) {
            input type="hidden" name="name" value=(name);
            button { (word) }
        }
    }
}

pub(super) async fn list(State(gateway): State<Gateway>, Owner(asker): Owner) -> Markup {
    let policies = gateway.policies.list();
    let rows = html! {
        table {
            thead { tr { th { "Policy" } th { "Selects" } th { "When" } th { "State" } th { "Next" } th { "Keeps" } th {} } }
            tbody {
                @for policy in &policies {
                    tr {
                        td { a href={ "/policies/" (policy.name) } { (policy.name) } }
                        td { (selects(&policy.spec.select)) }
                        td { (when(&policy.spec)) }
                        td { (state(policy)) }
                        td.number data-name="Next" { @if let Some(next) = policy.next_ms { (until(next)) } }
                        td { (kept(&policy.spec.keep)) }
                        td { (button("/do/policy/run", &policy.name, "Run now")) }
                    }
                }
            }
        }
        @if policies.is_empty() { p.dim { "None." } }
    };
    let content = html! { (views::live("policies", "/policies", "5s", &rows)) (form()) };
    views::page(Some(&asker), "/policies", "Policies", &content)
}

/// What a new policy is made with; what else one may say is for the API.
fn form() -> Markup {
    html! {
        form.card method="post" action="/do/policy/set" {
            h2 { "A new policy" }
            div.fields {
                label for="name" { "Name" }
                input #name type="text" name="name" required maxlength="40";
                label for="unit" { "Of unit" }
                input #unit type="text" name="unit" placeholder="nginx.service";
                label for="comm" { "or program" }
                input #comm type="text" name="comm" placeholder="redis-server";
                label for="container" { "or container" }
                input #container type="text" name="container";
                label for="every" { "Every" }
                input #every type="text" name="every" placeholder="10m";
                label for="cron" { "or at times" }
                input #cron type="text" name="cron" placeholder="0 3 * * *";
                label for="runs" { "Keep runs" }
                input #runs type="number" name="runs" min="1";
                label for="age" { "Keep for" }
                input #age type="text" name="age" placeholder="7d";
                label for="budget" { "Frozen for at most" }
                span { input #budget type="number" name="max_freeze_ms" min="1"; " ms" }
                label for="labels" { "Labels" }
                input #labels type="text" name="labels" placeholder="app=web,tier=1";
                span { "It may have" }
                label { input type="checkbox" name="tcp_established"; " TCP connections to outside" }
            }
            p { button.first { "Make it" } }
        }
    }
}

pub(super) async fn one(
    State(gateway): State<Gateway>,
    Owner(asker): Owner,
    Path(name): Path<String>,
) -> Result<Markup, Failed> {
    let policy = gateway.policies.get(&name).ok_or_else(|| policies::no_policy(&name))?;
    let query = CheckpointQuery {
        labels: Some(format!("{}={name}", Policy::LABEL)),
        limit: Some(1000),
        ..CheckpointQuery::default()
    };
    let query = serde_urlencoded::to_string(query).ok();
    let taken: CheckpointList = crate::checkpoints::list(&gateway, &asker, query).await?;
    let size: u64 = taken.checkpoints.iter().map(|it| it.image_bytes).sum();
    let told = html! {
        div.card {
            dl {
                dt { "State" } dd { (state(&policy)) }
                dt { "Selects" } dd { (selects(&policy.spec.select)) }
                dt { "When" } dd { (when(&policy.spec)) @if let Some(next) = policy.next_ms { ", next " (until(next)) } }
                dt { "Keeps" } dd { (kept(&policy.spec.keep)) }
                @if let Some(budget) = policy.spec.max_freeze_ms { dt { "Frozen for at most" } dd { (budget) " ms" } }
                dt { "Taken" } dd { (taken.checkpoints.len()) @if taken.next.is_some() { " and more" } " checkpoints, " (bytes(size)) }
                @if let Some(good) = policy.good_ms { dt { "All good last" } dd { (ago(good)) } }
            }
            p {
                (button("/do/policy/run", &name, "Run now")) " "
                (button("/do/policy/pause", &name, if policy.spec.paused { "Go on" } else { "Pause" })) " "
                (button("/do/policy/remove", &name, "Remove"))
            }
        }
        @if let Some(problem) = policy.last.as_ref().and_then(|run| run.problem.as_ref()) { (views::problem(problem)) }
        @if let Some(run) = &policy.last {
            h2 { "Last run" }
            p { (run.done) " checkpoints taken, " (run.failed) " not." }
            ul { @for job in &run.jobs { li { a href={ "/jobs/" (job) } { "Job " (job) } } } }
        }
        @if !taken.checkpoints.is_empty() {
            h2 { "Checkpoints" }
            ul {
                @for it in taken.checkpoints.iter().rev().take(100) {
                    li { a href={ "/checkpoints/" (it.directory) } { (it.directory) } " " span.dim { (bytes(it.image_bytes)) ", " (ago(it.created_ms)) } }
                }
            }
        }
    };
    let live = views::live("policy", &format!("/policies/{name}"), "5s", &told);
    Ok(views::page(Some(&asker), "/policies", &format!("Policy {name}"), &live))
}

#[derive(Debug, Deserialize)]
pub(super) struct Named {
    name: String,
}

/// The fields of the form; what is empty is not said.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PolicyForm {
    name: String,
    unit: String,
    comm: String,
    container: String,
    every: String,
    cron: String,
    runs: String,
    age: String,
    max_freeze_ms: String,
    labels: String,
    tcp_established: Option<String>,
}

fn to(name: &str) -> Redirect {
    Redirect::to(&format!("/policies/{name}"))
}

pub(super) async fn set(
    State(gateway): State<Gateway>,
    owner: Owner,
    Form(form): Form<PolicyForm>,
) -> Result<Begun, Failed> {
    let said = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let spec = PolicySpec {
        select: Selector {
            unit: said(&form.unit),
            comm: said(&form.comm),
            container: said(&form.container),
            ..Selector::default()
        },
        every: said(&form.every),
        cron: said(&form.cron),
        keep: Keep { runs: typed("runs", &form.runs)?, age: said(&form.age), bytes: None },
        labels: typed::<Labels>("labels", &form.labels)?.unwrap_or_default(),
        tcp_established: form.tcp_established.is_some(),
        max_freeze_ms: typed("max_freeze_ms", &form.max_freeze_ms)?,
        ..PolicySpec::default()
    };
    let mut headers = HeaderMap::new();
    // One that is there is not changed by a form that does not show all of it.
    headers.insert(axum::http::header::IF_NONE_MATCH, axum::http::HeaderValue::from_static("*"));
    let name = form.name.trim().to_owned();
    let (_, _, object, _) =
        policies::set(State(gateway), owner, Path(name.clone()), headers, Body(spec)).await?;
    Ok((object, to(&name)))
}

pub(super) async fn run(
    State(gateway): State<Gateway>,
    owner: Owner,
    Form(Named { name }): Form<Named>,
) -> Result<Begun, Failed> {
    let (_, _, object, _) = policies::run(State(gateway), owner, Path(name.clone())).await?;
    Ok((object, to(&name)))
}

pub(super) async fn pause(
    State(gateway): State<Gateway>,
    owner: Owner,
    Form(Named { name }): Form<Named>,
) -> Result<Begun, Failed> {
    let policy = gateway.policies.get(&name).ok_or_else(|| policies::no_policy(&name))?;
    let spec = PolicySpec { paused: !policy.spec.paused, ..policy.spec.clone() };
    let mut headers = HeaderMap::new();
    let tag = format!("\"{}\"", policy.tag()).parse().map_err(|_| policies::no_policy(&name))?;
    headers.insert(axum::http::header::IF_MATCH, tag);
    let (_, _, object, _) =
        policies::set(State(gateway), owner, Path(name.clone()), headers, Body(spec)).await?;
    Ok((object, to(&name)))
}

pub(super) async fn remove(
    State(gateway): State<Gateway>,
    owner: Owner,
    Form(Named { name }): Form<Named>,
) -> Result<Begun, Failed> {
    let object = Extension(Object::Named(format!("policy {name}")));
    policies::remove(State(gateway), owner, Path(name), HeaderMap::new()).await?;
    Ok((object, Redirect::to("/policies")))
}

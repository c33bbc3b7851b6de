//! What the pages look like.

use api::{
    CheckpointList, CheckpointSummary, ContainerList, ErrorDetail, Job, JobKind, JobList, JobState,
    ProcessList, Track, TrackList, TrackTarget, Unsupported,
};
use maud::{DOCTYPE, Markup, html};

use super::units::{ago, bytes, micros};
use crate::callers::Asker;

/// What the script library is told: nothing is run that is text of a page.
const SETTINGS: &str = r#"{"includeIndicatorStyles":false,"allowEval":false,"allowScriptTags":false,"historyCacheSize":0}"#;

const PLACES: [(&str, &str); 7] = [
    ("/", "Processes"),
    ("/containers", "Containers"),
    ("/checkpoints", "Checkpoints"),
    ("/restores", "Restored"),
    ("/tracks", "Tracks"),
    ("/jobs", "Jobs"),
    (POLICIES, "Policies"),
];

/// The place of those whom nothing binds.
const POLICIES: &str = "/policies";

/// What all pages begin with.
fn head(title: &str, scripts: &Markup) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            title { (title) " · stasis" }
            link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
            link rel="stylesheet" href="/assets/style.css";
            (scripts)
        }
    }
}

/// A page for who asks, who is shown the places that he may see.
pub(super) fn page(asker: Option<&Asker>, place: &str, title: &str, content: &Markup) -> Markup {
    let owner = asker.is_some_and(Asker::is_unbound_admin);
    let places = PLACES.iter().filter(|(path, _)| owner || *path != POLICIES);
    let scripts = html! {
        meta name="htmx-config" content=(SETTINGS);
        script src="/assets/htmx.js" defer {}
        script src="/assets/page.js" defer {}
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(title, &scripts))
            body {
                header {
                    strong { "stasis" }
                    nav aria-label="Places" {
                        @for (path, name) in places {
                            a href=(path) aria-current=[(*path == place).then_some("page")] { (name) }
                        }
                    }
                    form.inline method="post" action="/logout" { button { "Log out" } }
                }
                main { h1 { (title) } (content) }
            }
        }
    }
}

pub(super) fn log_in(wrong: Option<&str>) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head("Log in", &html! {}))
            body {
                main.login {
                    form.card method="post" action="/login" {
                        h1 { "stasis" }
                        @if let Some(wrong) = wrong { p.bad role="alert" { (wrong) } }
                        label for="token" { "Token" }
                        input #token type="password" name="token" required autofocus autocomplete="current-password";
                        p.dim { "One that was given to you, or the gateway's own: it is in " code { "/var/lib/stasis/gateway.token" } ", unless the gateway was told otherwise." }
                        button.first { "Log in" }
                    }
                }
            }
        }
    }
}

/// What went wrong, and what helps.
pub(super) fn problem(detail: &ErrorDetail) -> Markup {
    html! {
        div.card role="alert" {
            p.bad { (detail.message) }
            @if detail.refusals.is_empty() && let Some(remedy) = &detail.remedy {
                p { "What helps: " (remedy) "." }
            }
            (refusals(&detail.refusals))
        }
    }
}

fn refusals(found: &[Unsupported]) -> Markup {
    html! {
        @if !found.is_empty() {
            ul {
                @for it in found {
                    li { strong { (it.object) } ": " (it.reason) ". " span.dim { (it.remedy) } }
                }
            }
        }
    }
}

pub(super) fn failed(detail: &ErrorDetail) -> Markup {
    page(
        None,
        "",
        "That did not work",
        &html! { (problem(detail)) p { a href="/" { "To the processes" } } },
    )
}

/// A part of a page that is asked for again when jobs change, and every so often.
pub(super) fn live(id: &str, from: &str, every: &str, content: &Markup) -> Markup {
    let trigger = match every {
        "" => "jobs from:body".to_owned(),
        every => format!("jobs from:body, every {every}"),
    };
    let same = format!("#{id}");
    html! {
        div id=(id) hx-get=(from) hx-trigger=(trigger) hx-select=(same) hx-target="this" hx-swap="outerHTML" { (content) }
    }
}

/// How long trees stood still, the newest last.
fn frozen_times(jobs: &[Job]) -> Markup {
    // Of a tree that was ended the writing of its images is no part of it.
    let frozen = |job: &Job| {
        job.dump.as_ref().map(|it| it.frozen_us - it.account.release_us.min(it.frozen_us))
    };
    let times: Vec<u64> = jobs.iter().rev().filter_map(frozen).collect();
    let Some(longest) = times.iter().max().copied() else { return html! {} };
    let mut sorted = times.clone();
    sorted.sort_unstable();
    let median = sorted[sorted.len() / 2];
    let width = 600 / times.len().max(20) as u64;
    html! {
        section.card aria-label="Frozen times" {
            svg.chart viewBox="0 0 600 70" preserveAspectRatio="none" role="img" {
                title { "Frozen times of the last checkpoints" }
                @for (at, time) in times.iter().enumerate() {
                    @let height = (time * 66 / longest.max(1)).max(1);
                    rect x=(at as u64 * width) y=(68 - height) width=(width.saturating_sub(2).max(1)) height=(height) {
                        title { (micros(*time)) }
                    }
                }
                line x1="0" y1="69" x2="600" y2="69" {}
            }
            p.dim { "Frozen by the last " (times.len()) " checkpoints: " (micros(median)) " as a rule, " (micros(longest)) " at most" }
        }
    }
}

pub(super) fn processes(
    asker: &Asker,
    list: &ProcessList,
    query: &str,
    (jobs, tracks): (&[Job], &TrackList),
) -> Markup {
    let value = |name: &str| {
        let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default()
    };
    let from = asked("/", query);
    let rows = html! {
        table {
            thead { tr {
                th.number { "Pid" } th { "Name" } th { "Command" } th.number { "User" } th.number { "Threads" }
                th.number { "Memory" } th { "Checkpoint" }
            } }
            tbody {
                @for it in &list.processes {
                    tr {
                        td.number data-name="Pid" { (it.pid) }
                        td { strong { (it.comm) } }
                        td.command.dim title=(it.command) { (it.command) }
                        td.number data-name="User" { (it.uid) }
                        td.number data-name="Threads" { (it.threads) }
                        td.number data-name="Memory" { (bytes(it.memory_bytes)) }
                        td.actions {
                            @if it.dumpable {
                                form.inline method="post" action="/do/checkpoint" {
                                    input type="hidden" name="pid" value=(it.pid);
                                    input type="hidden" name="after" value="on";
                                    button.first title="It runs on" { "Checkpoint" }
                                }
                                " " a.button href={ "/new?pid=" (it.pid) } { "…" } " "
                            } @else {
                                details { summary.dim { "no" } (refusals(&it.refusals)) }
                            }
                            (track_button(it.pid, tracks))
                        }
                    }
                }
            }
        }
        @if list.processes.is_empty() { p.dim { "None." } }
        @if let Some(next) = &list.next {
            p { a.button href=(asked("/", &with_cursor(query, next))) { "More" } }
        }
    };
    page(
        Some(asker),
        "/",
        "Processes",
        &html! {
            (live("frozen", "/", "", &frozen_times(jobs)))
            form.search role="search" method="get" action="/" {
                label { "Name " input type="search" name="comm" value=(value("comm")); }
                label { "Pid " input type="number" name="pid" min="1" value=(value("pid")); }
                label { "User " input type="number" name="uid" min="0" value=(value("uid")); }
                label { input type="checkbox" name="dumpable" value="true" checked[value("dumpable") == "true"]; " that can be checkpointed" }
                button { "Find" }
            }
            (live("processes", &from, "3s", &rows))
        },
    )
}

/// What begins a track of a tree, or ends the one that there is.
pub(super) fn track_button(pid: i32, known: &TrackList) -> Markup {
    let of_it = |track: &&Track| matches!(track.target, TrackTarget::Tree(root) if root == pid);
    match known.tracks.iter().find(of_it) {
        Some(track) => end_of_track(track.id),
        None => html! {
            form.inline method="post" action="/do/track" {
                input type="hidden" name="pid" value=(pid);
                button title="The kernel counts what it changes" { "Track" }
            }
        },
    }
}

pub(super) fn end_of_track(id: u64) -> Markup {
    html! {
        form.inline method="post" action="/do/track/end" {
            input type="hidden" name="id" value=(id);
            button { "End track" }
        }
    }
}

fn with_cursor(query: &str, next: &str) -> String {
    let kept = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    kept.chain([format!("cursor={next}").as_str()]).collect::<Vec<_>>().join("&")
}

pub(super) fn containers(asker: &Asker, list: &ContainerList) -> Markup {
    let rows = html! {
        table {
            thead { tr { th { "Engine" } th { "Name" } th { "State" } th.number { "Pid" } th { "Checkpoint" } } }
            tbody {
                @for it in &list.containers {
                    tr {
                        td { (it.engine) }
                        td { strong { (it.name) } }
                        td { (format!("{:?}", it.state).to_lowercase()) }
                        td.number data-name="Pid" { (it.pid.map(|pid| pid.to_string()).unwrap_or_default()) }
                        td.actions {
                            @if it.checkpointable {
                                form.inline method="get" action="/new" {
                                    input type="hidden" name="container" value=(it.name);
                                    button { "Checkpoint…" }
                                }
                            } @else {
                                details { summary.dim { "no" } (refusals(&it.refusals)) }
                            }
                        }
                    }
                }
            }
        }
        @if list.containers.is_empty() { p.dim { "None." } }
        @for silent in &list.silent { p.busy { (silent) } }
    };
    page(Some(asker), "/containers", "Containers", &live("containers", "/containers", "5s", &rows))
}

/// A place with what was asked of it.
fn asked(place: &str, query: &str) -> String {
    if query.is_empty() { place.to_owned() } else { format!("{place}?{query}") }
}

pub(super) fn checkpoints(asker: &Asker, list: &CheckpointList, query: &str) -> Markup {
    let rows = html! {
        table {
            thead { tr {
                th { "Directory" } th { "Of" } th.number { "Size" } th.number { "Frozen" } th.number { "Made" } th { "Labels" }
            } }
            tbody {
                @for it in &list.checkpoints {
                    tr {
                        td { a href={ "/checkpoints/" (it.directory) } { (it.directory) } }
                        td {
                            @if it.encrypted { span.dim { "encrypted" } } @else { (it.comm) span.dim { " " (it.pid) } }
                            @if it.damage.is_some() { " " strong.bad { "damaged" } }
                        }
                        td.number data-name="Size" { (bytes(it.image_bytes)) }
                        td.number data-name="Frozen" { (it.frozen_us.map(micros).unwrap_or_default()) }
                        td.number data-name="Made" { (ago(it.created_ms)) }
                        td { (labels(it)) }
                    }
                }
            }
        }
        @if list.checkpoints.is_empty() { p.dim { "None yet." } }
        @for it in &list.unfinished {
            p.busy {
                (it.path) ", " (bytes(it.bytes)) ": "
                @if it.being_written { "is being written" } @else { "was left by a dumper that was killed; the next start of the dumper clears it" }
            }
        }
        @if let Some(next) = &list.next { p { a.button href=(asked("/checkpoints", &with_cursor(query, next))) { "More" } } }
    };
    page(
        Some(asker),
        "/checkpoints",
        "Checkpoints",
        &live("checkpoints", &asked("/checkpoints", query), "", &rows),
    )
}

fn labels(of: &CheckpointSummary) -> Markup {
    html! { @for (key, value) in of.labels.iter() { span.label { (key) "=" (value) } } }
}

/// `inside` is what is told of its contents.
pub(super) fn checkpoint(
    asker: &Asker,
    it: &CheckpointSummary,
    jobs: &[Job],
    inside: &Markup,
) -> Markup {
    page(
        Some(asker),
        "/checkpoints",
        it.directory.as_str(),
        &html! {
            @if let Some(damage) = &it.damage { div.card { p.bad role="alert" { (damage) } } }
            div.card {
                dl {
                    @if it.encrypted {
                        dt { "Encrypted" } dd { "who is in it is known by its keys alone" }
                    } @else {
                        dt { "Of" } dd { (it.comm) ", process " (it.pid) }
                        dt { "Processes" } dd { (it.processes) ", " (it.threads) " threads" }
                    }
                    dt { "Size" } dd { (bytes(it.image_bytes)) }
                    @if let Some(frozen) = it.frozen_us { dt { "Frozen" } dd { (micros(frozen)) } }
                    dt { "Made" } dd { (ago(it.created_ms)) }
                    @if let Some(parent) = &it.parent { dt { "Increment of" } dd { a href={ "/checkpoints/" (parent) } { (parent) } } }
                    @if !it.labels.is_empty() { dt { "Labels" } dd { (labels(it)) } }
                    @if it.uploaded { dt { "Came" } dd { "as an archive: an admin restores it, or it is signed by a trusted key" } }
                    @for key in &it.signed_by { dt { "Signed by" } dd { code { (key) } span.dim { ", it says; verifying it finds out" } } }
                }
            }
            div.card {
                form.inline method="post" action="/do/restore" {
                    input type="hidden" name="directory" value=(it.directory);
                    button.first { "Restore" }
                }
                " "
                form.inline method="post" action="/do/verify" {
                    input type="hidden" name="directory" value=(it.directory);
                    button { "Verify" }
                }
                details {
                    summary { "Remove…" }
                    form method="post" action="/do/remove" {
                        input type="hidden" name="directory" value=(it.directory);
                        p { "It is gone for good then. " button.danger { "Remove it" } }
                    }
                }
            }
            h2 { "Jobs" }
            (live("jobs", &format!("/checkpoints/{}", it.directory), "", &job_rows(jobs)))
            (inside)
        },
    )
}

fn state(job: &Job) -> Markup {
    html! {
        @match (job.state, &job.verified) {
            (JobState::Queued, _) => span.dim { "waits" },
            (JobState::Running, _) => span.busy { @if job.cancelled_by.is_some() { "is cancelled" } @else { "at work" } },
            (JobState::Failed, _) => span.bad { "failed" },
            (JobState::Cancelled, _) => span.dim { "cancelled" },
            (JobState::Done, Some(found)) if !found.sound => span.bad { "damaged" },
            (JobState::Done, _) => span.good { "done" },
        }
    }
}

fn what(job: &Job) -> String {
    let of = match (&job.container, job.pid) {
        (Some(name), _) => format!(" of container {name}"),
        (None, Some(pid)) => format!(" of {pid}"),
        (None, None) if !job.pids.is_empty() => format!(" of {} trees together", job.pids.len()),
        (None, None) => String::new(),
    };
    match job.kind {
        JobKind::Checkpoint => format!("Checkpoint{of}"),
        JobKind::DryRun => format!("Dry run{of}"),
        JobKind::Restore => "Restore".to_owned(),
        JobKind::Verify => "Verification".to_owned(),
    }
}

/// What came of it, in a line.
fn came_of(job: &Job) -> String {
    if let Some(error) = &job.error {
        return error.message.clone();
    }
    if let Some(dump) = &job.dump {
        return format!("frozen {}, {}", micros(dump.frozen_us), bytes(dump.image_bytes));
    }
    if let Some(together) = &job.together {
        return format!("frozen {}", micros(together.frozen_us));
    }
    if let Some(frozen) = job.checkpointed.as_ref().and_then(|it| it.frozen_us) {
        return format!("frozen {}", micros(frozen));
    }
    if let Some(restore) = job.restore {
        return format!("process {} in {}", restore.pid, micros(restore.total_us));
    }
    let found = job.verified.as_ref();
    found.map(|it| format!("{} files, {}", it.files, bytes(it.bytes))).unwrap_or_default()
}

fn job_rows(jobs: &[Job]) -> Markup {
    html! {
        table {
            thead { tr { th { "Job" } th { "Directory" } th { "State" } th { "Came of it" } th.number { "Begun" } th { "By" } } }
            tbody {
                @for job in jobs {
                    tr {
                        td { a href={ "/jobs/" (job.id) } { (what(job)) } }
                        td { (job.directory) }
                        td { (state(job)) }
                        td.command title=(came_of(job)) { (came_of(job)) }
                        td.number data-name="Begun" { (ago(job.created_ms)) }
                        td.dim { (job.asked_by) }
                    }
                }
            }
        }
        @if jobs.is_empty() { p.dim { "None." } }
    }
}

pub(super) fn jobs(asker: &Asker, list: &JobList, query: &str) -> Markup {
    let rows = html! {
        (job_rows(&list.jobs))
        @if let Some(next) = &list.next { p { a.button href=(asked("/jobs", &with_cursor(query, next))) { "More" } } }
    };
    page(Some(asker), "/jobs", "Jobs", &live("jobs", &asked("/jobs", query), "", &rows))
}

pub(super) fn job(asker: &Asker, job: &Job) -> Markup {
    let told = html! {
        div.card {
            dl {
                dt { "State" } dd { (state(job)) @if job.found_again { span.dim { ", found again by a gateway that was started since" } } }
                @if job.kind == JobKind::DryRun {
                    dt { "Dry run" } dd { "Nothing was written, and the tree runs on." }
                } @else {
                    dt { "Directory" } dd {
                        @if job.pids.is_empty() && (job.kind != JobKind::Checkpoint || job.state == JobState::Done) {
                            a href={ "/checkpoints/" (job.directory) } { (job.directory) }
                        } @else { (job.directory) }
                    }
                }
                @if let Some(pid) = job.pid { dt { "Process" } dd { (pid) } }
                @for pid in &job.pids {
                    dt { "Process" } dd {
                        @if job.kind == JobKind::Checkpoint && job.state == JobState::Done {
                            a href={ "/checkpoints/" (job.directory) "/" (pid) } { (pid) }
                        } @else { (pid) }
                        @if let Some(one) = job.together.iter().flat_map(|it| &it.checkpoints).find(|one| one.pid == *pid) {
                            ", frozen " (micros(one.dump.frozen_us)) ", " (bytes(one.dump.image_bytes))
                        }
                    }
                }
                @if let Some(together) = &job.together { dt { "Frozen" } dd { (micros(together.frozen_us)) ", from the first stop until all ran on or were ended" } }
                @if let Some(progress) = &job.progress {
                    dt { "Step" } dd {
                        (progress.step) " "
                        @if let Some(total) = progress.total_bytes {
                            progress value=(progress.done_bytes) max=(total.max(1)) {}
                            " " (bytes(progress.done_bytes)) " of " (bytes(total))
                        }
                    }
                }
                dt { "Begun" } dd { (ago(job.created_ms)) " by " (job.asked_by) }
                @if let Some(dump) = &job.dump {
                    dt { "Frozen" } dd { (micros(dump.frozen_us)) " of " (micros(dump.total_us)) }
                    dt { "Processes" } dd { (dump.processes) ", " (dump.threads) " threads" }
                    dt { "Size" } dd { (bytes(dump.image_bytes)) }
                    @for warning in &dump.warnings { dt { "Note" } dd { (warning) } }
                }
                @for warning in job.checkpointed.iter().flat_map(|it| &it.warnings) { dt { "Note" } dd { (warning) } }
                @if let Some(restore) = job.restore {
                    dt { "Restored" } dd { "process " (restore.pid) " and all of its tree, " (restore.processes) " in all, in " (micros(restore.total_us)) }
                }
                @if let Some(command) = job.checkpointed.as_ref().and_then(|it| it.restore.as_ref()) {
                    dt { "It comes back by" } dd { code { (command) } }
                }
                @if let Some(found) = &job.verified {
                    dt { "Compared" } dd { (found.files) " files, " (bytes(found.bytes)) }
                    @for damage in &found.damages { dt.bad { (damage.path) } dd { (damage.what) } }
                    @for path in &found.in_part { dt { (path) } dd { "compared in part alone" } }
                    @for path in &found.without_manifest { dt { (path) } dd { "there is no manifest to compare with" } }
                }
            }
        }
        @if !job.state.is_over() && job.cancelled_by.is_none() {
            form.inline method="post" action="/do/cancel" {
                input type="hidden" name="id" value=(job.id);
                button { "Cancel" }
            }
        }
        @if let Some(error) = &job.error { (problem(error)) }
    };
    page(Some(asker), "/jobs", &what(job), &live("job", &format!("/jobs/{}", job.id), "", &told))
}

pub(super) fn new(asker: &Asker, pid: Option<i32>, container: Option<&str>) -> Markup {
    let of = match (pid, container) {
        (_, Some(name)) => format!("Checkpoint of container {name}"),
        (Some(pid), None) => format!("Checkpoint of {pid}"),
        (None, None) => "Checkpoint".to_owned(),
    };
    page(
        Some(asker),
        "/",
        &of,
        &html! {
            form.card method="post" action="/do/checkpoint" {
                div.fields {
                    @match container {
                        Some(name) => input type="hidden" name="container" value=(name);,
                        None => { label for="pid" { "Process" } input #pid type="number" name="pid" min="1" required value=[pid]; }
                    }
                    @if container.is_none() {
                        label for="with" { "Together with" }
                        input #with type="text" name="with" placeholder="other processes in the same frozen moment: 812, 930";
                    }
                    span { "Afterwards it" }
                    span {
                        label { input type="radio" name="after" value="on" required; " runs on" }
                        " "
                        label { input type="radio" name="after" value="end"; " is ended, once its images are safe" }
                        " "
                        label { input type="radio" name="after" value="try"; " runs on, and there is no checkpoint: a dry run, to see what it would cost" }
                    }
                    label for="directory" { "Directory" }
                    input #directory type="text" name="directory" placeholder="made up, if it is empty";
                    label for="labels" { "Labels" }
                    input #labels type="text" name="labels" placeholder="app=web,tier=1";
                    @if container.is_none() {
                        label for="budget" { "Frozen for at most" }
                        span { input #budget type="number" name="max_freeze_ms" min="1"; " ms" }
                    }
                    span { "It may have" }
                    span {
                        label { input type="checkbox" name="shell_job"; " a terminal or session of outside" } br;
                        label { input type="checkbox" name="tcp_established"; " TCP connections to outside" }
                        @if container.is_none() { br; label { input type="checkbox" name="link_remap"; " files that have lost their names" } }
                    }
                }
                p { button.first { "Checkpoint" } " " a.button href="/" { "Back" } }
            }
        },
    )
}

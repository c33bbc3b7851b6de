//! The pages of what is in checkpoints: process tree, files, sockets, memory as a picture; two compared.

use api::{
    CheckpointContents, CheckpointList, CheckpointSummary, Comparison, ComparisonQuery,
    ContentsMapping, ContentsProcess, FileWords, MappingChange, PageChanges, Presence,
};
use axum::extract::{Path, Query, State};
use maud::{Markup, html};

use super::Failed;
use super::units::{bytes, micros};
use super::views::page;
use crate::callers::Asker;
use crate::contents::{compare, inside};
use crate::gateway::Gateway;

/// Descriptors and mappings of a process, and changes, that are shown; the API tells more.
const SHOWN: usize = 200;
/// Processes whose memory is drawn.
const DRAWN: usize = 50;
/// What mappings are drawn as: the class of the style sheet, and what it says in the legend.
const KINDS: [(&str, &str); 8] = [
    ("map-code", "program code"),
    ("map-file", "private file"),
    ("map-written", "shared file"),
    ("map-heap", "heap"),
    ("map-stack", "stack"),
    ("map-anonymous", "anonymous"),
    ("map-shared", "shared memory"),
    ("map-kernel", "of the kernel, and others"),
];

pub(super) async fn contents(
    State(gateway): State<Gateway>,
    asker: Asker,
    Path(name): Path<String>,
) -> Result<Markup, Failed> {
    let found = inside(&gateway, &asker, &name).await?;
    Ok(page(Some(&asker), "/checkpoints", &format!("In {}", found.directory), &whole(&found)))
}

pub(super) async fn comparison(
    State(gateway): State<Gateway>,
    asker: Asker,
    Query(asked): Query<ComparisonQuery>,
) -> Result<Markup, Failed> {
    let found = compare(&gateway, &asker, &asked).await?;
    Ok(page(
        Some(&asker),
        "/checkpoints",
        &format!("From {} to {}", asked.before, asked.after),
        &compared(&found),
    ))
}

/// Other checkpoints of a tree with the same root, to compare one with.
pub(super) async fn others(
    gateway: &Gateway,
    asker: &Asker,
    of: &CheckpointSummary,
) -> Result<CheckpointList, Failed> {
    // Of whom it is is not known.
    if of.encrypted {
        return Ok(CheckpointList::default());
    }
    let query = format!("pid={}&limit=100", of.pid);
    let mut list = crate::checkpoints::list(gateway, asker, Some(query)).await?;
    list.checkpoints.retain(|it| it.directory != of.directory);
    list.checkpoints.sort_by_key(|it| std::cmp::Reverse(it.created_ms));
    Ok(list)
}

/// What the page of a checkpoint has of it: a choice of others to compare it with, and its contents as soon as they are read.
pub(super) fn part(of: &CheckpointSummary, others: &CheckpointList) -> Markup {
    let path = format!("/contents/{}", of.directory);
    html! {
        @if !others.checkpoints.is_empty() {
            form.card.search method="get" action="/comparisons" {
                input type="hidden" name="after" value=(of.directory);
                label { "With "
                    select name="before" {
                        @for it in &others.checkpoints { option value=(it.directory) { (it.directory) } }
                    }
                }
                button #compare { "Compare" }
            }
        }
        h2 { "What is inside" }
        // Reading images takes its time, which nothing else of the page waits for.
        div #inside hx-get=(path) hx-trigger="load" hx-select="#inside" hx-target="this" hx-swap="outerHTML" {
            p { a href=(path) { "Processes, memory and files" } }
        }
    }
}

fn whole(it: &CheckpointContents) -> Markup {
    html! {
        div #inside {
            (tree(it))
            (memory(it))
            h2 { "Files and sockets" }
            p.dim {
                @for (kind, number) in &it.files { (kind) " ×" (number) " " }
                @if it.queued_bytes > 0 { "· " (bytes(it.queued_bytes)) " waiting in pipes and sockets" }
            }
            @for process in it.processes.iter().filter(|process| !process.files.is_empty()) { (files(process)) }
            @for ghost in &it.ghosts { p { "Deleted, and its contents stored: " (ghost.path) " (" (bytes(ghost.bytes)) ")" } }
            (more(0, it.left_out.ghosts, "deleted files"))
        }
    }
}

/// How many rows of a list are not shown.
fn more(told: usize, left_out: u64, what: &str) -> Markup {
    let left = left_out.saturating_add(told.saturating_sub(SHOWN) as u64);
    html! { @if left > 0 { p.dim { "And " (left) " more " (what) "." } } }
}

/// The processes, each with how deep it lies below the root. Parents come before their children.
fn depths(processes: &[ContentsProcess]) -> Vec<(usize, &ContentsProcess)> {
    let places: std::collections::BTreeMap<u32, usize> =
        processes.iter().enumerate().rev().map(|(at, it)| (it.pid, at)).collect();
    let mut children = vec![Vec::new(); processes.len()];
    let mut stack = Vec::new();
    for (at, process) in processes.iter().enumerate().rev() {
        match places.get(&process.ppid) {
            Some(parent) if *parent < at => children[*parent].push(at),
            _ => stack.push((0, at)),
        }
    }
    let mut found = Vec::new();
    // A stack instead of recursion: the depth of the tree is the image's choice.
    while let Some((depth, at)) = stack.pop() {
        found.push((depth, &processes[at]));
        stack.extend(children[at].iter().map(|child| (depth + 1, *child)));
    }
    found
}

fn tree(it: &CheckpointContents) -> Markup {
    html! {
        table.tree {
            thead { tr {
                th { "Process" } th { "Program" } th { "State" } th.number { "User" } th.number { "Threads" }
                th.number { "Mapped" } th.number { "Stored" }
            } }
            tbody {
                @for (depth, process) in depths(&it.processes) {
                    tr {
                        td {
                            @for _ in 0..depth.min(12) { span.deeper {} }
                            strong { (process.comm) } span.dim { " " (process.pid) }
                        }
                        td.command.dim title=[process.directory.as_ref().map(|it| format!("in {it}"))] {
                            (process.program.as_deref().unwrap_or_default())
                        }
                        td { (process.state) }
                        td.number data-name="User" { @if let Some(uid) = process.uid { (uid) } }
                        td.number data-name="Threads" { (process.threads.len() as u64 + process.left_out.threads) }
                        td.number data-name="Mapped" {
                            @match process.memory_of {
                                Some(lender) => { "that of " (lender) },
                                None => (bytes(process.memory.mapped_bytes)),
                            }
                        }
                        td.number data-name="Stored" { (bytes(process.memory.stored_bytes)) }
                    }
                }
            }
        }
        (more(0, it.left_out.processes, "processes"))
    }
}

fn class(mapping: &ContentsMapping) -> &'static str {
    match mapping.kind.as_str() {
        "private file" if mapping.permissions.contains('x') => "map-code",
        "private file" => "map-file",
        "shared file" => "map-written",
        "heap" => "map-heap",
        "stack" | "shadow stack" => "map-stack",
        "anonymous" | "huge pages" => "map-anonymous",
        "shared anonymous" | "System V segment" => "map-shared",
        _ => "map-kernel",
    }
}

fn memory(it: &CheckpointContents) -> Markup {
    let drawn: Vec<_> = it.processes.iter().filter(|process| !process.map.is_empty()).collect();
    let is_drawn = |kind: &str| drawn.iter().flat_map(|it| &it.map).any(|it| class(it) == kind);
    html! {
        h2 { "Memory" }
        p.dim {
            (bytes(it.memory.mapped_bytes)) " in " (it.memory.mappings) " mappings, "
            (bytes(it.memory.stored_bytes)) " stored"
            @if it.memory.parent_pages > 0 { ", " (it.memory.parent_pages) " pages in the parent" }
            ". By rising address; the widths grow with the logarithm of the sizes, and the bar below shows how much is stored, here or in the parent."
        }
        p.legend {
            @for (class, name) in KINDS.iter().filter(|(kind, _)| is_drawn(kind)) {
                span { svg.swatch viewBox="0 0 10 10" aria-hidden="true" { rect class=(*class) width="10" height="10" {} } " " (name) }
            }
            @for (class, name) in [("map-stored", "stored here"), ("map-parent", "in the parent, or copied early")] {
                span { svg.swatch viewBox="0 0 10 10" aria-hidden="true" { rect class=(class) width="10" height="10" {} } " " (name) }
            }
        }
        @for process in drawn.iter().take(DRAWN) { (strip(process)) }
        @if drawn.len() > DRAWN { p.dim { "And the memory of " (drawn.len() - DRAWN) " more processes." } }
    }
}

/// How wide a mapping is drawn.
fn width(mapping: &ContentsMapping) -> u64 {
    4 + 3 * u64::from((mapping.bytes / 4096).max(1).ilog2())
}

/// The memory of a process, and its mappings as a list.
fn strip(process: &ContentsProcess) -> Markup {
    let whole: u64 = process.map.iter().map(width).sum();
    let mut at = 0;
    let placed: Vec<_> = process
        .map
        .iter()
        .map(|mapping| {
            let start = at;
            at += width(mapping);
            (start, width(mapping), mapping)
        })
        .collect();
    html! {
        div.card {
            p { strong { (process.comm) } span.dim { " " (process.pid) } }
            svg.map viewBox={ "0 0 " (whole) " 30" } preserveAspectRatio="none" role="img" {
                title { "Memory of process " (process.pid) }
                @for (x, width, mapping) in placed {
                    g {
                        title { (in_words(mapping)) }
                        rect class=(class(mapping)) x=(x) y="0" width=(width) height="20" {}
                        @let (stored, parent) = shares(mapping, width);
                        @if stored > 0 { rect.map-stored x=(x) y="23" width=(stored) height="7" {} }
                        @if parent > 0 { rect.map-parent x=(x + stored) y="23" width=(parent) height="7" {} }
                    }
                }
            }
            details {
                summary.dim { (process.map.len() as u64 + process.left_out.map) " mappings" }
                table {
                    thead { tr { th { "Place" } th { "May" } th { "Kind" } th { "File" } th.number { "Size" } th.number { "Stored" } th.number { "Parent" } } }
                    tbody {
                        @for mapping in process.map.iter().take(SHOWN) {
                            tr {
                                td { code { (mapping.place) } }
                                td { code { (mapping.permissions) } }
                                td { (mapping.kind) }
                                td.command title=[mapping.file.as_ref()] { (mapping.file.as_deref().unwrap_or_default()) }
                                td.number data-name="Size" { (bytes(mapping.bytes)) }
                                td.number data-name="Stored" { (mapping.stored_pages) }
                                td.number data-name="Parent" { (mapping.parent_pages) }
                            }
                        }
                    }
                }
                (more(process.map.len(), process.left_out.map, "mappings"))
            }
        }
    }
}

/// How much of a mapping's width its stored pages are, and those in the parent: what is there is seen.
fn shares(mapping: &ContentsMapping, width: u64) -> (u64, u64) {
    let all = (mapping.bytes / 4096).max(1);
    let share = |pages: u64| match pages {
        0 => 0,
        pages => (u128::from(pages.min(all)) * u128::from(width) / u128::from(all)).max(1) as u64,
    };
    let stored = share(mapping.stored_pages).min(width);
    (stored, share(mapping.parent_pages).min(width - stored))
}

fn in_words(mapping: &ContentsMapping) -> String {
    let ContentsMapping { place, permissions, kind, stored_pages, parent_pages, .. } = mapping;
    let file = mapping.file.as_ref().map(|file| format!(" {file}")).unwrap_or_default();
    let size = bytes(mapping.bytes);
    format!(
        "{place} {permissions}{file} ({kind}), {size}: {stored_pages} pages stored, {parent_pages} in the parent, {} in neither",
        mapping.absent_pages
    )
}

fn files(process: &ContentsProcess) -> Markup {
    html! {
        details.card open[process.ppid == 0] {
            summary { strong { (process.comm) } span.dim { " " (process.pid) ", " (process.files.len() as u64 + process.left_out.files) " descriptors" } }
            table {
                thead { tr { th.number { "Descriptor" } th { "Kind" } th { "What" } th { "" } } }
                tbody {
                    @for file in process.files.iter().take(SHOWN) {
                        tr {
                            td.number data-name="Descriptor" { (file.fd) }
                            td { (file.kind) }
                            td { (file.what) }
                            td.dim { @if file.close_on_exec { "closed on exec" } }
                        }
                    }
                }
            }
            (more(process.files.len(), process.left_out.files, "descriptors"))
        }
    }
}

fn compared(it: &Comparison) -> Markup {
    html! {
        div.card {
            dl {
                @for one in [&it.before, &it.after] {
                    dt { a href={ "/checkpoints/" (one.directory) } { (one.directory) } }
                    dd {
                        (one.processes) " processes, " (one.threads) " threads, " (bytes(one.stored_bytes)) " of memory stored, "
                        (bytes(one.image_bytes)) " of images"
                        @if let Some(frozen) = one.frozen_us { ", frozen for " (micros(frozen)) }
                    }
                }
            }
            @if it.same { p.good { "Tasks, memory and files are the same." } }
        }
        @let tasks = &it.tasks;
        @if !(tasks.came.is_empty() && tasks.went.is_empty() && tasks.changed.is_empty()) {
            h2 { "Tasks" }
            table { tbody {
                @for task in tasks.went.iter().take(SHOWN) { tr { td.bad { "went" } td { (task.comm) " " (task.task) } td {} } }
                @for task in tasks.came.iter().take(SHOWN) { tr { td.good { "came" } td { (task.comm) " " (task.task) } td {} } }
                @for it in tasks.changed.iter().take(SHOWN) {
                    tr { td.busy { "changed" } td { (it.of.comm) " " (it.of.task) } td { (it.what) ": " (it.before) " → " (it.after) } }
                }
            } }
            (more(tasks.came.len().max(tasks.went.len()).max(tasks.changed.len()), tasks.left_out, "tasks"))
        }
        @if !it.memory.mappings.is_empty() {
            h2 { "Memory" }
            p.dim { (pages(&it.memory.total)) }
            table {
                thead { tr { th { "" } th.number { "Process" } th { "Place" } th { "Kind" } th { "File" } th { "Pages" } } }
                tbody { @for row in it.memory.mappings.iter().take(SHOWN) { (mapping(row)) } }
            }
            (more(it.memory.mappings.len(), it.memory.left_out, "mappings"))
        }
        @let files = &it.files;
        @if !(files.opened.is_empty() && files.closed.is_empty() && files.changed.is_empty()) {
            h2 { "Files" }
            table { tbody {
                @for it in files.closed.iter().take(SHOWN) { tr { td.bad { "closed" } td.number { (it.process) ":" (it.descriptor) } td { (words(&it.file)) } } }
                @for it in files.opened.iter().take(SHOWN) { tr { td.good { "opened" } td.number { (it.process) ":" (it.descriptor) } td { (words(&it.file)) } } }
                @for it in files.changed.iter().take(SHOWN) {
                    tr { td.busy { "changed" } td.number { (it.process) ":" (it.descriptor) } td { (words(&it.before)) " → " (words(&it.after)) } }
                }
            } }
            (more(files.opened.len().max(files.closed.len()).max(files.changed.len()), files.left_out, "descriptors"))
        }
    }
}

fn mapping(row: &MappingChange) -> Markup {
    html! {
        tr {
            @match row.presence {
                Presence::Both => td.busy { "changed" },
                Presence::Before => td.bad { "went" },
                Presence::After => td.good { "came" },
            }
            td.number data-name="Process" { @if let Some(process) = row.process { (process) } }
            td { code { (row.place) } }
            td { (row.kind) }
            td.command title=[row.file.as_ref()] { (row.file.as_deref().unwrap_or_default()) }
            td { (pages(&row.pages)) }
        }
    }
}

fn words(file: &FileWords) -> String {
    format!("{} {}", file.kind, file.what)
}

fn pages(pages: &PageChanges) -> String {
    let kinds = pages.kinds();
    let said = kinds.iter().filter(|(_, count)| count.pages > 0);
    let said = said.map(|(what, count)| format!("{} {what}", count.pages));
    said.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_is_bounded_whatever_the_sizes_are() {
        let huge = ContentsMapping {
            bytes: u64::MAX,
            stored_pages: u64::MAX,
            parent_pages: u64::MAX,
            ..ContentsMapping::default()
        };
        let small = ContentsMapping { bytes: 4096, stored_pages: 1, ..ContentsMapping::default() };
        for mapping in [&huge, &small, &ContentsMapping::default()] {
            let width = width(mapping);
            let (stored, parent) = shares(mapping, width);
            assert!(width < 200 && stored + parent <= width, "{width} {stored} {parent}");
        }
        assert_eq!(shares(&small, 4), (4, 0));
    }

    #[test]
    fn a_tree_is_told_from_its_root_down() {
        let process = |pid, ppid| ContentsProcess { pid, ppid, ..ContentsProcess::default() };
        let tree = [process(1, 0), process(2, 1), process(3, 1), process(4, 2), process(9, 9)];
        let found: Vec<_> = depths(&tree).iter().map(|(depth, it)| (*depth, it.pid)).collect();
        assert_eq!(found.len(), 5);
        for line in [(0, 1), (1, 2), (1, 3), (2, 4), (0, 9)] {
            assert!(found.contains(&line), "{found:?}");
        }
        assert!(found.iter().position(|it| it.1 == 4) > found.iter().position(|it| it.1 == 2));
    }
}

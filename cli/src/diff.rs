//! `stasis diff`: what differs between two checkpoints.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use api::{
    ChangedFile, ChangedTask, ComparedCheckpoint, ComparedFile, ComparedTask, Comparison,
    FileChanges, FileWords, MappingChange, MemoryChanges, PageChanges, Presence, TaskChanges,
};
use criu::Failure;
use images::Images;
use service::DemandSettings;
use services::access::access;

use crate::args::DiffOptions;
use crate::progress::{bytes, count, time};
use crate::restore::no_keys;
use crate::show::explain;
use crate::voice::{BAD, GOOD, NOTABLE, STRONG, Voice, in_style};

/// Of each list so many are shown; `--json` has more.
const SHOWN: usize = 40;

pub(crate) fn run(options: &DiffOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let access = access(None, &options.identities, DemandSettings::default()).map_err(no_keys)?;
    let open = |directory: &Path| Images::open_as(directory, &access).map_err(explain);
    let (before, after) = (open(&options.before)?, open(&options.after)?);
    let found = catalog::compare(&before, &after).map_err(explain)?;
    tell(&found, voice)
}

/// Tells what differs.
pub(crate) fn tell(found: &Comparison, voice: Voice) -> Result<ExitCode, Failure> {
    voice.print(found, || text(found))?;
    Ok(ExitCode::SUCCESS)
}

/// The comparison, for people.
fn text(found: &Comparison) -> String {
    let head = |sign: &str, one| in_style(STRONG, &format!("{sign} {}", line(one)));
    let mut text = format!("{}\n{}\n", head("---", &found.before), head("+++", &found.after));
    if found.same {
        text += "tasks, memory and files are the same\n";
        return text;
    }
    tasks(&found.tasks, &mut text);
    memory(&found.memory, &mut text);
    files(&found.files, &mut text);
    text
}

/// A checkpoint in a line.
fn line(one: &ComparedCheckpoint) -> String {
    let frozen = one.frozen_us.map(|micros| time(Duration::from_micros(micros)));
    let frozen = frozen.map(|time| format!(", frozen for {time}")).unwrap_or_default();
    let parent = match one.parent_bytes {
        0 => String::new(),
        left => format!(", {} in its parents", bytes(left)),
    };
    let queued = match one.queued_bytes {
        0 => String::new(),
        queued => format!(", {} waiting in pipes and sockets", bytes(queued)),
    };
    format!(
        "{}: {}, {}, {} of memory stored{parent}{queued}, {} of images{frozen}",
        one.directory,
        counted(one.processes, "process"),
        counted(one.threads, "thread"),
        bytes(one.stored_bytes),
        bytes(one.image_bytes),
    )
}

fn counted(number: u64, noun: &str) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), noun)
}

/// Lines of a list, as many as are shown; how many more there are.
fn some<T>(text: &mut String, list: &[T], line: impl Fn(&T) -> String) -> u64 {
    for one in list.iter().take(SHOWN) {
        let line = line(one);
        let style = match line.as_bytes().first() {
            Some(b'+') => GOOD,
            Some(b'-') => BAD,
            _ => NOTABLE,
        };
        *text += &format!("  {}\n", in_style(style, &line));
    }
    list.len().saturating_sub(SHOWN) as u64
}

fn more(text: &mut String, number: u64, what: &str) {
    if number > 0 {
        *text += &format!("  and {number} more {what}, of which --json lists the first 1000\n");
    }
}

fn tasks(tasks: &TaskChanges, text: &mut String) {
    if tasks.came.is_empty() && tasks.went.is_empty() && tasks.changed.is_empty() {
        return;
    }
    *text += "\nTasks\n";
    let left = some(text, &tasks.went, |it| format!("- {}", task(it)))
        + some(text, &tasks.came, |it| format!("+ {}", task(it)))
        + some(text, &tasks.changed, |ChangedTask { of, what, before, after }| {
            format!("~ {}: {what} {} → {}", task(of), said(before), said(after))
        });
    more(text, left + tasks.left_out, "tasks");
}

fn said(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn task(task: &ComparedTask) -> String {
    match task.task == task.process {
        true => format!("process {} ({})", task.process, task.comm),
        false => format!("thread {} of process {} ({})", task.task, task.process, task.comm),
    }
}

fn memory(memory: &MemoryChanges, text: &mut String) {
    if memory.mappings.is_empty() {
        return;
    }
    *text += &format!("\nMemory: {}\n", pages(&memory.total));
    let left = some(text, &memory.mappings, mapping);
    more(text, left + memory.left_out, "mappings");
}

fn mapping(row: &MappingChange) -> String {
    let sign = match row.presence {
        Presence::Both => '~',
        Presence::Before => '-',
        Presence::After => '+',
    };
    let whose = row.process.map(|process| format!("process {process} ")).unwrap_or_default();
    let file = row.file.as_ref().map(|file| format!(" {file}")).unwrap_or_default();
    let size = match row.presence {
        Presence::Both if row.before_bytes != row.after_bytes => {
            format!(" ({} → {})", bytes(row.before_bytes), bytes(row.after_bytes))
        }
        _ => format!(" ({})", bytes(row.before_bytes.max(row.after_bytes))),
    };
    format!("{sign} {whose}{} {}{file}{size}: {}", row.kind, row.place, pages(&row.pages))
}

/// What has become of pages, those that are the same last.
fn pages(pages: &PageChanges) -> String {
    let said: Vec<_> = pages
        .kinds()
        .iter()
        .filter(|(_, count)| count.pages > 0)
        .map(|(what, pages)| {
            format!("{} {what} ({})", counted(pages.pages, "page"), bytes(pages.bytes))
        })
        .collect();
    if said.is_empty() { "no pages".to_owned() } else { said.join(", ") }
}

fn files(files: &FileChanges, text: &mut String) {
    if files.opened.is_empty() && files.closed.is_empty() && files.changed.is_empty() {
        return;
    }
    let kinds = files.kinds.iter().filter(|(_, kinds)| kinds.before != kinds.after);
    let kinds: Vec<_> =
        kinds.map(|(kind, of)| format!("{kind} {} → {}", of.before, of.after)).collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(": {}", kinds.join(", ")) };
    *text += &format!("\nFiles{kinds}\n");
    let left = some(text, &files.closed, |it| format!("- {}", descriptor(it)))
        + some(text, &files.opened, |it| format!("+ {}", descriptor(it)))
        + some(text, &files.changed, |ChangedFile { process, descriptor, before, after }| {
            let after = match before.kind == after.kind {
                true => after.what.clone(),
                false => words(after),
            };
            format!("~ process {process}, descriptor {descriptor}: {} → {after}", words(before))
        });
    more(text, left + files.left_out, "descriptors");
}

fn descriptor(ComparedFile { process, descriptor, file }: &ComparedFile) -> String {
    format!("process {process}, descriptor {descriptor}: {}", words(file))
}

fn words(file: &FileWords) -> String {
    format!("{} {}", file.kind, file.what).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn compared(before: &str, after: &str) -> String {
        let sets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/criu-4.2");
        let open = |name: &str| Images::open(&sets.join(name)).unwrap();
        let shown = text(&catalog::compare(&open(before), &open(after)).unwrap());
        anstream::adapter::strip_str(&shown).to_string()
    }

    #[test]
    fn what_is_the_same_is_said_in_a_line() {
        let shown = compared("busy", "busy");
        let lines: Vec<_> = shown.lines().collect();
        assert!(lines[0].starts_with("--- ") && lines[1].starts_with("+++ "), "{shown}");
        assert_eq!(lines[2..], ["tasks, memory and files are the same"]);
    }

    #[test]
    fn what_differs_is_said_by_tasks_memory_and_files() {
        let shown = compared("minimal", "busy");
        for part in
            ["\nTasks\n", "\nMemory: ", "\nFiles", "  + process ", " added (", "tcp socket 0 →"]
        {
            assert!(shown.contains(part), "{part} is not in\n{shown}");
        }
    }
}

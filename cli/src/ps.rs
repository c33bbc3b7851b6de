//! `stasis ps`: what runs, what of it can be dumped, and what speaks against it.

use std::fmt::Write;
use std::process::ExitCode;

use api::{ProcessList, ProcessSummary, Unsupported, said};
use dumper::ps;

use crate::args::PsOptions;
use crate::progress::bytes;
use crate::voice::Voice;
use criu::Failure;

pub(crate) fn run(options: &PsOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let list = ps::list(&options.programs.home(), None)?;
    voice.print(&list, || text(&list, options.all))?;
    Ok(ExitCode::SUCCESS)
}

/// How many things that speak against a process are shown.
const SHOWN: usize = 3;
/// Where they begin.
const INDENT: usize = 31;

/// Threads of the kernel's have no command line and no memory; nor have zombies.
fn has_program(process: &ProcessSummary) -> bool {
    !process.command.is_empty() || process.memory_bytes > 0
}

/// The list, for people.
pub(crate) fn text(list: &ProcessList, all: bool) -> String {
    let mut text =
        format!("{:>8} {:>7} {:>11}  {:<4}  COMMAND\n", "PID", "THREADS", "MEMORY", "DUMP");
    for process in list.processes.iter().filter(|process| all || has_program(process)) {
        let dump = if process.dumpable { "yes" } else { "no" };
        let memory = bytes(process.memory_bytes);
        // Writing to a string cannot fail.
        let (pid, threads, command) = (process.pid, process.threads, printable(process));
        writeln!(text, "{pid:>8} {threads:>7} {memory:>11}  {dump:<4}  {command}")
            .unwrap_or_default();
        text += &reasons(&process.refusals);
    }
    text
}

/// What speaks against one, below its line.
pub(crate) fn reasons(refusals: &[Unsupported]) -> String {
    let all = said(refusals);
    let mut text = String::new();
    for reason in all.lines().take(SHOWN) {
        text += &format!("{:>INDENT$}{reason}\n", "");
    }
    let more = all.lines().count().saturating_sub(SHOWN);
    if more > 0 {
        text += &format!("{:>INDENT$}and {more} more, which --json lists\n", "");
    }
    text
}

/// The command line, or the name in brackets as ps(1) has it, in at most 60 characters.
fn printable(process: &ProcessSummary) -> String {
    let command = match process.command.is_empty() {
        true => format!("[{}]", process.comm),
        false => process.command.clone(),
    };
    let command = plain(&command);
    match command.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &command[..end]),
        None => command,
    }
}

/// Text of others, which must not drive the terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(number: i32, command: &str) -> ProcessSummary {
        ProcessSummary {
            cgroup: None,
            pid: number,
            ppid: 1,
            comm: "name".into(),
            command: command.into(),
            uid: 0,
            threads: 2,
            memory_bytes: if command.is_empty() { 0 } else { 4 << 20 },
            dumpable: true,
            refusals: Vec::new(),
        }
    }

    #[test]
    fn refusals_stand_below_their_process() {
        let mut refused = process(7, "redis-server\x1b[2J *:6379");
        refused.dumpable = false;
        refused.refusals.push(support::files::MEMFD_NAME.of(7, "descriptor 5"));
        let list = ProcessList {
            processes: vec![refused, process(8, ""), process(9, "x y")],
            ..ProcessList::default()
        };
        let shown = text(&list, false);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[0], "     PID THREADS      MEMORY  DUMP  COMMAND");
        assert_eq!(lines[1], "       7       2    4.00 MiB  no    redis-server [2J *:6379");
        assert_eq!(
            lines[2].trim(),
            "process 7, descriptor 5: a memfd called /dev/zero or /anon_hugepage looks like shared anonymous memory in \
             the images; have the program make it (memfd_create) under another name"
        );
        assert_eq!(lines[3], "       9       2    4.00 MiB  yes   x y");
        assert_eq!(lines.len(), 4);
        assert!(text(&list, true).contains("[name]"));
    }

    #[test]
    fn long_commands_are_cut_between_characters() {
        let cut = printable(&process(7, &"ä".repeat(100)));
        assert_eq!(cut.chars().count(), 61);
    }
}

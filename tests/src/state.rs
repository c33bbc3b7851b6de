//! The table of all that the kernel keeps of a task, `docs/state.tsv`: one line for each field of its
//! structures and for each call that sets something. Columns, with a tab between: structure (or
//! `prctl`, `call`), field, verdict, group, and how it is carried, what is refused or why it has no
//! effect. `docs/state.md` is made from it.

use std::collections::BTreeMap;

/// The table.
pub const TABLE: &str = include_str!("../../docs/state.tsv");

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It comes back as it was.
    Carried,
    /// A task that has it is refused.
    Refused,
    /// It is left behind without a word: a fault that is known.
    Lost,
    /// Losing it changes nothing for the program.
    NoEffect,
}

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The kernel's structure; `prctl` and `call` for calls.
    pub structure: &'a str,
    /// The field, or the call.
    pub field: &'a str,
    /// What becomes of it.
    pub verdict: Verdict,
    /// What it belongs to.
    pub group: &'a str,
    /// How, or why.
    pub why: &'a str,
}

/// Takes a table apart.
///
/// # Errors
/// Says which line is none.
pub fn parse(table: &str) -> Result<Vec<Line<'_>>, String> {
    table.lines().skip(1).map(|line| one(line).ok_or_else(|| format!("no line: {line}"))).collect()
}

fn one(line: &str) -> Option<Line<'_>> {
    let columns: Vec<&str> = line.split('\t').collect();
    let &[structure, field, verdict, group, why] = columns.as_slice() else { return None };
    let verdict = match verdict {
        "carried" => Verdict::Carried,
        "refused" => Verdict::Refused,
        "lost" => Verdict::Lost,
        "no effect" => Verdict::NoEffect,
        _ => return None,
    };
    let filled = columns.iter().all(|column| !column.trim().is_empty());
    filled.then_some(Line { structure, field, verdict, group, why })
}

const HEAD: &str = "\
# What the kernel keeps of a task, and what becomes of it

Made from [state.tsv](state.tsv) by `make docs-state`; a test holds the two, and the table against the structures of the running kernel. The
table also has what is left out here: fields whose loss changes nothing for a program, each with the reason. Fields are those of Linux 6.18;
numbers are those of our extensions in the [images](images.md). What is refused by the kernel's structures is seen by eBPF; without it a dump says what it could not see.

";

/// The page for people: what is carried, what is refused, and what is known to be lost, by groups.
#[must_use]
pub fn page(lines: &[Line<'_>]) -> String {
    let mut groups: BTreeMap<&str, [Vec<&Line<'_>>; 3]> = BTreeMap::new();
    for line in lines {
        let place = match line.verdict {
            Verdict::Carried => 0,
            Verdict::Refused => 1,
            Verdict::Lost => 2,
            Verdict::NoEffect => continue,
        };
        groups.entry(line.group).or_default()[place].push(line);
    }
    let mut text = HEAD.to_owned();
    for (group, [carried, refused, lost]) in &groups {
        text += &format!("## {group}\n\n| | what | where the kernel keeps it |\n|---|---|---|\n");
        for (verdict, lines) in [("carried", carried), ("**refused**", refused), ("**lost**", lost)]
        {
            for (why, fields) in by_reason(lines) {
                text += &format!("| {verdict} | {why} | {fields} |\n");
            }
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Lines of the same reason are one, in the order of their first fields.
fn by_reason<'a>(lines: &[&Line<'a>]) -> Vec<(&'a str, String)> {
    let mut reasons: Vec<(&str, String)> = Vec::new();
    for line in lines {
        let name = match line.structure {
            "prctl" | "call" => format!("`{}`", line.field),
            structure => format!("`{structure}.{}`", line.field),
        };
        match reasons.iter_mut().find(|(why, _)| *why == line.why) {
            Some((_, fields)) => {
                fields.push_str(", ");
                fields.push_str(&name);
            }
            None => reasons.push((line.why, name)),
        }
    }
    reasons
}

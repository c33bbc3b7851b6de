//! What a rule gives: why something is not carried, and what has it.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Why something is not carried, and what to do about it. Only the rules of this crate make one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// Why it cannot be carried.
    pub reason: Cow<'static, str>,
    /// What to do about it: a command, or a step that can be taken.
    pub remedy: Cow<'static, str>,
}

/// What helps a user who asks the services for what takes root.
pub(crate) const BY_ROOT: &str = "have root send the request, or send it with the gateway's token";

/// A bit of [`ebpf_common::peculiar`], what to do about what has it, and what to call it.
pub(crate) type Peculiarity = (u32, Refusal, &'static str);

impl Refusal {
    /// One that is the same for whatever has it.
    pub(crate) const fn fixed(reason: &'static str, remedy: &'static str) -> Self {
        Self { reason: Cow::Borrowed(reason), remedy: Cow::Borrowed(remedy) }
    }

    /// One that names something.
    pub(crate) fn new(
        reason: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { reason: reason.into(), remedy: remedy.into() }
    }

    /// Of an object that a process or thread has; task 0 is none in particular.
    #[must_use]
    pub fn of(self, task: impl Into<i32>, object: impl Into<String>) -> Unsupported {
        let (reason, remedy) = (self.reason.into_owned(), self.remedy.into_owned());
        Unsupported { task: task.into(), object: object.into(), reason, remedy }
    }
}

/// One thing that is not carried: it stands in the way of a dump or a restore.
///
/// `stasis ps`, dumps and restores find them by the rules of this crate and say them by [`said`]; the
/// services pass them on as JSON. Nobody else can make one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct Unsupported {
    /// The process or thread that has it; 0 for what belongs to none.
    #[serde(default)]
    pub task: i32,
    /// What it is: `descriptor 5 (socket:[77])`, `mapping 0x1000-0x2000`, `seccomp`.
    pub object: String,
    /// Why it cannot be carried.
    pub reason: String,
    /// What to do about it: a command, or a step that can be taken.
    pub remedy: String,
}

impl Unsupported {
    /// The same of a file that a task has open, as a descriptor of this number if it is one of its own.
    #[must_use]
    pub fn held_by(mut self, task: impl Into<i32>, descriptor: Option<u32>) -> Self {
        self.task = task.into();
        if let Some(number) = descriptor {
            self.object = format!("descriptor {number} ({})", self.object);
        }
        self
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&line(&[self]))
    }
}

/// How many objects of a kind are named; the others are counted.
const NAMED: usize = 3;

/// What is not carried as text: a line for each reason, with the objects that it holds for.
#[must_use]
pub fn said(all: &[Unsupported]) -> String {
    let mut groups: Vec<Vec<&Unsupported>> = Vec::new();
    for one in all {
        let same = |group: &&mut Vec<&Unsupported>| {
            group
                .first()
                .is_some_and(|first| first.reason == one.reason && first.remedy == one.remedy)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    groups.iter().map(|group| line(group)).collect::<Vec<_>>().join("\n")
}

/// What helps against all of it, each remedy once.
#[must_use]
pub fn remedies(all: &[Unsupported]) -> Vec<&str> {
    let mut said: Vec<&str> = Vec::new();
    for remedy in all.iter().map(|one| one.remedy.as_str()) {
        if !said.contains(&remedy) {
            said.push(remedy);
        }
    }
    said
}

/// Text as one word of a shell's command line.
#[must_use]
pub fn word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_./-+:,@%=".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// Text of others, which must not drive a terminal or pretend to be a line of ours.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn line(group: &[&Unsupported]) -> String {
    let Some(first) = group.first() else { return String::new() };
    let mut text = String::new();
    let mut task = 0;
    for one in group.iter().take(NAMED) {
        if !text.is_empty() {
            text += if one.task == task { ", " } else { "; " };
        }
        if one.task != task {
            // The object may be the task itself.
            if !["process", "thread"]
                .iter()
                .any(|kind| one.object == format!("{kind} {}", one.task))
            {
                text += &format!("process {}, ", one.task);
            }
            task = one.task;
        }
        text += &plain(&one.object);
    }
    if let Some(more) = group.len().checked_sub(NAMED).filter(|more| *more > 0) {
        text += &format!(" and {more} more");
    }
    format!("{text}: {}; {}", plain(&first.reason), plain(&first.remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_command() {
        for (text, shown) in
            [("/a/b-1", "/a/b-1"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''")]
        {
            assert_eq!(word(text), shown);
        }
    }

    #[test]
    fn what_has_one_reason_is_one_line() {
        let close = Refusal::fixed("a pidfd", "close it");
        let file = |task, fd| close.clone().of(task, format!("descriptor {fd}"));
        assert_eq!(file(7, 3).to_string(), "process 7, descriptor 3: a pidfd; close it");
        let all: Vec<_> = (0..40).map(|fd| file(7 + fd / 20, fd)).collect();
        for own in ["process 7", "thread 7"] {
            assert_eq!(close.clone().of(7, own).to_string(), format!("{own}: a pidfd; close it"));
        }
        let other = Refusal::new("it has 3 bytes", "truncate -s 2 /tmp/a").of(0, "/tmp/a\nb");
        let all: Vec<_> = all.into_iter().chain([other]).collect();
        assert_eq!(
            said(&all),
            "process 7, descriptor 0, descriptor 1, descriptor 2 and 37 more: a pidfd; close it\n\
             /tmp/a b: it has 3 bytes; truncate -s 2 /tmp/a"
        );
        assert_eq!(
            said(&[file(7, 1), file(8, 1)]),
            "process 7, descriptor 1; process 8, descriptor 1: a pidfd; close it"
        );
        assert_eq!(remedies(&all), ["close it", "truncate -s 2 /tmp/a"]);
    }
}

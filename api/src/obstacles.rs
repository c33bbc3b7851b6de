//! What stands in the way of a dump or a restore, and how it is said to people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that stands in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
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

impl Obstacle {
    /// One of a process or thread.
    pub fn of(
        task: i32,
        object: impl Into<String>,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { task, object: object.into(), reason: reason.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&line(&[self]))
    }
}

/// How many objects of a kind are named; the others are counted.
const NAMED: usize = 3;

/// Obstacles as text: a line for each reason, with the objects that it holds for.
#[must_use]
pub fn said(obstacles: &[Obstacle]) -> String {
    let mut groups: Vec<Vec<&Obstacle>> = Vec::new();
    for obstacle in obstacles {
        let same = |group: &&mut Vec<&Obstacle>| {
            group.first().is_some_and(|first| {
                first.reason == obstacle.reason && first.remedy == obstacle.remedy
            })
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(obstacle),
            None => groups.push(vec![obstacle]),
        }
    }
    groups.iter().map(|group| line(group)).collect::<Vec<_>>().join("\n")
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

fn line(group: &[&Obstacle]) -> String {
    let Some(first) = group.first() else { return String::new() };
    let mut text = String::new();
    let mut task = 0;
    for obstacle in group.iter().take(NAMED) {
        if !text.is_empty() {
            text += if obstacle.task == task { ", " } else { "; " };
        }
        if obstacle.task != task {
            text += &format!("process {}, ", obstacle.task);
            task = obstacle.task;
        }
        text += &plain(&obstacle.object);
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
        let file = |task, fd| Obstacle::of(task, format!("descriptor {fd}"), "a pidfd", "close it");
        assert_eq!(file(7, 3).to_string(), "process 7, descriptor 3: a pidfd; close it");
        let all: Vec<_> = (0..40).map(|fd| file(7 + fd / 20, fd)).collect();
        let other = Obstacle::of(0, "/tmp/a\nb", "it has 3 bytes", "truncate -s 2 /tmp/a");
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
    }
}

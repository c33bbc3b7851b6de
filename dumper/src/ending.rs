//! The end of a tree that is ended: whoever restores it next finds its numbers and its memory free.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kernel::pidfd::{End, PidFd};
use kernel::procfs::{Dir, ProcFile, Stat};

/// How long tasks may take to end: giving back much memory takes a while.
const TO_END: Duration = Duration::from_secs(60);
/// How long a parent outside the tree may take to wait for its child, which frees the number.
const TO_REAP: Duration = Duration::from_secs(1);
/// The same of a parent that has us as a descendant: as a rule it waits for us first, and a shell
/// at once for both.
const TO_REAP_OF_OURS: Duration = Duration::from_millis(20);

/// The processes of the tree, held by what cannot come to mean others.
#[derive(Debug, Default)]
pub(crate) struct Ending(Vec<PidFd>);

impl Ending {
    /// To be made before the processes are ended.
    pub(crate) fn of(pids: impl Iterator<Item = i32>) -> Self {
        // One that has ended by itself is what is wanted.
        Self(pids.filter_map(|pid| PidFd::open(pid).ok()).collect())
    }

    /// Waits until all have ended, no memory of theirs is left, and their numbers are free; in the
    /// end, what is not so.
    pub(crate) fn wait(self) -> Vec<String> {
        let mut left = Vec::new();
        let mut unreaped = Vec::new();
        let deadline = Instant::now() + TO_END;
        for process in self.0 {
            match process.await_end(false, deadline) {
                Ok(End::Gone) => {}
                Ok(End::Unreaped) => unreaped.push(process),
                _ => {
                    left.push(format!("process {} has been killed, and ends still", process.pid()));
                }
            }
        }
        let ours = ancestors();
        let started = Instant::now();
        let mut zombies: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for process in unreaped {
            let ancestor = parent(process.pid()).is_none_or(|parent| ours.contains(&parent));
            let patience = if ancestor { TO_REAP_OF_OURS } else { TO_REAP };
            match process.await_end(true, started + patience) {
                Ok(End::Gone) => {}
                _ => {
                    let parent = parent(process.pid()).unwrap_or(0);
                    zombies.entry(parent).or_default().push(process.pid());
                }
            }
        }
        left.extend(zombies.into_iter().map(|(parent, children)| say(parent, &children)));
        left
    }
}

fn stat(pid: i32) -> Option<Stat> {
    Dir::open(pid).and_then(|dir| Stat::read(&dir)).ok()
}

fn parent(pid: i32) -> Option<i32> {
    stat(pid).map(|stat| stat.ppid)
}

/// Our parent, its parent, and so on.
fn ancestors() -> Vec<i32> {
    let first = Some(std::process::id().cast_signed());
    std::iter::successors(first, |&pid| parent(pid).filter(|&parent| parent > 0)).skip(1).collect()
}

fn say(parent: i32, children: &[i32]) -> String {
    /// Numbers that are worth reading.
    const SHOWN: usize = 3;
    let name = stat(parent).map(|stat| stat.comm.to_string_lossy().into_owned());
    let numbers: Vec<_> = children.iter().take(SHOWN).map(i32::to_string).collect();
    let more = match children.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "process {}{more} has ended, but the parent, process {parent} ({}), has not waited for it: \
         it cannot be restored before that",
        numbers.join(", "),
        name.unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_zombie_is_named_with_its_parent_and_what_is_reaped_is_not() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id().cast_signed();
        let ending = Ending::of([pid].into_iter());
        child.kill().unwrap();
        let left = ending.wait();
        assert!(left[0].contains(&pid.to_string()), "{left:?}");
        let ending = Ending::of([pid].into_iter());
        child.wait().unwrap();
        assert_eq!(ending.wait(), Vec::<String>::new());
    }
}

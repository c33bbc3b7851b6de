//! Processes that are to have one memory (`CLONE_VM`): they have that of this program together from their births on, each with a stack of its own, and
//! take turns in it, since they have its allocator and what the C library keeps for a thread as well. Whoever waits for something lets the others go
//! on meanwhile.
//!
//! In the end each lays out its region in that memory and leaves for it; the one that makes the new memory does so when all the others have theirs.

use std::collections::BTreeMap;

use kernel::turn::{SoFar, Turn, Wait};

use crate::plan::{Part, Plan};

/// Those of one memory.
#[derive(Debug, Default)]
pub(crate) struct Together {
    turn: Turn,
    /// How many of the others have their regions in place.
    laid_out: SoFar,
}

/// All memories that processes have together, by the index of each task that has one.
#[derive(Debug, Default)]
pub(crate) struct AllTogether {
    of_task: BTreeMap<usize, usize>,
    memories: Vec<Together>,
}

impl AllTogether {
    /// For a tree; `number` tells the memory of a process of the images.
    pub(crate) fn new(plan: &Plan, number: impl Fn(usize) -> Option<u32>) -> Self {
        let mut all = Self::default();
        let mut places: BTreeMap<u32, usize> = BTreeMap::new();
        for (index, task) in plan.tasks.iter().enumerate() {
            let Some(number) = task.process.and_then(&number) else { continue };
            if task.memory.part == Part::Alone {
                continue;
            }
            let next = all.memories.len();
            let place = *places.entry(number).or_insert(next);
            if place == next {
                all.memories.push(Together::default());
            }
            all.of_task.insert(index, place);
        }
        all
    }

    /// Those whose memory a task has; `None` if it has one alone.
    pub(crate) fn of(&self, task: usize) -> Option<&Together> {
        self.memories.get(*self.of_task.get(&task)?)
    }
}

impl Together {
    /// Waits for the turn of this process.
    pub(crate) fn begin(&self) {
        self.turn.take();
    }

    /// The turn, which a process waits for that is born with this memory.
    pub(crate) const fn turn(&self) -> &Turn {
        &self.turn
    }

    /// Waits while others go on.
    pub(crate) fn aside(&self, wait: Wait<'_>) -> nix::Result<()> {
        self.turn.give();
        let waited = wait.over();
        self.turn.take();
        waited
    }

    /// The last thing before this process leaves for its region: says so, or, who makes the memory, waits until `others` have said it.
    pub(crate) fn end(&self, part: Part) {
        match part {
            Part::First { others } => {
                self.turn.give();
                self.laid_out.wait(others);
            }
            Part::Alone | Part::Other => {
                self.laid_out.tell();
                self.turn.give();
            }
        }
    }
}

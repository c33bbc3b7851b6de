//! What the end of threads undoes in sets of System V semaphores (`SEM_UNDO`): what is done for it.
//!
//! The threads do once more what they had done, when all else is done ([`crate::finish`]), with their own rights:
//!
//! - in an IPC namespace that is made for the tree the semaphores are at what they were at, so each thread takes and
//!   gives as much at once, of which one is to be undone;
//! - in another one the kernel has undone it when the tree ended: each takes it again, and waits for nobody.

use ids::ImagePid;
use images::messages::SemaphoreUndoEntry;

/// A thread with something that its end undoes.
#[derive(Debug)]
pub(crate) struct OfThread {
    pub(crate) process: ImagePid,
    pub(crate) tid: ImagePid,
    /// It has that for itself.
    pub(crate) is_own: bool,
    /// In an IPC namespace that is made for the tree.
    pub(crate) is_made: bool,
    pub(crate) sets: Vec<SemaphoreUndoEntry>,
    pub(crate) operations: Vec<Adjustment>,
}

/// What is to be undone in a semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Adjustment {
    pub(crate) set: i32,
    pub(crate) semaphore: u16,
    /// What is added: not 0, and what 16 bits hold.
    pub(crate) by: i32,
    /// What it is at, in a namespace that is made.
    pub(crate) value: u16,
}

/// What an entry asks for; `values` are those of its set, in a namespace that is made.
pub(crate) fn operations_of(
    entry: &SemaphoreUndoEntry,
    values: Option<&[u16]>,
) -> Result<Vec<Adjustment>, String> {
    let one = |it: &images::messages::SemaphoreAdjustmentEntry| {
        let semaphore = u16::try_from(it.semaphore).ok()?;
        let value = match values {
            Some(values) => *values.get(usize::from(semaphore))?,
            None => 0,
        };
        let set = i32::try_from(entry.set).ok()?;
        let fits = it.by != 0 && i16::try_from(it.by).is_ok() && it.semaphore < entry.semaphores;
        fits.then_some(Adjustment { set, semaphore, by: it.by, value })
    };
    let all = entry.adjustments.iter().map(|it| {
        one(it).ok_or_else(|| {
            format!("{} cannot be undone in semaphore {} of set {}", it.by, it.semaphore, entry.set)
        })
    });
    all.collect()
}

/// An operation of `semop`: the semaphore, what is added to it, and whether that is undone at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) semaphore: u16,
    pub(crate) by: i16,
    pub(crate) is_undone: bool,
}

impl Adjustment {
    /// The most that is taken or given at once: between 0 and the most that a semaphore can be at (`SEMVMX`) there is
    /// always room for it in one direction.
    const STEP: i32 = 16_383;

    /// The calls that bring it about, each of one operation or of two that the kernel makes as one.
    pub(crate) fn calls(&self, is_made: bool) -> Vec<Vec<Operation>> {
        let mut left = -self.by;
        let mut calls = Vec::new();
        while left != 0 {
            let step = left.clamp(-Self::STEP, Self::STEP);
            left -= step;
            let one = |by: i32, is_undone| {
                // Of no more than a step.
                let by = by as i16;
                Operation { semaphore: self.semaphore, by, is_undone }
            };
            let (does, back) = (one(step, true), one(-step, false));
            calls.push(if !is_made {
                vec![does]
            } else if (step < 0) == (i32::from(self.value) >= Self::STEP) {
                // Down where there is so much, else up; and back.
                vec![does, back]
            } else {
                vec![back, does]
            });
        }
        calls
    }
}

#[cfg(test)]
mod tests {
    use images::messages::SemaphoreAdjustmentEntry;

    use super::*;

    const MOST: i32 = 32_767;

    /// What a semaphore and what is to be undone come to, as the kernel does it.
    fn done(calls: &[Vec<Operation>], mut value: i32) -> (i32, i32) {
        let mut undo = 0;
        for operation in calls.iter().flatten() {
            value += i32::from(operation.by);
            assert!((0..=MOST).contains(&value), "{value}");
            if operation.is_undone {
                undo -= i32::from(operation.by);
                assert!((-MOST - 1..=MOST).contains(&undo), "{undo}");
            }
        }
        (value, undo)
    }

    #[test]
    fn the_value_stays_and_what_is_undone_is_what_it_was() {
        for by in [1, -1, 16_383, 16_384, MOST, -MOST - 1] {
            for value in [0, 1, 16_382, 16_383, 16_384, MOST] {
                let it = Adjustment { set: 1, semaphore: 0, by, value: value as u16 };
                assert_eq!(done(&it.calls(true), value), (value, by), "{by} at {value}");
                assert!(it.calls(true).iter().all(|call| call.len() == 2));
            }
        }
        let it = Adjustment { set: 1, semaphore: 0, by: 3, value: 0 };
        assert_eq!(done(&it.calls(false), 5), (2, 3));
        let it = Adjustment { by: -3, ..it };
        assert_eq!(done(&it.calls(false), 5), (8, -3));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let entry = |set, semaphore, by| SemaphoreUndoEntry {
            set,
            key: 0,
            semaphores: 2,
            boot: None,
            adjustments: vec![SemaphoreAdjustmentEntry { semaphore, by }],
        };
        assert!(operations_of(&entry(5, 1, 7), None).is_ok());
        assert!(operations_of(&entry(5, 1, 7), Some(&[0, 3])).is_ok_and(|it| it[0].value == 3));
        for (set, semaphore, by) in
            [(5, 2, 1), (5, 1, 0), (5, 1, 32_768), (5, 1, -32_769), (1 << 31, 1, 1)]
        {
            assert!(operations_of(&entry(set, semaphore, by), None).is_err());
        }
        assert!(operations_of(&entry(5, 1, 7), Some(&[0])).is_err());
    }
}

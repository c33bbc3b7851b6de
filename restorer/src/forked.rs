//! Private memory that a task shares with its parent since a fork (copy-on-write).
//!
//! A task that was forked has its parent's pages until one of the two writes to them. The images hold the pages of
//! each; so that they are one again, a task makes and fills the mappings that its children have, too, before it makes these.
//! A child then looks which of the pages that it was born with it has to change ([`memory`]).
//!
//! All this is at spare addresses, the same in all tasks: the program that restores is still there. The
//! restorer moves the mappings to their places. Who inherits from whom is decided here, by places in memory alone:
//! what is in it is compared, so that nothing is wrong where two mappings have nothing to do with each other.
//!
//! Pure: no system call is made here, but in [`memory`].

mod memory;

use std::collections::BTreeMap;

use images::MappingKind;

pub(crate) use memory::TaskMemory;

use crate::gap;
use crate::host::Range;
use crate::load::{Body, Checkpoint, Mapping};
use crate::mapped::open_flags;
use crate::plan::Plan;

const PROT_EXEC: u32 = 4;
const MAP_GROWSDOWN: u32 = 0x100;
const MAP_NORESERVE: u32 = 0x4000;

/// A huge page: what is aligned to it is moved by whole page tables.
const HUGE: u64 = 2 << 20;
/// Mappings of a task, with those that it is born with, beyond which it passes none on: they would be there twice for a
/// while, and their number is limited.
const MOST: usize = 10_000;

/// Which tasks have memory of their parents, and where it is while the tree is built.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// The addresses that are taken for it.
    pub(crate) range: Option<Range>,
    /// By index of the process, in ascending order of addresses.
    parts: BTreeMap<usize, Vec<Part>>,
}

/// A mapping that is built at a spare address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    stretch: Stretch,
    /// Where it is.
    at: u64,
    /// Index of the process that has passed it on.
    giver: Option<usize>,
}

/// A stretch of private memory, at its final place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    start: u64,
    end: u64,
    kind: Kind,
}

/// What must be the same of two mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    /// The id and the flags of a mapped file.
    file: Option<(u32, u32)>,
    /// Where the file begins, from the address on (as two's complement).
    base: u64,
    /// `MAP_*` that it keeps.
    flags: u32,
}

impl Stretch {
    fn bytes(&self) -> u64 {
        self.end - self.start
    }

    fn contains(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end && self.kind == other.kind
    }

    /// What a mapping is, if children may have it of their parents.
    fn of(mapping: &Mapping) -> Option<Self> {
        let vma = &mapping.vma;
        let (file, base) = match mapping.kind {
            kind if kind.is_anonymous() && !vma.is_droppable() => (None, 0),
            MappingKind::File { shared: false } if vma.prot & PROT_EXEC == 0 && !vma.is_huge() => {
                let id = u32::try_from(vma.shmid).ok()?;
                (Some((id, open_flags(mapping))), vma.pgoff.wrapping_sub(vma.start))
            }
            _ => return None,
        };
        let flags = vma.flags & (MAP_GROWSDOWN | MAP_NORESERVE);
        Some(Self { start: vma.start, end: vma.end, kind: Kind { file, base, flags } })
    }
}

/// A piece of memory that children of a process are born with.
#[derive(Clone, Copy, Debug)]
struct Held {
    stretch: Stretch,
    at: u64,
}

/// The one of `stretches`, in ascending order, that contains another one.
fn around<T>(stretches: &[T], inner: &Stretch, of: impl Fn(&T) -> &Stretch) -> Option<usize> {
    let after = stretches.partition_point(|each| of(each).start <= inner.start);
    let last = after.checked_sub(1)?;
    of(&stretches[last]).contains(inner).then_some(last)
}

/// Puts together what lies in a row.
fn joined<T: Copy>(all: &[T], append: impl Fn(&mut T, &T) -> bool) -> Vec<T> {
    let mut joined: Vec<T> = Vec::new();
    for each in all {
        if !joined.last_mut().is_some_and(|last| append(last, each)) {
            joined.push(*each);
        }
    }
    joined
}

fn append(last: &mut Stretch, next: &Stretch) -> bool {
    let follows = last.end == next.start && last.kind == next.kind;
    if follows {
        last.end = next.end;
    }
    follows
}

/// The stretches of a process that hold pages of its own.
fn candidates(body: &Body) -> Vec<Stretch> {
    // Pages go where the task says that brings them in, which it does not say before it is itself.
    let placed = !body.mm.policies.is_empty()
        || body.threads.first().is_some_and(|leader| leader.core.memory_policy.is_some());
    if placed || body.mappings.len() > MOST {
        return Vec::new();
    }
    let mut runs = body.runs.iter().peekable();
    let mut found = Vec::new();
    for mapping in &body.mappings {
        let Some(stretch) = Stretch::of(mapping) else { continue };
        while runs.next_if(|run| run.end() <= stretch.start).is_some() {}
        if runs.peek().is_some_and(|run| run.start < stretch.end) {
            found.push(stretch);
        }
    }
    found
}

/// Each living process behind the one that it is made by, directly or by others in between, if one is.
fn births(checkpoint: &Checkpoint, plan: &Plan) -> Vec<(usize, Option<usize>)> {
    let mut order = Vec::new();
    let mut next = vec![(0, None)];
    while let Some((task, giver)) = next.pop() {
        let Some(task) = plan.tasks.get(task) else { continue };
        let living = task.process.filter(|&index| checkpoint.processes[index].body.is_some());
        // Who has another's memory has what that has built.
        let lender = living.and_then(|index| checkpoint.processes[index].body.as_ref()?.lender);
        order.extend(living.filter(|_| lender.is_none()).map(|process| (process, giver)));
        let giver = lender.or(living).or(giver);
        next.extend(task.forks.iter().filter_map(|step| step.made()).map(|made| (made, giver)));
    }
    order
}

/// Where the next piece is put.
#[derive(Debug, Default)]
struct Cursor(u64);

impl Cursor {
    /// Room for a stretch, as far from a huge page's beginning as its place is; `None` where there are no more addresses.
    fn take(&mut self, stretch: &Stretch) -> Option<u64> {
        let at = self.0.checked_add(stretch.start.wrapping_sub(self.0) % HUGE)?;
        // A page is left, so that no two become one.
        self.0 = at.checked_add(stretch.bytes())?.checked_add(images::PAGE_SIZE)?;
        Some(at)
    }
}

impl Layout {
    /// Decides it for a tree; `taken` are addresses that are not free.
    pub(crate) fn new(checkpoint: &Checkpoint, plan: &Plan, taken: &[Range]) -> Self {
        let bodies = checkpoint.processes.iter().map(|process| process.body.as_ref());
        let own: Vec<Vec<Stretch>> =
            bodies.map(|body| body.map(candidates).unwrap_or_default()).collect();
        let parts = parts(&own, &births(checkpoint, plan));
        let end = |part: &Part| part.at + part.stretch.bytes();
        let Some(bytes) = parts.values().flatten().map(end).max() else { return Self::default() };
        let mapped = checkpoint.living().flat_map(|(_, body)| &body.mappings);
        let mapped = mapped.map(|Mapping { vma, .. }| Range { start: vma.start, end: vma.end });
        let place = gap::place(mapped.chain(taken.iter().copied()), bytes.saturating_add(HUGE));
        let Some(start) = place.map(|start| start.next_multiple_of(HUGE)) else {
            tracing::warn!("no {bytes} addresses are free: no memory is shared since a fork");
            return Self::default();
        };
        let mut layout = Self { range: Some(Range { start, end: start + bytes }), parts };
        layout.parts.values_mut().flatten().for_each(|part| part.at += start);
        layout
    }

    /// Where the mapping that belongs at `start` is built, if it is.
    pub(crate) fn spare(&self, process: usize, start: u64) -> Option<u64> {
        let parts = self.parts.get(&process)?;
        let found = parts.binary_search_by_key(&start, |part| part.stretch.start).ok()?;
        Some(parts[found].at)
    }
}

/// The parts of each process, at addresses from 0 on. `own` is by process.
fn parts(own: &[Vec<Stretch>], births: &[(usize, Option<usize>)]) -> BTreeMap<usize, Vec<Part>> {
    let mut children: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for &(process, giver) in births {
        if let Some(giver) = giver {
            children.entry(giver).or_default().push(process);
        }
    }
    let mut held: BTreeMap<usize, Vec<Held>> = BTreeMap::new();
    // How many mappings are built in each, by it and by those above it.
    let mut built: BTreeMap<usize, usize> = BTreeMap::new();
    let mut all = BTreeMap::new();
    let mut cursor = Cursor::default();
    for &(process, giver) in births {
        let given = giver.and_then(|giver| held.get(&giver)).map_or(&[][..], Vec::as_slice);
        let (mut parts, mut rest) = (Vec::new(), Vec::new());
        for stretch in &own[process] {
            match around(given, stretch, |held| &held.stretch) {
                Some(found) => {
                    let Held { stretch: around, at } = given[found];
                    let at = at + (stretch.start - around.start);
                    parts.push(Part { stretch: *stretch, at, giver });
                }
                None => rest.push(*stretch),
            }
        }
        let mut count = giver.and_then(|giver| built.get(&giver)).copied().unwrap_or(0);
        if let Some(children) = children.get(&process) {
            if count + rest.len() <= MOST {
                let wanted = children.iter().flat_map(|&child| &own[child]);
                let passed_on = to_pass_on(&rest, wanted, &mut cursor);
                count += passed_on.len();
                parts.extend(passed_on);
            }
            parts.sort_by_key(|part| part.stretch.start);
            let pieces: Vec<Held> =
                parts.iter().map(|part| Held { stretch: part.stretch, at: part.at }).collect();
            let pieces = joined(&pieces, |last, next| {
                last.at + last.stretch.bytes() == next.at
                    && append(&mut last.stretch, &next.stretch)
            });
            held.insert(process, pieces);
        }
        built.insert(process, count);
        if !parts.is_empty() {
            all.insert(process, parts);
        }
    }
    all
}

/// Those stretches of a process that `wanted` ones of its children lie in.
fn to_pass_on<'a>(
    own: &[Stretch],
    wanted: impl Iterator<Item = &'a Stretch>,
    cursor: &mut Cursor,
) -> Vec<Part> {
    let rows = joined(own, append);
    let mut is_wanted = vec![false; rows.len()];
    for stretch in wanted {
        if let Some(found) = around(&rows, stretch, |row| row) {
            is_wanted[found] = true;
        }
    }
    let mut places: Vec<Option<u64>> = Vec::new();
    for (row, wanted) in rows.iter().zip(is_wanted) {
        places.push(if wanted { cursor.take(row) } else { None });
    }
    let part = |stretch: &Stretch| {
        let row = around(&rows, stretch, |row| row)?;
        let at = places[row]? + (stretch.start - rows[row].start);
        Some(Part { stretch: *stretch, at, giver: None })
    };
    own.iter().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANONYMOUS: Kind = Kind { file: None, base: 0, flags: 0 };
    const OTHER: Kind = Kind { file: Some((1, 0)), base: 0, flags: 0 };

    fn stretch(start: u64, end: u64, kind: Kind) -> Stretch {
        Stretch { start: start << 12, end: end << 12, kind }
    }

    /// Start in pages, where it is, and from whom.
    fn found(parts: &BTreeMap<usize, Vec<Part>>, process: usize) -> Vec<(u64, u64, Option<usize>)> {
        let parts = parts.get(&process).map_or(&[][..], Vec::as_slice);
        parts.iter().map(|part| (part.stretch.start >> 12, part.at >> 12, part.giver)).collect()
    }

    #[test]
    fn what_a_child_has_too_is_built_by_its_parent_and_passed_on() {
        let own = [
            vec![stretch(1, 3, ANONYMOUS), stretch(3, 5, ANONYMOUS), stretch(9, 10, ANONYMOUS)],
            vec![stretch(2, 4, ANONYMOUS), stretch(20, 21, OTHER)],
            vec![stretch(2, 3, ANONYMOUS), stretch(20, 21, OTHER), stretch(9, 10, OTHER)],
        ];
        let parts = parts(&own, &[(0, None), (1, Some(0)), (2, Some(1))]);
        // The two in a row are one for the child; the third is nobody's else.
        assert_eq!(found(&parts, 0), [(1, 1, None), (3, 3, None)]);
        assert_eq!(found(&parts, 1), [(2, 2, Some(0)), (20, 20, None)]);
        assert_eq!(found(&parts, 2), [(2, 2, Some(1)), (20, 20, Some(1))]);
    }

    #[test]
    fn what_reaches_farther_or_is_of_another_kind_is_not_inherited() {
        let own = [
            vec![stretch(1, 3, ANONYMOUS), stretch(8, 9, OTHER)],
            vec![stretch(1, 4, ANONYMOUS), stretch(8, 9, ANONYMOUS)],
        ];
        assert!(parts(&own, &[(0, None), (1, Some(0))]).is_empty());
    }

    #[test]
    fn the_mappings_of_all_above_are_counted() {
        let many = |from: u64, count: u64| {
            (0..count).map(move |at| stretch(from + 2 * at, from + 2 * at + 1, ANONYMOUS))
        };
        let first: Vec<Stretch> = many(0, 6_000).collect();
        let second: Vec<Stretch> = many(100_000, 6_000).collect();
        let both = [first.clone(), second.clone()].concat();
        let births = [(0, None), (1, Some(0)), (2, Some(1))];
        let parts = parts(&[first, both.clone(), both], &births);
        assert_eq!(found(&parts, 1).len(), 6_000, "what the first has passed on, and no more");
        assert!(found(&parts, 2).iter().all(|(start, ..)| *start < 100_000));
    }

    #[test]
    fn places_are_apart_and_aligned_as_they_will_be() {
        let pages = HUGE >> 12;
        let own = vec![stretch(5, 7, ANONYMOUS), stretch(pages + 6, pages + 8, ANONYMOUS)];
        let parts = parts(&[own.clone(), own], &[(0, None), (1, Some(0))]);
        assert_eq!(found(&parts, 0), [(5, 5, None), (pages + 6, pages + 6, None)]);
    }
}

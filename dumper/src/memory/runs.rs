//! Sets of pages as lists of runs, ascending and without overlap.

use kernel::pagemap::{PageRun, push};

/// The pages of `runs` that are not in `without`.
pub(crate) fn subtract(runs: &[PageRun], without: &[PageRun]) -> Vec<PageRun> {
    let mut left = Vec::with_capacity(runs.len());
    let mut holes = without.iter().peekable();
    for run in runs {
        let mut at = run.start;
        while holes.next_if(|hole| hole.end <= at).is_some() {}
        for hole in holes.clone().take_while(|hole| hole.start < run.end) {
            if hole.start > at {
                push(&mut left, at, hole.start);
            }
            at = at.max(hole.end);
        }
        if at < run.end {
            push(&mut left, at, run.end);
        }
    }
    left
}

/// The pages of either.
pub(crate) fn union(a: &[PageRun], b: &[PageRun]) -> Vec<PageRun> {
    let mut all: Vec<PageRun> = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let first = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if x.start <= y.start => a.next(),
            (_, Some(_)) => b.next(),
            (_, None) => a.next(),
        };
        let Some(run) = first else { return all };
        match all.last_mut() {
            Some(last) if last.end >= run.start => last.end = last.end.max(run.end),
            _ => all.push(PageRun::new(run.start, run.end)),
        }
    }
}

/// Runs with the holes between them closed where these are no larger than `bytes`: fewer and
/// longer ones that cover the same. They are in the order of their starts, and may overlap: a program that moves its mappings
/// while they are listed shows one of them twice.
pub(crate) fn coalesce(runs: &[PageRun], bytes: u64) -> Vec<PageRun> {
    let mut joined: Vec<PageRun> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last) if run.start.saturating_sub(last.end) <= bytes => {
                last.end = last.end.max(run.end);
            }
            _ => joined.push(*run),
        }
    }
    joined
}

/// Sets of which each lies behind the one before, as one.
pub(crate) fn joined(sets: Vec<Vec<PageRun>>) -> Vec<PageRun> {
    let mut all: Vec<PageRun> = Vec::with_capacity(sets.iter().map(Vec::len).sum());
    for run in sets.into_iter().flatten() {
        push(&mut all, run.start, run.end);
    }
    all
}

/// Number of bytes in all of them.
pub(crate) fn bytes(runs: &[PageRun]) -> u64 {
    runs.iter().map(PageRun::bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::pagemap::{PAGE_SIZE, clip};

    fn runs(pages: &[(u64, u64)]) -> Vec<PageRun> {
        pages.iter().map(|&(a, b)| PageRun::new(a * PAGE_SIZE, b * PAGE_SIZE)).collect()
    }

    #[test]
    fn sets_are_what_they_say() {
        let a = runs(&[(0, 10), (20, 30), (40, 41)]);
        let b = runs(&[(3, 5), (8, 22), (25, 26), (29, 40)]);
        assert_eq!(subtract(&a, &b), runs(&[(0, 3), (5, 8), (22, 25), (26, 29), (40, 41)]));
        assert_eq!(subtract(&a, &[]), a);
        assert_eq!(subtract(&[], &a), []);
        assert_eq!(union(&a, &b), runs(&[(0, 41)]));
        assert_eq!(union(&[], &b), b);
        assert_eq!(union(&runs(&[(1, 2)]), &runs(&[(3, 4)])), runs(&[(1, 2), (3, 4)]));
        assert_eq!(coalesce(&b, 2 * PAGE_SIZE), runs(&[(3, 5), (8, 22), (25, 26), (29, 40)]));
        assert_eq!(coalesce(&b, 3 * PAGE_SIZE), runs(&[(3, 40)]));
        let overlapping = runs(&[(3, 9), (4, 6), (8, 12), (13, 14)]);
        assert_eq!(coalesce(&overlapping, 0), runs(&[(3, 12), (13, 14)]));
    }

    /// Every set of ten pages against every fifth other.
    #[test]
    fn the_parts_make_the_whole() {
        let set = |bits: u32| {
            let mut found = Vec::new();
            for page in (0..10u64).filter(|page| bits & (1 << page) != 0) {
                push(&mut found, page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
            }
            found
        };
        for a in 0..1024 {
            for b in (0..1024).step_by(5) {
                let (x, y) = (set(a), set(b));
                assert_eq!(subtract(&x, &y), set(a & !b));
                assert_eq!(union(&x, &y), set(a | b));
                assert_eq!(clip(&x, &y), set(a & b));
            }
        }
    }
}

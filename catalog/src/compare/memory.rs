//! Pages that changed, came and went, by mapping.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use api::{MappingChange, MemoryChanges, PageChanges, PageCount, Presence};
use images::checkpoint::{Body, Mapping};
use images::messages::PagemapHead;
use images::{Checkpoint, Error, Image, MappingKind, PAGE_SIZE, PageMap, names};

use super::contents::{self, Piece, Side};
use super::lists::{keep_first, tell_first};
use crate::describe;

pub(super) fn compare(before: &Checkpoint, after: &Checkpoint) -> Result<MemoryChanges, Error> {
    let mut both = Both {
        before: Side::of(&before.images)?,
        after: Side::of(&after.images)?,
        changes: MemoryChanges::default(),
    };
    let (old, new) = (bodies(before), bodies(after));
    let all: BTreeSet<u32> = old.keys().chain(new.keys()).copied().collect();
    for number in all {
        let (old, new) = (old.get(&number).copied(), new.get(&number).copied());
        let rows = Rows::of(old, new);
        let maps = [old, new].map(|body| body.map(|body| &body.pages));
        let table = both.table(&names::pagemap(number), &names::pagemap(number), maps, &rows)?;
        both.tell(&rows, &table, |row| told(number, row, before, after));
    }
    for (old, new) in segments(before, after) {
        both.segment((before, old), (after, new))?;
    }
    let MemoryChanges { mappings, left_out, .. } = &mut both.changes;
    keep_first(mappings, left_out, most_first);
    Ok(both.changes)
}

/// The order in which mappings are told.
fn most_first(row: &MappingChange) -> Reverse<u64> {
    Reverse(differing(&row.pages).pages)
}

/// Processes with memory of their own.
fn bodies(checkpoint: &Checkpoint) -> BTreeMap<u32, &Body> {
    let own = checkpoint.processes.iter().filter_map(|process| {
        let body = process.body.as_ref().filter(|body| body.lender.is_none())?;
        Some((process.pid, body))
    });
    own.collect()
}

/// Pages that are not the same, or of which that is not known.
fn differing(pages: &PageChanges) -> PageCount {
    let all = [pages.changed, pages.added, pages.gone, pages.unknown];
    all.into_iter().fold(PageCount::default(), |sum, count| add(sum, count.pages))
}

fn add(mut count: PageCount, pages: u64) -> PageCount {
    count.pages = count.pages.saturating_add(pages);
    count.bytes = count.pages.saturating_mul(PAGE_SIZE);
    count
}

fn add_all(sum: &mut PageChanges, pages: &PageChanges) {
    sum.changed = add(sum.changed, pages.changed.pages);
    sum.added = add(sum.added, pages.added.pages);
    sum.gone = add(sum.gone, pages.gone.pages);
    sum.same = add(sum.same, pages.same.pages);
    sum.unknown = add(sum.unknown, pages.unknown.pages);
}

/// A mapping, in either checkpoint or in both.
#[derive(Clone, Copy, Debug)]
struct Row<'m> {
    before: Option<&'m Mapping>,
    after: Option<&'m Mapping>,
}

/// The mappings of a process in both checkpoints, and which of each list is which row.
#[derive(Debug, Default)]
struct Rows<'m> {
    rows: Vec<Row<'m>>,
    /// First address, address after the last, row; by rising address.
    before: Vec<(u64, u64, usize)>,
    after: Vec<(u64, u64, usize)>,
}

impl<'m> Rows<'m> {
    /// Mappings are the same one if they are of one kind and begin, or else end, at the same address: stacks grow down.
    fn of(before: Option<&'m Body>, after: Option<&'m Body>) -> Self {
        let mut rows = Self::default();
        let mut by_start = BTreeMap::new();
        let mut by_end = BTreeMap::new();
        for mapping in mappings(before) {
            let row = rows.rows.len();
            by_start.insert(mapping.vma.start, row);
            by_end.insert(mapping.vma.end, row);
            rows.before.push((mapping.vma.start, mapping.vma.end, row));
            rows.rows.push(Row { before: Some(mapping), after: None });
        }
        for mapping in mappings(after) {
            let like = |row: Option<&usize>| {
                let row = row.copied()?;
                let free = rows.rows[row].after.is_none();
                let alike = rows.rows[row].before.is_some_and(|it| it.kind == mapping.kind);
                (free && alike).then_some(row)
            };
            let found = like(by_start.get(&mapping.vma.start));
            let found = found.or_else(|| like(by_end.get(&mapping.vma.end)));
            let row = found.unwrap_or(rows.rows.len());
            match found {
                Some(row) => rows.rows[row].after = Some(mapping),
                None => rows.rows.push(Row { before: None, after: Some(mapping) }),
            }
            rows.after.push((mapping.vma.start, mapping.vma.end, row));
        }
        rows
    }

    /// The row that a page belongs to, and where that ends or another may begin: that of the second checkpoint, if it has a mapping
    /// there.
    fn at(&self, address: u64) -> (Option<usize>, u64) {
        let ((new, new_end), (old, old_end)) =
            (mapped(&self.after, address), mapped(&self.before, address));
        (new.or(old), new_end.min(old_end))
    }
}

/// What is mapped at an address, and up to where.
fn mapped(spans: &[(u64, u64, usize)], address: u64) -> (Option<usize>, u64) {
    match spans.get(spans.partition_point(|(_, end, _)| *end <= address)) {
        Some(&(start, end, row)) if start <= address => (Some(row), end),
        Some(&(start, ..)) => (None, start),
        None => (None, u64::MAX),
    }
}

fn mappings(body: Option<&Body>) -> impl Iterator<Item = &Mapping> {
    let all = body.into_iter().flat_map(|body| &body.mappings);
    all.filter(|mapping| mapping.kind != MappingKind::Guard)
}

/// Both checkpoints, and what was found so far.
struct Both {
    before: Side,
    after: Side,
    changes: MemoryChanges,
}

impl Both {
    /// What has become of the pages of two page maps, row by row.
    fn table(
        &mut self,
        old: &Image<PagemapHead>,
        new: &Image<PagemapHead>,
        [old_map, new_map]: [Option<&PageMap>; 2],
        rows: &Rows<'_>,
    ) -> Result<Vec<PageChanges>, Error> {
        let old = self.before.held(old, old_map)?;
        let new = self.after.held(new, new_map)?;
        // Behind the rows one for what no mapping has.
        let mut table = vec![PageChanges::default(); rows.rows.len() + 1];
        for (start, end, old, new) in contents::pieces(&old, &new) {
            let mut at = start;
            while at < end {
                let (row, until) = rows.at(at);
                let until = until.min(end);
                let behind = at - start;
                let (old, new) =
                    (old.map(|held| held.after(behind)), new.map(|held| held.after(behind)));
                let pages = self.piece((at, until, old, new))?;
                add_all(&mut table[row.unwrap_or(rows.rows.len())], &pages);
                at = until;
            }
        }
        Ok(table)
    }

    fn piece(&mut self, (start, end, old, new): Piece) -> Result<PageChanges, Error> {
        let pages = (end - start) / PAGE_SIZE;
        let count = |pages| add(PageCount::default(), pages);
        Ok(match (old, new) {
            (Some(old), Some(new)) => {
                let (before, after) = (&mut self.before, &mut self.after);
                let found = contents::compare((before, old), (after, new), pages)?;
                PageChanges {
                    changed: count(found.changed),
                    same: count(found.same),
                    unknown: count(found.unknown),
                    ..PageChanges::default()
                }
            }
            (None, Some(_)) => PageChanges { added: count(pages), ..PageChanges::default() },
            (Some(_), None) => PageChanges { gone: count(pages), ..PageChanges::default() },
            (None, None) => PageChanges::default(),
        })
    }

    /// Tells of the rows in which something differs.
    fn tell<'m>(
        &mut self,
        rows: &Rows<'m>,
        table: &[PageChanges],
        told: impl Fn(Row<'m>) -> MappingChange,
    ) {
        for (row, pages) in rows.rows.iter().zip(table) {
            let told = MappingChange { pages: *pages, ..told(*row) };
            self.add(told);
        }
        for pages in table {
            add_all(&mut self.changes.total, pages);
        }
    }

    fn add(&mut self, row: MappingChange) {
        let is_as_it_was = row.presence == Presence::Both && row.before_bytes == row.after_bytes;
        if !is_as_it_was || differing(&row.pages).pages > 0 {
            let MemoryChanges { mappings, left_out, .. } = &mut self.changes;
            tell_first(mappings, left_out, row, most_first);
        }
    }

    /// Shared memory, by its numbers in both.
    fn segment(
        &mut self,
        (before, old): (&Checkpoint, Option<u64>),
        (after, new): (&Checkpoint, Option<u64>),
    ) -> Result<(), Error> {
        let number = new.or(old).unwrap_or_default();
        let map = |of: &'_ Checkpoint, number: Option<u64>| {
            number.and_then(|number| of.shared_memory.get(&number).cloned())
        };
        let (old_map, new_map) = (map(before, old), map(after, new));
        let images = [old, new].map(|of| names::pagemap_shmem(of.unwrap_or(number)));
        let maps = [old_map.as_ref(), new_map.as_ref()];
        let table = self.table(&images[0], &images[1], maps, &Rows::default())?;
        let pages = table.first().copied().unwrap_or_default();
        add_all(&mut self.changes.total, &pages);
        let bytes = |map: Option<&PageMap>| {
            map.and_then(|map| map.runs.last()).map_or(0, images::PageRun::end)
        };
        self.add(MappingChange {
            process: None,
            place: number.to_string(),
            kind: "shared memory".to_owned(),
            file: None,
            presence: presence(old.is_some(), new.is_some()),
            before_bytes: bytes(maps[0]),
            after_bytes: bytes(maps[1]),
            pages,
        });
        Ok(())
    }
}

const fn presence(before: bool, after: bool) -> Presence {
    match (before, after) {
        (true, false) => Presence::Before,
        (false, true) => Presence::After,
        _ => Presence::Both,
    }
}

fn told(process: u32, row: Row<'_>, before: &Checkpoint, after: &Checkpoint) -> MappingChange {
    let bytes =
        |mapping: Option<&Mapping>| mapping.map_or(0, |it| it.vma.end.saturating_sub(it.vma.start));
    let (shown, of) = match row.after {
        Some(mapping) => (Some(mapping), after),
        None => (row.before, before),
    };
    let place = shown.map(|it| format!("{:x}-{:x}", it.vma.start, it.vma.end));
    let file = shown.filter(|it| it.kind.is_of_file());
    let file = file.and_then(|it| describe::name(of, u32::try_from(it.vma.shmid).ok()?));
    MappingChange {
        process: Some(process.into()),
        place: place.unwrap_or_default(),
        kind: shown.map_or("none", |it| describe::mapping(it.kind)).to_owned(),
        file,
        presence: presence(row.before.is_some(), row.after.is_some()),
        before_bytes: bytes(row.before),
        after_bytes: bytes(row.after),
        pages: PageChanges::default(),
    }
}

/// The numbers that shared memory has in both: its numbers are each checkpoint's own, so it is known by who has mapped it where, and by
/// its number if nobody has.
fn segments(before: &Checkpoint, after: &Checkpoint) -> Vec<(Option<u64>, Option<u64>)> {
    let places = |checkpoint: &Checkpoint| -> BTreeMap<(u32, u64), u64> {
        let mut found = BTreeMap::new();
        for process in &checkpoint.processes {
            for mapping in mappings(process.body.as_ref()) {
                if mapping.kind.is_shared_anonymous() {
                    found.insert((process.pid, mapping.vma.start), mapping.vma.shmid);
                }
            }
        }
        found
    };
    let (old, new) = (places(before), places(after));
    let mut pairs: BTreeMap<u64, u64> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (place, number) in &new {
        if let Some(was) = old.get(place)
            && before.shared_memory.contains_key(was)
            && after.shared_memory.contains_key(number)
            && !pairs.contains_key(number)
            && taken.insert(*was)
        {
            pairs.insert(*number, *was);
        }
    }
    for number in after.shared_memory.keys() {
        let is_there = before.shared_memory.contains_key(number);
        if is_there && !pairs.contains_key(number) && taken.insert(*number) {
            pairs.insert(*number, *number);
        }
    }
    let gone = before.shared_memory.keys().filter(|number| !taken.contains(number));
    let gone: Vec<_> = gone.map(|number| (Some(*number), None)).collect();
    let there =
        after.shared_memory.keys().map(|number| (pairs.get(number).copied(), Some(*number)));
    there.chain(gone).collect()
}

//! Giving back the room of pages that nobody will read: those of parents of which a child has newer copies, and those of a
//! checkpoint that has been restored.
//!
//! A parent whose pages were given back is no checkpoint by itself any more, nor can another child leave pages to it. Its manifest
//! says to whom they went ([`ManifestEntry::given_to`]): before they go, so that whoever is killed in between has said too
//! much at most. A [`Lineage`](crate::Lineage) reads it only below those. What CRIU wrote has no manifest, and cannot say it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::images::Images;
use crate::manifest;
use crate::messages::{ManifestEntry, RESTORED};
use crate::names;
use crate::pagemap::{PAGE_SIZE, PageMap, RunPlace};
use crate::reader::ImageReader;
use crate::store::{Directory, Identity, ImageStore};
use crate::writer::encode;

/// Longest chain of parents.
const MAX_PARENTS: usize = 1000;

/// What was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenBack {
    /// How many pages.
    pub pages: u64,
    /// How many parents that gave some have no manifest to say so: if another child is restored from them it finds zeros.
    pub unmarked: usize,
}

impl std::ops::AddAssign for GivenBack {
    fn add_assign(&mut self, other: Self) {
        self.pages += other.pages;
        self.unmarked += other.unmarked;
    }
}

/// Has the parents of the checkpoint in a directory give back the room of pages that it has itself; `None` of one that has no
/// parent, as it leaves nothing to any.
///
/// # Errors
/// If the file system cannot do it.
pub fn deduplicate(directory: &Path) -> Result<Option<GivenBack>, Error> {
    let images = Images::open(directory)?;
    if images.parent()?.is_none() {
        return Ok(None);
    }
    let child: Arc<dyn ImageStore> = Arc::new(Directory::open(directory)?);
    of_store(&child, &images.id()?).map(Some)
}

/// Has a checkpoint that has been restored, and its parents, give back the room of all pages that were read.
///
/// # Errors
/// If the file system cannot do it.
pub fn consume(directory: &Path) -> Result<GivenBack, Error> {
    let child: Arc<dyn ImageStore> = Arc::new(Directory::open(directory)?);
    let mut back = GivenBack::default();
    for level in &chain(&child)? {
        let mut given = Given::default();
        for image in maps_in(&**level)? {
            if let Some(map) = read_map(&**level, &image)? {
                let all: Vec<_> = map.runs.iter().map(|run| (run.start, run.end())).collect();
                given.add(&map, &all);
            }
        }
        back += given.give_back(&**level, RESTORED)?;
    }
    Ok(back)
}

fn of_store(child: &Arc<dyn ImageStore>, id: &str) -> Result<GivenBack, Error> {
    let chain = chain(child)?;
    let own = own_levels(&chain);
    let mut images = BTreeSet::new();
    for level in &chain[..own] {
        images.extend(maps_in(&**level)?);
    }
    let mut given: Vec<Given> = chain.iter().map(|_| Given::default()).collect();
    for image in images {
        let mut held = Vec::new();
        for (depth, level) in chain.iter().enumerate() {
            let Some(map) = read_map(&**level, &image)? else { continue };
            if depth > 0 {
                given[depth].add(&map, &held);
            }
            // What was copied early is the checkpoint's own.
            if depth < own {
                held = union(&held, &map);
            }
        }
    }
    let mut back = GivenBack::default();
    for (level, given) in chain.iter().zip(given) {
        back += given.give_back(&**level, id)?;
    }
    Ok(back)
}

/// A checkpoint and its parents.
fn chain(child: &Arc<dyn ImageStore>) -> Result<Vec<Arc<dyn ImageStore>>, Error> {
    let mut chain = vec![Arc::clone(child)];
    let mut seen: BTreeSet<Identity> = BTreeSet::from([child.identity()?]);
    while let Some(parent) = chain[chain.len() - 1].parent()? {
        if !seen.insert(parent.identity()?) || chain.len() > MAX_PARENTS {
            let what =
                "a checkpoint is its own parent, or its parent's, or there are more than 1000";
            return Err(Error::invalid(names::PARENT_LINK, what));
        }
        chain.push(parent);
    }
    Ok(chain)
}

/// How many of them are the checkpoint itself, and what was copied early inside it.
fn own_levels(chain: &[Arc<dyn ImageStore>]) -> usize {
    let inside = |level: &Arc<dyn ImageStore>| {
        names::PRE_COPIES.iter().any(|name| {
            let there = Directory::open(&chain[0].path().join(name));
            there.and_then(|there| there.identity()).ok() == level.identity().ok()
        })
    };
    1 + chain[1..].iter().take_while(|level| inside(level)).count()
}

fn maps_in(level: &dyn ImageStore) -> Result<BTreeSet<String>, Error> {
    let names = level.list()?.into_iter().map(|file| file.name);
    Ok(names.filter(|name| name.starts_with("pagemap-") && !name.contains('/')).collect())
}

fn read_map(level: &dyn ImageStore, image: &str) -> Result<Option<PageMap>, Error> {
    let Some(image) = names::page_map_of(image) else { return Ok(None) };
    let Some(opened) = level.open(image.name())? else { return Ok(None) };
    let reader = ImageReader::new(&image, BufReader::new(opened.content), opened.size, true)?;
    PageMap::read(image.name(), reader).map(Some)
}

/// The runs, and what a map holds itself.
fn union(runs: &[(u64, u64)], map: &PageMap) -> Vec<(u64, u64)> {
    let own = map.runs.iter().filter(|run| !run.in_parent()).map(|run| (run.start, run.end()));
    let mut all: Vec<_> = runs.iter().copied().chain(own).collect();
    all.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(all.len());
    for (start, end) in all {
        match joined.last_mut() {
            Some(last) if last.1 >= start => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined
}

/// Where in its pages file those pages of a map are that are also in `runs`: offset and bytes.
fn places(map: &PageMap, runs: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut places: Vec<(u64, u64)> = Vec::new();
    for run in &map.runs {
        let RunPlace::Stored(offset) = run.place else { continue };
        let first = runs.partition_point(|(_, end)| *end <= run.start);
        for (start, end) in runs[first..].iter().take_while(|(start, _)| *start < run.end()) {
            let (start, end) = ((*start).max(run.start), (*end).min(run.end()));
            let (at, bytes) = (offset + (start - run.start), end - start);
            match places.last_mut() {
                Some((last, length)) if *last + *length == at => *length += bytes,
                _ => places.push((at, bytes)),
            }
        }
    }
    places
}

/// What a level is to give back: places in pages files, by their names.
#[derive(Debug, Default)]
struct Given(BTreeMap<String, Vec<(u64, u64)>>);

impl Given {
    /// What a map of the level has of these pages.
    fn add(&mut self, map: &PageMap, runs: &[(u64, u64)]) {
        let places = places(map, runs);
        if !places.is_empty() {
            self.0.entry(names::pages(map.pages_id)).or_default().extend(places);
        }
    }

    /// Gives it back when it has been written down to whom it goes.
    fn give_back(self, level: &dyn ImageStore, to: &str) -> Result<GivenBack, Error> {
        if self.0.is_empty() {
            return Ok(GivenBack::default());
        }
        // Nothing is written down of what cannot be done.
        for name in self.0.keys() {
            level.give_back(name, &[])?;
        }
        let mut noted = Noted::of(level)?;
        let unmarked = usize::from(noted.is_none());
        if let Some(noted) = &mut noted {
            for name in self.0.keys() {
                noted.note(level, name, to)?;
            }
            noted.write(level)?;
        }
        let mut bytes = 0;
        for (name, places) in &self.0 {
            level.give_back(name, places)?;
            bytes += places.iter().map(|(_, bytes)| bytes).sum::<u64>();
        }
        if let Some(mut noted) = noted {
            for name in self.0.keys() {
                noted.digest(level, name)?;
            }
            noted.write(level)?;
        }
        Ok(GivenBack { pages: bytes / PAGE_SIZE, unmarked })
    }
}

/// The manifest of a level.
struct Noted(BTreeMap<String, ManifestEntry>);

impl Noted {
    /// `None` where there is none.
    fn of(level: &dyn ImageStore) -> Result<Option<Self>, Error> {
        let entries = manifest::entries(level, names::manifest().name())?;
        let by_name = |entry: ManifestEntry| (entry.name.clone(), entry);
        Ok(entries.map(|entries| Self(entries.into_iter().map(by_name).collect())))
    }

    /// Takes note of one to whom pages go. What is in the file is not known meanwhile.
    fn note(&mut self, level: &dyn ImageStore, pages: &str, to: &str) -> Result<(), Error> {
        let bytes = level.pages(pages)?.map_or(0, |source| source.bytes());
        let entry = self.0.entry(pages.to_owned()).or_default();
        (entry.name, entry.bytes) = (pages.to_owned(), bytes);
        entry.digest.clear();
        entry.pieces = None;
        if !entry.given_to.iter().any(|given| given == to) {
            entry.given_to.push(to.to_owned());
        }
        Ok(())
    }

    /// Takes note of what is in a file now.
    fn digest(&mut self, level: &dyn ImageStore, pages: &str) -> Result<(), Error> {
        let missing = || Error::Missing { name: pages.to_owned() };
        let source = level.pages(pages)?.ok_or_else(missing)?;
        if let Some(entry) = self.0.get_mut(pages) {
            manifest::digest_pages(entry, &*source)?;
        }
        Ok(())
    }

    fn write(&self, level: &dyn ImageStore) -> Result<(), Error> {
        let image = names::manifest();
        level.replace(image.name(), &encode(&image, self.0.values()))
    }
}

#[cfg(test)]
#[path = "dedup_tests.rs"]
mod tests;

//! Which pages go, and who may still read what is left.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::*;
use crate::messages::{IMG_VERSION_1_1, InventoryEntry, PagemapEntry, PagemapHead, page_flags};
use crate::{ImageWriter, Lineage, WriteOptions};

const PRESENT: u32 = page_flags::PRESENT;
const PARENT: u32 = page_flags::PARENT;

struct Place(tempfile::TempDir);

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A checkpoint of runs, first page and how many, each page filled with `fill`.
    fn write(&self, name: &str, parent: Option<&str>, runs: &[(u64, u64, u32)], fill: u8) {
        let options = WriteOptions { sync: false, ..WriteOptions::default() };
        let writer = ImageWriter::create(&self.path(name), options).unwrap();
        let early: Vec<_> = runs.iter().filter(|run| run.0 >= 100).copied().collect();
        let own: Vec<_> = runs.iter().filter(|run| run.0 < 100).copied().collect();
        let link = |folder: crate::Folder<'_>, before: &str| {
            let Some(parent) = parent else { return };
            let entry = Images::open(&self.path(parent)).unwrap().as_parent().unwrap();
            folder.link_checkpoint(&Path::new(before).join(parent), entry).unwrap();
        };
        map(writer.here(), &own, fill);
        // What begins at page 100 was copied early, from page 0 on.
        if early.is_empty() {
            link(writer.here(), "..");
        } else {
            let folder = writer.pre_copies(1).unwrap()[0];
            let moved: Vec<_> = early.iter().map(|run| (run.0 - 100, run.1, run.2)).collect();
            map(folder, &moved, fill + 100);
            folder.write_one(&names::inventory(), &inventory(&format!("{name}/early"))).unwrap();
            link(folder, "../..");
            writer.link_parent(names::PRE_COPY.as_ref()).unwrap();
        }
        writer.write_one(&names::inventory(), &inventory(name)).unwrap();
        writer.commit().unwrap();
    }

    /// Whether each page of a checkpoint is in a hole.
    fn holes(&self, name: &str) -> Vec<bool> {
        let bytes = std::fs::read(self.path(name).join("pages-1.img")).unwrap();
        bytes.chunks(4096).map(|page| page.iter().all(|byte| *byte == 0)).collect()
    }

    fn chain(&self, name: &str) -> Result<usize, Error> {
        let images = Images::open(&self.path(name))?;
        let mut lineage = Lineage::of(&images)?;
        let mut level = 0;
        while lineage.level(level)?.parent()?.is_some() {
            level += 1;
        }
        for level in 0..=level {
            let images = lineage.level(level)?;
            images.page_map(&names::pagemap(5))?;
        }
        Ok(level)
    }
}

fn inventory(id: &str) -> InventoryEntry {
    InventoryEntry {
        img_version: IMG_VERSION_1_1,
        dump_criu_run_id: Some(id.to_owned()),
        ..InventoryEntry::default()
    }
}

fn map(folder: crate::Folder<'_>, runs: &[(u64, u64, u32)], fill: u8) {
    let (id, sink) = folder.pages().unwrap();
    let mut image = folder.image(&names::pagemap(5)).unwrap();
    image.put(&PagemapHead { pages_id: id }).unwrap();
    for (start, pages, flags) in runs {
        image.put_as(&PagemapEntry::run(start * PAGE_SIZE, *pages, *flags)).unwrap();
        if *flags == PRESENT {
            let at = sink.reserve(pages * PAGE_SIZE).unwrap();
            sink.write_all_at(&vec![fill; (pages * PAGE_SIZE) as usize], at).unwrap();
        }
    }
    image.finish().unwrap();
}

#[test]
fn parents_give_back_what_a_child_has() {
    let place = Place(tempfile::tempdir().unwrap());
    place.write("1", None, &[(0, 8, PRESENT)], 1);
    place.write("2", Some("1"), &[(0, 2, PARENT), (2, 2, PRESENT), (4, 4, PARENT)], 2);
    let blocks = || std::fs::metadata(place.path("1/pages-1.img")).unwrap().blocks();
    let before = blocks();
    assert_eq!(deduplicate(&place.path("2")).unwrap(), Some(GivenBack { pages: 2, unmarked: 0 }));
    assert!(blocks() < before);
    let holes = |numbers: &[usize]| (0..8).map(|page| numbers.contains(&page)).collect::<Vec<_>>();
    assert_eq!(place.holes("1"), holes(&[2, 3]));
    assert_eq!(place.holes("2"), [false, false]);
    // The child reads all that it did, and nobody else may.
    assert_eq!(place.chain("2").unwrap(), 1);
    let error = place.chain("1").unwrap_err();
    assert!(matches!(error, Error::GivenBack { .. }), "{error}");
    place.write("other", None, &[(0, 8, PRESENT)], 9);
    std::fs::remove_file(place.path("other/stasis-manifest")).unwrap();
    std::os::unix::fs::symlink("../1", place.path("other/parent")).unwrap();
    assert!(matches!(place.chain("other").unwrap_err(), Error::GivenBack { .. }));
    // A child of the child: what either has goes, of all of them.
    place.write(
        "3",
        Some("2"),
        &[(0, 1, PRESENT), (1, 2, PARENT), (3, 1, PRESENT), (4, 4, PARENT)],
        3,
    );
    assert_eq!(deduplicate(&place.path("3")).unwrap(), Some(GivenBack { pages: 3, unmarked: 0 }));
    assert_eq!(place.holes("1"), holes(&[0, 2, 3]));
    assert_eq!(place.holes("2"), [false, true]);
    assert_eq!(place.chain("3").unwrap(), 2);
    assert!(place.chain("2").is_err());
    // Once more changes nothing that anybody sees.
    deduplicate(&place.path("3")).unwrap();
    assert_eq!(place.chain("3").unwrap(), 2);
    assert_eq!(deduplicate(&place.path("1")).unwrap(), None);
}

/// What was copied early is the checkpoint's own, as far as it is the newest.
#[test]
fn what_was_copied_early_counts() {
    let place = Place(tempfile::tempdir().unwrap());
    place.write("1", None, &[(0, 8, PRESENT)], 1);
    let runs =
        [(0, 2, PARENT), (2, 2, PRESENT), (4, 4, PARENT), (100, 6, PRESENT), (106, 2, PARENT)];
    place.write("2", Some("1"), &runs, 2);
    assert_eq!(deduplicate(&place.path("2")).unwrap(), Some(GivenBack { pages: 8, unmarked: 0 }));
    assert_eq!(place.holes("1"), [true, true, true, true, true, true, false, false]);
    assert_eq!(place.holes("2/pre-copy"), [false, false, true, true, false, false]);
    assert_eq!(place.chain("2").unwrap(), 2);
}

#[test]
fn what_was_restored_is_used_up() {
    let place = Place(tempfile::tempdir().unwrap());
    place.write("1", None, &[(0, 4, PRESENT)], 1);
    place.write("2", Some("1"), &[(0, 2, PARENT), (2, 2, PRESENT)], 2);
    assert_eq!(consume(&place.path("2")).unwrap(), GivenBack { pages: 6, unmarked: 0 });
    assert_eq!(place.holes("1"), [true; 4]);
    assert_eq!(place.holes("2"), [true; 2]);
    for name in ["1", "2"] {
        assert!(matches!(place.chain(name).unwrap_err(), Error::GivenBack { .. }));
    }
}

/// A copy by a hard link keeps its pages.
#[test]
fn files_with_other_names_are_left() {
    let place = Place(tempfile::tempdir().unwrap());
    place.write("1", None, &[(0, 4, PRESENT)], 1);
    place.write("2", Some("1"), &[(0, 4, PRESENT)], 2);
    std::fs::hard_link(place.path("1/pages-1.img"), place.path("copy")).unwrap();
    let error = deduplicate(&place.path("2")).unwrap_err();
    assert!(error.to_string().contains("other names"), "{error}");
    assert_eq!(place.holes("1"), [false; 4]);
    // Nor is anything said of them.
    assert_eq!(place.chain("1").unwrap(), 0);
}

/// CRIU's have no manifest.
#[test]
fn a_parent_that_cannot_say_it_is_told() {
    let place = Place(tempfile::tempdir().unwrap());
    place.write("1", None, &[(0, 4, PRESENT)], 1);
    place.write("2", Some("1"), &[(0, 2, PARENT), (2, 2, PRESENT)], 2);
    std::fs::remove_file(place.path("1/stasis-manifest")).unwrap();
    assert_eq!(deduplicate(&place.path("2")).unwrap(), Some(GivenBack { pages: 2, unmarked: 1 }));
    assert_eq!(place.holes("1"), [false, false, true, true]);
}

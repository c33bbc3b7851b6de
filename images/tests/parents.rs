//! Checkpoints that leave pages to others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fs;
use std::path::Path;

mod places;

use places::StoreKind;
use stasis_images::messages::{InventoryEntry, PagemapEntry, PagemapHead, page_flags};
use stasis_images::{Error, Folder, ImageWriter, Images, Lineage, PAGE_SIZE, WriteOptions, names};

fn inventory() -> InventoryEntry {
    InventoryEntry { img_version: 2, ..InventoryEntry::default() }
}

/// A pages file of one page, its page map with another page in the parent, and an inventory.
fn fill(folder: Folder<'_>, byte: u8, parent: Option<&str>) -> Result<(), Error> {
    let (pages_id, pages) = folder.pages()?;
    let room = pages.reserve(PAGE_SIZE).unwrap();
    pages.write_all_at(&[byte; PAGE_SIZE as usize], room).unwrap();
    let mut map = folder.image(&names::pagemap(7))?;
    map.put(&PagemapHead { pages_id })?;
    map.put_as(&PagemapEntry::run(0x1000, 1, page_flags::PRESENT))?;
    if let Some(parent) = parent {
        map.put_as(&PagemapEntry::run(0x2000, 1, page_flags::PARENT))?;
        folder.link_parent(Path::new(parent))?;
    }
    map.finish()?;
    folder.write_one(&names::inventory(), &inventory())
}

fn write(writer: ImageWriter, bytes: [u8; 3]) -> Result<(), Error> {
    let early = writer.pre_copies(2)?;
    fill(early[1], bytes[0], None)?;
    fill(early[0], bytes[1], Some(names::PRE_COPY))?;
    fill(writer.here(), bytes[2], Some(names::PRE_COPY))?;
    let committed = writer.commit()?;
    assert_eq!(committed.files, 12);
    Ok(())
}

fn first_byte(dir: &Images) -> u8 {
    let map = dir.page_map(&names::pagemap(7)).unwrap().unwrap();
    let mut byte = [0];
    dir.pages(map.pages_id).unwrap().read_exact_at(&mut byte, 0).unwrap();
    byte[0]
}

#[test]
fn pages_that_were_copied_early_come_along() {
    for (place, in_place) in
        StoreKind::all().iter().flat_map(|place| [(place, false), (place, true)])
    {
        let name = format!("checkpoint-{in_place}");
        if let (StoreKind::Directories(place), true) = (place, in_place) {
            fs::create_dir(place.path().join(&name)).unwrap();
            fs::write(place.path().join(&name).join("dump.log"), "x").unwrap();
        }
        let options = WriteOptions { in_place, ..WriteOptions::default() };
        write(place.write(&name, options).unwrap(), [1, 2, 3]).unwrap();
        // And a second time, over the first.
        let options = WriteOptions { overwrite: true, ..options };
        write(place.write(&name, options).unwrap(), [4, 5, 6]).unwrap();
        let dir = place.open(&name).unwrap();
        let parent = dir.parent().unwrap().unwrap();
        let bytes = [&dir, &parent, &parent.parent().unwrap().unwrap()].map(first_byte);
        assert_eq!(bytes, [6, 5, 4]);
        let files: Vec<_> = dir.files().unwrap().into_iter().map(|file| file.name).collect();
        for name in ["pre-copy/pages-2.img", "pre-copy/pre-copy/pages-1.img"] {
            assert!(files.iter().any(|file| file == name), "{files:?}");
        }
        assert_eq!(files.len(), 12);
    }
}

#[test]
fn a_failed_commit_takes_early_pages_back() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("checkpoint");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("dump.log"), "x").unwrap();
    let writer = ImageWriter::create(&target, WriteOptions::default()).unwrap();
    fill(writer.pre_copies(1).unwrap()[0], 1, None).unwrap();
    fill(writer.here(), 2, Some(names::PRE_COPY)).unwrap();
    // A directory of that name cannot be replaced by a file.
    fs::create_dir(target.join("pages-1.img")).unwrap();
    writer.commit().unwrap_err();
    let mut left: Vec<_> =
        fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["dump.log", "pages-1.img"]);
}

#[test]
fn a_parent_that_has_been_replaced_is_told() {
    for place in StoreKind::all() {
        link(&place, "parent", None);
        let parent = place.open("parent").unwrap();
        let writer = place.write("child", WriteOptions::default()).unwrap();
        writer.write_one(&names::inventory(), &inventory()).unwrap();
        let entry = parent.as_parent().unwrap();
        writer.here().link_checkpoint(Path::new("../parent"), entry).unwrap();
        writer.commit().unwrap();
        assert!(place.open("child").unwrap().parent().unwrap().is_some());
        let options = WriteOptions { overwrite: true, ..WriteOptions::default() };
        let writer = place.write("parent", options).unwrap();
        let another = InventoryEntry { dump_criu_run_id: Some("another".into()), ..inventory() };
        writer.write_one(&names::inventory(), &another).unwrap();
        writer.commit().unwrap();
        let error = place.open("child").unwrap().parent().unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error}");
    }
}

/// A checkpoint with an inventory and a parent.
fn link(place: &StoreKind, name: &str, parent: Option<&str>) {
    let writer = place.write(name, WriteOptions::default()).unwrap();
    writer.write_one(&names::inventory(), &inventory()).unwrap();
    if let Some(parent) = parent {
        writer.link_parent(Path::new(parent)).unwrap();
    }
    writer.commit().unwrap();
}

fn lineage(place: &StoreKind, name: &str) -> Lineage {
    Lineage::of(&place.open(name).unwrap()).unwrap()
}

#[test]
fn a_lineage_ends_where_the_links_end() {
    for place in StoreKind::all() {
        link(&place, "a", None);
        link(&place, "b", Some("../a"));
        link(&place, "c", Some("../b"));
        let mut lineage = lineage(&place, "c");
        assert!(lineage.level(2).unwrap().path().ends_with("c/parent/parent"));
        assert!(lineage.level(3).unwrap_err().to_string().contains("no link leads"));
        assert!(lineage.level(1).is_ok());
    }
}

#[test]
fn a_lineage_does_not_run_in_circles() {
    for place in StoreKind::all() {
        link(&place, "a", Some("../c"));
        link(&place, "b", Some("../a"));
        link(&place, "c", Some("../b"));
        let mut lineage = lineage(&place, "c");
        assert!(lineage.level(1000).unwrap_err().to_string().contains("its own parent"));
    }
}

#[test]
fn a_parent_that_is_gone_is_named() {
    for place in StoreKind::all() {
        link(&place, "a", Some("../gone"));
        let mut lineage = lineage(&place, "a");
        let error = lineage.level(1).unwrap_err().to_string();
        assert!(error.contains("no link leads") && error.contains("a)"), "{error}");
        let error = lineage.check_for_child(Path::new("new")).unwrap_err().to_string();
        assert!(error.contains("leads to no directory"), "{error}");
    }
}

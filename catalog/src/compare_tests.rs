//! Comparisons of checkpoints that CRIU made, and of such as are made here.

use std::path::{Path, PathBuf};

use api::Presence;
use images::messages::{PagemapEntry, PagemapHead, page_flags};
use images::{ImageWriter, PAGE_SIZE, WriteOptions};

use super::*;

fn set(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/criu-4.2").join(name)
}

fn open(path: &Path) -> Images {
    Images::open(path).unwrap()
}

/// A copy of a checkpoint.
fn copy(name: &str, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(set(name)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn a_checkpoint_is_the_same_as_itself() {
    for name in ["family", "busy", "ghosts"] {
        let found = compare(&open(&set(name)), &open(&set(name))).unwrap();
        assert!(found.same, "{name}: {found:#?}");
        assert!(found.memory.total.same.pages > 0 && found.memory.total.changed.pages == 0);
        assert_eq!(found.before, found.after);
        assert!(found.files.kinds.values().all(|kinds| kinds.before == kinds.after));
    }
}

#[test]
fn another_tree_is_told_whole() {
    let found = compare(&open(&set("minimal")), &open(&set("family"))).unwrap();
    assert!(!found.same);
    assert!(!found.tasks.came.is_empty() && !found.memory.mappings.is_empty());
    let back = compare(&open(&set("family")), &open(&set("minimal"))).unwrap();
    assert_eq!(back.tasks.went, found.tasks.came);
    assert_eq!(back.tasks.came, found.tasks.went);
    assert_eq!(back.files.closed, found.files.opened);
    assert_eq!(back.memory.total.gone, found.memory.total.added);
}

#[test]
fn one_page_that_differs_is_found_in_its_mapping() {
    let place = tempfile::tempdir().unwrap();
    let other = place.path().join("other");
    copy("minimal", &other);
    let checkpoint = Checkpoint::load(open(&set("minimal"))).unwrap();
    let body = checkpoint.root().body.as_ref().unwrap();
    let run = body.pages.runs.iter().find(|run| run.is_stored()).unwrap();
    let images::RunPlace::Stored(offset) = run.place else { panic!("stored") };
    let pages = other.join(names::pages(body.pages.pages_id));
    let mut bytes = std::fs::read(&pages).unwrap();
    bytes[offset as usize + 100] ^= 1;
    std::fs::write(&pages, bytes).unwrap();
    let found = compare(&open(&set("minimal")), &open(&other)).unwrap();
    assert_eq!(found.memory.total.changed.bytes, PAGE_SIZE);
    let [row] = &found.memory.mappings[..] else { panic!("{:#?}", found.memory.mappings) };
    assert_eq!((row.presence, row.pages.changed.pages), (Presence::Both, 1));
    let (start, _) = row.place.split_once('-').unwrap();
    assert!(u64::from_str_radix(start, 16).unwrap() <= run.start);
    assert!(!found.same && found.tasks == Default::default() && found.files.changed.is_empty());
}

/// A checkpoint like another one, with the page map of its root made anew: the pages that are left to that one, and those that are
/// stored with other contents.
fn increment(of: &Path, to: &Path) {
    let base = Checkpoint::load(open(of)).unwrap();
    let root = base.root().pid;
    let runs = &base.root().body.as_ref().unwrap().pages.runs;
    let writer = ImageWriter::create(to, WriteOptions::default()).unwrap();
    let (pages_id, pages) = writer.pages().unwrap();
    let mut map = writer.image(&names::pagemap(root)).unwrap();
    map.put(&PagemapHead { pages_id }).unwrap();
    for (index, run) in runs.iter().enumerate() {
        let flags = if index == 0 { page_flags::PRESENT } else { page_flags::PARENT };
        map.put_as(&PagemapEntry::run(run.start, run.pages, flags)).unwrap();
    }
    map.finish().unwrap();
    let room = pages.reserve(runs[0].bytes()).unwrap();
    pages.write_all_at(&vec![0xa5; runs[0].bytes() as usize], room).unwrap();
    writer.link_parent(Path::new("../base")).unwrap();
    writer.write_one(&names::inventory(), open(of).inventory()).unwrap();
    writer.commit().unwrap();
    // As of CRIU: what is added was not written with the others.
    std::fs::remove_file(to.join(names::manifest().name())).unwrap();
    for entry in std::fs::read_dir(of).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let own = name.to_string_lossy();
        if !to.join(&name).exists() && !own.starts_with("pages-") {
            std::fs::copy(entry.path(), to.join(&name)).unwrap();
        }
    }
}

#[test]
fn pages_that_were_left_to_a_parent_are_the_same() {
    let place = tempfile::tempdir().unwrap();
    let (base, child) = (place.path().join("base"), place.path().join("child"));
    copy("minimal", &base);
    increment(&base, &child);
    let found = compare(&open(&base), &open(&child)).unwrap();
    let total = found.memory.total;
    let checkpoint = Checkpoint::load(open(&base)).unwrap();
    let runs = &checkpoint.root().body.as_ref().unwrap().pages.runs;
    let all: u64 = runs.iter().map(|run| run.pages).sum();
    assert_eq!(total.changed.pages, runs[0].pages, "{found:#?}");
    assert_eq!(total.same.pages, all - runs[0].pages);
    assert_eq!((total.added.pages, total.gone.pages, total.unknown.pages), (0, 0, 0));
    assert!(found.after.parent_bytes > 0 && found.after.stored_bytes < found.before.stored_bytes);
}

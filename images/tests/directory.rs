//! A checkpoint directory is complete or absent.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use stasis_images::messages::{FdinfoEntry, FileEntry, InventoryEntry, PagemapHead, PstreeEntry};
use stasis_images::{
    Access, Cancel, Destination, Error, ImageWriter, Images, NewDirectory, PAGE_SIZE, Safe,
    WriteOptions, encode, make_safe, names, parents_of, remove, verify,
};

fn inventory() -> InventoryEntry {
    InventoryEntry { img_version: 2, fdinfo_per_id: Some(true), ..Default::default() }
}

fn process(pid: u32) -> PstreeEntry {
    PstreeEntry { pid, pgid: pid, sid: pid, threads: vec![pid], ..Default::default() }
}

fn write(target: &Path, options: WriteOptions, pids: &[u32]) -> Result<(), Error> {
    let writer = ImageWriter::create(target, options)?;
    let processes: Vec<_> = pids.iter().copied().map(process).collect();
    writer.write_all(&names::pstree(), &processes)?;
    writer.write_one(&names::inventory(), &inventory())?;
    writer.commit().map(|_| ())
}

fn pids(target: &Path) -> Vec<u32> {
    let dir = Images::open(target).unwrap();
    dir.read_all(&names::pstree()).unwrap().iter().map(|process| process.pid).collect()
}

fn listing(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_new_directory_appears_whole() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("checkpoint");
    let writer = ImageWriter::create(&target, WriteOptions::default()).unwrap();
    writer.write_one(&names::pstree(), &process(7)).unwrap();
    writer.write_one(&names::inventory(), &inventory()).unwrap();
    assert!(!target.exists());
    let committed = writer.commit().unwrap();
    assert_eq!(committed.files, 3);
    assert_eq!(listing(place.path()), ["checkpoint"]);
    assert_eq!(listing(&target), ["inventory.img", "pstree.img", "stasis-manifest"]);
    assert_eq!(pids(&target), [7]);
}

#[test]
fn a_dropped_writer_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("checkpoint");
    let writer = ImageWriter::create(&target, WriteOptions::default()).unwrap();
    writer.write_one(&names::pstree(), &process(7)).unwrap();
    drop(writer);
    assert!(listing(place.path()).is_empty());
}

#[test]
fn without_an_inventory_or_with_an_open_image_nothing_is_committed() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("checkpoint");
    let writer = ImageWriter::create(&target, WriteOptions::default()).unwrap();
    writer.write_one(&names::pstree(), &process(7)).unwrap();
    assert!(matches!(writer.commit(), Err(Error::Misuse { .. })));

    let writer = ImageWriter::create(&target, WriteOptions::default()).unwrap();
    writer.write_one(&names::inventory(), &inventory()).unwrap();
    drop(writer.image(&names::pstree()).unwrap());
    assert!(matches!(writer.commit(), Err(Error::Misuse { .. })));
    assert!(listing(place.path()).is_empty());
}

#[test]
fn logs_in_the_directory_stay() {
    let target = tempfile::tempdir().unwrap();
    fs::write(target.path().join("dump.log"), "hello").unwrap();
    fs::write(target.path().join("disk.img"), "not ours").unwrap();
    fs::write(target.path().join("remap-fpath.img"), "of a dump that was killed").unwrap();
    write(target.path(), WriteOptions::default(), &[7]).unwrap();
    assert_eq!(
        listing(target.path()),
        ["disk.img", "dump.log", "inventory.img", "pstree.img", "stasis-manifest"]
    );
    assert_eq!(pids(target.path()), [7]);
}

#[test]
fn an_empty_directory_keeps_its_mode() {
    use std::os::unix::fs::PermissionsExt;
    let target = tempfile::tempdir().unwrap();
    fs::set_permissions(target.path(), fs::Permissions::from_mode(0o751)).unwrap();
    write(target.path(), WriteOptions::default(), &[7]).unwrap();
    let mode = fs::metadata(target.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o751);
    assert_eq!(pids(target.path()), [7]);
}

#[test]
fn in_place_keeps_the_directory_itself() {
    let target = tempfile::tempdir().unwrap();
    let open = fs::File::open(target.path()).unwrap();
    write(target.path(), WriteOptions { in_place: true, ..Default::default() }, &[7]).unwrap();
    let dir = Images::from_fd(open.into(), target.path()).unwrap();
    assert_eq!(dir.files().unwrap().len(), 3);
}

#[test]
fn a_checkpoint_is_replaced_only_when_asked() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("checkpoint");
    write(&target, WriteOptions::default(), &[7]).unwrap();
    assert!(matches!(write(&target, WriteOptions::default(), &[8]), Err(Error::Exists { .. })));
    assert_eq!(pids(&target), [7]);
    write(&target, WriteOptions { overwrite: true, ..Default::default() }, &[8, 9]).unwrap();
    assert_eq!(pids(&target), [8, 9]);
    assert_eq!(listing(place.path()), ["checkpoint"]);
}

#[test]
fn something_that_comes_into_the_directory_meanwhile_stays() {
    let target = tempfile::tempdir().unwrap();
    let writer = ImageWriter::create(target.path(), WriteOptions::default()).unwrap();
    writer.write_one(&names::inventory(), &inventory()).unwrap();
    fs::write(target.path().join("dump.log"), "hello").unwrap();
    writer.commit().unwrap();
    assert_eq!(listing(target.path()), ["dump.log", "inventory.img", "stasis-manifest"]);
}

#[test]
fn what_a_killed_writer_left_is_removed_and_what_a_living_one_makes_is_not() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("checkpoint");
    let stale = place.path().join(".checkpoint.stasis-tmp-1-0");
    fs::create_dir(&stale).unwrap();
    fs::write(stale.join("core-1.img"), "half").unwrap();
    let living = ImageWriter::create(&target, WriteOptions::default()).unwrap();
    assert!(!stale.exists());
    let other = ImageWriter::create(&target, WriteOptions::default()).unwrap();
    assert_eq!(listing(place.path()).len(), 2);
    drop((living, other));
    assert!(listing(place.path()).is_empty());
}

#[test]
fn a_link_to_a_directory_stands_for_it() {
    let place = tempfile::tempdir().unwrap();
    let (real, link) = (place.path().join("real"), place.path().join("link"));
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    write(&link, WriteOptions::default(), &[7]).unwrap();
    assert!(link.is_symlink());
    assert_eq!(pids(&real), [7]);
}

#[test]
fn an_image_is_a_file_and_no_link() {
    let target = tempfile::tempdir().unwrap();
    write(target.path(), WriteOptions::default(), &[7]).unwrap();
    let path = target.path().join("pstree.img");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    let dir = Images::open(target.path()).unwrap();
    assert!(matches!(dir.read_all(&names::pstree()), Err(Error::Io { .. })));
}

#[test]
fn a_directory_without_an_inventory_is_no_checkpoint() {
    let target = tempfile::tempdir().unwrap();
    assert!(matches!(Images::open(target.path()), Err(Error::NotACheckpoint { .. })));
}

#[test]
fn any_name_that_a_directory_can_have_will_do() {
    use std::os::unix::ffi::OsStrExt;
    let place = tempfile::tempdir().unwrap();
    let long = "é".repeat(127);
    let odd = std::ffi::OsStr::from_bytes(b"not \xff UTF-8");
    for name in [std::ffi::OsStr::new(&long), odd] {
        let target = place.path().join(name);
        write(&target, WriteOptions::default(), &[7]).unwrap();
        assert_eq!(pids(&target), [7]);
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
}

/// A sparse file of zeros is messages of no bytes: as many as the file is long, and it costs nothing to
/// make. Every image of many messages is read with little memory, whatever its length.
#[test]
fn a_sparse_image_takes_no_memory() {
    let target = tempfile::tempdir().unwrap();
    write(target.path(), WriteOptions::default(), &[7]).unwrap();
    let lengthen = |name: &str| {
        let file = fs::OpenOptions::new().append(true).open(target.path().join(name)).unwrap();
        file.set_len(1 << 40).unwrap();
    };
    fs::remove_file(target.path().join("stasis-manifest")).unwrap();
    let before = peak_memory();
    for name in ["files.img", "fdinfo-2.img", "pagemap-7.img", "pstree.img"] {
        let path = target.path().join(name);
        let ended = match name {
            "files.img" => {
                fs::write(&path, encode::<FileEntry>(&names::files(), [])).unwrap();
                lengthen(name);
                let dir = Images::open(target.path()).unwrap();
                dir.read_all(&names::files()).err()
            }
            "fdinfo-2.img" => {
                fs::write(&path, encode::<FdinfoEntry>(&names::fdinfo(2), [])).unwrap();
                lengthen(name);
                let dir = Images::open(target.path()).unwrap();
                dir.read_all(&names::fdinfo(2)).err()
            }
            "pagemap-7.img" => {
                let head = PagemapHead { pages_id: 1 };
                fs::write(&path, encode(&names::pagemap(7), [&head])).unwrap();
                lengthen(name);
                Images::open(target.path()).unwrap().page_map(&names::pagemap(7)).err()
            }
            _ => {
                lengthen(name);
                let dir = Images::open(target.path()).unwrap();
                dir.read_all(&names::pstree()).err()
            }
        };
        let ended = ended.unwrap_or_else(|| panic!("{name} was read"));
        assert!(matches!(ended, Error::EmptyMessage { .. }), "{name}: {ended}");
    }
    let taken = peak_memory() - before;
    assert!(taken < 16 << 20, "{taken} bytes");
}

/// The most memory that this process has used, in bytes.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// A process in a test of its own (nextest) may change its directory.
#[test]
fn the_directory_one_is_in_stays() {
    let target = tempfile::tempdir().unwrap();
    let before = std::env::current_dir().unwrap();
    std::env::set_current_dir(target.path()).unwrap();
    write(Path::new("."), WriteOptions::default(), &[7]).unwrap();
    let found = Path::new("inventory.img").exists();
    std::env::set_current_dir(before).unwrap();
    assert!(found);
}

#[test]
fn what_killed_writers_left_is_shown_and_cleared_whatever_its_target() {
    let place = tempfile::tempdir().unwrap();
    let [left, written, trap] =
        [".other.stasis-tmp-1-0", ".live.stasis-tmp-2-0", ".link.stasis-tmp-3-0"]
            .map(|name| place.path().join(name));
    for directory in [&left, &written] {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("pages-1.img"), vec![1; 50_000]).unwrap();
    }
    std::os::unix::fs::symlink("/etc", &trap).unwrap();
    let lock = fs::File::open(&written).unwrap();
    lock.lock().unwrap();
    let shown = stasis_images::unfinished(place.path()).unwrap();
    let told: Vec<_> = shown.iter().map(|one| (&one.path, one.being_written)).collect();
    assert_eq!(told, [(&written, true), (&left, false)]);
    assert!(shown[1].bytes >= 50_000, "{shown:?}");

    write(&place.path().join("new"), WriteOptions::default(), &[7]).unwrap();
    assert!(!left.exists() && written.exists() && trap.exists());
    // Inside a directory that is not empty, too.
    let target = place.path().join("with-log");
    let inside = target.join(".stasis-tmp-4-0");
    fs::create_dir_all(&inside).unwrap();
    fs::write(target.join("dump.log"), "hello").unwrap();
    write(&target, WriteOptions::default(), &[7]).unwrap();
    assert_eq!(listing(&target), ["dump.log", "inventory.img", "pstree.img", "stasis-manifest"]);
}

#[test]
fn a_checkpoint_is_not_made_inside_or_above_another() {
    let place = tempfile::tempdir().unwrap();
    let below = place.path().join("k/one");
    fs::create_dir(place.path().join("k")).unwrap();
    write(&below, WriteOptions::default(), &[7]).unwrap();
    let refused = |target: &Path| write(target, WriteOptions::default(), &[8]).unwrap_err();
    assert!(matches!(refused(&place.path().join("k")), Error::Above { .. }));
    assert!(matches!(refused(place.path()), Error::Above { .. }));
    fs::create_dir(below.join("x")).unwrap();
    assert!(matches!(refused(&below.join("x/y")), Error::Inside { .. }));
    assert!(matches!(refused(&below.join("z")), Error::Inside { .. }));
    assert_eq!(pids(&below), [7]);
    // Who overwrites lays out his directories himself.
    let options = WriteOptions { overwrite: true, ..Default::default() };
    write(&place.path().join("k"), options, &[9]).unwrap();
    // It is also found when it has come meanwhile.
    let place = tempfile::tempdir().unwrap();
    let writer = ImageWriter::create(&place.path().join("k"), WriteOptions::default()).unwrap();
    writer.write_one(&names::inventory(), &inventory()).unwrap();
    fs::create_dir(place.path().join("k")).unwrap();
    write(&place.path().join("k/one"), WriteOptions::default(), &[7]).unwrap();
    assert!(matches!(writer.commit(), Err(Error::Above { .. })));
}

/// A file that is longer than what is digested at once, in the checkpoint and in one of its folders.
fn write_long(target: &Path, safe: Safe) {
    let bytes: Vec<u8> = (0..9 << 20).map(|at| (at % 241) as u8).collect();
    let writer = ImageWriter::create(target, WriteOptions::default()).unwrap();
    let early = writer.pre_copies(1).unwrap();
    for (folder, part) in [writer.here()].into_iter().chain(early).zip([bytes.len(), 6 << 20]) {
        let (id, sink) = folder.pages().unwrap();
        let at = sink.reserve(bytes.len() as u64).unwrap();
        // Of the second file one piece is not written in a row.
        sink.write_all_at(&bytes[part..], at + part as u64).unwrap();
        sink.write_all_at(&bytes[..part], at).unwrap();
        let mut map = folder.image(&names::pagemap(7)).unwrap();
        map.put(&PagemapHead { pages_id: id }).unwrap();
        map.finish().unwrap();
        folder.write_one(&names::inventory(), &inventory()).unwrap();
    }
    writer.link_parent(Path::new(names::PRE_COPY)).unwrap();
    writer.commit_as(safe).unwrap();
}

/// Whether a byte that is changed in the middle of a file is told, which is as it was afterwards.
fn is_told(images: &Path, file: &Path, open: impl Fn(&Path) -> Result<(), Error>) -> bool {
    let handle = fs::File::options().read(true).write(true).open(file).unwrap();
    // Between two samples.
    let (mut byte, at) = ([0], (5 << 20) + 1234);
    handle.read_exact_at(&mut byte, at).unwrap();
    handle.write_all_at(&[byte[0] ^ 16], at).unwrap();
    let opened = open(images);
    handle.write_all_at(&byte, at).unwrap();
    match opened {
        Ok(()) => false,
        Err(Error::Changed { what, .. }) => {
            assert!(what.contains("from 4194304 to 8388608"), "{what}");
            true
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn no_byte_of_a_long_file_changes_unseen() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("checkpoint");
    let own = |images: &Path| Images::open(images)?.pages(1).map(|_| ());
    let early = |images: &Path| Images::open(images)?.parent()?.unwrap().pages(1).map(|_| ());
    let files = [target.join("pages-1.img"), target.join(names::PRE_COPY).join("pages-1.img")];
    let told = || [is_told(&target, &files[0], own), is_told(&target, &files[1], early)];
    write_long(&target, Safe::AtOnce);
    own(&target).unwrap();
    early(&target).unwrap();
    assert_eq!(told(), [true, true]);
    fs::remove_dir_all(&target).unwrap();
    // Whoever waits for it does not wait for the reading of what was not digested when it was written: that comes when it is made safe.
    write_long(&target, Safe::Later);
    assert_eq!(told(), [true, false]);
    let options = WriteOptions::default();
    make_safe(&NewDirectory { path: target.clone(), options }, None).unwrap();
    assert_eq!(told(), [true, true]);
    assert_eq!(listing(&target.join(names::PRE_COPY)).len(), 4);
}

#[test]
fn all_that_has_changed_is_told_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("checkpoint");
    write_long(&target, Safe::AtOnce);
    // It has no tree in it, which is found when every file is as it was.
    let found = || verify(&target, &Access::default(), &Cancel::default()).unwrap();
    let first = found();
    assert_eq!(
        (first.files, first.bytes > 18 << 20, first.unknown.len()),
        (6, true, 0),
        "{first:?}"
    );
    assert_eq!(first.damages.len(), 1, "{first:?}");
    let early = target.join(names::PRE_COPY);
    for file in [target.join("pages-1.img"), early.join("pages-1.img"), early.join("pagemap-7.img")]
    {
        let before = fs::read(&file).unwrap();
        let mut changed = before.clone();
        let last = changed.len() - 1;
        changed[last] ^= 1;
        fs::write(&file, &changed).unwrap();
        let damaged: Vec<_> = found().damages.into_iter().map(|damage| damage.path).collect();
        assert_eq!(damaged.len(), 1, "{damaged:?}");
        assert!(damaged[0].canonicalize().unwrap() == file.canonicalize().unwrap(), "{damaged:?}");
        fs::write(&file, &before).unwrap();
    }
    fs::remove_file(early.join("pages-1.img")).unwrap();
    assert_eq!(found().damages.len(), 1);
    fs::remove_file(target.join("stasis-manifest")).unwrap();
    assert_eq!(found().unknown.len(), 1);
}

#[test]
fn a_checkpoint_is_removed_whole() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("checkpoint");
    write(&target, WriteOptions::default(), &[7]).unwrap();
    fs::write(target.join("dump.log"), "said").unwrap();
    fs::write(target.join("main.rs"), "mine").unwrap();
    assert!(matches!(remove(&target), Err(Error::Holds { .. })), "it is no part of it");
    assert_eq!(pids(&target), [7]);
    fs::remove_file(target.join("main.rs")).unwrap();
    fs::write(target.join("stasis-labels.json"), "{}").unwrap();
    remove(&target).unwrap();
    assert_eq!(listing(place.path()), [""; 0]);
    assert!(remove(&target).is_err());
    fs::create_dir(&target).unwrap();
    assert!(matches!(remove(&target), Err(Error::NotACheckpoint { .. })));
    assert_eq!(listing(place.path()), ["checkpoint"]);
    // One that others have put inside is not to go with it.
    write(&target, WriteOptions { in_place: true, ..WriteOptions::default() }, &[7]).unwrap();
    fs::create_dir(target.join("inside")).unwrap();
    fs::copy(target.join("inventory.img"), target.join("inside/inventory.img")).unwrap();
    assert!(matches!(remove(&target), Err(Error::Holds { .. })));
    assert_eq!(pids(&target), [7]);
}

#[test]
fn whose_pages_are_where_is_known() {
    let place = tempfile::tempdir().unwrap().keep();
    let (parent, child) = (place.join("parent-of"), place.join("child"));
    write(&parent, WriteOptions::default(), &[7]).unwrap();
    let writer = ImageWriter::create(&child, WriteOptions::default()).unwrap();
    let early = writer.pre_copies(1).unwrap();
    early[0].write_one(&names::inventory(), &inventory()).unwrap();
    early[0].link_parent(Path::new("../../parent-of")).unwrap();
    writer.link_parent(Path::new(names::PRE_COPY)).unwrap();
    writer.write_one(&names::inventory(), &inventory()).unwrap();
    writer.commit().unwrap();
    assert_eq!(parents_of(&child), [parent.canonicalize().unwrap()]);
    assert!(parents_of(&parent).is_empty());
    fs::remove_dir_all(place).unwrap();
}

/// Nothing of it takes room that nobody would look for.
#[test]
fn one_that_cannot_be_made_safe_is_gone() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, foreign) in [("alone", None), ("beside", Some("notes.txt"))] {
        let destination =
            NewDirectory { path: scratch.path().join(name), options: WriteOptions::default() };
        let writer = ImageWriter::of(destination.begin().unwrap());
        let early = writer.pre_copies(1).unwrap();
        early[0].pages().unwrap().1.reserve(PAGE_SIZE).unwrap();
        drop(early);
        writer.write_one(&names::inventory(), &inventory()).unwrap();
        writer.commit_as(Safe::Later).unwrap();
        let foreign = foreign.map(|foreign| destination.path.join(foreign));
        foreign.iter().for_each(|path| fs::write(path, "mine").unwrap());
        let failed = || Error::Misuse { name: "x".into(), what: "a test" };
        destination.make_safe(&|_| Err(failed())).unwrap_err();
        assert_eq!(destination.path.exists(), foreign.is_some());
        if let Some(foreign) = foreign {
            assert_eq!(fs::read_dir(&destination.path).unwrap().count(), 1);
            assert_eq!(fs::read_to_string(foreign).unwrap(), "mine");
        }
    }
}

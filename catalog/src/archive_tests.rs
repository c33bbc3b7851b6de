//! Archives that are none, or of something else, are refused, and leave nothing.

use super::*;

fn set(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/criu-4.2").join(name)
}

/// A checkpoint of nothing but an inventory, with its manifest.
fn small(place: &Path) {
    let images = Images::open(&set("minimal")).unwrap();
    let writer = images::ImageWriter::create(place, WriteOptions::default()).unwrap();
    writer.write_one(&names::inventory(), images.inventory()).unwrap();
    writer.commit().unwrap();
}

fn archive(entries: &[(&str, EntryType, &[u8], &str)]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (name, kind, bytes, to) in entries {
        let mut header = header(*kind, bytes.len() as u64, 0);
        // As no honest program would: `set_path` refuses some of these.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..to.len()].copy_from_slice(to.as_bytes());
        header.set_cksum();
        archive.append(&header, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

fn left(place: &Path) -> Vec<String> {
    let names = fs::read_dir(place).unwrap().map(|it| it.unwrap().file_name());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

#[test]
fn what_is_no_checkpoint_is_refused_and_leaves_nothing() {
    let file = |name| (name, EntryType::Regular, &b"x"[..], "");
    let link = |name, to| (name, EntryType::Symlink, &b""[..], to);
    let place = tempfile::tempdir().unwrap();
    for (entries, part) in [
        (vec![], "inventory.img"),
        (vec![file("../inventory.img")], "called so"),
        (vec![file("/etc/inventory.img")], "called so"),
        (vec![file("sub/inventory.img")], "called so"),
        (vec![file("pre-copy/../inventory.img")], "called so"),
        (vec![file("passwd")], "called so"),
        (vec![file("a b.log")], "called so"),
        (vec![file("inventory.img"), file("inventory.img")], "twice"),
        (vec![link("parent", "../other")], "pages were left"),
        (vec![link("parent", "/etc")], "pages were left"),
        (vec![link("parent", "pre-copy/../..")], "pages were left"),
        (vec![link("parent", ".")], "pages were left"),
        (vec![link("inventory.img", "pre-copy")], "no such link"),
        (vec![("inventory.img", EntryType::Link, b"", "/etc/shadow")], "only files"),
        (vec![("inventory.img", EntryType::Fifo, b"", "")], "only files"),
        (vec![("inventory.img", EntryType::Char, b"", "")], "only files"),
        (vec![("././@LongLink", EntryType::GNULongName, b"inventory.img", "")], "only files"),
        (vec![("x", EntryType::XHeader, b"20 path=/etc/passwd\n", "")], "only files"),
        (vec![("etc/", EntryType::Directory, b"", "")], "no such directory"),
        (vec![file("inventory.img"), file("stasis-manifest")], "stasis-manifest"),
    ] {
        let bytes = archive(&entries);
        let error = unpack(&bytes[..], &place.path().join("new")).unwrap_err();
        let text = format!(
            "{error} {}",
            std::error::Error::source(&error).map_or(String::new(), ToString::to_string)
        );
        assert!(text.contains(part), "{entries:?}: {text}");
        assert!(left(place.path()).is_empty(), "{entries:?}: {:?}", left(place.path()));
    }
}

#[test]
fn what_says_that_it_is_longer_than_the_disk_is_not_begun() {
    let place = tempfile::tempdir().unwrap();
    let mut header = header(EntryType::Regular, u64::MAX / 2, 0);
    header.set_path("pages-1.img").unwrap();
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend([0; 4096]);
    let error = unpack(&bytes[..], &place.path().join("new")).unwrap_err();
    assert!(matches!(error, ArchiveError::NoRoom { .. }), "{error:?}");
    assert!(left(place.path()).is_empty());
}

#[test]
fn one_that_is_cut_off_or_changed_anywhere_is_refused() {
    let place = tempfile::tempdir().unwrap();
    small(&place.path().join("small"));
    let mut bytes = Vec::new();
    packed(&place.path().join("small")).unwrap().write(&mut bytes).unwrap();
    let there = place.path().join("to");
    fs::create_dir(&there).unwrap();
    let new = there.join("new");
    for end in (0..bytes.len() - 1024).step_by(100) {
        unpack(&bytes[..end], &new).unwrap_err();
        assert!(left(&there).is_empty(), "{end}");
    }
    for at in 0..bytes.len() - 1024 {
        let mut changed = bytes.clone();
        changed[at] ^= 0x55;
        // What fills a block up, or says whose a file was, is no part of it.
        if unpack(&changed[..], &new).is_ok() {
            images::remove(&new).unwrap();
        }
        assert!(left(&there).is_empty(), "{at}");
    }
}

#[test]
fn one_of_criu_has_nothing_to_be_compared_with() {
    let place = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    packed(&set("minimal")).unwrap().write(&mut bytes).unwrap();
    let error = unpack(&bytes[..], &place.path().join("new")).unwrap_err();
    assert!(error.to_string().contains("stasis-manifest"), "{error}");
}

#[test]
fn links_lead_to_pages_inside_alone() {
    for (name, to) in [
        ("parent", "pre-copy"),
        ("parent", "./pre-copy/pre-copy"),
        ("pre-copy/pre-copy/parent", ".."),
    ] {
        check_link(name, Path::new(to)).unwrap();
    }
    for (name, to) in
        [("pre-copy/parent", ".."), ("pre-copy/parent", "../../base"), ("parent", "pre-copy/other")]
    {
        check_link(name, Path::new(to)).unwrap_err();
    }
}

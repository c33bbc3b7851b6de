//! What is encrypted is read by who has a key of its, as it was written, and by nobody else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{EncodePrivateKey, EncodePublicKey};
use images::encryption::Decrypts;
use images::messages::{InventoryEntry, ManifestEntry, PagemapEntry, PagemapHead, page_flags};
use images::store::Encrypts;
use images::{
    Access, Cancel, Destination, EncryptedDirectory, Error, Folder, ImageWriter, Images, Lineage,
    NewDirectory, PAGE_SIZE, Safe, Signer, TrustedKeys, WriteOptions, encode, make_safe, names,
    sign, verify,
};
use stasis_encryption::{Identities, Recipients};

/// What is in every page, and in every inventory.
const MARKER: &str = "nobody is to read this on the disk";

/// Pages of a folder: some more than a piece of age's.
const PAGES: u64 = 40;

/// A folder with keys and checkpoints.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for name in ["ours", "theirs"] {
            let key = Identity::generate();
            let text = format!("# of {name}\n\n{}\n", key.to_string().expose_secret());
            place.put(&format!("{name}.key"), text.as_bytes(), 0o600);
            let text = format!("# of {name}\n\n  {}\n", key.to_public());
            place.put(&format!("{name}.pub"), text.as_bytes(), 0o644);
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8], mode: u32) {
        fs::write(self.path(name), bytes).unwrap();
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    fn access(&self, name: &str) -> Access {
        let identities = Identities::read(&self.path(&format!("{name}.key"))).unwrap();
        Access { identities: Some(Arc::new(identities)), ..Access::default() }
    }

    fn destination(&self, name: &str) -> EncryptedDirectory {
        let directory = NewDirectory { path: self.path(name), options: WriteOptions::default() };
        let recipients = Recipients::read(&self.path("ours.pub")).unwrap();
        EncryptedDirectory { directory: directory.into(), recipients: Arc::new(recipients) }
    }

    /// An encrypted checkpoint with pages that were copied early, of which some may be left to a parent.
    fn write(&self, name: &str, parent: Option<&str>) {
        let to = self.destination(name);
        let writer = ImageWriter::of(to.begin().unwrap());
        fill_all(&self.path(""), &writer, name, self.parent(parent));
        writer.commit_as(Safe::Later).unwrap();
        make_safe(&to, None).unwrap();
    }

    fn write_plain(&self, name: &str, parent: Option<&str>) {
        let writer = ImageWriter::create(&self.path(name), WriteOptions::default()).unwrap();
        fill_all(&self.path(""), &writer, name, self.parent(parent));
        writer.commit().unwrap();
    }

    fn parent(&self, name: Option<&str>) -> Option<Images> {
        name.map(|name| Images::open_as(&self.path(name), &self.access("ours")).unwrap())
    }

    /// Opens a checkpoint and all of its parents, and reads the pages of all.
    fn look(&self, name: &str) -> Result<usize, Error> {
        self.look_as(name, &self.access("ours"))
    }

    fn look_as(&self, name: &str, access: &Access) -> Result<usize, Error> {
        let images = Images::open_as(&self.path(name), access)?;
        let mut lineage = Lineage::of(&images)?;
        for level in 0.. {
            let images = lineage.level(level)?.clone();
            let map = images.page_map(&names::pagemap(7))?.unwrap();
            assert_eq!(map.runs.iter().map(|run| run.pages).sum::<u64>(), PAGES);
            let pages = images.pages(map.pages_id)?;
            assert!(pages.file().is_none());
            let mut all = vec![0; (PAGES * PAGE_SIZE) as usize];
            pages.read_exact_at(&mut all, 0).unwrap();
            for page in (0..PAGES).rev().chain([3, 3, 20]) {
                let mut one = vec![0; PAGE_SIZE as usize];
                pages.read_exact_at(&mut one, page * PAGE_SIZE).unwrap();
                assert_eq!(one, page_of(page));
                assert_eq!(one, all[(page * PAGE_SIZE) as usize..][..PAGE_SIZE as usize]);
            }
            assert!(pages.read_exact_at(&mut [0; 2], PAGES * PAGE_SIZE - 1).is_err());
            if images.parent()?.is_none() {
                return Ok(level + 1);
            }
        }
        unreachable!()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// What somebody does who can write to the disk and has no keys: the manifest of a folder is made to fit what is there.
    fn fit_manifest(&self, folder: &str) {
        let mut entries: Vec<ManifestEntry> = Vec::new();
        for entry in fs::read_dir(self.path(folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().unwrap().is_file() && !names::is_service(&name) {
                let bytes = fs::read(entry.path()).unwrap();
                let digest = blake3::hash(&bytes).as_bytes().to_vec();
                let bytes = bytes.len() as u64;
                entries.push(ManifestEntry { name, bytes, digest, ..Default::default() });
            }
        }
        let inventory = self.path(folder).join("parent/inventory.img");
        if let Ok(bytes) = fs::read(inventory) {
            let digest = blake3::hash(&bytes).as_bytes().to_vec();
            let (name, bytes) = ("parent".to_owned(), bytes.len() as u64);
            entries.push(ManifestEntry { name, bytes, digest, ..Default::default() });
        }
        let manifest = self.path(folder).join("stasis-manifest");
        fs::write(manifest, encode(&names::manifest(), &entries)).unwrap();
    }
}

fn page_of(page: u64) -> Vec<u8> {
    let text = format!("{MARKER}, page {page}; ");
    text.bytes().cycle().take(PAGE_SIZE as usize).collect()
}

fn fill_all(place: &Path, writer: &ImageWriter, own: &str, parent: Option<Images>) {
    let own = format!("{MARKER}: {own}");
    let early = writer.pre_copies(2).unwrap();
    fill(early[0], &own);
    if let Some(parent) = parent {
        let link = place.join(parent.path());
        early[0].link_checkpoint(&link, parent.as_parent().unwrap()).unwrap();
    }
    fill(early[1], &own);
    early[1].link_parent(Path::new("..")).unwrap();
    fill(writer.here(), &own);
    writer.link_parent(Path::new("pre-copy/pre-copy")).unwrap();
}

fn fill(folder: Folder<'_>, own: &str) {
    let (pages_id, pages) = folder.pages().unwrap();
    let room = pages.reserve(PAGES * PAGE_SIZE).unwrap();
    // As threads write them: some too early.
    for page in (0..PAGES).map(|page| page ^ 7) {
        pages.write_all_at(&page_of(page), room + page * PAGE_SIZE).unwrap();
    }
    let mut map = folder.image(&names::pagemap(7)).unwrap();
    map.put(&PagemapHead { pages_id }).unwrap();
    map.put_as(&PagemapEntry::run(0x1000, PAGES, page_flags::PRESENT)).unwrap();
    map.finish().unwrap();
    let inventory = InventoryEntry {
        img_version: 2,
        dump_criu_run_id: Some(own.to_owned()),
        ..InventoryEntry::default()
    };
    folder.write_one(&names::inventory(), &inventory).unwrap();
}

/// All files below a directory, by their names from there.
fn files(at: &Path, prefix: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(at).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(&entry.path(), &format!("{name}/"), found);
        } else if kind.is_file() {
            found.insert(name);
        }
    }
}

#[test]
fn each_file_is_one_of_ages_and_comes_back_as_it_was() {
    let place = Place::new();
    place.write("first", None);
    place.write("second", Some("first"));
    assert_eq!(place.look("first").unwrap(), 3);
    assert_eq!(place.look("second").unwrap(), 6);
    let mut all = BTreeSet::new();
    files(&place.path("second"), "", &mut all);
    assert_eq!(all.len(), 3 * 5, "{all:?}");
    let identity = place.bytes("ours.key");
    let identity: Identity =
        String::from_utf8(identity).unwrap().lines().last().unwrap().parse().unwrap();
    for name in all {
        let bytes = place.bytes(&format!("second/{name}"));
        assert!(!bytes.windows(MARKER.len()).any(|it| it == MARKER.as_bytes()), "{name}");
        if name.ends_with("stasis-manifest") {
            continue;
        }
        assert!(bytes.starts_with(b"age-encryption.org/v1\n"), "{name}");
        let decryptor = age::Decryptor::new(&bytes[..]).unwrap();
        let mut plain = Vec::new();
        let keys = [&identity as &dyn age::Identity];
        decryptor.decrypt(keys.into_iter()).unwrap().read_to_end(&mut plain).unwrap();
        let shows = plain.windows(MARKER.len()).any(|it| it == MARKER.as_bytes());
        assert_eq!(shows, name.contains("pages") || name.contains("inventory"), "{name}");
    }
}

#[test]
fn nobody_else_reads_it() {
    let place = Place::new();
    place.write("first", None);
    place.write("second", Some("first"));
    let path = place.path("second");
    assert!(matches!(Images::open(&path), Err(Error::Encrypted { .. })));
    let theirs = place.access("theirs");
    assert!(matches!(Images::open_as(&path, &theirs), Err(Error::NotARecipient { .. })));
    let error = Images::open(&path).unwrap_err().to_string();
    assert!(error.contains("is encrypted") && error.contains("--identities"), "{error}");

    // All of it can be compared, and listed.
    let locked = Images::open_locked(&path, &Access::default()).unwrap();
    assert!(locked.is_locked() && locked.is_encrypted());
    let found = verify(&path, &Access::default(), &Cancel::default()).unwrap();
    assert!(found.locked && found.damages.is_empty() && found.unknown.is_empty(), "{found:?}");
    assert_eq!(found.files, 6 * 3);
    assert_eq!(locked.files().unwrap().len(), 3 * 5);
    let error = locked.page_map(&names::pagemap(7)).unwrap_err();
    assert!(matches!(error, Error::Encrypted { .. }), "{error}");
    assert!(matches!(locked.pages(1), Err(Error::Encrypted { .. })));
}

#[test]
fn what_has_changed_is_refused_whatever_the_manifest_says() {
    let place = Place::new();
    place.write("one", None);
    place.write("two", None);
    let mut all = BTreeSet::new();
    files(&place.path("one"), "", &mut all);
    for name in all.iter().filter(|name| !name.ends_with("stasis-manifest")) {
        let (path, folder) = (place.path(&format!("one/{name}")), name.rsplit_once('/'));
        let folder = format!("one/{}", folder.map_or("", |(folder, _)| folder));
        let whole = fs::read(&path).unwrap();
        let manifest = place.bytes(&format!("{folder}/stasis-manifest"));
        let mut flipped = whole.clone();
        flipped[whole.len() - 20] ^= 1;
        let mut in_header = whole.clone();
        in_header[40] ^= 1;
        let cut = whole[..whole.len() - 1].to_vec();
        let others = place.bytes(&format!("two/{name}"));
        for changed in [flipped, in_header, cut, others, Vec::new()] {
            fs::write(&path, &changed).unwrap();
            place.look("one").unwrap_err();
            place.fit_manifest(&folder);
            place.look("one").unwrap_err();
            fs::write(place.path(&format!("{folder}/stasis-manifest")), &manifest).unwrap();
        }
        fs::write(&path, &whole).unwrap();
        place.look("one").unwrap();
    }
}

#[test]
fn files_of_two_checkpoints_are_not_mixed() {
    let place = Place::new();
    for name in ["one", "two", "child"] {
        place.write(name, (name == "child").then_some("one"));
    }
    let swap = |name: &str| {
        let other = place.bytes(&format!("two/{name}"));
        let own = place.bytes(&format!("one/{name}"));
        fs::write(place.path(&format!("one/{name}")), other).unwrap();
        own
    };
    let sealed = |name: &str| match place.look(name) {
        Err(Error::Unsealed { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    // The pages of another, with a manifest to it; and with its seal.
    let pages = swap("pages-1.img");
    let manifest = place.bytes("one/stasis-manifest");
    place.fit_manifest("one");
    assert!(sealed("one").contains("another one"));
    let seal = swap("stasis-seal");
    assert!(sealed("one").contains("another one"));
    fs::remove_file(place.path("one/stasis-seal")).unwrap();
    assert!(sealed("one").contains("missing"));
    fs::write(place.path("one/stasis-seal"), seal).unwrap();
    fs::write(place.path("one/pages-1.img"), pages).unwrap();
    fs::write(place.path("one/stasis-manifest"), manifest).unwrap();
    assert_eq!(place.look("child").unwrap(), 6);

    // Another's whole folder of what was copied early.
    fs::rename(place.path("one/pre-copy"), place.path("kept")).unwrap();
    fs::rename(place.path("two/pre-copy"), place.path("one/pre-copy")).unwrap();
    assert!(matches!(place.look("one"), Err(Error::Changed { .. })));
    fs::rename(place.path("one/pre-copy"), place.path("two/pre-copy")).unwrap();
    fs::rename(place.path("kept"), place.path("one/pre-copy")).unwrap();
    // Another parent.
    let link = place.path("child/pre-copy/parent");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(place.path("two"), &link).unwrap();
    assert!(matches!(place.look("child"), Err(Error::Changed { .. })));
    // No manifest at all.
    fs::remove_file(place.path("two/stasis-manifest")).unwrap();
    assert!(sealed("two").contains("manifest is missing"));
}

#[test]
fn a_plain_one_is_refused_where_encryption_is_demanded() {
    let place = Place::new();
    place.write_plain("plain", None);
    place.write("secret", Some("plain"));
    let demanding = Access { encrypted_only: true, ..place.access("ours") };
    let plain = Images::open_as(&place.path("plain"), &demanding);
    assert!(matches!(plain, Err(Error::Plain { .. })));
    assert!(matches!(place.look_as("secret", &demanding), Err(Error::Plain { .. })));
    place.write("alone", None);
    assert_eq!(place.look_as("alone", &demanding).unwrap(), 3);
    // One file of it in plain.
    fs::copy(place.path("plain/pagemap-7.img"), place.path("alone/pagemap-7.img")).unwrap();
    place.fit_manifest("alone");
    assert!(matches!(place.look("alone"), Err(Error::Unsealed { .. })));
}

#[test]
fn it_is_signed_as_any_other_also_by_who_cannot_read_it() {
    let place = Place::new();
    let key = SigningKey::from_bytes(&[1; 32]);
    let private = key.to_pkcs8_pem(LineEnding::LF).unwrap();
    place.put("1.key", private.as_bytes(), 0o600);
    let public = key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
    place.put("1.pem", public.as_bytes(), 0o644);
    let keys = Some(Arc::new(TrustedKeys::read(&place.path("1.pem")).unwrap()));
    place.write("one", None);
    let trusting = Access { keys: keys.clone(), ..place.access("ours") };
    assert!(matches!(place.look_as("one", &trusting), Err(Error::Untrusted { .. })));
    sign(&place.path("one"), &Signer::read(&place.path("1.key")).unwrap()).unwrap();
    assert_eq!(place.look_as("one", &trusting).unwrap(), 3);
    let locked = Access { keys, ..Access::default() };
    let found = verify(&place.path("one"), &locked, &Cancel::default()).unwrap();
    assert!(found.signed_by.is_some());
    // Of one that nobody wants any more nothing is said.
    let cancel = Cancel::default();
    cancel.cancel();
    let found = verify(&place.path("one"), &locked, &cancel);
    assert!(matches!(found, Err(Error::Cancelled { .. })), "{found:?}");
}

#[test]
fn pages_that_did_not_all_come_are_no_checkpoint() {
    let place = Place::new();
    let to = place.destination("x");
    let writer = ImageWriter::of(to.begin().unwrap());
    let (_, pages) = writer.pages().unwrap();
    pages.reserve(3 * PAGE_SIZE).unwrap();
    assert!(pages.write_all_at(&page_of(1), 3 * PAGE_SIZE).is_err(), "no room was taken");
    pages.write_all_at(&page_of(0), 0).unwrap();
    assert!(pages.write_all_at(&page_of(0), 0).is_err(), "twice");
    pages.write_all_at(&page_of(2), 2 * PAGE_SIZE).unwrap();
    writer.write_one(&names::inventory(), &InventoryEntry::default()).unwrap();
    let error = writer.commit().unwrap_err().in_full();
    assert!(error.contains("not all of it was written"), "{error}");
    assert!(!place.path("x").exists());
    assert_eq!(fs::read_dir(place.path("")).unwrap().count(), 4, "keys alone");
}

#[test]
fn keys_in_files_are_taken_only_if_they_are_safe() {
    let place = Place::new();
    let private = |name: &str| Identities::read(&place.path(name)).unwrap_err().to_string();
    let public = |name: &str| Recipients::read(&place.path(name)).unwrap_err().to_string();
    assert!(public("ours.key").contains("age-keygen -y"));
    assert!(private("ours.pub").contains("others than its owner can read it"));
    place.put("bad", b"AGE-SECRET-KEY-1XX\n", 0o600);
    let error = private("bad");
    assert!(error.contains("no identity of kind X25519") && !error.contains("1XX"), "{error}");
    place.put("empty", b"# nothing\n", 0o600);
    assert!(private("empty").contains("no identity in it"));
    assert!(public("empty").contains("no recipient in it"));
    place.put("ssh", b"ssh-ed25519 AAAA x\n", 0o644);
    assert!(public("ssh").contains("no recipient of kind X25519"));
    fs::set_permissions(place.path("ours.pub"), Permissions::from_mode(0o666)).unwrap();
    assert!(public("ours.pub").contains("chmod go-w"));
    let said = place.bytes("theirs.key");
    let said = std::str::from_utf8(&said).unwrap();
    let both = Identities::asked(Some(&place.path("ours.key")), Some(said)).unwrap();
    assert_eq!(format!("{:?}", both.unwrap()), "Identities(2)");
    assert!(Identities::asked(None, None).unwrap().is_none());
    assert!(Identities::asked(None, Some("x")).unwrap_err().to_string().contains("command"));
}

/// A checkpoint whose inventory is what age makes of these bytes, with a change.
fn inventory_of(place: &Place, name: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) -> Error {
    let path = place.path(&format!("{name}/inventory.img"));
    let whole = fs::read(&path).unwrap();
    fs::write(&path, change(whole.clone())).unwrap();
    // Without a manifest nothing is compared before it is decrypted; the seal is missed after that.
    let manifest = place.path(&format!("{name}/stasis-manifest"));
    let kept = fs::read(&manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    let error = place.look(name).unwrap_err();
    fs::write(&manifest, kept).unwrap();
    fs::write(&path, whole).unwrap();
    error
}

#[test]
fn a_stream_that_is_cut_off_anywhere_is_told() {
    /// What age has in a piece, and what it adds to each.
    const PIECE: usize = 64 << 10;
    const TAG: usize = 16;
    let place = Place::new();
    let keys = Identities::read(&place.path("ours.key")).unwrap();
    let recipients = Recipients::read(&place.path("ours.pub")).unwrap();
    for size in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 5] {
        let plain: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let path = place.path("file");
        let mut output = recipients.begin(File::create(&path).unwrap()).unwrap();
        output.write_all(&plain).unwrap();
        output.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        let read = |bytes: &[u8]| {
            let mut content = keys.begin(Box::new(Cursor::new(bytes.to_vec())))?.unwrap();
            let length = content.seek(SeekFrom::End(0))?;
            content.rewind()?;
            let mut plain = Vec::new();
            content.read_to_end(&mut plain)?;
            assert_eq!(plain.len() as u64, length);
            Ok::<_, std::io::Error>(plain)
        };
        assert_eq!(read(&bytes).unwrap(), plain);
        for less in [1, TAG, TAG + 1, PIECE + TAG, 2 * (PIECE + TAG)] {
            if let Some(left) = bytes.len().checked_sub(less) {
                read(&bytes[..left]).unwrap_err();
            }
        }
        for more in [1, PIECE] {
            read(&[&bytes[..], &vec![7; more]].concat()).unwrap_err();
        }
    }
}

#[test]
fn a_header_without_an_end_is_not_looked_for_in_all_of_a_file() {
    let place = Place::new();
    place.write("one", None);
    fs::copy(place.path("one/stasis-seal"), place.path("kept")).unwrap();
    let begin = b"age-encryption.org/v1\n";
    let long = [&begin[..], &vec![b'a'; 50 << 10], b"\n"].concat();
    fs::write(place.path("one/stasis-seal"), &long).unwrap();
    let error = place.look("one").unwrap_err().to_string();
    assert!(error.contains("header is longer"), "{error}");
    fs::write(place.path("one/stasis-seal"), vec![b'a'; 1 << 20]).unwrap();
    let error = place.look("one").unwrap_err().to_string();
    assert!(error.contains("longer than any"), "{error}");
    fs::copy(place.path("kept"), place.path("one/stasis-seal")).unwrap();
    place.look("one").unwrap();
    let error = inventory_of(&place, "one", |whole| [&begin[..], &whole].concat());
    assert!(matches!(error, Error::Unsealed { .. }), "{error}");
}

//! Who signed a checkpoint is known, and nothing of what was signed changes unseen.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{EncodePrivateKey, EncodePublicKey};
use stasis_images::messages::{InventoryEntry, PagemapEntry, PagemapHead, page_flags};
use stasis_images::{
    Distrust, Error, Folder, ImageWriter, Images, Lineage, NewDirectory, PAGE_SIZE, Safe, Signer,
    TrustedKeys, WriteOptions, make_safe, names, sign,
};

/// A folder with keys and checkpoints.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for seed in [1_u8, 2] {
            let key = SigningKey::from_bytes(&[seed; 32]);
            let private = key.to_pkcs8_pem(LineEnding::LF).unwrap();
            place.put(&format!("{seed}.key"), private.as_bytes(), 0o600);
            let public = key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
            place.put(&format!("{seed}.pem"), public.as_bytes(), 0o644);
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

    fn signer(&self, key: u8) -> Signer {
        Signer::read(&self.path(&format!("{key}.key"))).unwrap()
    }

    fn keys(&self, key: u8) -> Arc<TrustedKeys> {
        Arc::new(TrustedKeys::read(&self.path(&format!("{key}.pem"))).unwrap())
    }

    /// A checkpoint with pages that were copied early, of which some may be left to a parent.
    fn write(&self, name: &str, parent: Option<&str>, signer: Option<&Signer>) {
        let target = self.path(name);
        let writer = ImageWriter::create(&target, WriteOptions::default()).unwrap();
        let early = writer.pre_copies(2).unwrap();
        let own = format!("dump of {name}");
        fill(early[0], &own, Parent::of(&self.path(""), parent));
        fill(early[1], &own, Parent::Inside(".."));
        fill(writer.here(), &own, Parent::Inside("pre-copy/pre-copy"));
        writer.commit_as(Safe::Later).unwrap();
        make_safe(&NewDirectory { path: target, options: WriteOptions::default() }, signer)
            .unwrap();
    }

    /// Opens a checkpoint and all of its parents, and looks at all of it.
    fn look(&self, name: &str, key: u8) -> Result<(), Error> {
        let images = Images::open_trusted(&self.path(name), Some(&self.keys(key)))?;
        let mut lineage = Lineage::of(&images)?;
        for level in 0.. {
            let images = lineage.level(level)?.clone();
            images.page_map(&names::pagemap(7))?;
            if images.parent()?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn why(&self, name: &str, key: u8) -> Distrust {
        match self.look(name, key) {
            Err(Error::Untrusted { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }
}

enum Parent {
    None,
    Inside(&'static str),
    Of(PathBuf, Images),
}

impl Parent {
    fn of(place: &Path, name: Option<&str>) -> Self {
        name.map_or(Self::None, |name| {
            Self::Of(place.join(name), Images::open(&place.join(name)).unwrap())
        })
    }
}

fn fill(folder: Folder<'_>, own: &str, parent: Parent) {
    let (pages_id, pages) = folder.pages().unwrap();
    let room = pages.reserve(PAGE_SIZE).unwrap();
    pages.write_all_at(&[7; PAGE_SIZE as usize], room).unwrap();
    let mut map = folder.image(&names::pagemap(7)).unwrap();
    map.put(&PagemapHead { pages_id }).unwrap();
    map.put_as(&PagemapEntry::run(0x1000, 1, page_flags::PRESENT)).unwrap();
    map.finish().unwrap();
    match parent {
        Parent::None => {}
        Parent::Inside(path) => folder.link_parent(Path::new(path)).unwrap(),
        Parent::Of(path, images) => {
            folder.link_checkpoint(&path, images.as_parent().unwrap()).unwrap();
        }
    }
    let inventory = InventoryEntry {
        img_version: 2,
        dump_criu_run_id: Some(own.to_owned()),
        ..InventoryEntry::default()
    };
    folder.write_one(&names::inventory(), &inventory).unwrap();
}

#[test]
fn what_a_trusted_key_has_signed_is_taken_and_nothing_else() {
    let place = Place::new();
    let (one, two) = (place.signer(1), place.signer(2));
    place.write("first", None, Some(&one));
    place.write("second", Some("first"), Some(&one));
    place.write("unsigned", None, None);
    for name in ["first", "second"] {
        place.look(name, 1).unwrap();
        assert_eq!(place.why(name, 2), Distrust::UnknownKey(vec![one.id()]));
    }
    assert_eq!(place.why("unsigned", 1), Distrust::Unsigned);
    assert_eq!(Images::open(&place.path("second")).unwrap().signers().unwrap(), [one.id()]);
    // Whoever holds the key may do it later, in the place of another.
    sign(&place.path("unsigned"), &one).unwrap();
    place.look("unsigned", 1).unwrap();
    sign(&place.path("unsigned"), &two).unwrap();
    place.look("unsigned", 2).unwrap();
    assert_eq!(place.why("unsigned", 1), Distrust::UnknownKey(vec![two.id()]));
    // Without keys nothing is demanded, and what a restore makes nothing of may change.
    fs::write(place.path("first/stats-dump"), "x").unwrap();
    fs::write(place.path("first/stasis-labels.json"), "{}").unwrap();
    place.look("first", 1).unwrap();
    Images::open(&place.path("first")).unwrap();
}

#[test]
fn each_byte_of_what_was_signed_counts() {
    let place = Place::new();
    place.write("one", None, Some(&place.signer(1)));
    for folder in ["one", "one/pre-copy", "one/pre-copy/pre-copy"] {
        let folder = place.path(folder);
        let files: Vec<PathBuf> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.symlink_metadata().unwrap().is_file())
            .collect();
        assert_eq!(files.len(), 5, "{files:?}");
        for file in files {
            let bytes = fs::read(&file).unwrap();
            for at in (0..bytes.len()).step_by(bytes.len().div_ceil(64)) {
                let mut changed = bytes.clone();
                changed[at] ^= 0x20;
                fs::write(&file, &changed).unwrap();
                place.look("one", 1).unwrap_err();
            }
            fs::write(&file, &bytes).unwrap();
        }
    }
    place.look("one", 1).unwrap();
    // A manifest that fits the images is none without its signature.
    let manifest = place.path("one/stasis-manifest");
    let bytes = fs::read(&manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    assert!(matches!(place.why("one", 1), Distrust::DoesNotFit(_)));
    fs::write(&manifest, [&bytes[..], &[0, 0, 0, 0]].concat()).unwrap();
    place.look("one", 1).unwrap_err();
}

#[test]
fn parents_are_those_that_were_signed() {
    let place = Place::new();
    let one = place.signer(1);
    place.write("parent", None, Some(&one));
    place.write("other", None, Some(&one));
    place.write("unsigned", None, None);
    place.write("child", Some("parent"), Some(&one));
    place.write("lone", None, Some(&one));
    place.look("child", 1).unwrap();
    let lead = |link: &str, to: &str| {
        let link = place.path(link);
        fs::remove_file(&link).ok();
        std::os::unix::fs::symlink(place.path(to), link).unwrap();
    };
    // To another one of the same signer's; from within, too, where the manifest has no word of it.
    lead("child/pre-copy/parent", "other");
    place.look("child", 1).unwrap_err();
    lead("child/pre-copy/parent", "parent");
    place.look("child", 1).unwrap();
    lead("child/parent", "other/pre-copy/pre-copy");
    assert_eq!(place.why("child", 1), Distrust::OtherParent);
    fs::remove_file(place.path("child/parent")).unwrap();
    assert_eq!(place.why("child", 1), Distrust::OtherParent);
    lead("child/parent", "child/pre-copy/pre-copy");
    place.look("child", 1).unwrap();
    lead("lone/pre-copy/parent", "other");
    assert_eq!(place.why("lone", 1), Distrust::OtherParent);
    // One that was signed with a parent which is not.
    place.write("child-of-unsigned", Some("unsigned"), Some(&one));
    assert_eq!(place.why("child-of-unsigned", 1), Distrust::Unsigned);
}

#[test]
fn what_is_known_by_samples_alone_is_not_covered() {
    let place = Place::new();
    let target = place.path("long");
    let writer = ImageWriter::create(&target, WriteOptions::default()).unwrap();
    let (id, pages) = writer.pages().unwrap();
    let bytes = vec![3; 9 << 20];
    let room = pages.reserve(bytes.len() as u64).unwrap();
    // What is not written from the beginning on is not digested on its way.
    pages.write_all_at(&bytes[1..], room + 1).unwrap();
    pages.write_all_at(&bytes[..1], room).unwrap();
    let mut map = writer.here().image(&names::pagemap(7)).unwrap();
    map.put(&PagemapHead { pages_id: id }).unwrap();
    map.put_as(&PagemapEntry::run(0x1000, 9 << 8, page_flags::PRESENT)).unwrap();
    map.finish().unwrap();
    let inventory = InventoryEntry { img_version: 2, ..InventoryEntry::default() };
    writer.write_one(&names::inventory(), &inventory).unwrap();
    writer.commit_as(Safe::Later).unwrap();
    let samples = fs::read(target.join("stasis-manifest")).unwrap();
    sign(&target, &place.signer(1)).unwrap();
    place.look("long", 1).unwrap();
    fs::write(target.join("stasis-manifest"), samples).unwrap();
    assert!(matches!(place.why("long", 1), Distrust::DoesNotFit(_)));

    // Another file of that name is compared anew.
    sign(&target, &place.signer(1)).unwrap();
    let images = Images::open_trusted(&target, Some(&place.keys(1))).unwrap();
    images.pages(id).unwrap();
    let mut other = bytes;
    other[(5 << 20) + 1] = 4;
    fs::write(target.join("new"), other).unwrap();
    fs::rename(target.join("new"), target.join(names::pages(id))).unwrap();
    assert!(matches!(images.pages(id), Err(Error::Changed { .. })));
}

#[test]
fn keys_that_others_can_read_or_change_are_refused() {
    let place = Place::new();
    let private = |name: &str| Signer::read(&place.path(name)).unwrap_err().to_string();
    let public = |name: &str| TrustedKeys::read(&place.path(name)).unwrap_err().to_string();
    let set = |name: &str, mode| {
        fs::set_permissions(place.path(name), Permissions::from_mode(mode)).unwrap();
    };
    for mode in [0o640, 0o604, 0o620] {
        set("1.key", mode);
        assert!(private("1.key").contains("chmod 600"), "{}", private("1.key"));
    }
    for mode in [0o664, 0o646] {
        set("1.pem", mode);
        assert!(public("1.pem").contains("chmod go-w"), "{}", public("1.pem"));
    }
    assert!(private("2.pem").contains("chmod 600"));
    set("2.pem", 0o600);
    assert!(private("2.pem").contains("no private key"));
    assert!(public("2.key").contains("-pubout"));
    place.put("empty.pem", b"", 0o644);
    assert!(public("empty.pem").contains("no public key"));
    // A point of small order, for which anybody can make signatures.
    let weak = ed25519_dalek::VerifyingKey::from_bytes(&[0; 32]).unwrap();
    place.put("weak.pem", weak.to_public_key_pem(LineEnding::LF).unwrap().as_bytes(), 0o644);
    assert!(public("weak.pem").contains("none of ed25519"));
    // Several in a file, and in a directory.
    let of = |seed| SigningKey::from_bytes(&[seed; 32]).verifying_key();
    let text = |seed| of(seed).to_public_key_pem(LineEnding::LF).unwrap();
    fs::create_dir(place.path("keys")).unwrap();
    set("keys", 0o755);
    assert!(public("keys").contains(".pem"));
    place.put("keys/a.pem", format!("# two\n{}\n{}", text(1), text(2)).as_bytes(), 0o644);
    place.put("keys/b.pem", text(3).as_bytes(), 0o644);
    place.put("keys/README", b"no key", 0o644);
    let keys = TrustedKeys::read(&place.path("keys")).unwrap();
    assert_eq!(keys.ids().count(), 3);
    set("keys", 0o777);
    assert!(public("keys").contains("chmod go-w"));
}

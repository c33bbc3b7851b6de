//! Reading a checkpoint.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use prost::Message;

use crate::cancel::Cancel;
use crate::encryption::{self, Decrypts, EncryptedPages, Refused};
use crate::error::Error;
use crate::keys::{Distrust, KeyId, TrustedKeys};
use crate::manifest::{self, Manifest};
use crate::messages::{
    IMG_VERSION_1, IMG_VERSION_1_1, InventoryEntry, ManifestEntry, PagemapEntry, PagemapHead,
};
use crate::names::{self, Image};
use crate::pagemap::{PageMap, PageRun, PageRuns};
use crate::reader::ImageReader;
use crate::signatures::{self, Vouched};
use crate::store::{
    Content, Directory, Identity, ImageFile, ImageStore, Opened, PageSource, Wanted,
};

/// Reads an image of a checkpoint.
pub type StoredReader<M> = ImageReader<BufReader<Box<dyn Content>>, M>;

/// What a checkpoint and its parents are opened with, and what is demanded of them.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Whose signatures are demanded; without them none is looked at.
    pub keys: Option<Arc<TrustedKeys>>,
    /// By which encrypted ones are read.
    pub identities: Option<Arc<dyn Decrypts>>,
    /// What is not encrypted is refused.
    pub encrypted_only: bool,
}

/// How what is stored becomes what was written.
#[derive(Clone, Debug)]
enum Cipher {
    /// It is that.
    Plain,
    /// By these.
    Encrypted(Arc<dyn Decrypts>),
    /// It cannot be read: files can be listed and compared.
    Locked,
}

/// The images of a checkpoint, wherever they are. A clone is the same checkpoint.
#[derive(Clone, Debug)]
pub struct Images {
    store: Arc<dyn ImageStore>,
    inventory: Arc<InventoryEntry>,
    manifest: Arc<Manifest>,
    /// Who vouches for it, if that was demanded.
    vouched: Option<Arc<Vouched>>,
    cipher: Cipher,
    /// What its parents are opened with.
    access: Arc<Access>,
}

impl Images {
    /// Opens the checkpoint in the directory `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::of(Arc::new(Directory::open(path)?))
    }

    /// Opens the checkpoint in the directory `path`, if one of the keys has signed it; without keys as [`Images::open`]. Its parents must be
    /// signed as well.
    ///
    /// # Errors
    /// As [`Images::open`], and [`Error::Untrusted`].
    pub fn open_trusted(path: &Path, keys: Option<&Arc<TrustedKeys>>) -> Result<Self, Error> {
        Self::open_as(path, &Access { keys: keys.cloned(), ..Access::default() })
    }

    /// Opens the checkpoint in the directory `path` by what it may be read with, if it is as demanded. The same goes for its parents.
    ///
    /// # Errors
    /// As [`Images::open_trusted`]; [`Error::Encrypted`], [`Error::NotARecipient`] and [`Error::Unsealed`] of one that is encrypted,
    /// [`Error::Plain`] of one that had to be.
    pub fn open_as(path: &Path, access: &Access) -> Result<Self, Error> {
        Self::of_store(Arc::new(Directory::open(path)?), &Arc::new(access.clone()), false)
    }

    /// The same, also of a checkpoint that is encrypted, where nothing is given to read it by: then its files can be listed and compared,
    /// and nothing else ([`Images::is_locked`]).
    ///
    /// # Errors
    /// As [`Images::open_as`], but for [`Error::Encrypted`].
    pub fn open_locked(path: &Path, access: &Access) -> Result<Self, Error> {
        Self::of_store(Arc::new(Directory::open(path)?), &Arc::new(access.clone()), true)
    }

    /// The same, of which nothing is read any more once that is cancelled.
    pub(crate) fn open_wanted(
        path: &Path,
        access: &Access,
        cancel: &Cancel,
    ) -> Result<Self, Error> {
        let store: Arc<dyn ImageStore> = Arc::new(Directory::open(path)?);
        let store = Arc::new(Wanted::new(store, cancel.clone()));
        Self::of_store(store, &Arc::new(access.clone()), true)
    }

    /// Takes a directory that is open already; `path` is what errors call it.
    pub fn from_fd(fd: OwnedFd, path: &Path) -> Result<Self, Error> {
        Self::of(Arc::new(Directory::from_fd(fd, path)))
    }

    /// The checkpoint in a store.
    pub fn of(store: Arc<dyn ImageStore>) -> Result<Self, Error> {
        Self::of_store(store, &Arc::default(), false)
    }

    fn of_store(
        store: Arc<dyn ImageStore>,
        access: &Arc<Access>,
        may_be_locked: bool,
    ) -> Result<Self, Error> {
        let (inventory, manifest, access) = (Arc::default(), Arc::default(), access.clone());
        let cipher = Cipher::Plain;
        let mut images = Self { store, inventory, manifest, vouched: None, cipher, access };
        let read = manifest::read(&*images.store, names::manifest().name())?;
        if let Some((entries, _)) = &read {
            images.manifest = Arc::new(Manifest::of(entries.iter().cloned()));
            let served = images.served()?;
            images.manifest = Arc::new(Manifest::of(entries.iter().cloned()).with_served(served));
        }
        if let Some(keys) = &images.access.keys {
            let signatures = signatures::read(&*images.store)?;
            let digest = read.as_ref().map(|(_, digest)| digest);
            let vouched = signatures::check(keys, &signatures, (&images.manifest, digest));
            images.vouched = Some(Arc::new(vouched.map_err(|why| images.untrusted(why))?));
        }
        images.unlock(read.as_ref().map(|(entries, _)| &entries[..]), may_be_locked)?;
        if images.is_locked() {
            return Ok(images);
        }
        let inventory = images
            .read_one(&names::inventory())?
            .ok_or_else(|| Error::NotACheckpoint { path: images.path().into() })?;
        images.inventory = Arc::new(inventory);
        match images.inventory.img_version {
            IMG_VERSION_1 | IMG_VERSION_1_1 => Ok(images),
            version => Err(Error::Version { version }),
        }
    }

    /// Finds out whether it is encrypted, and makes ready to read it.
    fn unlock(
        &mut self,
        entries: Option<&[ManifestEntry]>,
        may_be_locked: bool,
    ) -> Result<(), Error> {
        let path = self.path().to_owned();
        let inventory = names::inventory();
        let Some(mut opened) = self.stored(inventory.name())? else {
            return Err(Error::NotACheckpoint { path });
        };
        let is_encrypted = encryption::is_encrypted(&mut *opened.content);
        if !is_encrypted.map_err(Error::io("read", inventory.name()))? {
            return match self.access.encrypted_only {
                true => Err(Error::Plain { path }),
                false => Ok(()),
            };
        }
        let Some(identities) = &self.access.identities else {
            self.cipher = Cipher::Locked;
            return if may_be_locked { Ok(()) } else { Err(Error::Encrypted { path }) };
        };
        self.cipher = Cipher::Encrypted(identities.clone());
        let unsealed = |what| Error::Unsealed { path: path.clone(), what };
        let seal = names::seal();
        let entries = entries.ok_or_else(|| unsealed("stasis-manifest is missing"))?;
        let stored = self.store.open(seal.name())?;
        let stored = stored.ok_or_else(|| unsealed("stasis-seal is missing"))?;
        if stored.size > encryption::LONGEST_SEAL {
            return Err(unsealed("stasis-seal is longer than any"));
        }
        let Opened { content, size } = self.plain(seal.name(), stored)?;
        let entry = ImageReader::new(&seal, BufReader::new(content), size, true)?.only()?;
        match entry == encryption::seal(entries) {
            true => Ok(()),
            false => Err(unsealed(
                "the manifest is another one than stasis-seal was made for: one of the two, or a file with its line, is another checkpoint's",
            )),
        }
    }

    /// Whether it is encrypted.
    pub fn is_encrypted(&self) -> bool {
        !matches!(self.cipher, Cipher::Plain)
    }

    /// Whether it is encrypted, and cannot be read.
    pub fn is_locked(&self) -> bool {
        matches!(self.cipher, Cipher::Locked)
    }

    fn untrusted(&self, why: Distrust) -> Error {
        Error::Untrusted { path: self.path().into(), why }
    }

    /// The trusted key that has signed it, if that was demanded.
    pub fn vouched_by(&self) -> Option<KeyId> {
        self.vouched.as_ref().map(|vouched| vouched.key)
    }

    /// The keys by which it says to be signed, of which nothing has been checked.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn signers(&self) -> Result<Vec<KeyId>, Error> {
        let signatures = signatures::read(&*self.store)?;
        Ok(signatures.iter().filter_map(|it| KeyId::of_bytes(&it.key)).collect())
    }

    /// What errors call the checkpoint: of one in a directory, what that was opened as.
    pub fn path(&self) -> &Path {
        self.store.path()
    }

    /// The page maps that a page server was sent.
    fn served(&self) -> Result<BTreeMap<String, Vec<PageRun>>, Error> {
        let image = names::served();
        let mut served = BTreeMap::new();
        let Some(mut reader) = self.reader(&image)? else { return Ok(served) };
        while let Some(entry) = reader.next_entry()? {
            let mut runs = PageRuns::default();
            for _ in 0..entry.runs {
                let run = reader.next_as::<PagemapEntry>()?;
                let lost = || Error::invalid(image.name(), "it ends within a page map");
                runs.add(image.name(), &run.ok_or_else(lost)?)?;
            }
            served.insert(entry.name, runs.in_order(image.name())?);
        }
        Ok(served)
    }

    /// `inventory.img`.
    pub fn inventory(&self) -> &InventoryEntry {
        &self.inventory
    }

    /// Opens an image to read its messages one after another; `None` if there is no such file.
    ///
    /// CRIU writes no file where there is nothing to say: to most readers no file and no message are the same.
    pub fn reader<M: Message + Default>(
        &self,
        image: &Image<M>,
    ) -> Result<Option<StoredReader<M>>, Error> {
        let Some(Opened { content, size }) = self.opened(image.name())? else {
            return Ok(None);
        };
        let common = self.inventory.img_version != IMG_VERSION_1;
        ImageReader::new(image, BufReader::new(content), size, common).map(Some)
    }

    /// A file as it is stored, compared with the manifest; `None` if there was none.
    fn stored(&self, name: &str) -> Result<Option<Opened>, Error> {
        self.manifest.check(name, self.store.open(name)?)
    }

    /// An image, as it was written; `None` if there was none.
    fn opened(&self, name: &str) -> Result<Option<Opened>, Error> {
        match self.stored(name)? {
            Some(stored) if !names::stays_plain(name) => self.plain(name, stored).map(Some),
            stored => Ok(stored),
        }
    }

    /// What was written of what is stored.
    fn plain(&self, name: &str, stored: Opened) -> Result<Opened, Error> {
        match &self.cipher {
            Cipher::Plain => Ok(stored),
            Cipher::Locked => Err(self.locked()),
            Cipher::Encrypted(identities) => encryption::decrypted(&**identities, name, stored)
                .map_err(|refused| self.unreadable(refused)),
        }
    }

    fn locked(&self) -> Error {
        Error::Encrypted { path: self.path().into() }
    }

    fn unreadable(&self, refused: Refused) -> Error {
        match refused {
            Refused::NotARecipient => Error::NotARecipient { path: self.path().into() },
            Refused::Error(error) => error,
        }
    }

    /// The only message of an image; `None` if there is no such file.
    pub fn read_one<M: Message + Default>(&self, image: &Image<M>) -> Result<Option<M>, Error> {
        self.reader(image)?.map(ImageReader::only).transpose()
    }

    /// The only message of an image that must be there.
    pub fn require<M: Message + Default>(&self, image: &Image<M>) -> Result<M, Error> {
        self.read_one(image)?.ok_or_else(|| Error::Missing { name: image.name().into() })
    }

    /// All messages of an image; none if there is no such file.
    pub fn read_all<M: Message + Default>(&self, image: &Image<M>) -> Result<Vec<M>, Error> {
        Ok(self.reader(image)?.map(ImageReader::entries).transpose()?.unwrap_or_default())
    }

    /// A page map, checked against the length of its pages file; `None` if there is no such image.
    pub fn page_map(&self, image: &Image<PagemapHead>) -> Result<Option<PageMap>, Error> {
        let Some(reader) = self.reader(image)? else { return Ok(None) };
        let map = PageMap::read(image.name(), reader)?;
        self.manifest.check_served(image.name(), &map.runs)?;
        let stored = map.needed_bytes();
        if stored > 0 || self.manifest.has(&names::pages(map.pages_id)) {
            let size = self.pages(map.pages_id)?.bytes();
            if size < stored {
                let name = names::pages(map.pages_id);
                return Err(Error::Truncated { name, offset: 0, wanted: stored, left: size });
            }
        }
        Ok(Some(map))
    }

    /// The runs of a page map, also of one that went to a page server and is not here; `None` if there is none.
    pub fn page_runs(&self, image: &Image<PagemapHead>) -> Result<Option<Vec<PageRun>>, Error> {
        match self.manifest.served(image.name()) {
            Some(runs) => Ok(Some(runs.to_vec())),
            None => Ok(self.page_map(image)?.map(|map| map.runs)),
        }
    }

    /// The names of all page maps, also of those that went to a page server and are not here.
    pub(crate) fn page_maps(&self) -> Result<Vec<String>, Error> {
        let here = self.store.list()?.into_iter().map(|file| file.name);
        let here = here.filter(|name| name.starts_with("pagemap-"));
        Ok(here.chain(self.manifest.all_served().map(str::to_owned)).collect())
    }

    /// A pages file.
    pub fn pages(&self, pages_id: u32) -> Result<Arc<dyn PageSource>, Error> {
        let name = names::pages(pages_id);
        let Some(pages) = self.store.pages(&name)? else { return Err(Error::Missing { name }) };
        self.manifest.check_pages(&name, &*pages)?;
        match &self.cipher {
            Cipher::Plain => Ok(pages),
            Cipher::Locked => Err(self.locked()),
            Cipher::Encrypted(identities) => {
                let opened = EncryptedPages::open(identities.clone(), &name, pages);
                Ok(Arc::new(opened.map_err(|refused| self.unreadable(refused))?))
            }
        }
    }

    /// Whether it is known what was written.
    pub(crate) fn has_manifest(&self) -> bool {
        self.manifest.is_there()
    }

    /// The files that were written.
    pub(crate) fn written(&self) -> impl Iterator<Item = &str> {
        self.manifest.written()
    }

    /// Whether it is known what was in all of a file.
    pub(crate) fn knows_all_of(&self, name: &str) -> bool {
        self.manifest.knows_all_of(name)
    }

    /// Reads all of a file, and compares it with what was written; how long it is.
    pub(crate) fn compare(&self, name: &str) -> Result<u64, Error> {
        let missing = || Error::Missing { name: name.into() };
        if names::is_pages(name) {
            let pages = self.store.pages(name)?.ok_or_else(missing)?;
            return self.manifest.check_pages(name, &*pages).map(|()| pages.bytes());
        }
        Ok(self.stored(name)?.ok_or_else(missing)?.size)
    }

    /// Decrypts all of a file, if it is encrypted and can be read.
    pub(crate) fn decrypt(&self, name: &str) -> Result<(), Error> {
        if !matches!(self.cipher, Cipher::Encrypted(_)) || names::stays_plain(name) {
            return Ok(());
        }
        let stored = self.store.open(name)?;
        let stored = stored.ok_or_else(|| Error::Missing { name: name.to_owned() })?;
        let Opened { mut content, .. } = self.plain(name, stored)?;
        let read = std::io::copy(&mut content, &mut std::io::sink());
        read.map(drop).map_err(Error::io("decrypt", name))
    }

    /// An image, as it is.
    pub fn raw(&self, name: &str) -> Result<Box<dyn Content>, Error> {
        let missing = || Error::Missing { name: name.into() };
        Ok(self.opened(name)?.ok_or_else(missing)?.content)
    }

    /// All of a small image without messages; none if there is no such file.
    pub fn read_raw(&self, name: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let Some(Opened { content, size }) = self.opened(name)? else { return Ok(Vec::new()) };
        let failed = |source| Error::Io { operation: "read", name: name.into(), source };
        let mut bytes = Vec::new();
        content.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        match size.max(bytes.len() as u64) <= limit {
            true => Ok(bytes),
            false => Err(Error::invalid(name, format!("it is longer than {limit} bytes"))),
        }
    }

    /// The checkpoint that holds the pages marked as being in the parent; `None` if there is none.
    ///
    /// # Errors
    /// If it is another one than pages were left to, or is not signed where that is demanded.
    pub fn parent(&self) -> Result<Option<Self>, Error> {
        let open = |parent| Self::of_store(parent, &self.access, self.is_locked());
        let parent = self.store.parent()?.map(open).transpose()?;
        if let Some(vouched) = &self.vouched {
            let found = parent.as_ref().map(Self::as_parent).transpose()?;
            vouched.check_parent(found).map_err(|why| self.untrusted(why))?;
        }
        let Some(parent) = parent else { return Ok(None) };
        self.manifest.check_parent(|| parent.as_parent())?;
        Ok(Some(parent))
    }

    /// What the manifest of a checkpoint that leaves pages to this one says of it: its inventory, as it is stored, which tells each dump from
    /// all others.
    pub fn as_parent(&self) -> Result<ManifestEntry, Error> {
        let inventory = names::inventory();
        let name = inventory.name();
        let Some(stored) = self.stored(name)? else {
            return Err(Error::Missing { name: name.to_owned() });
        };
        manifest::parent_entry(stored)
    }

    /// By what the dump is known, to which pages of its parents may be given: where it has no id, as an older CRIU's, by the digest of its
    /// inventory.
    pub(crate) fn id(&self) -> Result<String, Error> {
        match &self.inventory.dump_criu_run_id {
            Some(id) => Ok(id.clone()),
            None => {
                let digest = self.as_parent()?.digest;
                Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
            }
        }
    }

    /// Whether all pages are there, for a reader who comes by these checkpoints, the nearest last: none was given to another one.
    pub(crate) fn has_all_pages_for(&self, way: &[Self]) -> Result<bool, Error> {
        let mut given_to = self.manifest.given_to().peekable();
        if given_to.peek().is_none() {
            return Ok(true);
        }
        let way = way.iter().map(Self::id).collect::<Result<Vec<_>, _>>()?;
        Ok(given_to.all(|to| way.iter().any(|id| id == to)))
    }

    /// Whether there is a link to a parent that leads nowhere.
    pub(crate) fn parent_is_lost(&self) -> bool {
        self.store.parent_is_lost()
    }

    /// By which the checkpoint is known if it is met twice.
    pub fn identity(&self) -> Result<Identity, Error> {
        self.store.identity()
    }

    /// The files of the checkpoint, by name; those with pages that were copied early too.
    pub fn files(&self) -> Result<Vec<ImageFile>, Error> {
        let mut files = self.store.list()?;
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }
}

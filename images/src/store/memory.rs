//! Checkpoints in memory: for tests, and for whoever looks at one that a file system does not have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Cursor, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Committed, Complete, Destination, Identity, ImageFile, ImageOutput, ImageStore, NewCheckpoint,
    Opened, PageSink, PageSource, Safe, WriteOptions,
};
use crate::error::Error;
use crate::names;

/// A place in memory for checkpoints, which may be each other's parents. A clone is the same place.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    checkpoints: Arc<Mutex<Folders>>,
}

/// What lies in the place: checkpoints and the folders inside them, by path.
#[derive(Debug, Default)]
struct Folders {
    by_path: BTreeMap<PathBuf, Arc<Folder>>,
    /// How many there were.
    count: u64,
}

/// A checkpoint, or a folder inside it.
#[derive(Debug)]
struct Folder {
    number: u64,
    files: BTreeMap<String, Bytes>,
    /// Where the link to the parent leads, seen from here.
    parent: Option<PathBuf>,
}

/// What is in a file.
#[derive(Clone, Debug)]
struct Bytes(Arc<[u8]>);

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Memory {
    /// Opens the checkpoint at a path.
    pub fn open(&self, path: &Path) -> Result<MemoryStore, Error> {
        self.store(plain(path), path.into()).ok_or_else(|| Error::OpenDirectory {
            path: path.into(),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    /// Begins a checkpoint that will be at a path.
    pub fn create(&self, path: &Path, options: WriteOptions) -> Result<NewInMemory, Error> {
        let target = plain(path);
        if self.lock().by_path.contains_key(&target) && !options.overwrite {
            return Err(Error::Exists { path: target });
        }
        let (place, files) = (self.clone(), Mutex::default());
        Ok(NewInMemory { place, target, files, links: Mutex::default() })
    }

    /// Puts files at a path, in place of what is there.
    pub fn put(&self, path: &Path, files: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let files = files.into_iter().map(|(name, bytes)| (name, Bytes(bytes.into()))).collect();
        self.lock().put(plain(path), files, None);
    }

    fn lock(&self) -> MutexGuard<'_, Folders> {
        self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, at: PathBuf, path: PathBuf) -> Option<MemoryStore> {
        let folder = self.lock().by_path.get(&at).cloned()?;
        Some(MemoryStore { place: self.clone(), folder, at, path })
    }
}

impl Folders {
    fn put(&mut self, at: PathBuf, files: BTreeMap<String, Bytes>, parent: Option<PathBuf>) {
        self.count += 1;
        self.by_path.insert(at, Arc::new(Folder { number: self.count, files, parent }));
    }
}

/// A path without `.` and `..`: no link is on the way here.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::Normal(name) => plain.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    plain
}

/// The folder inside a checkpoint that a name begins with, and the name in it.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

/// The images in a folder, with something in front of their names.
fn shown(prefix: &str, folder: &Folder) -> Vec<ImageFile> {
    let files = folder.files.iter();
    let shown = files.filter(|(name, _)| names::is_image(name) || names::is_service(name));
    let file = |(name, bytes): (&String, &Bytes)| ImageFile {
        name: format!("{prefix}{name}"),
        size: bytes.0.len() as u64,
    };
    shown.map(file).collect()
}

/// A checkpoint in memory, to read from.
#[derive(Debug)]
pub struct MemoryStore {
    place: Memory,
    folder: Arc<Folder>,
    at: PathBuf,
    path: PathBuf,
}

impl MemoryStore {
    fn bytes(&self, name: &str) -> Option<Bytes> {
        match split(name) {
            ("", name) => self.folder.files.get(name).cloned(),
            (inside, name) => {
                let store = self.place.store(self.at.join(inside), self.path.join(inside))?;
                store.folder.files.get(name).cloned()
            }
        }
    }
}

impl ImageStore for MemoryStore {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self, name: &str) -> Result<Option<Opened>, Error> {
        let opened = |bytes: Bytes| {
            let size = bytes.0.len() as u64;
            Opened { content: Box::new(Cursor::new(bytes)), size }
        };
        Ok(self.bytes(name).map(opened))
    }

    fn pages(&self, name: &str) -> Result<Option<Arc<dyn PageSource>>, Error> {
        Ok(self.bytes(name).map(|bytes| Arc::new(bytes) as Arc<dyn PageSource>))
    }

    fn list(&self) -> Result<Vec<ImageFile>, Error> {
        let mut files = shown("", &self.folder);
        for early in names::PRE_COPIES {
            let Some(inside) = self.place.store(self.at.join(early), early.into()) else { break };
            files.extend(shown(&format!("{early}/"), &inside.folder));
        }
        Ok(files)
    }

    fn parent(&self) -> Result<Option<Arc<dyn ImageStore>>, Error> {
        let Some(link) = &self.folder.parent else { return Ok(None) };
        let found =
            self.place.store(plain(&self.at.join(link)), self.path.join(names::PARENT_LINK));
        Ok(found.map(|store| Arc::new(store) as Arc<dyn ImageStore>))
    }

    fn parent_is_lost(&self) -> bool {
        self.folder.parent.is_some() && matches!(self.parent(), Ok(None))
    }

    /// Memory is given back as a whole.
    fn give_back(&self, name: &str, _places: &[(u64, u64)]) -> Result<(), Error> {
        Err(Error::io("give back room of", name)(io::ErrorKind::Unsupported.into()))
    }

    fn replace(&self, name: &str, _bytes: &[u8]) -> Result<(), Error> {
        Err(Error::io("replace", name)(io::ErrorKind::Unsupported.into()))
    }

    fn identity(&self) -> Result<Identity, Error> {
        Ok((0, self.folder.number))
    }
}

impl PageSource for Bytes {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let here = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..));
        let here = here.and_then(|here| here.get(..buffer.len()));
        buffer.copy_from_slice(here.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn file(&self) -> Option<&File> {
        None
    }
}

/// A path in memory that a checkpoint is to come to.
#[derive(Clone, Debug)]
pub struct MemoryDestination {
    /// The memory.
    pub memory: Memory,
    /// The path.
    pub path: PathBuf,
    /// How it is written.
    pub options: WriteOptions,
}

impl Destination for MemoryDestination {
    fn path(&self) -> &Path {
        &self.path
    }

    fn begin(&self) -> Result<Box<dyn NewCheckpoint>, Error> {
        Ok(Box::new(self.memory.create(&self.path, self.options)?))
    }

    /// Memory never is.
    fn make_safe(&self, _complete: &Complete<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// A checkpoint in memory that is being written.
#[derive(Debug)]
pub struct NewInMemory {
    place: Memory,
    target: PathBuf,
    files: Mutex<BTreeMap<String, Arc<Mutex<Written>>>>,
    links: Mutex<BTreeMap<String, PathBuf>>,
}

/// A file that is being written.
#[derive(Debug, Default)]
struct Written {
    bytes: Vec<u8>,
    /// Of pages: where each range begins that was written, and where it ends.
    ranges: BTreeMap<usize, usize>,
}

impl NewInMemory {
    fn file(&self, name: &str) -> Result<Arc<Mutex<Written>>, Error> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.contains_key(name) {
            return Err(Error::io("create", name)(io::ErrorKind::AlreadyExists.into()));
        }
        let file = Arc::<Mutex<Written>>::default();
        files.insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }
}

impl NewCheckpoint for NewInMemory {
    fn target(&self) -> &Path {
        &self.target
    }

    fn create(&self, name: &str) -> Result<Box<dyn ImageOutput>, Error> {
        Ok(Box::new(InMemory(self.file(name)?)))
    }

    fn create_pages(&self, name: &str) -> Result<Arc<dyn PageSink>, Error> {
        Ok(Arc::new(InMemory(self.file(name)?)))
    }

    fn create_directory(&self, _name: &str) -> Result<(), Error> {
        // There is one as soon as something is in it.
        Ok(())
    }

    fn link(&self, name: &str, to: &Path) -> Result<(), Error> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.insert(split(name).0.to_owned(), to.into());
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Opened, Error> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let file = files.get(name).map(Arc::clone);
        let file = file.ok_or_else(|| Error::Missing { name: name.to_owned() })?;
        let bytes = InMemory(file).lock().bytes.clone();
        let size = bytes.len() as u64;
        Ok(Opened { content: Box::new(Cursor::new(bytes)), size })
    }

    fn commit(self: Box<Self>, names: &BTreeSet<String>, _safe: Safe) -> Result<Committed, Error> {
        let mut links = self.links.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut files = self.files.into_inner().unwrap_or_else(PoisonError::into_inner);
        files.retain(|name, _| names.contains(name));
        let mut committed = Committed { files: files.len(), bytes: 0 };
        let mut folders: BTreeMap<String, BTreeMap<String, Bytes>> = BTreeMap::new();
        for (name, file) in files {
            let bytes = std::mem::take(&mut InMemory(file).lock().bytes);
            committed.bytes += bytes.len() as u64;
            let (inside, name) = split(&name);
            let folder = folders.entry(inside.to_owned()).or_default();
            folder.insert(name.to_owned(), Bytes(bytes.into()));
        }
        let mut place = self.place.lock();
        place.by_path.retain(|path, _| !path.starts_with(&self.target));
        for (inside, files) in folders {
            let link = links.remove(&inside);
            place.put(self.target.join(inside), files, link);
        }
        Ok(committed)
    }
}

/// A file in memory that is being written.
#[derive(Debug)]
struct InMemory(Arc<Mutex<Written>>);

impl InMemory {
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for InMemory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ImageOutput for InMemory {
    fn file(&mut self) -> Option<&mut File> {
        None
    }
}

impl PageSink for InMemory {
    fn reserve(&self, bytes: u64) -> io::Result<u64> {
        let mut written = self.lock();
        let start = written.bytes.len();
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        written.bytes.try_reserve(bytes)?;
        written.bytes.resize(start + bytes, 0);
        Ok(start as u64)
    }

    /// Bytes that were written before are an error here: a stream, which no one can go back in, would have them
    /// twice.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut written = self.lock();
        let Written { bytes: all, ranges } = &mut *written;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let end = start.checked_add(bytes.len()).filter(|end| *end <= all.len());
        let end =
            end.ok_or_else(|| io::Error::other("pages are written where no room was taken"))?;
        if bytes.is_empty() {
            return Ok(());
        }
        let before = ranges.range(..end).next_back();
        if before.is_some_and(|(_, before)| *before > start) {
            return Err(io::Error::other("pages are written twice"));
        }
        ranges.insert(start, end);
        all[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn file(&self) -> Option<&File> {
        None
    }

    fn give_back(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let range = offset as usize..(offset + bytes) as usize;
        self.lock().bytes.get_mut(range).ok_or(io::ErrorKind::InvalidInput)?.fill(0);
        Ok(())
    }
}

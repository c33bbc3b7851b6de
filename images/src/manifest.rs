//! What was written: length and digest of each file of a checkpoint.
//!
//! A file that is missing, cut off, damaged or another checkpoint's is known by it before anything is made of it. Of
//! most of what CRIU writes nobody could tell: no file there means that there is nothing to say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::messages::{DIGEST_WHOLE, ManifestEntry, PIECE_BYTES, SAMPLE_BYTES, SAMPLES};
use crate::names;
use crate::pagemap::PageRun;
use crate::pieces::{self, changed_piece};
use crate::reader::ImageReader;
use crate::store::{ImageStore, Opened, PageSource};

/// Length and digests of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    bytes: u64,
    digest: Vec<u8>,
    pieces: Option<Vec<u8>>,
}

/// The files of a checkpoint, as they were written.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    /// By name; `None` where no manifest is: then nothing is compared.
    files: Option<BTreeMap<String, Known>>,
    /// The pages files that have been compared, as they were then.
    compared: Mutex<BTreeMap<String, Option<Version>>>,
    /// To whom pages were given whose room is given back.
    given_to: BTreeSet<String>,
    /// Page maps that a page server was sent, by name, as they were.
    served: BTreeMap<String, Vec<PageRun>>,
}

impl Manifest {
    pub(crate) fn of(entries: impl IntoIterator<Item = ManifestEntry>) -> Self {
        let mut given_to = BTreeSet::new();
        let known = |entry: ManifestEntry| {
            given_to.extend(entry.given_to);
            let ManifestEntry { name, bytes, digest, pieces, .. } = entry;
            (name, Known { bytes, digest, pieces })
        };
        let files = Some(entries.into_iter().map(known).collect());
        Self { files, given_to, ..Self::default() }
    }

    /// To whom pages were given whose room is given back.
    pub(crate) fn given_to(&self) -> impl Iterator<Item = &str> {
        self.given_to.iter().map(String::as_str)
    }

    /// The same, with page maps that a page server was sent.
    pub(crate) fn with_served(self, served: BTreeMap<String, Vec<PageRun>>) -> Self {
        Self { served, ..self }
    }

    /// Of a page map that a page server was sent: the pages of which it was made.
    pub(crate) fn served(&self, name: &str) -> Option<&[PageRun]> {
        self.served.get(name).map(Vec::as_slice)
    }

    /// The page maps that a page server was sent.
    pub(crate) fn all_served(&self) -> impl Iterator<Item = &str> {
        self.served.keys().map(String::as_str)
    }

    /// Compares a page map that a page server has written with what it was sent.
    pub(crate) fn check_served(&self, name: &str, runs: &[PageRun]) -> Result<(), Error> {
        match self.served(name) {
            Some(sent) if joined(sent) != joined(runs) => Err(Error::Changed {
                name: name.to_owned(),
                what: "it has other pages than the page server was sent".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// What is known of a file; `None` where nothing is compared, `Some(None)` of one that does not belong to the
    /// checkpoint.
    fn known(&self, name: &str) -> Option<Option<&Known>> {
        let files = self.files.as_ref().filter(|_| !names::is_service(name))?;
        Some(files.get(name))
    }

    /// Whether there is one: otherwise nothing is compared.
    pub(crate) fn is_there(&self) -> bool {
        self.files.is_some()
    }

    /// The files that were written.
    pub(crate) fn written(&self) -> impl Iterator<Item = &str> {
        let names = self.files.iter().flat_map(BTreeMap::keys).map(String::as_str);
        names.filter(|name| *name != names::PARENT_LINK)
    }

    /// Whether all bytes of a file are known by digests.
    pub(crate) fn knows_all_of(&self, name: &str) -> bool {
        let known = self.files.as_ref().and_then(|files| files.get(name));
        known.is_some_and(|known| {
            let whole = known.bytes <= DIGEST_WHOLE || known.pieces.is_some();
            whole && !known.digest.is_empty() && !self.served.contains_key(name)
        })
    }

    /// A file that is read, and of which not all bytes are known by digests.
    pub(crate) fn not_covered(&self) -> Option<String> {
        let mut unknown = self.written().filter(|name| !self.knows_all_of(name));
        unknown.next().or_else(|| self.all_served().next()).map(str::to_owned)
    }

    /// Whether a file of this name was written.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.files.as_ref().is_some_and(|files| files.contains_key(name))
    }

    /// Compares an image that has been opened, or has not been found.
    pub(crate) fn check(
        &self,
        name: &str,
        opened: Option<Opened>,
    ) -> Result<Option<Opened>, Error> {
        if self.served.contains_key(name) {
            return match opened {
                Some(opened) => Ok(Some(opened)),
                None => Err(Error::Elsewhere { name: name.to_owned() }),
            };
        }
        let Some(known) = self.known(name) else { return Ok(opened) };
        match (known, opened) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Error::Changed {
                name: name.to_owned(),
                what: "it was not written with the others".to_owned(),
            }),
            (Some(_), None) => Err(Error::Missing { name: name.to_owned() }),
            (Some(known), Some(opened)) => known.check(name, opened).map(Some),
        }
    }

    /// Compares the parent that was found with the one that pages were left to, if that is known.
    pub(crate) fn check_parent(
        &self,
        found: impl FnOnce() -> Result<ManifestEntry, Error>,
    ) -> Result<(), Error> {
        let Some(Some(known)) = self.known(names::PARENT_LINK) else { return Ok(()) };
        let found = found()?;
        match (found.bytes, &found.digest) == (known.bytes, &known.digest) {
            true => Ok(()),
            false => Err(Error::Changed {
                name: names::PARENT_LINK.to_owned(),
                what: "it is another checkpoint than the one that pages were left to".to_owned(),
            }),
        }
    }

    /// Compares a pages file, once.
    pub(crate) fn check_pages(&self, name: &str, pages: &dyn PageSource) -> Result<(), Error> {
        let Some(known) = self.known(name) else { return Ok(()) };
        if known.is_none() && !self.served.is_empty() {
            return Ok(());
        }
        let known = known.ok_or_else(|| Error::Missing { name: name.to_owned() })?;
        let compared = || self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        // By that name there may be another file by now.
        let version = version(pages).map_err(Error::io("stat", name))?;
        if compared().get(name) == Some(&version) {
            return Ok(());
        }
        known.compare_bytes(name, pages.bytes())?;
        // What is given back at the moment is nobody's to compare.
        if !known.digest.is_empty() {
            known.compare(name, || Ok(Pages { pages, at: 0 }))?;
        }
        compared().insert(name.to_owned(), version);
        Ok(())
    }
}

impl Known {
    fn compare_bytes(&self, name: &str, bytes: u64) -> Result<(), Error> {
        match bytes == self.bytes {
            true => Ok(()),
            false => Err(changed(name, format!("it has {bytes} bytes, and had {}", self.bytes))),
        }
    }

    /// Compares what is in the file, by all that is known of it. `open` is asked for as many readers as there are to be.
    fn compare<R: Read + Seek + Send>(
        &self,
        name: &str,
        open: impl Fn() -> io::Result<R>,
    ) -> Result<(), Error> {
        let failed = Error::io("read", name);
        let Some(known) = self.pieces.as_deref().filter(|_| self.bytes > DIGEST_WHOLE) else {
            let digest = open().and_then(|file| digest(file, self.bytes)).map_err(failed)?;
            return match digest == self.digest {
                true => Ok(()),
                false => Err(changed(name, "it has other contents".to_owned())),
            };
        };
        let found = pieces::digests(open, self.bytes).map_err(failed)?;
        changed_piece(known, &found).map_or(Ok(()), |piece| {
            let start = piece * PIECE_BYTES;
            let end = self.bytes.min(start + PIECE_BYTES);
            Err(changed(name, format!("its bytes from {start} to {end} have other contents")))
        })
    }

    /// The same image, compared. What is digested whole is read once, so that nothing else is looked at later.
    fn check(&self, name: &str, mut opened: Opened) -> Result<Opened, Error> {
        if opened.size > DIGEST_WHOLE {
            self.compare_bytes(name, opened.size)?;
            let only = Mutex::new(Some(&mut opened.content));
            let once = || only.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.compare(name, || once().ok_or_else(|| io::ErrorKind::ResourceBusy.into()))?;
            opened.content.rewind().map_err(Error::io("seek in", name))?;
            return Ok(opened);
        }
        let mut bytes = Vec::new();
        opened
            .content
            .take(DIGEST_WHOLE)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", name))?;
        self.compare_bytes(name, bytes.len() as u64)?;
        self.compare(name, || Ok(Cursor::new(&bytes)))?;
        let size = bytes.len() as u64;
        Ok(Opened { content: Box::new(Cursor::new(bytes)), size })
    }
}

/// What tells a file from all others, and from what it was before it was written to: device, inode, length and time of change.
type Version = (u64, u64, u64, i64, i64);

/// `None` of pages that are in no file.
fn version(pages: &dyn PageSource) -> io::Result<Option<Version>> {
    let of = |found: Metadata| {
        (found.dev(), found.ino(), found.len(), found.ctime(), found.ctime_nsec())
    };
    pages.file().map(|file| file.metadata().map(of)).transpose()
}

fn changed(name: &str, what: String) -> Error {
    Error::Changed { name: name.to_owned(), what }
}

/// Runs of the same kind that follow one another as one, where in a file they are left out.
fn joined(runs: &[PageRun]) -> Vec<(u64, u64, bool)> {
    let mut joined: Vec<(u64, u64, bool)> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some((_, end, in_parent)) if *end == run.start && *in_parent == run.in_parent() => {
                *end = run.end();
            }
            _ => joined.push((run.start, run.end(), run.in_parent())),
        }
    }
    joined
}

/// The entry of a file, without its pieces.
pub(crate) fn entry(name: &str, bytes: u64, digest: Vec<u8>) -> ManifestEntry {
    ManifestEntry { name: name.to_owned(), bytes, digest, ..ManifestEntry::default() }
}

/// The manifest of a folder of a checkpoint; `None` where there is none.
pub(crate) fn entries(
    store: &dyn ImageStore,
    path: &str,
) -> Result<Option<Vec<ManifestEntry>>, Error> {
    Ok(read(store, path)?.map(|(entries, _)| entries))
}

/// The manifest of a folder of a checkpoint, and the digest of the very bytes that it was read from.
pub(crate) fn read(
    store: &dyn ImageStore,
    path: &str,
) -> Result<Option<(Vec<ManifestEntry>, blake3::Hash)>, Error> {
    let image = names::manifest();
    let Some(Opened { content, size }) = store.open(path)? else { return Ok(None) };
    let mut digesting = Digesting { from: content, hasher: blake3::Hasher::new() };
    let reader = ImageReader::new(&image, BufReader::new(&mut digesting), size, true)?;
    let entries = reader.entries()?;
    Ok(Some((entries, digesting.hasher.finalize())))
}

/// Digests what is read.
struct Digesting<R> {
    from: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// What the manifest of a checkpoint says of a parent whose inventory this is.
pub(crate) fn parent_entry(inventory: Opened) -> Result<ManifestEntry, Error> {
    let Opened { content, size } = inventory;
    let digest = digest(content, size).map_err(Error::io("read", names::inventory().name()))?;
    Ok(entry(names::PARENT_LINK, size, digest))
}

/// The digest of a file of `size` bytes.
///
/// # Errors
/// As the file's, and if it is shorter by now.
pub(crate) fn digest(mut file: impl Read + Seek, size: u64) -> io::Result<Vec<u8>> {
    let mut digester = blake3::Hasher::new();
    let mut add = |file: &mut dyn Read, bytes: u64| -> io::Result<()> {
        match io::copy(&mut file.take(bytes), &mut digester)? {
            read if read == bytes => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    };
    if size <= DIGEST_WHOLE {
        add(&mut file, size)?;
    } else {
        for sample in 0..SAMPLES {
            file.seek(SeekFrom::Start(place(sample, size)))?;
            add(&mut file, SAMPLE_BYTES)?;
        }
    }
    Ok(digester.finalize().as_bytes().to_vec())
}

/// Digest and pieces of a pages file.
pub(crate) fn digest_pages(entry: &mut ManifestEntry, pages: &dyn PageSource) -> Result<(), Error> {
    let (failed, bytes) = (Error::io("read", &entry.name), pages.bytes());
    let digests = || {
        let whole = digest(Pages { pages, at: 0 }, bytes)?;
        Ok((whole, pieces::of_long(|| Ok(Pages { pages, at: 0 }), bytes)?))
    };
    (entry.digest, entry.pieces) = digests().map_err(failed)?;
    Ok(())
}

/// Where a sample of a file of `size` bytes begins.
fn place(sample: u64, size: u64) -> u64 {
    let room = u128::from(size.saturating_sub(SAMPLE_BYTES));
    let place = room * u128::from(sample) / u128::from(SAMPLES - 1);
    u64::try_from(place).unwrap_or(u64::MAX)
}

/// Digests what is written from the beginning to the end, on the way.
#[derive(Debug, Default)]
pub(crate) struct Digester {
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Digester {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        // Of more than that there are samples.
        if self.bytes <= DIGEST_WHOLE {
            self.hasher.update(bytes);
        }
    }

    /// The entry of the file; `None` if it has to be read for that.
    pub(crate) fn entry(&self, name: &str) -> Option<ManifestEntry> {
        let digest = || self.hasher.finalize().as_bytes().to_vec();
        (self.bytes <= DIGEST_WHOLE).then(|| entry(name, self.bytes, digest()))
    }
}

/// Pages, read as a file is.
struct Pages<'p> {
    pages: &'p dyn PageSource,
    at: u64,
}

impl Read for Pages<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.pages.bytes().saturating_sub(self.at);
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.pages.read_exact_at(&mut buffer[..count], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Pages<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(to) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        self.at = to;
        Ok(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_has_the_digest_of_what_is_read() {
        for size in [0, 1, DIGEST_WHOLE, DIGEST_WHOLE + 1, DIGEST_WHOLE + 12_345] {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let mut digester = Digester::default();
            bytes.chunks(100_000).for_each(|chunk| digester.add(chunk));
            let read = digest(Cursor::new(&bytes), size).unwrap();
            let written = digester.entry("x");
            assert_eq!(written.is_some(), size <= DIGEST_WHOLE);
            assert!(written.is_none_or(|written| written.digest == read && written.bytes == size));
            assert!(digest(Cursor::new(&bytes), size + 1).is_err());
        }
    }

    #[test]
    fn samples_reach_from_the_beginning_to_the_end() {
        let size = DIGEST_WHOLE + 77;
        assert_eq!(place(0, size), 0);
        assert_eq!(place(SAMPLES - 1, size) + SAMPLE_BYTES, size);
        assert_eq!(place(SAMPLES - 1, u64::MAX), u64::MAX - SAMPLE_BYTES);
        let bytes = vec![7; usize::try_from(size).unwrap()];
        let before = digest(Cursor::new(&bytes), size).unwrap();
        for at in [0, bytes.len() - 1] {
            let mut other = bytes.clone();
            other[at] = 8;
            assert_ne!(digest(Cursor::new(&other), size).unwrap(), before);
        }
    }

    #[test]
    fn files_of_others_are_told_and_lost_ones_are_missed() {
        let opened = |bytes: &[u8]| {
            Some(Opened {
                content: Box::new(Cursor::new(bytes.to_vec())),
                size: bytes.len() as u64,
            })
        };
        let digest = digest(Cursor::new(b"abc"), 3).unwrap();
        let manifest = Manifest::of([entry("mine", 3, digest)]);
        assert!(matches!(manifest.check("others", opened(b"x")), Err(Error::Changed { .. })));
        assert!(manifest.check("others", None).unwrap().is_none());
        assert!(manifest.check("mine", opened(b"abc")).unwrap().is_some());
        assert!(matches!(manifest.check("mine", None), Err(Error::Missing { .. })));
        for changed in [&b"abd"[..], b"ab", b"abcd", b""] {
            let error = manifest.check("mine", opened(changed)).unwrap_err();
            assert!(matches!(error, Error::Changed { .. }), "{error}");
        }
        assert!(Manifest::default().check("others", opened(b"x")).unwrap().is_some());
        assert!(manifest.check("stats-dump", opened(b"x")).unwrap().is_some());
    }
}

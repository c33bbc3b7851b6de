//! Encrypted checkpoints: each image is a file of age's (<https://age-encryption.org/v1>) under its own name, which `age -d -i IDENTITIES` opens.
//!
//! - The manifest is of what is on the disk, the encrypted files: who has no keys can compare all of it, and a signature over it
//!   ([`crate::Signer`]) is checked before anything is decrypted.
//! - age authenticates each file, and who has one can put it in the place of another. So `stasis-seal` holds, encrypted, a digest of what the
//!   manifest says, parent included: who does not know the recipients can exchange no file. (Who knows them can make a whole checkpoint, as
//!   anybody can who has their public keys: against that there are signatures.)
//! - Links, the manifest, signatures, `stats-dump` and what lies beside the images ([`is_beside`](crate::names::is_beside)) can be read by all.
//!
//! A checkpoint is encrypted if its inventory is. Pages are decrypted in the pieces of 64 KiB that age has, when they are asked for; nothing is
//! allocated by what a file says of itself.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::messages::{ManifestEntry, SealEntry};
use crate::store::{Content, Opened, PageSource};

/// What a file of age's begins with.
const BEGINNING: &[u8] = b"age-encryption.org/v1\n";

/// The longest header of a file that is read, in bytes: that of some 600 recipients.
const LONGEST_HEADER: u64 = 64 << 10;

/// The longest seal that is read, in bytes.
pub(crate) const LONGEST_SEAL: u64 = LONGEST_HEADER + 4096;

/// Who can read files.
pub trait Decrypts: fmt::Debug + Send + Sync {
    /// Begins to read a file of age's; `None` if it is encrypted to others.
    ///
    /// # Errors
    /// If it is none, or as the file's. What has been changed of it is told when it is read.
    fn begin(&self, content: Box<dyn Content>) -> io::Result<Option<Box<dyn Content>>>;
}

/// Why a file cannot be decrypted.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It is encrypted to others.
    NotARecipient,
    /// It cannot be read.
    Error(Error),
}

/// Whether a file is one of age's. It stands at its beginning then, as before.
pub(crate) fn is_encrypted(content: &mut dyn Content) -> io::Result<bool> {
    let mut beginning = Vec::with_capacity(BEGINNING.len());
    content.take(BEGINNING.len() as u64).read_to_end(&mut beginning)?;
    content.rewind()?;
    Ok(beginning == BEGINNING)
}

/// What the seal of a folder says whose manifest this is. Digests of long files may be of samples: the first is of the header, and by
/// that age tells whether any other piece belongs to the file. What a manifest is completed with later is not in it.
pub(crate) fn seal(entries: &[ManifestEntry]) -> SealEntry {
    const PURPOSE: &[u8] = b"stasis: seal of a checkpoint, 1\n";
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hasher = blake3::Hasher::new();
    hasher.update(PURPOSE);
    for ManifestEntry { name, bytes, digest, .. } in sorted {
        for part in [name.as_bytes(), &bytes.to_le_bytes(), digest] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    SealEntry { digest: hasher.finalize().as_bytes().to_vec() }
}

/// Decrypts an image.
pub(crate) fn decrypted(
    identities: &dyn Decrypts,
    name: &str,
    opened: Opened,
) -> Result<Opened, Refused> {
    let mut reader = begin(identities, name, opened.content)?;
    let sized = reader.seek(SeekFrom::End(0)).and_then(|size| reader.rewind().map(|()| size));
    let size = sized.map_err(Error::io("decrypt", name)).map_err(Refused::Error)?;
    Ok(Opened { content: reader, size })
}

/// Begins to read a file of age's.
fn begin(
    identities: &dyn Decrypts,
    name: &str,
    mut content: Box<dyn Content>,
) -> Result<Box<dyn Content>, Refused> {
    let failed = |source| Refused::Error(Error::io("read", name)(source));
    let mut header = Vec::new();
    (&mut content).take(LONGEST_HEADER).read_to_end(&mut header).map_err(failed)?;
    let what = match header.starts_with(BEGINNING) {
        false => Some("it is not encrypted, as the others are"),
        // A parser would go on to look for the end in all of the file, again and again.
        true if !header.windows(5).any(|it| it == b"\n--- ") => {
            Some("its header is longer than that of any file that is read")
        }
        true => None,
    };
    if let Some(what) = what {
        return Err(Refused::Error(Error::invalid(name, what)));
    }
    content.rewind().map_err(failed)?;
    let begun = identities.begin(content).map_err(Error::io("decrypt", name));
    begun.map_err(Refused::Error)?.ok_or(Refused::NotARecipient)
}

/// Pages that are decrypted when they are asked for, by as many threads as ask.
pub(crate) struct EncryptedPages {
    name: String,
    from: Arc<dyn PageSource>,
    identities: Arc<dyn Decrypts>,
    bytes: u64,
    /// Those that nobody reads by at the moment, and where they are.
    readers: Mutex<Vec<(u64, Reader)>>,
}

type Reader = Box<dyn Content>;

impl fmt::Debug for EncryptedPages {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("EncryptedPages").field("from", &self.from).finish_non_exhaustive()
    }
}

impl EncryptedPages {
    /// Pages of a pages file that is encrypted.
    pub(crate) fn open(
        identities: Arc<dyn Decrypts>,
        name: &str,
        from: Arc<dyn PageSource>,
    ) -> Result<Self, Refused> {
        let mut reader = begin(&*identities, name, Box::new(Pages { from: from.clone(), at: 0 }))?;
        let bytes = reader.seek(SeekFrom::End(0)).map_err(Error::io("decrypt", name));
        let bytes = bytes.map_err(Refused::Error)?;
        let (name, readers) = (name.to_owned(), Mutex::new(vec![(bytes, reader)]));
        Ok(Self { name, from, identities, bytes, readers })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Reader)>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that nobody else reads by: that which is there already, if there is one.
    fn reader(&self, offset: u64) -> io::Result<(u64, Reader)> {
        let mut readers = self.lock();
        if let Some(there) = readers.iter().position(|(at, _)| *at == offset) {
            return Ok(readers.swap_remove(there));
        }
        if let Some(reader) = readers.pop() {
            return Ok(reader);
        }
        drop(readers);
        let pages = Box::new(Pages { from: self.from.clone(), at: 0 });
        let begun = begin(&*self.identities, &self.name, pages);
        begun.map(|reader| (0, reader)).map_err(|refused| match refused {
            Refused::NotARecipient => io::ErrorKind::InvalidData.into(),
            Refused::Error(error) => io::Error::other(error),
        })
    }
}

impl PageSource for EncryptedPages {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.bytes);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (at, mut reader) = self.reader(offset)?;
        if at != offset {
            reader.seek(SeekFrom::Start(offset))?;
        }
        reader.read_exact(buffer)?;
        self.lock().push((end, reader));
        Ok(())
    }

    fn file(&self) -> Option<&File> {
        None
    }
}

/// A pages file, read as any other.
#[derive(Debug)]
struct Pages {
    from: Arc<dyn PageSource>,
    at: u64,
}

impl Read for Pages {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.from.bytes().saturating_sub(self.at);
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.from.read_exact_at(&mut buffer[..count], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Pages {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(to) => Some(to),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.from.bytes().checked_add_signed(by),
        };
        self.at = to.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_of_what_is_there_in_any_order() {
        let entry = |name: &str, bytes, digest: &[u8]| ManifestEntry {
            name: name.to_owned(),
            bytes,
            digest: digest.to_vec(),
            ..ManifestEntry::default()
        };
        let (a, b) = (entry("a", 1, &[1; 32]), entry("b", 2, &[2; 32]));
        let of = seal(&[a.clone(), b.clone()]);
        assert_eq!(of, seal(&[b.clone(), a.clone()]));
        let completed = ManifestEntry { pieces: Some(vec![1]), ..a.clone() };
        assert_eq!(of, seal(&[completed, b.clone()]));
        for other in [entry("a", 1, &[3; 32]), entry("a", 2, &[1; 32]), entry("ab", 1, &[1; 32])] {
            assert_ne!(of, seal(&[other, b.clone()]));
        }
        assert_ne!(of, seal(&[b]));
    }
}

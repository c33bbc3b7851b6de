//! Extended headers of archives (pax), which say more of the entry behind them: attributes of files, times, long names.
//!
//! They are records of a length that each says itself. The library that reads archives takes the end of a line for the end of a record:
//! an attribute with one in it could not be read, and one whose owner chose it well would be taken for a record, as of the entry's path or
//! size. So they are read here on the way to the library, which sees them without ends of lines in their values.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read};
use std::rc::Rc;

/// Bytes of a block.
const BLOCK: usize = 512;
/// The longest extended header: attributes of 64 KiB each, in any number that a file system takes.
const LONGEST: u64 = 64 << 20;

/// Keys and values.
pub(super) type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// The records of the entry that has been come to last.
#[derive(Clone, Debug, Default)]
pub(super) struct Last(Rc<RefCell<Records>>);

impl Last {
    /// Takes them.
    pub(super) fn take(&self) -> Records {
        self.0.take()
    }
}

/// An archive that is read by another.
#[derive(Debug)]
pub(super) struct Archive<R> {
    from: R,
    last: Last,
    /// What has been read, and how much of it was handed on.
    ready: Vec<u8>,
    given: usize,
    /// Bytes that follow and are handed on as they are.
    content: u64,
    /// The size of the next entry, if it is not the one that its header says.
    size: Option<u64>,
    /// The next block goes on with where a file has holes.
    has_more_holes: bool,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(from: R) -> (Self, Last) {
        let last = Last::default();
        let archive = Self {
            from,
            last: last.clone(),
            ready: Vec::new(),
            given: 0,
            content: 0,
            size: None,
            has_more_holes: false,
        };
        (archive, last)
    }

    /// Reads the next block, and an extended header whole.
    fn next(&mut self) -> io::Result<()> {
        // Where the flag is that blocks follow which say where the file has holes: in a header, and in such a block.
        const MORE_HOLES: usize = 482;
        const STILL_MORE: usize = 504;
        const KIND: usize = 156;
        self.ready.clear();
        self.given = 0;
        self.from.by_ref().take(BLOCK as u64).read_to_end(&mut self.ready)?;
        if self.ready.len() < BLOCK {
            return Ok(());
        }
        if self.has_more_holes {
            self.has_more_holes = self.ready[STILL_MORE] != 0;
            return Ok(());
        }
        let header = tar::Header::from_byte_slice(&self.ready);
        // Blocks of zeros end it.
        if self.ready.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let is_extended = self.ready[KIND] == b'x';
        let said = self.size.take_if(|_| !is_extended);
        let size = said.map_or_else(|| header.entry_size(), Ok)?;
        let padded = size.checked_next_multiple_of(BLOCK as u64).ok_or(ErrorKind::InvalidData)?;
        match self.ready[KIND] {
            b'x' if size > LONGEST => return Err(ErrorKind::InvalidData.into()),
            b'x' => {
                let read = self.from.by_ref().take(padded).read_to_end(&mut self.ready)?;
                let bytes = self.ready[BLOCK..].get_mut(..size as usize);
                let bytes = bytes.filter(|_| read as u64 == padded);
                let records = records(bytes.ok_or(ErrorKind::UnexpectedEof)?);
                let records = records.ok_or(ErrorKind::InvalidData)?;
                let size = records.iter().rfind(|(key, _)| key == b"size");
                let size = size.and_then(|(_, size)| std::str::from_utf8(size).ok()?.parse().ok());
                self.size = size;
                self.last.0.replace(records);
            }
            b'S' => {
                self.has_more_holes = self.ready[MORE_HOLES] != 0;
                self.content = padded;
            }
            _ => self.content = padded,
        }
        Ok(())
    }
}

impl<R: Read> Read for Archive<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.given == self.ready.len() {
            if self.content > 0 && !self.has_more_holes {
                let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(to.len());
                let read = self.from.read(&mut to[..most])?;
                self.content -= read as u64;
                return Ok(read);
            }
            self.next()?;
        }
        let left = &self.ready[self.given..];
        let length = left.len().min(to.len());
        to[..length].copy_from_slice(&left[..length]);
        self.given += length;
        Ok(length)
    }
}

/// The records of an extended header, in which ends of lines in values become something else; `None` if they are none.
fn records(mut bytes: &mut [u8]) -> Option<Records> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let digits = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..digits]).ok()?.parse().ok()?;
        if length > bytes.len() {
            return None;
        }
        let (record, rest) = std::mem::take(&mut bytes).split_at_mut(length);
        bytes = rest;
        let (b'\n', record) = record.split_last_mut().map(|(last, record)| (*last, record))? else {
            return None;
        };
        let record = record.get_mut(digits + 1..)?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let (key, value) = record.split_at_mut(equals);
        found.push((key.to_vec(), value[1..].to_vec()));
        key.iter_mut().chain(value).filter(|byte| **byte == b'\n').for_each(|byte| *byte = b'?');
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tar::{Builder, EntryType, Header};

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(size);
        header
    }

    fn archive(value: &[u8]) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        archive.append_pax_extensions([("SCHILY.xattr.user.a", value), ("mtime", b"1.5")]).unwrap();
        archive.append_data(&mut header(EntryType::Regular, 3), "own", &b"one"[..]).unwrap();
        archive.append_data(&mut header(EntryType::Regular, 3), "next", &b"two"[..]).unwrap();
        archive.into_inner().unwrap()
    }

    /// Names, contents and records of all entries.
    fn read(bytes: &[u8]) -> io::Result<Vec<(String, Vec<u8>, Records)>> {
        let (archive, last) = Archive::new(bytes);
        let mut archive = tar::Archive::new(archive);
        let mut found = Vec::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let (name, records) = (entry.path()?.display().to_string(), last.take());
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            found.push((name, content, records));
        }
        Ok(found)
    }

    proptest! {
        #[test]
        fn values_are_what_they_were(value in prop::collection::vec(any::<u8>(), 0..600)) {
            let found = read(&archive(&value)).unwrap();
            prop_assert_eq!(found.len(), 2);
            prop_assert_eq!(&found[0].2[0].1, &value);
            prop_assert_eq!((&*found[1].0, &*found[1].1, found[1].2.len()), ("next", &b"two"[..], 0));
        }

        #[test]
        fn any_bytes_are_an_archive_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _told = read(&bytes);
        }
    }

    #[test]
    fn a_value_is_no_record() {
        for value in [&b"\n17 path=another\n"[..], b"x\n10 size=0\n", b"\n", b"a\nb"] {
            let found = read(&archive(value)).unwrap();
            assert_eq!(
                (&*found[0].0, &*found[0].1),
                ("own", &b"one"[..]),
                "{}",
                value.escape_ascii()
            );
            assert_eq!(found[0].2[0].1, value);
        }
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        for bad in ["", " a=b\n", "99 a=b\n", "6 a=b", "5 ab\n", "x a=b\n", "4 =\n"] {
            let found = records(&mut bad.as_bytes().to_vec());
            assert_eq!(found.is_some(), bad.is_empty() || bad == "4 =\n", "{bad:?}");
        }
    }
}

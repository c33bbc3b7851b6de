//! Reading one image: its head, its messages, the bytes that follow some of them.
//!
//! Images may come from anyone. A length is believed only as far as the file holds that many bytes, and
//! messages have a limit ([`MAX_MESSAGE`]); prost limits how deep they nest.

use std::io::{self, Read, Seek};
use std::marker::PhantomData;

use prost::Message;

use crate::error::Error;
use crate::magic;
use crate::names::{Head, Image};

/// Longest message accepted. An address space of a million mappings is shorter.
pub const MAX_MESSAGE: u64 = 64 << 20;

/// Memory that the messages of one image may take, their contents not counted: near a million files, sixty
/// million runs of pages.
const MAX_MEMORY: u64 = 2 << 30;

/// An image being read.
#[derive(Debug)]
pub struct ImageReader<R, M> {
    name: String,
    input: R,
    offset: u64,
    left: u64,
    index: u64,
    message: PhantomData<fn() -> M>,
}

impl<R: Read, M: Message + Default> ImageReader<R, M> {
    /// Reads an image from `input`, which holds `size` bytes, and checks its head.
    ///
    /// `common` says whether the checkpoint's images have the common number (all but those of version 1).
    pub fn new(image: &Image<M>, input: R, size: u64, common: bool) -> Result<Self, Error> {
        let mut reader = Self {
            name: image.name().to_owned(),
            input,
            offset: 0,
            left: size,
            index: 0,
            message: PhantomData,
        };
        match image.head() {
            Head::Common if common => reader.expect(magic::COMMON)?,
            // Service files of version 1 have their own number only, but CRIU writes none of these today.
            Head::Service if common => reader.expect(magic::SERVICE)?,
            Head::Common | Head::Service | Head::Own => {}
        }
        reader.expect(image.magic())?;
        Ok(reader)
    }

    fn expect(&mut self, expected: u32) -> Result<(), Error> {
        let found = u32::from_le_bytes(self.array()?);
        if found == expected {
            return Ok(());
        }
        Err(Error::Magic { name: self.name.clone(), found, expected })
    }

    /// The next message; `None` at the end of the image.
    pub fn next_entry(&mut self) -> Result<Option<M>, Error> {
        self.next_as()
    }

    /// The next message, of another type than the image's usual one.
    pub fn next_as<N: Message + Default>(&mut self) -> Result<Option<N>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        if self.index * size_of::<N>() as u64 > MAX_MEMORY {
            return Err(Error::TooMany { name: self.name.clone(), limit: self.index });
        }
        let size = u64::from(u32::from_le_bytes(self.array()?));
        if size > MAX_MESSAGE {
            return Err(Error::MessageSize {
                name: self.name.clone(),
                offset: self.offset,
                size,
                limit: MAX_MESSAGE,
            });
        }
        if size == 0 && self.index > 0 {
            // Only what comes once may have nothing to say. A sparse file, which costs its maker nothing,
            // would be such messages without end.
            return Err(Error::EmptyMessage { name: self.name.clone(), offset: self.offset });
        }
        let bytes = self.bytes(size)?;
        let message = N::decode(bytes.as_slice()).map_err(|source| Error::Decode {
            name: self.name.clone(),
            index: self.index,
            source,
        })?;
        self.index += 1;
        Ok(Some(message))
    }

    /// All messages that are left.
    pub fn entries(mut self) -> Result<Vec<M>, Error> {
        let mut all = Vec::new();
        while let Some(entry) = self.next_entry()? {
            all.push(entry);
        }
        Ok(all)
    }

    /// The only message.
    pub fn only(mut self) -> Result<M, Error> {
        let found = match self.next_entry()? {
            Some(entry) if self.left == 0 => return Ok(entry),
            Some(_) => "more",
            None => "none",
        };
        Err(Error::Count { name: self.name, found })
    }

    /// The next `size` bytes, which follow a message.
    pub fn bytes(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        self.check(size)?;
        // A sparse file may claim any length: room is made for what is read, not for what is announced.
        let mut bytes = Vec::with_capacity(usize::try_from(size.min(64 << 10)).unwrap_or(0));
        let got = (&mut self.input)
            .take(size)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", &self.name))? as u64;
        if got < size {
            // The file became shorter while it was read.
            self.left = got;
            return self.check(size).map(|()| bytes);
        }
        self.advance(size);
        Ok(bytes)
    }

    /// Copies the next `size` bytes to `output`.
    pub fn copy(&mut self, size: u64, output: &mut impl io::Write) -> Result<(), Error> {
        self.check(size)?;
        let got = io::copy(&mut (&mut self.input).take(size), output)
            .map_err(Error::io("copy", &self.name))?;
        if got < size {
            self.left = got;
            return self.check(size);
        }
        self.advance(size);
        Ok(())
    }

    /// Where the next byte is in the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that are left.
    pub fn left(&self) -> u64 {
        self.left
    }

    fn array(&mut self) -> Result<[u8; 4], Error> {
        self.check(4)?;
        let mut bytes = [0; 4];
        self.input.read_exact(&mut bytes).map_err(Error::io("read", &self.name))?;
        self.advance(4);
        Ok(bytes)
    }
}

impl<R, M> ImageReader<R, M> {
    fn check(&self, wanted: u64) -> Result<(), Error> {
        if wanted <= self.left {
            return Ok(());
        }
        let (offset, left) = (self.offset, self.left);
        Err(Error::Truncated { name: self.name.clone(), offset, wanted, left })
    }

    fn advance(&mut self, size: u64) {
        self.offset += size;
        self.left -= size;
    }
}

impl<R: Read + Seek, M> ImageReader<R, M> {
    /// Passes over the next `size` bytes.
    pub fn skip(&mut self, size: u64) -> Result<(), Error> {
        self.check(size)?;
        // A file holds no more than this, so the number fits.
        let distance = i64::try_from(size).unwrap_or(i64::MAX);
        self.input.seek_relative(distance).map_err(Error::io("seek in", &self.name))?;
        self.advance(size);
        Ok(())
    }
}

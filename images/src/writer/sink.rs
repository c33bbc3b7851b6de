//! Writing one image.

use std::io::{self, BufWriter, Read, Write};
use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use prost::Message;

use super::ImageWriter;
use crate::error::Error;
use crate::magic;
use crate::manifest::Digester;
use crate::names::{Head, Image};
use crate::reader::MAX_MESSAGE;
use crate::store::ImageOutput;

/// An image being written, message by message.
#[derive(Debug)]
pub struct ImageSink<'w, M> {
    name: String,
    output: BufWriter<Box<dyn ImageOutput>>,
    message_bytes: Vec<u8>,
    /// It counts the images that were begun and not finished, so that a commit can refuse them.
    writer: &'w ImageWriter,
    /// What the writer calls it.
    path: String,
    /// `None` when something has been copied into it that was not seen.
    digester: Option<Digester>,
    message: PhantomData<fn(M)>,
}

impl<'w, M: Message> ImageSink<'w, M> {
    pub(super) fn begin(
        writer: &'w ImageWriter,
        image: &Image<M>,
        path: String,
        output: Box<dyn ImageOutput>,
    ) -> Result<Self, Error> {
        writer.unfinished.fetch_add(1, Ordering::AcqRel);
        let mut sink = Self {
            name: image.name().to_owned(),
            output: BufWriter::new(output),
            message_bytes: Vec::new(),
            writer,
            path,
            digester: Some(Digester::default()),
            message: PhantomData,
        };
        sink.payload(&head(image))?;
        Ok(sink)
    }

    /// Writes a message.
    pub fn put(&mut self, entry: &M) -> Result<(), Error> {
        self.put_as(entry)
    }

    /// Writes a message of another type than the image's usual one: the runs of a page map, the chunks of a
    /// ghost file.
    pub fn put_as<N: Message>(&mut self, entry: &N) -> Result<(), Error> {
        let size = entry.encoded_len() as u64;
        if size > MAX_MESSAGE {
            return Err(Error::MessageSize {
                name: self.name.clone(),
                offset: 0,
                size,
                limit: MAX_MESSAGE,
            });
        }
        let mut bytes = std::mem::take(&mut self.message_bytes);
        bytes.clear();
        frame(entry, &mut bytes);
        let written = self.payload(&bytes);
        self.message_bytes = bytes;
        written
    }

    /// Writes bytes that follow a message.
    pub fn payload(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some(digester) = &mut self.digester {
            digester.add(bytes);
        }
        self.output.write_all(bytes).map_err(Error::io("write", &self.name))
    }

    /// Copies what `input` gives, to its end, in the kernel where it can; returns how much that was.
    pub fn payload_from(&mut self, input: &mut impl Read) -> Result<u64, Error> {
        self.digester = None;
        let mut copy = |output: &mut BufWriter<Box<dyn ImageOutput>>| {
            output.flush()?;
            match output.get_mut().file() {
                Some(file) => io::copy(input, file),
                None => io::copy(input, output),
            }
        };
        copy(&mut self.output).map_err(Error::io("write", &self.name))
    }

    /// Ends the image.
    pub fn finish(mut self) -> Result<(), Error> {
        self.output.flush().map_err(Error::io("write", &self.name))?;
        if let Some(entry) = self.digester.as_ref().and_then(|it| it.entry(&self.path)) {
            self.writer.note(&self.path, entry);
        }
        self.writer.unfinished.fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }
}

/// What an image begins with.
pub(crate) fn head<M>(image: &Image<M>) -> Vec<u8> {
    let common = match image.head() {
        Head::Own => None,
        Head::Common => Some(magic::COMMON),
        Head::Service => Some(magic::SERVICE),
    };
    common.into_iter().chain([image.magic()]).flat_map(u32::to_le_bytes).collect()
}

/// A message with its length before it.
fn frame<M: Message>(entry: &M, bytes: &mut Vec<u8>) {
    let size = u32::try_from(entry.encoded_len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend(entry.encode_to_vec());
}

/// The same, alone.
pub(crate) fn framed<M: Message>(entry: &M) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame(entry, &mut bytes);
    bytes
}

/// A whole image in memory, for files that lie outside a checkpoint (`stats-dump` in a work directory).
pub fn encode<'e, M: Message + 'e>(
    image: &Image<M>,
    entries: impl IntoIterator<Item = &'e M>,
) -> Vec<u8> {
    let mut bytes = head(image);
    for entry in entries {
        frame(entry, &mut bytes);
    }
    bytes
}

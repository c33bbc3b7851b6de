//! What is in pipes, socket queues and files without a name: where it is, not the bytes themselves.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use prost::Message;

use super::unique::unique;
use crate::error::Error;
use crate::images::Images;
use crate::messages::{
    BpfmapDataEntry, FileEntry, GhostChunkEntry, GhostFileEntry, PipeDataEntry, SkPacketEntry,
    TcpStreamEntry,
};
use crate::names::{self, Image};
use crate::store::Content;

/// Where bytes are in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Offset of the first in the file.
    pub offset: u64,
    /// How many there are.
    pub size: u64,
}

/// Reads the bytes that payloads of one image are.
#[derive(Debug)]
pub struct PayloadReader {
    name: String,
    content: Box<dyn Content>,
}

impl PayloadReader {
    /// Opens the image.
    pub fn open<M>(images: &Images, image: &Image<M>) -> Result<Self, Error> {
        Ok(Self { name: image.name().to_owned(), content: images.raw(image.name())? })
    }

    /// The bytes of a payload.
    pub fn read(&mut self, payload: Payload) -> Result<Vec<u8>, Error> {
        let from = SeekFrom::Start(payload.offset);
        self.content.seek(from).map_err(Error::io("seek in", &self.name))?;
        let mut bytes = Vec::new();
        let mut content = (&mut self.content).take(payload.size);
        content.read_to_end(&mut bytes).map_err(Error::io("read", &self.name))?;
        Ok(bytes)
    }
}

/// What is in a pipe or a fifo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipeContents {
    /// Which pipe, and how large its buffer is.
    pub entry: PipeDataEntry,
    /// Its contents, in `pipes-data.img` or `fifo-data.img`.
    pub payload: Payload,
}

/// What is in a BPF map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapContents {
    /// How much.
    pub entry: BpfmapDataEntry,
    /// Keys and values, in `bpfmap-data.img`.
    pub payload: Payload,
}

/// A packet in the receive queue of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedPacket {
    /// Which socket, and what travels with the packet.
    pub entry: SkPacketEntry,
    /// Its contents, in `sk-queues.img`.
    pub payload: Payload,
}

/// A file without a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ghost {
    /// Owner, mode, times.
    pub entry: GhostFileEntry,
    /// Its contents in `ghost-file-ID.img`; between the parts the file has holes.
    pub parts: Vec<GhostPart>,
}

/// A piece of a file without a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GhostPart {
    /// Where it is in the file.
    pub at: u64,
    /// Where it is in the image.
    pub payload: Payload,
}

impl Ghost {
    /// How long the file is.
    pub fn size(&self) -> u64 {
        let end = self.parts.iter().map(|part| part.at + part.payload.size).max().unwrap_or(0);
        self.entry.size.unwrap_or(end).max(end)
    }
}

/// What is in a TCP connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamContents {
    /// Numbers, options, windows.
    pub entry: TcpStreamEntry,
    /// What was received, in `tcp-stream-INO.img`.
    pub received: Payload,
    /// What was written and not confirmed, right behind it.
    pub sent: Payload,
}

/// What is in the connections among `files`, by the number in the name of the image. Those that were dumped
/// as closed have none.
pub(super) fn streams<'f>(
    dir: &Images,
    files: impl Iterator<Item = &'f FileEntry>,
) -> Result<BTreeMap<u32, StreamContents>, Error> {
    let mut found = BTreeMap::new();
    let sockets = files.filter_map(|file| file.isk.as_deref());
    for socket in sockets.filter(|socket| socket.is_connection()) {
        let image = names::tcp_stream(socket.ino);
        let Some(mut reader) = dir.reader(&image)? else { continue };
        let missing = || Error::Missing { name: image.name().into() };
        let entry = reader.next_entry()?.ok_or_else(missing)?;
        let mut next = |size: u32| {
            let payload = Payload { offset: reader.offset(), size: size.into() };
            reader.skip(payload.size).map(|()| payload)
        };
        let (received, sent) = (next(entry.inq_len)?, next(entry.outq_len)?);
        found.insert(socket.ino, StreamContents { entry, received, sent });
    }
    Ok(found)
}

pub(super) fn pipes(
    images: &Images,
    image: &Image<PipeDataEntry>,
) -> Result<Vec<PipeContents>, Error> {
    let found = with_payloads(images, image, |entry| u64::from(entry.bytes))?;
    let by_id =
        found.into_iter().map(|(entry, payload)| (entry.pipe_id, PipeContents { entry, payload }));
    Ok(unique(image.name(), "pipe", by_id)?.into_values().collect())
}

pub(super) fn maps(images: &Images) -> Result<Vec<MapContents>, Error> {
    let size =
        |entry: &BpfmapDataEntry| u64::from(entry.keys_bytes) + u64::from(entry.values_bytes);
    let found = with_payloads(images, &names::bpfmap_data(), size)?;
    Ok(found.into_iter().map(|(entry, payload)| MapContents { entry, payload }).collect())
}

pub(super) fn packets(images: &Images) -> Result<Vec<QueuedPacket>, Error> {
    let found = with_payloads(images, &names::sk_queues(), |entry| u64::from(entry.length))?;
    Ok(found.into_iter().map(|(entry, payload)| QueuedPacket { entry, payload }).collect())
}

/// Messages that are each followed by bytes.
fn with_payloads<M: Message + Default>(
    images: &Images,
    image: &Image<M>,
    size: impl Fn(&M) -> u64,
) -> Result<Vec<(M, Payload)>, Error> {
    let mut found = Vec::new();
    let Some(mut reader) = images.reader(image)? else { return Ok(found) };
    while let Some(entry) = reader.next_entry()? {
        let payload = Payload { offset: reader.offset(), size: size(&entry) };
        reader.skip(payload.size)?;
        found.push((entry, payload));
    }
    Ok(found)
}

pub(super) fn ghost(images: &Images, id: u32) -> Result<Ghost, Error> {
    let image = names::ghost_file(id);
    let missing = || Error::Missing { name: image.name().into() };
    let mut reader = images.reader(&image)?.ok_or_else(missing)?;
    let entry = reader.next_entry()?.ok_or_else(missing)?;
    let mut parts = Vec::new();
    if entry.chunks() {
        while let Some(chunk) = reader.next_as::<GhostChunkEntry>()? {
            let payload = Payload { offset: reader.offset(), size: chunk.len };
            if chunk.off.checked_add(chunk.len).is_none_or(|end| end > i64::MAX as u64) {
                let what = format!("a piece of {} bytes at {} cannot be", chunk.len, chunk.off);
                return Err(Error::invalid(image.name(), what));
            }
            reader.skip(chunk.len)?;
            parts.push(GhostPart { at: chunk.off, payload });
        }
    } else if reader.left() > 0 {
        let payload = Payload { offset: reader.offset(), size: reader.left() };
        parts.push(GhostPart { at: 0, payload });
    }
    Ok(Ghost { entry, parts })
}

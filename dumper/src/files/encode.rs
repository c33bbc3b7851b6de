//! The images of open files.

use images::messages::{GhostChunkEntry, fd_type};
use images::{Error, Image, ImageWriter, names};
use prost::Message;

use super::Captured;

/// Writes an image whose messages are followed by bytes; with none there is no file.
fn with_bytes<'a, M: Message + 'a>(
    writer: &ImageWriter,
    image: &Image<M>,
    entries: impl Iterator<Item = (&'a M, &'a [u8])>,
) -> Result<(), Error> {
    let mut entries = entries.peekable();
    if entries.peek().is_none() {
        return Ok(());
    }
    let mut sink = writer.image(image)?;
    for (entry, bytes) in entries {
        sink.put(entry)?;
        sink.payload(bytes)?;
    }
    sink.finish()
}

fn borrowed<M>(entries: &[(M, Vec<u8>)]) -> impl Iterator<Item = (&M, &[u8])> {
    entries.iter().map(|(entry, bytes)| (entry, &bytes[..]))
}

impl Captured {
    /// Writes the images of open files: `files.img`, `fdinfo-N.img`, and what belongs to them.
    ///
    /// # Errors
    ///
    /// When an image cannot be written.
    pub fn encode(&self, writer: &ImageWriter) -> Result<(), Error> {
        let mut sink = writer.image(&names::files())?;
        self.standing_entries(|entry| sink.put(entry))?;
        for entry in &self.files {
            sink.put(entry)?;
        }
        sink.finish()?;
        for (id, entries) in &self.tables {
            // CRIU looks for the image of every table, also of one without a descriptor.
            let mut sink = writer.image(&names::fdinfo(*id))?;
            for entry in entries {
                sink.put(entry)?;
            }
            sink.finish()?;
        }
        writer.write_all(&names::remap_fpath(), &self.remaps)?;
        for ghost in &self.ghosts {
            let mut sink = writer.image(&names::ghost_file(ghost.id))?;
            sink.put(&ghost.entry)?;
            for (off, bytes) in &ghost.pieces {
                if ghost.entry.chunks() {
                    sink.put_as(&GhostChunkEntry { len: bytes.len() as u64, off: *off })?;
                }
                sink.payload(bytes)?;
            }
            sink.finish()?;
        }
        let pipes = self.standing_contents(fd_type::PIPE);
        let fifos = self.standing_contents(fd_type::FIFO);
        with_bytes(writer, &names::pipes_data(), borrowed(&self.pipes).chain(pipes))?;
        with_bytes(writer, &names::fifo_data(), borrowed(&self.fifos).chain(fifos))?;
        with_bytes(writer, &names::sk_queues(), borrowed(&self.queues))?;
        writer.write_all(&names::tty_info(), &self.ttys)
    }
}

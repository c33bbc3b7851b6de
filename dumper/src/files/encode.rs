//! The images of open files.

use images::messages::GhostChunkEntry;
use images::{Error, Image, ImageWriter, names};
use prost::Message;

use super::Captured;

/// Writes an image whose messages are followed by bytes; with none there is no file.
fn with_bytes<M: Message>(
    writer: &ImageWriter,
    image: &Image<M>,
    entries: &[(M, Vec<u8>)],
) -> Result<(), Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut sink = writer.image(image)?;
    for (entry, bytes) in entries {
        sink.put(entry)?;
        sink.payload(bytes)?;
    }
    sink.finish()
}

impl Captured {
    /// Writes the images of open files: `files.img`, `fdinfo-N.img`, and what belongs to them.
    ///
    /// # Errors
    ///
    /// When an image cannot be written.
    pub fn encode(&self, writer: &ImageWriter) -> Result<(), Error> {
        let mut sink = writer.image(&names::files())?;
        for keeping in &self.keeping {
            for entry in self.kept.get(keeping.entries.clone()).unwrap_or_default() {
                let mut entry = entry.clone();
                keeping.update(&mut entry);
                sink.put(&entry)?;
            }
        }
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
        with_bytes(writer, &names::pipes_data(), &self.pipes)?;
        with_bytes(writer, &names::fifo_data(), &self.fifos)?;
        with_bytes(writer, &names::sk_queues(), &self.queues)?;
        writer.write_all(&names::tty_info(), &self.ttys)
    }
}

//! The images of open files.

use images::{Error, ImageWriter, names};

use super::locks::Locks;
use super::{Captured, table};

impl Captured {
    /// Writes the images of open files: `files.img`, `fdinfo-N.img`, and what belongs to them.
    ///
    /// # Errors
    ///
    /// When an image cannot be written.
    pub fn encode(&self, writer: &ImageWriter) -> Result<(), Error> {
        let mut sink = writer.image(&names::files())?;
        self.unchanged_entries(|entry| sink.put(entry))?;
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
        Locks::encode(self, writer)?;
        table::all().try_for_each(|kind| kind.encode(self, writer))
    }
}

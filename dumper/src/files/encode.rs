//! The images of open files.

use images::messages::FileEntry;
use images::{Error, ImageWriter, names};

use super::file_kind::FileKind;
use super::locks::Locks;
use super::{Captured, networks, table};
use crate::own_namespaces::own_number;

impl Captured {
    /// Writes the images of open files: `files.img`, `fdinfo-N.img`, and what belongs to them.
    ///
    /// # Errors
    ///
    /// When an image cannot be written.
    pub fn encode(&self, writer: &ImageWriter) -> Result<(), Error> {
        let mut sink = writer.image(&names::files())?;
        let own = own_number("net").unwrap_or_default();
        let numbers = &self.numbers_of_namespaces;
        let is_plain = numbers.is_empty() && self.ids.is_plain();
        let mut last: Vec<(&dyn FileKind, Vec<FileEntry>)> = Vec::new();
        let mut put = |entry: &FileEntry| {
            let numbered;
            let entry = match is_plain {
                true => entry,
                false => {
                    let mut entry = entry.clone();
                    networks::renumber(&mut entry, numbers, own);
                    self.ids.enter(&mut entry);
                    numbered = entry;
                    &numbered
                }
            };
            let Some(kind) = table::of_type(entry.r#type) else { return sink.put(entry) };
            if kind.comes_last(entry) {
                match last.iter_mut().find(|(of, _)| of.types() == kind.types()) {
                    Some((_, entries)) => entries.push(entry.clone()),
                    None => last.push((kind, vec![entry.clone()])),
                }
                return Ok(());
            }
            match kind.in_two(entry) {
                Some(parts) => parts.iter().try_for_each(|part| sink.put(part)),
                None => sink.put(entry),
            }
        };
        self.unchanged_entries(&mut put)?;
        self.files.iter().chain(&self.outside).try_for_each(&mut put)?;
        for (kind, entries) in last {
            kind.in_order(entries).iter().try_for_each(|entry| sink.put(entry))?;
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

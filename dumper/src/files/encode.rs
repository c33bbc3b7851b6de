//! The images of open files.

use std::collections::{BTreeMap, HashMap};

use images::messages::FileEntry;
use images::{Error, ImageWriter, names};

use super::locks::Locks;
use super::{Captured, networks, nsfs, table, tun};
use crate::own_namespaces::own_number;

impl Captured {
    /// Writes the images of open files: `files.img`, `fdinfo-N.img`, and what belongs to them.
    ///
    /// # Errors
    ///
    /// When an image cannot be written.
    pub fn encode(&self, writer: &ImageWriter) -> Result<(), Error> {
        let mut sink = writer.image(&names::files())?;
        let mut connected = Vec::new();
        let own = own_number("net").unwrap_or_default();
        let of_networks = self.numbers_of_namespaces.iter().filter(|((name, _), _)| *name == "net");
        let numbers: BTreeMap<u64, u32> =
            of_networks.map(|((_, id), number)| (*id, *number)).collect();
        let mut put = |entry: &FileEntry| {
            let numbered;
            let entry = match self.numbers_of_namespaces.is_empty() && self.ids.is_plain() {
                true => entry,
                false => {
                    let mut entry = entry.clone();
                    networks::renumber(&mut entry, &numbers, own);
                    nsfs::renumber(&mut entry, &self.numbers_of_namespaces);
                    self.ids.enter(&mut entry);
                    numbered = entry;
                    &numbered
                }
            };
            match &entry.usk {
                Some(socket) if socket.peer != 0 => {
                    connected.push(entry.clone());
                    Ok(())
                }
                _ => match tun::in_two(entry) {
                    Some(parts) => parts.iter().try_for_each(|part| sink.put(part)),
                    None => sink.put(entry),
                },
            }
        };
        self.unchanged_entries(&mut put)?;
        self.files.iter().chain(&self.outside).try_for_each(&mut put)?;
        in_order(connected).iter().try_for_each(|entry| sink.put(entry))?;
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

/// Puts Unix sockets into an order in which each comes after the one that it is connected to, unless they are
/// connected to each other: CRIU looks for that one when it reads the entry.
fn in_order(sockets: Vec<FileEntry>) -> Vec<FileEntry> {
    let ends = |entry: &FileEntry| entry.usk.as_ref().map_or((0, 0), |it| (it.ino, it.peer));
    let mut missing: HashMap<u32, u32> = sockets.iter().map(ends).collect();
    let mut ordered = Vec::with_capacity(sockets.len());
    let mut rest = sockets;
    loop {
        let before = ordered.len();
        let (ready, waiting): (Vec<_>, Vec<_>) = rest.into_iter().partition(|entry| {
            let (own, peer) = ends(entry);
            missing.get(&peer).is_none_or(|back| *back == own)
        });
        for entry in &ready {
            missing.remove(&ends(entry).0);
        }
        ordered.extend(ready);
        rest = waiting;
        if rest.is_empty() || ordered.len() == before {
            // A circle has no order.
            ordered.extend(rest);
            return ordered;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use images::messages::UnixSkEntry;

    #[test]
    fn who_is_aimed_at_comes_first() {
        let entry = |(ino, peer): (u32, u32)| FileEntry {
            usk: Some(Box::new(UnixSkEntry { ino, peer, ..UnixSkEntry::default() })),
            ..FileEntry::default()
        };
        let order = |ends: &[(u32, u32)]| -> Vec<u32> {
            let ordered = in_order(ends.iter().copied().map(entry).collect());
            ordered.into_iter().filter_map(|entry| Some(entry.usk?.ino)).collect()
        };
        assert_eq!(order(&[(1, 2), (2, 3), (3, 9)]), [3, 2, 1]);
        assert_eq!(order(&[(1, 2), (4, 4), (2, 1)]), [1, 4, 2]);
        assert_eq!(order(&[(1, 2), (2, 3), (3, 1)]), [1, 2, 3]);
    }
}

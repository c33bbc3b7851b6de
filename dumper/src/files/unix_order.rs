//! The order in which Unix sockets are written.

use std::collections::HashMap;

use images::messages::FileEntry;

/// Puts them into an order in which each comes after the one that it is connected to, unless they are
/// connected to each other: CRIU looks for that one when it reads the entry.
pub(super) fn in_order(sockets: Vec<FileEntry>) -> Vec<FileEntry> {
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

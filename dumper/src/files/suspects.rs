//! Which open files may have locks on them.

use std::collections::HashSet;

use collector::{Inventory, OpenFile};

use super::Error;

/// Up to how many descriptors are asked for locks one by one.
const FEW: usize = 1000;

/// The open files that may have locks on them.
pub(super) enum Suspects {
    /// Any of them.
    All,
    /// Those with these inodes, on whatever file system.
    Inodes(HashSet<u64>),
}

impl Suspects {
    /// Finds out which they are.
    ///
    /// `/proc/locks` tells of all at once, but makes the kernel wait for every processor (10 ms):
    /// a few hundred descriptors are asked one by one in less.
    pub(super) fn of(inventory: &Inventory) -> Result<Self, Error> {
        let lockable = || {
            let files = inventory.processes.values().flat_map(|process| &process.files);
            files.filter(|file| is_lockable(file))
        };
        if lockable().count() <= FEW {
            return Ok(Self::All);
        }
        let wanted = lockable().map(|file| file.inode).collect();
        let text = std::fs::read("/proc/locks")
            .map_err(|source| Error::Kernel { operation: "read /proc/locks".to_owned(), source })?;
        Ok(Self::Inodes(locked(&text, &wanted)))
    }

    pub(super) fn contains(&self, file: &OpenFile) -> bool {
        is_lockable(file)
            && match self {
                Self::All => true,
                Self::Inodes(inodes) => inodes.contains(&file.inode),
            }
    }
}

/// Whether there may be locks on a file: files of every kind can have some (flock(2)).
fn is_lockable(file: &OpenFile) -> bool {
    let handle = file.flags & libc::O_PATH.cast_unsigned() != 0;
    !handle && file.locked != Some(false)
}

/// The inodes among `wanted` that the text of `/proc/locks` names.
///
/// An inode number alone may be that of a file on another file system: whoever asks looks closer.
fn locked(text: &[u8], wanted: &HashSet<u64>) -> HashSet<u64> {
    text.split(|&byte| byte == b'\n')
        .filter_map(inode)
        .filter(|inode| wanted.contains(inode))
        .collect()
}

/// `1: POSIX  ADVISORY  WRITE 17164 fe:00:10010628 0 EOF` (a waiting one has `->` behind the
/// number).
fn inode(line: &[u8]) -> Option<u64> {
    let place = line
        .split(u8::is_ascii_whitespace)
        .find(|word| word.iter().filter(|&&byte| byte == b':').count() == 2)?;
    let digits = place.rsplit(|&byte| byte == b':').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_wanted_inodes() {
        let text = b"1: POSIX  ADVISORY  WRITE 17164 fe:00:10010628 0 EOF\n\
            1: -> POSIX  ADVISORY  WRITE 17 fe:00:10010628 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 1 fe:00:77 0 EOF\n\
            3: LEASE  ACTIVE    READ  1 fe:00:78 0 EOF\nrubbish\n\n";
        let wanted = HashSet::from([10_010_628, 78, 5]);
        assert_eq!(locked(text, &wanted), HashSet::from([10_010_628, 78]));
    }
}

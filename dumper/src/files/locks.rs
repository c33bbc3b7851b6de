//! File locks and leases: not carried yet, so looked for.

use std::collections::HashSet;

/// The inodes among `wanted` that the text of `/proc/locks` names.
///
/// An inode number alone may be that of a file on another file system: whoever asks looks closer.
pub(super) fn locked(text: &[u8], wanted: &HashSet<u64>) -> HashSet<u64> {
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

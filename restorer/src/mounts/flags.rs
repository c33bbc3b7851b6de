//! Flags and options of mounts and file systems, from the form of mount(2) into that of newer calls.

use images::messages::MntEntry;
use kernel::mounts::{ACCESS_TIMES, Change, FsOption};

/// Bits of mount(2), with those of mount_setattr(2).
const FLAGS: [(u64, u64); 8] = [
    (libc::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
    (libc::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
    (libc::MS_NODEV, libc::MOUNT_ATTR_NODEV),
    (libc::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    (libc::MS_NOATIME, libc::MOUNT_ATTR_NOATIME),
    (libc::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
    (libc::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
    (libc::MS_NOSYMFOLLOW, libc::MOUNT_ATTR_NOSYMFOLLOW),
];

/// What a mount's flags are to become.
pub(super) fn change(entry: &MntEntry) -> Change {
    let flags = u64::from(entry.flags);
    let of = |(old, new): &(u64, u64)| if flags & old == 0 { 0 } else { *new };
    let mut set = FLAGS.iter().map(of).fold(0, |all, bit| all | bit);
    if set & libc::MOUNT_ATTR_NOATIME != 0 {
        set &= !libc::MOUNT_ATTR_STRICTATIME;
    }
    let all = FLAGS.iter().fold(ACCESS_TIMES, |all, (_, new)| all | new);
    Change { set, clear: all & !set | ACCESS_TIMES, ..Change::default() }
}

/// The flags of the file system. Images before CRIU 3 have them among those of the mount.
pub(super) fn of_file_system(entry: &MntEntry) -> u64 {
    let together = entry.flags & libc::MS_RDONLY as u32;
    entry.sb_flags.unwrap_or(together).into()
}

/// The options by which a file system is made that nothing is put into.
pub(super) fn with_read_only(entry: &MntEntry) -> Vec<FsOption<'_>> {
    let mut options = options(entry);
    if of_file_system(entry) & libc::MS_RDONLY != 0 {
        options.push((b"ro", None));
    }
    options
}

/// The options by which a file system is made, but for `ro`: it is filled first.
pub(super) fn options(entry: &MntEntry) -> Vec<FsOption<'_>> {
    let mut options = Vec::new();
    let named: [(u64, &[u8]); 4] = [
        (libc::MS_SYNCHRONOUS, b"sync"),
        (libc::MS_DIRSYNC, b"dirsync"),
        (libc::MS_MANDLOCK, b"mand"),
        (libc::MS_LAZYTIME, b"lazytime"),
    ];
    let flags = of_file_system(entry);
    let set = named.into_iter().filter(|(flag, _)| flags & flag != 0);
    options.extend(set.map(|(_, name)| (name, None)));
    for option in entry.options.split(|byte| *byte == b',') {
        match option.iter().position(|byte| *byte == b'=') {
            // What the kernel says itself, and takes from nobody.
            _ if option.is_empty() || option == b"seclabel" || option == b"newinstance" => {}
            Some(at) => options.push((&option[..at], Some(&option[at + 1..]))),
            None => options.push((option, None)),
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_attributes() {
        let flags = (libc::MS_NOSUID | libc::MS_RELATIME | libc::MS_PRIVATE) as u32;
        let options = b"size=64k,mode=755,seclabel,noswap".to_vec();
        let entry = MntEntry { flags, options, sb_flags: Some(1), ..MntEntry::default() };
        let change = change(&entry);
        assert_eq!(change.set, libc::MOUNT_ATTR_NOSUID);
        assert!(change.clear & libc::MOUNT_ATTR_RDONLY != 0);
        assert_eq!(
            super::options(&entry),
            [(&b"size"[..], Some(&b"64k"[..])), (b"mode", Some(b"755")), (b"noswap", None),]
        );
    }
}

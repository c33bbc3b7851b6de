//! `/proc/PID/mountinfo`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::parse::{dec, dec_device, lines, unescape_octal, words};
use super::{Malformed, ProcFile};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Id, as `mnt_id` in fdinfo has it.
    pub id: i32,
    /// Id of the mount it is mounted on.
    pub parent: i32,
    /// Device, as `st_dev` encodes it. (A file's `st_dev` may differ on btrfs and overlayfs.)
    pub device: u64,
    /// Which folder of the file system is the root of the mount.
    pub root: OsString,
    /// Where it is mounted, below the reader's root.
    pub mount_point: OsString,
    /// Options of the mount.
    pub options: OsString,
    /// `shared:N`, `master:N`, …
    pub propagation: Vec<OsString>,
    /// Type of the file system.
    pub fs_type: OsString,
    /// What is mounted: a device, or a word.
    pub source: OsString,
    /// Options of the file system.
    pub super_options: OsString,
}

/// Options of a mount, by what mount(2) calls them.
const MOUNT_FLAGS: [(&[u8], u64); 8] = [
    (b"ro", libc::MS_RDONLY),
    (b"nosuid", libc::MS_NOSUID),
    (b"nodev", libc::MS_NODEV),
    (b"noexec", libc::MS_NOEXEC),
    (b"noatime", libc::MS_NOATIME),
    (b"nodiratime", libc::MS_NODIRATIME),
    (b"relatime", libc::MS_RELATIME),
    (b"nosymfollow", libc::MS_NOSYMFOLLOW),
];

/// Options of a file system, by what mount(2) calls them.
const FILE_SYSTEM_FLAGS: [(&[u8], u64); 5] = [
    (b"ro", libc::MS_RDONLY),
    (b"sync", libc::MS_SYNCHRONOUS),
    (b"dirsync", libc::MS_DIRSYNC),
    (b"mand", libc::MS_MANDLOCK),
    (b"lazytime", libc::MS_LAZYTIME),
];

/// The flags among options, and all other options.
fn split_options<'o>(options: &'o OsStr, known: &[(&[u8], u64)]) -> (u64, Vec<&'o [u8]>) {
    let (mut flags, mut others) = (0, Vec::new());
    for option in options.as_bytes().split(|byte| *byte == b',') {
        match known.iter().find(|(name, _)| *name == option) {
            Some((_, flag)) => flags |= flag,
            None if option == b"rw" || option.is_empty() => {}
            None => others.push(option),
        }
    }
    (flags, others)
}

impl Mount {
    /// `MS_*` of the mount, but for how it propagates, and options that are none of them.
    #[must_use]
    pub fn flags(&self) -> (u64, Vec<&[u8]>) {
        let (flags, others) = split_options(&self.options, &MOUNT_FLAGS);
        let chosen = flags & (libc::MS_NOATIME | libc::MS_RELATIME) != 0;
        (if chosen { flags } else { flags | libc::MS_STRICTATIME }, others)
    }

    /// `MS_*` of the file system, and its other options.
    #[must_use]
    pub fn file_system_flags(&self) -> (u64, Vec<&[u8]>) {
        split_options(&self.super_options, &FILE_SYSTEM_FLAGS)
    }

    /// The number of its peer group.
    #[must_use]
    pub fn shared(&self) -> Option<u32> {
        self.group(b"shared:")
    }

    /// The number of the peer group that it receives mounts from.
    #[must_use]
    pub fn master(&self) -> Option<u32> {
        self.group(b"master:")
    }

    /// Whether it cannot be copied.
    #[must_use]
    pub fn is_unbindable(&self) -> bool {
        self.propagation.iter().any(|word| word == "unbindable")
    }

    fn group(&self, name: &[u8]) -> Option<u32> {
        self.propagation.iter().find_map(|word| dec(word.as_bytes().strip_prefix(name)?))
    }

    /// The kind of its file system, without a subtype (`fuse.sshfs`).
    #[must_use]
    pub fn kind(&self) -> String {
        let kind = self.fs_type.to_string_lossy();
        kind.split('.').next().unwrap_or_default().to_owned()
    }
}

/// The mounts of a mount namespace, in the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts(pub Vec<Mount>);

impl Mounts {
    /// The mount of an id.
    #[must_use]
    pub fn get(&self, id: i32) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.id == id)
    }
}

fn text(word: Option<&[u8]>) -> Option<OsString> {
    word.map(|word| OsString::from_vec(unescape_octal(word)))
}

fn line(line: &[u8]) -> Option<Mount> {
    let mut words = words(line);
    let id = dec(words.next()?)?;
    let parent = dec(words.next()?)?;
    let device = dec_device(words.next()?)?;
    let root = text(words.next())?;
    let mount_point = text(words.next())?;
    let options = text(words.next())?;
    let mut propagation = Vec::new();
    loop {
        match words.next()? {
            b"-" => break,
            word => propagation.push(OsString::from_vec(word.to_vec())),
        }
    }
    Some(Mount {
        id,
        parent,
        device,
        root,
        mount_point,
        options,
        propagation,
        fs_type: text(words.next())?,
        source: text(words.next())?,
        // A source may be the empty string, and then there is a word less.
        super_options: text(words.next()).unwrap_or_default(),
    })
}

impl ProcFile for Mounts {
    const NAME: &'static str = "mountinfo";
    const SINGLE: bool = false;

    fn parse(text: &[u8]) -> Result<Self, Malformed> {
        lines(text).map(line).collect::<Option<_>>().map(Self).ok_or(Malformed("a mount's line"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let text = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n22 27 0:21 / /proc rw - proc proc rw\n";
        let mounts = Mounts::parse(text).unwrap();
        let mount = mounts.get(36).unwrap();
        assert_eq!((mount.parent, mount.device), (35, libc::makedev(98, 0)));
        assert_eq!((&*mount.root, &*mount.mount_point), ("/mnt1".as_ref(), "/mnt 2".as_ref()));
        assert_eq!(mount.propagation, ["master:1", "shared:7"]);
        assert_eq!(
            (&*mount.fs_type, &*mount.super_options),
            ("ext3".as_ref(), "rw,errors=continue".as_ref())
        );
        assert_eq!(mounts.0[1].propagation.len(), 0);
        let flags = mount.flags();
        assert_eq!(flags, (libc::MS_NOATIME, vec![]));
        assert_eq!(mount.file_system_flags(), (0, vec![&b"errors=continue"[..]]));
        assert_eq!((mount.shared(), mount.master()), (Some(7), Some(1)));
        assert_eq!(mounts.0[1].flags().0, libc::MS_STRICTATIME);
        assert!(Mounts::parse(b"36 35 98:0 / / rw shared:1\n").is_err());
    }
}

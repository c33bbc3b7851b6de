//! `/proc/PID/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

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
        assert!(Mounts::parse(b"36 35 98:0 / / rw shared:1\n").is_err());
    }
}

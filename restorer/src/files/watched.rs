//! What inotify and fanotify watch, found again.
//!
//! It is judged as what is opened is: it must be what was watched when it was dumped, or those who have the
//! instance may read it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use ids::HostPid;
use images::messages::{FhEntry, FileIdentity, RegFileEntry};
use kernel::handles;
use kernel::paths;
use kernel::procfs::{Dir, Mounts, ProcFile};

use super::Error;
use super::approve::{Purpose, is_same};
use super::opener::Opener;

/// What is watched, as the images tell it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// The file of the instance.
    pub(super) of: u32,
    pub(super) inode: u64,
    /// As the kernel packs it.
    pub(super) device: u32,
    pub(super) handle: &'a FhEntry,
    pub(super) identity: Option<FileIdentity>,
    pub(super) mode: Option<u32>,
}

impl Target<'_> {
    /// Checks what the images say, before anything is made.
    pub(super) fn check(&self) -> Result<(), Error> {
        match self.bytes() {
            Some(_) => Ok(()),
            None => Err(Error::image(self.to_string(), "its handle is too long, or cut off")),
        }
    }

    fn bytes(&self) -> Option<Vec<u8>> {
        let bytes: Vec<u8> =
            self.handle.handle.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let length =
            usize::try_from(self.handle.bytes).ok().filter(|it| *it <= handles::LONGEST)?;
        bytes.get(..length).map(<[u8]>::to_vec)
    }

    fn entry(&self, name: &[u8]) -> RegFileEntry {
        RegFileEntry {
            id: self.of,
            flags: libc::O_RDONLY.cast_unsigned(),
            name: name.to_vec(),
            mode: self.mode,
            identity: self.identity,
            mnt_id: self.handle.mnt_id.map(u32::cast_signed),
            ..RegFileEntry::default()
        }
    }
}

impl std::fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.handle.path {
            Some(path) => write!(f, "watched file {}", String::from_utf8_lossy(path)),
            None => write!(f, "watched file {} of device {:#x}", self.inode, self.device),
        }
    }
}

impl Opener {
    /// A handle (`O_PATH`) on what is watched.
    pub(super) fn watched(&self, target: &Target<'_>) -> Result<OwnedFd, Error> {
        let access = Purpose::Access(libc::O_RDONLY.cast_unsigned());
        if let Some(path) = &target.handle.path {
            let approved = self.approver.approve(&target.entry(path), access)?;
            return Ok(approved.handle);
        }
        if let Some(made) = self.made_of(target.device, target.inode) {
            return made
                .try_clone()
                .map_err(|source| Error::Kernel { operation: format!("copy {target}"), source });
        }
        let found = by_handle(target)?;
        let attributes = |fd: &OwnedFd| {
            let failed = |source| Error::Kernel { operation: format!("stat {target}"), source };
            paths::attributes(fd).map_err(failed)
        };
        let is = attributes(&found)?;
        if is_same(target.identity.as_ref(), &is) {
            return Ok(found);
        }
        // Its name tells whether they may read it.
        let link = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
            .map_err(|source| Error::Kernel { operation: format!("find {target}"), source })?;
        let entry = target.entry(link.as_os_str().as_bytes());
        let approved = self.approver.approve(&entry, access)?;
        let now = attributes(&approved.handle)?;
        match (now.device, now.inode) == (is.device, is.inode) {
            true => Ok(approved.handle),
            false => Err(gone(target)),
        }
    }
}

fn gone(target: &Target<'_>) -> Error {
    Error::refused(target.of, support::changed::WATCHED_GONE, target.to_string())
}

/// Opens what is watched by its file handle, on any mount of the file system.
fn by_handle(target: &Target<'_>) -> Result<OwnedFd, Error> {
    let bytes = target.bytes().ok_or_else(|| gone(target))?;
    let failed = |source: kernel::procfs::Error| Error::Kernel {
        operation: format!("look for {target} among the mounts"),
        source: std::io::Error::other(source),
    };
    let own = Dir::open(HostPid::own()).map_err(failed)?;
    let mounts = Mounts::read(&own).map_err(failed)?;
    let device = libc::makedev(target.device >> 20, target.device & 0xf_ffff);
    let of_device = mounts.0.iter().filter(|mount| mount.device == device);
    let mut found = of_device.filter_map(|mount| {
        handles::open(handles::anchor(mount)?, target.handle.r#type, &bytes).ok()
    });
    found.next().ok_or_else(|| gone(target))
}

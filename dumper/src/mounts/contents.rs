//! What is in file systems that live in memory: archives, as tar(1) makes them.
//!
//! A frozen tree's file system is copied into memory as it is; it is compressed when the tree runs again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use images::id_map::{Id, IdMap, owner_is_known};
use images::{ImageWriter, archives, attribute_ids, names};
use kernel::mounts::kernel_device;
use kernel::paths::{Links, find};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{FileStat, fstat};
use tar::{Builder, EntryType, Header};

use super::Error;

/// The longest path that a call takes.
const LONGEST: usize = 4000;

/// Archives of file systems, by their devices.
#[derive(Debug, Default)]
pub(crate) struct Contents(BTreeMap<u64, File>);

impl Contents {
    /// Adds what is in a file system of which `root` is a mount.
    pub(super) fn add(
        &mut self,
        device: u64,
        root: &OwnedFd,
        ids: &IdMap,
        is_late: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        let failed = || Error::of("read what is in a file system in memory");
        let file =
            memfd_create("tmpfs", MFdFlags::MFD_CLOEXEC).map_err(|errno| failed()(errno.into()))?;
        let mut file = File::from(file);
        archive(root, &mut file, ids, is_late).map_err(failed())?;
        file.rewind().map_err(failed())?;
        self.0.insert(device, file);
        Ok(())
    }

    /// Writes the archives.
    pub(crate) fn encode(&self, writer: &ImageWriter) -> Result<(), images::Error> {
        for (&device, file) in &self.0 {
            let name = names::tmpfs(kernel_device(device));
            let written =
                |source| images::Error::Io { operation: "write", name: name.clone(), source };
            let mut output = GzEncoder::new(writer.raw(&name)?, Compression::fast());
            let mut file = file;
            io::copy(&mut file, &mut output).map_err(written)?;
            let mut output = output.finish().map_err(written)?;
            output.flush().map_err(written)?;
        }
        Ok(())
    }
}

fn archive(
    root: &OwnedFd,
    to: &mut File,
    ids: &IdMap,
    is_late: &dyn Fn() -> bool,
) -> io::Result<()> {
    let mut archive = Builder::new(to);
    let mut linked: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut waiting = vec![PathBuf::from(".")];
    while let Some(path) = waiting.pop() {
        if is_late() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if path.as_os_str().len() > LONGEST {
            return Err(io::Error::other(support::mounts::TOO_DEEP.reason));
        }
        let handle = find(root, &path, Links::Refused)?;
        let mut stat = fstat(&handle)?;
        stat.st_uid = ids.inside(Id::User, stat.st_uid);
        stat.st_gid = ids.inside(Id::Group, stat.st_gid);
        owner_is_known(stat.st_uid, stat.st_gid).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        let kind = stat.st_mode & libc::S_IFMT;
        if kind != libc::S_IFDIR && stat.st_nlink > 1 {
            match linked.entry(stat.st_ino) {
                Entry::Vacant(vacant) => drop(vacant.insert(path.clone())),
                Entry::Occupied(first) => {
                    let mut header = header(&stat, EntryType::Link);
                    archive.append_link(&mut header, &path, first.get())?;
                    continue;
                }
            }
        }
        // A socket is made by whoever is bound to it.
        if kind == libc::S_IFSOCK {
            continue;
        }
        add(&mut archive, &path, &handle, (&stat, ids)).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        if kind == libc::S_IFDIR {
            let mut below: Vec<_> = std::fs::read_dir(link(&handle))?
                .map(|entry| Ok(path.join(entry?.file_name())))
                .collect::<io::Result<_>>()?;
            below.sort_by(|one, two| two.cmp(one));
            waiting.append(&mut below);
        }
    }
    archive.into_inner().map(drop)
}

fn link(handle: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

/// Adds what is no second name of something.
fn add(
    archive: &mut Builder<&mut File>,
    path: &Path,
    handle: &OwnedFd,
    (stat, ids): (&FileStat, &IdMap),
) -> io::Result<()> {
    let attributes = kernel::attributes::list(handle)?;
    let mut more = vec![("mtime".to_owned(), time(stat.st_mtime, stat.st_mtime_nsec).into_bytes())];
    for (name, value) in attributes {
        let value = attribute_ids::inside(ids, &name, value)?;
        let name = String::from_utf8(name).map_err(io::Error::other)?;
        let key = archives::attribute_in_key(&name);
        more.push((format!("{}{key}", archives::ATTRIBUTE), value));
    }
    let kind = stat.st_mode & libc::S_IFMT;
    let opened = match kind {
        libc::S_IFREG | libc::S_IFDIR => Some(File::open(link(handle))?),
        _ => None,
    };
    if let Some(file) = &opened {
        let (key, flags) = archives::FILE_FLAGS;
        let set = kernel::attributes::file_flags(file)?.bits();
        let set: Vec<&str> =
            flags.into_iter().filter(|(_, bit)| set & bit != 0).map(|(name, _)| name).collect();
        if !set.is_empty() {
            more.push((key.to_owned(), set.join(",").into_bytes()));
        }
    }
    archive.append_pax_extensions(more.iter().map(|(key, value)| (key.as_str(), &value[..])))?;
    let simple = |kind| header(stat, kind);
    match (kind, opened) {
        (libc::S_IFREG, Some(file)) => {
            let mut header = simple(EntryType::Regular);
            header.set_size(u64::try_from(stat.st_size).unwrap_or(0));
            archive.append_data(&mut header, path, file)
        }
        (libc::S_IFLNK, _) => {
            let target = nix::fcntl::readlinkat(handle, "")?;
            archive.append_link(&mut simple(EntryType::Symlink), path, Path::new(&target))
        }
        (libc::S_IFDIR, _) => {
            archive.append_data(&mut simple(EntryType::Directory), path, io::empty())
        }
        (libc::S_IFIFO, _) => archive.append_data(&mut simple(EntryType::Fifo), path, io::empty()),
        (kind, _) => {
            let block = kind == libc::S_IFBLK;
            let mut header = simple(if block { EntryType::Block } else { EntryType::Char });
            header.set_device_major(libc::major(stat.st_rdev))?;
            header.set_device_minor(libc::minor(stat.st_rdev))?;
            archive.append_data(&mut header, path, io::empty())
        }
    }
}

/// A time as tar(1) has it with its fraction.
fn time(seconds: i64, nanoseconds: i64) -> String {
    format!("{seconds}.{nanoseconds:09}")
}

fn header(stat: &FileStat, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

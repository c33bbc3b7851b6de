//! Descriptors of namespaces: those of the restore.

use std::os::fd::OwnedFd;

use images::messages::{FileEntry, NsFileEntry, fd_type};
use kernel::namespaces::{LAST_OWN, of_flag};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::Error;
use super::file_kind::{FileKind, missing};
use super::images::FileImages;
use super::opening::{Opening, flagged};

/// A namespace that a descriptor keeps open.
#[derive(Debug)]
pub(super) struct Namespace;

impl FileKind for Namespace {
    fn r#type(&self) -> u32 {
        fd_type::NS
    }

    fn check(&self, file: &FileEntry, _images: &FileImages) -> Result<(), Error> {
        let entry = entry(file)?;
        if of_flag(entry.ns_cflag).is_none() || !(1..=LAST_OWN).contains(&entry.ns_id) {
            let refusal = support::files::NAMESPACE_ELSEWHERE;
            return Err(Error::refused(file.id, refusal, format!("namespace of file {}", file.id)));
        }
        Ok(())
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        for file in files {
            let entry = entry(file)?;
            let name = of_flag(entry.ns_cflag).ok_or_else(|| missing(file))?;
            opening.add(file.id, own(name, entry.flags)?)?;
        }
        Ok(())
    }
}

fn entry(file: &FileEntry) -> Result<&NsFileEntry, Error> {
    file.nsf.as_ref().ok_or_else(|| missing(file))
}

fn own(name: &str, flags: u32) -> Result<OwnedFd, Error> {
    let path = format!("/proc/self/ns/{name}");
    let opened = open(&*path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| Error::kernel(format!("open {path}"), errno))?;
    flagged(opened, flags, &path)
}

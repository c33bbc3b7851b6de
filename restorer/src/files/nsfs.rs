//! Descriptors of namespaces: those of the restore, and those that a task of the tree is in, from whom they are had when it is there.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use ids::ImagePid;
use images::messages::{FileEntry, NsFileEntry, fd_type};
use kernel::namespaces::{LAST_OWN, of_flag};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use support::Refusal;

use super::beside::{Beside, Part};
use super::file_kind::{FileKind, missing};
use super::images::FileImages;
use super::opening::{Opening, flagged};
use super::user::User;
use super::{Error, OpenFiles};
use crate::pids::Pids;
use crate::places::Roots;

/// A namespace that a descriptor keeps open.
#[derive(Debug)]
pub(super) struct Namespace;

impl FileKind for Namespace {
    fn r#type(&self) -> u32 {
        fd_type::NS
    }

    fn check(&self, file: &FileEntry, images: &FileImages) -> Result<(), Error> {
        let entry = entry(file)?;
        let name = of_flag(entry.ns_cflag);
        let is_known = name.is_some_and(|name| match is_own(entry) {
            true => entry.ns_id != 0,
            false => member(&images.beside, name, entry).is_some(),
        });
        if !is_known {
            let refusal = support::files::NAMESPACE_ELSEWHERE;
            return Err(Error::refused(file.id, refusal, format!("namespace of file {}", file.id)));
        }
        Ok(())
    }

    fn is_later(&self, file: &FileEntry, _roots: &Roots) -> bool {
        file.nsf.as_ref().is_some_and(|entry| !is_own(entry))
    }

    fn beyond(&self, _file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        None
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        for file in files {
            let entry = entry(file)?;
            if !is_own(entry) {
                opening.later(file.id)?;
                continue;
            }
            let name = of_flag(entry.ns_cflag).ok_or_else(|| missing(file))?;
            opening.add(file.id, open_with(&format!("/proc/self/ns/{name}"), entry.flags)?)?;
        }
        Ok(())
    }

    fn open_later(
        &self,
        files: &OpenFiles,
        file: &FileEntry,
        pids: &Pids,
    ) -> Result<OwnedFd, Error> {
        let entry = entry(file)?;
        let name = of_flag(entry.ns_cflag).ok_or_else(|| missing(file))?;
        let process = member(&files.beside, name, entry).and_then(|pid| pids.host(pid).ok());
        let process = process.ok_or_else(|| missing(file))?;
        open_with(&format!("/proc/{process}/ns/{name}"), entry.flags)
    }
}

/// A task in each namespace, by the name of its kind and its number.
#[derive(Debug, Default)]
struct Members(BTreeMap<(&'static str, u32), ImagePid>);

impl Part for Members {}

impl FileImages {
    /// Takes which tasks are in namespaces.
    pub(crate) fn know_members(&mut self, members: BTreeMap<(&'static str, u32), ImagePid>) {
        *self.beside.of() = Members(members);
    }
}

/// A task in the namespace of an entry.
fn member(beside: &Beside, name: &'static str, entry: &NsFileEntry) -> Option<ImagePid> {
    beside.get::<Members>()?.0.get(&(name, entry.ns_id)).copied()
}

/// Whether it is that of the dumper: those have the first numbers.
const fn is_own(entry: &NsFileEntry) -> bool {
    entry.ns_id <= LAST_OWN
}

fn entry(file: &FileEntry) -> Result<&NsFileEntry, Error> {
    file.nsf.as_ref().ok_or_else(|| missing(file))
}

fn open_with(path: &str, flags: u32) -> Result<OwnedFd, Error> {
    let opened = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| Error::kernel(format!("open {path}"), errno))?;
    flagged(opened, flags, path)
}

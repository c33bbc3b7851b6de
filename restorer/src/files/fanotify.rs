//! fanotify: made when everything is there and open, so that it does not tell of what the restore does.

use std::os::fd::OwnedFd;

use images::messages::{FanotifyFileEntry, FanotifyMarkEntry, FileEntry, RegFileEntry, fd_type};
use kernel::fanotify::{self, On};

use support::Refusal;

use super::approve::{CAP_SYS_ADMIN, Purpose};
use super::file_kind::{FileKind, missing};
use super::images::FileImages;
use super::opener::Opener;
use super::opening::{Opening, flagged};
use super::user::User;
use super::watched::Target;
use super::{Error, OpenFiles};
use crate::pids::Pids;
use crate::places::Roots;

/// A fanotify group.
#[derive(Debug)]
pub(super) struct Fanotify;

impl FileKind for Fanotify {
    fn r#type(&self) -> u32 {
        fd_type::FANOTIFY
    }

    fn check(&self, file: &FileEntry, _images: &FileImages) -> Result<(), Error> {
        for mark in &entry(file)?.mark {
            if u64::from(mark.mask) & fanotify::PERMISSION != 0 {
                let refusal = support::files::FANOTIFY_PERMISSION;
                let object = format!("fanotify group {}", file.id);
                return Err(Error::refused(file.id, refusal, object));
            }
            match on(file, mark)? {
                On::Inode => target(file, mark)?.check()?,
                On::Mount | On::FileSystem => drop(path(file, mark)?),
            }
        }
        Ok(())
    }

    fn beyond(&self, _file: &FileEntry, _user: &User<'_>) -> Option<(Refusal, String)> {
        None
    }

    fn watches(&self) -> bool {
        true
    }

    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error> {
        files.iter().try_for_each(|file| opening.later(file.id))
    }

    fn is_later(&self, _file: &FileEntry, _roots: &Roots) -> bool {
        true
    }

    fn open_later(
        &self,
        files: &OpenFiles,
        file: &FileEntry,
        _pids: &Pids,
    ) -> Result<OwnedFd, Error> {
        let entry = entry(file)?;
        let what = format!("fanotify group {}", file.id);
        let failed = |doing: &str| {
            let operation = format!("{doing} {what}");
            |source| Error::Kernel { operation, source }
        };
        let opener = &files.opener;
        let make = || fanotify::create(entry.faflags, entry.evflags);
        // What it may watch is decided by the rights of who makes it.
        let made = opener.approver.as_holder(file.id, make).and_then(|made| made);
        let group = made.map_err(failed("make"))?;
        for mark in &entry.mark {
            let on = on(file, mark)?;
            let (target, shown) = match on {
                On::Inode => {
                    let target = target(file, mark)?;
                    (opener.watched(&target)?, target.to_string())
                }
                On::Mount | On::FileSystem => of_mount(opener, file, mark)?,
            };
            let events = (mark.mask.into(), mark.ignored_mask.into());
            fanotify::mark(&group, on, &target, mark.mflags, events)
                .map_err(failed(&format!("mark {shown} for")))?;
        }
        flagged(group, entry.flags, &what)
    }
}

fn entry(file: &FileEntry) -> Result<&FanotifyFileEntry, Error> {
    file.ffy.as_ref().ok_or_else(|| missing(file))
}

fn on(file: &FileEntry, mark: &FanotifyMarkEntry) -> Result<On, Error> {
    match mark.r#type {
        1 => Ok(On::Inode),
        2 => Ok(On::Mount),
        3 => Ok(On::FileSystem),
        other => {
            let reason = format!("a mark is of the unknown type {other}");
            Err(Error::image(format!("fanotify group {}", file.id), reason))
        }
    }
}

fn target<'a>(file: &FileEntry, mark: &'a FanotifyMarkEntry) -> Result<Target<'a>, Error> {
    let inode = mark.ie.as_ref().ok_or_else(|| missing(file))?;
    Ok(Target {
        of: file.id,
        inode: inode.i_ino,
        device: mark.s_dev,
        handle: &inode.f_handle,
        identity: mark.identity,
        mode: mark.mode,
    })
}

fn path<'a>(file: &FileEntry, mark: &'a FanotifyMarkEntry) -> Result<&'a [u8], Error> {
    let path = mark.me.as_ref().and_then(|mount| mount.path.as_deref());
    path.ok_or_else(|| missing(file))
}

/// A handle on a mount, and its path: who watches all that is in one must be allowed to.
fn of_mount(
    opener: &Opener,
    file: &FileEntry,
    mark: &FanotifyMarkEntry,
) -> Result<(OwnedFd, String), Error> {
    let name = path(file, mark)?;
    let shown = format!("the mount at {}", String::from_utf8_lossy(name));
    if !opener.approver.all_can(file.id, CAP_SYS_ADMIN) {
        return Err(Error::refused(file.id, support::host::WATCHES_A_MOUNT, shown));
    }
    let flags = libc::O_RDONLY.cast_unsigned();
    let mnt_id = mark.me.as_ref().map(|mount| mount.mnt_id.cast_signed());
    let name = name.to_vec();
    let entry = RegFileEntry { id: file.id, flags, name, mnt_id, ..RegFileEntry::default() };
    let approved = opener.approver.approve(&entry, Purpose::Access(flags))?;
    Ok((approved.handle, shown))
}

//! inotify: made when everything is there and open, so that it does not tell of what the restore does.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use images::messages::{FileEntry, InotifyFileEntry, InotifyWdEntry, fd_type};
use kernel::inotify;

use support::Refusal;

use super::file_kind::{FileKind, missing};
use super::images::FileImages;
use super::opening::{Opening, flagged};
use super::user::User;
use super::watched::Target;
use super::{Error, OpenFiles};
use crate::pids::Pids;
use crate::places::Roots;

/// An inotify instance.
#[derive(Debug)]
pub(super) struct Inotify;

impl FileKind for Inotify {
    fn r#type(&self) -> u32 {
        fd_type::INOTIFY
    }

    fn check(&self, file: &FileEntry, _images: &FileImages) -> Result<(), Error> {
        let mut numbers = BTreeSet::new();
        for watch in &entry(file)?.wd {
            target(file, watch).check()?;
            if number(watch).is_none_or(|number| !numbers.insert(number)) {
                let reason = format!("watch {:#x} is there twice, or has no number", watch.wd);
                return Err(Error::image(format!("inotify instance {}", file.id), reason));
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
        let what = format!("inotify instance {}", file.id);
        let failed = |doing: &str| {
            let operation = format!("{doing} {what}");
            |source| Error::Kernel { operation, source }
        };
        let opener = &files.opener;
        // It counts among the instances of the user who makes it.
        let made = opener.approver.as_holder(file.id, inotify::create).and_then(|made| made);
        let instance = made.map_err(failed("make"))?;
        let mut watches: Vec<(i32, &InotifyWdEntry)> =
            entry.wd.iter().filter_map(|watch| Some((number(watch)?, watch))).collect();
        watches.sort_unstable_by_key(|(number, _)| *number);
        for (number, watch) in &watches {
            let target = target(file, watch);
            let found = opener.watched(&target)?;
            inotify::watch_as(&instance, &found, mask(watch), *number)
                .map_err(failed(&format!("set watch {number} ({target}) of")))?;
        }
        inotify::forget(&instance).map_err(failed("empty"))?;
        if entry.events_lost()
            && let Err(error) = inotify::tell_of_loss(&instance)
        {
            tracing::warn!("{what}: events were lost, of which it cannot tell: {error}");
        }
        if let Some((last, _)) = watches.last() {
            // Where that cannot be set, it is so already unless a loss was told of, by a watch of its own.
            drop(inotify::set_next(&instance, last.saturating_add(1)));
        }
        flagged(instance, entry.flags, &what)
    }
}

fn entry(file: &FileEntry) -> Result<&InotifyFileEntry, Error> {
    file.ify.as_ref().ok_or_else(|| missing(file))
}

/// The number of a watch, if it has one that can be.
fn number(watch: &InotifyWdEntry) -> Option<i32> {
    i32::try_from(watch.wd).ok().filter(|number| *number > 0)
}

/// The mask to watch with: one without events is taken if it has another bit of those that there are.
fn mask(watch: &InotifyWdEntry) -> u32 {
    match watch.mask & inotify::KEPT {
        0 => libc::IN_IGNORED,
        mask => mask,
    }
}

fn target<'a>(file: &FileEntry, watch: &'a InotifyWdEntry) -> Target<'a> {
    Target {
        of: file.id,
        inode: watch.i_ino,
        device: watch.s_dev,
        handle: &watch.f_handle,
        identity: watch.identity,
        mode: watch.mode,
    }
}

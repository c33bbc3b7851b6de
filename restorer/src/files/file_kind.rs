//! What a kind of open file knows of itself. The kinds are listed in [`super::table`].

use std::fmt::Debug;
use std::os::fd::OwnedFd;

use ids::ImagePid;
use images::Checkpoint;
use images::messages::{FdinfoEntry, FileEntry};

use super::beside::Beside;
use super::content::Needs;
use super::images::FileImages;
use super::opener::Opener;
use super::opening::Opening;
use super::user::User;
use super::{Error, InstallTask, OpenFiles};
use crate::pids::Pids;
use crate::places::Roots;
use support::Refusal;

/// One kind of open file.
///
/// The order: [`check`](Self::check) of each file before anything is made; then
/// [`open`](Self::open), once for all files of the kind, in the order of the table; then, in the first task
/// that has it, [`own`](Self::own).
pub(super) trait FileKind: Debug + Sync {
    /// The type (`fd_type`) that its entries have.
    fn r#type(&self) -> u32;

    /// Whether opening these opens other descriptors for a moment. They may need the numbers that the restore has reserved, which
    /// are given back before the first such kind: no kind that needs reserved numbers comes after it in the table.
    fn opens_others(&self) -> bool {
        false
    }

    /// Takes what the kind has beside the entries of files: what a checkpoint refers to is read from its images.
    ///
    /// # Errors
    /// When an image is wrong in itself, or holds what is not restored.
    fn load(&self, _checkpoint: &Checkpoint, _beside: &mut Beside) -> Result<(), Error> {
        Ok(())
    }

    /// The files that wait in messages to files of this kind (`SCM_RIGHTS`): pairs of the receiving file's id and the sent file's.
    fn sent(&self, _beside: &Beside) -> Vec<(u32, u32)> {
        Vec::new()
    }

    /// Checks an entry with what the images hold beside it, before anything is made.
    ///
    /// # Errors
    /// For what cannot be, or is not restored.
    fn check(&self, _file: &FileEntry, _images: &FileImages) -> Result<(), Error> {
        Ok(())
    }

    /// What is refused to a user who is not root, with what it is called: a file that takes rights to make which he has not, or
    /// that says of its maker more than that it is his.
    fn beyond(&self, file: &FileEntry, user: &User<'_>) -> Option<(Refusal, String)>;

    /// Whether files are watched by their inodes, so that deleted ones have to be there when these are opened.
    fn watches(&self) -> bool {
        false
    }

    /// Whether [`own`](Self::own) is done before that of others, as it puts into place what they refer to by descriptors.
    fn is_owned_first(&self) -> bool {
        false
    }

    /// The descriptors that a task must have in which [`own`](Self::own) is done, beside that of the file.
    fn owned_with(&self, _file: &FileEntry) -> Vec<u32> {
        Vec::new()
    }

    /// Opens all `files` of the kind, and hands each to `opening`.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    fn open(&self, opening: &mut Opening<'_>, files: &[&FileEntry]) -> Result<(), Error>;

    /// What a caller calls a file who hands over a descriptor in its place; a kind that has no such names gives
    /// none.
    fn name(&self, _file: &FileEntry, _beside: &Beside) -> Option<Vec<u8>> {
        None
    }

    /// Makes of a descriptor that is handed over what a file has.
    ///
    /// # Errors
    /// Names the file and what was done.
    fn inherit(
        &self,
        _opening: &mut Opening<'_>,
        file: &FileEntry,
        handed: &OwnedFd,
    ) -> Result<OwnedFd, Error> {
        let operation = || format!("duplicate the descriptor for file {}", file.id);
        handed.try_clone().map_err(|source| Error::Kernel { operation: operation(), source })
    }

    /// Whether a file can only be opened when the processes of the tree are there, with what they mount.
    fn is_later(&self, _file: &FileEntry, _roots: &Roots) -> bool {
        false
    }

    /// Opens a file that needs the processes of the tree to be there ([`Opening::later`]).
    ///
    /// # Errors
    /// As [`open`](Self::open).
    fn open_later(
        &self,
        _files: &OpenFiles,
        file: &FileEntry,
        _pids: &Pids,
    ) -> Result<OwnedFd, Error> {
        Err(missing(file))
    }

    /// A descriptor to map the file from, opened with the flags `with`.
    ///
    /// # Errors
    /// When it cannot be mapped, is not what it was, or the tasks may not have it.
    fn map(
        &self,
        _opener: &mut Opener,
        _beside: &mut Beside,
        file: &FileEntry,
        _with: u32,
        _needs: Needs,
    ) -> Result<OwnedFd, Error> {
        Err(Error::image(format!("file {}", file.id), "it is mapped, and has no path"))
    }

    /// Does what the leader of a session does when it has founded it, before anybody else is in it.
    ///
    /// # Errors
    /// Names what was done.
    fn found_session(&self, _files: &OpenFiles, _leader: ImagePid) -> Result<(), Error> {
        Ok(())
    }

    /// Does what a task does when everybody is there and in their process groups.
    ///
    /// # Errors
    /// Names what was done.
    fn in_session(&self, _files: &OpenFiles, _member: &Member) -> Result<(), Error> {
        Ok(())
    }

    /// Does what every task that has the file does, when all its descriptors are in place.
    ///
    /// # Errors
    /// As [`own`](Self::own).
    fn in_task(
        &self,
        _files: &OpenFiles,
        _entry: &FdinfoEntry,
        _file: &FileEntry,
        _task: &InstallTask,
    ) -> Result<(), Error> {
        Ok(())
    }

    /// Does what is done once for a file, in a task that has it, when all its descriptors are in place. For
    /// one that is on its way to the task, `entry` has the number [`NO_DESCRIPTOR`].
    ///
    /// # Errors
    /// Names the descriptor and what was done to it.
    fn own(
        &self,
        _files: &OpenFiles,
        _entry: &FdinfoEntry,
        _file: &FileEntry,
        _task: &InstallTask,
    ) -> Result<(), Error> {
        Ok(())
    }
}

/// The number of a file that no task has a descriptor for.
pub(super) const NO_DESCRIPTOR: u32 = u32::MAX;

/// A task as a member of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub pid: ImagePid,
    /// It leads the session.
    pub leads: bool,
    /// The terminal of its session does not control it.
    pub gave_up_terminal: bool,
}

/// An entry without what its type needs.
pub(super) fn missing(file: &FileEntry) -> Error {
    Error::image(format!("file {}", file.id), "what its kind needs is missing")
}

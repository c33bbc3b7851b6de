//! The checkpoint root: the one directory under which services write and read checkpoints for
//! others. Images hold the memory of processes, so nobody but its owner may look into it.
//!
//! What is made on behalf of a user who may not do everything lies below `users/UID`, and such a
//! user has nothing but that: what is there was made by dumps of processes of his. So where a
//! checkpoint lies says whose it is, and nobody but the services' own user can say otherwise.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use api::{Directory, User};

use crate::ways::{Way, Ways};

/// Where the checkpoints of users lie below the root.
const USERS: &str = "users";

/// The checkpoint root where nothing else is said.
pub const CHECKPOINTS: &str = "/var/lib/stasis/checkpoints";

/// What a service with a checkpoint root can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckpointSettings {
    /// Directory that all checkpoints are under
    #[arg(
        long,
        value_name = "DIR",
        default_value = CHECKPOINTS,
        env = "STASIS_CHECKPOINTS"
    )]
    pub checkpoints: PathBuf,
}

/// The checkpoint root, there and ours.
#[derive(Clone, Debug)]
pub struct CheckpointRoot {
    path: PathBuf,
    /// Of all, also where this is the part of a user.
    whole: PathBuf,
    ways: Ways,
}

impl CheckpointRoot {
    /// Makes the root when it is not there yet, for its owner alone.
    ///
    /// # Errors
    /// If it cannot be made or is no directory.
    pub fn open(settings: &CheckpointSettings) -> io::Result<Self> {
        let path = &settings.checkpoints;
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let path = path.canonicalize()?;
        Ok(Self { whole: path.clone(), path, ways: Ways::default() })
    }

    /// Where it is.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.path
    }

    /// The part of it that is a user's; all of it for who may do everything.
    #[must_use]
    pub fn of(&self, user: Option<User>) -> Self {
        match user {
            Some(user) => {
                let path = self.path.join(USERS).join(user.uid.to_string());
                Self { path, ..self.clone() }
            }
            None => self.clone(),
        }
    }

    /// Whether a name, taken from the whole root, is among those of users.
    #[must_use]
    pub fn is_of_users(directory: &Directory) -> bool {
        directory.as_str().split('/').next() == Some(USERS)
    }

    /// The name that a directory of a user's has from the whole root.
    ///
    /// # Errors
    /// If that is too long.
    pub fn whole_name(
        user: Option<User>,
        directory: &Directory,
    ) -> Result<Directory, api::DirectoryError> {
        match user {
            Some(user) => format!("{USERS}/{}/{directory}", user.uid).parse(),
            None => Ok(directory.clone()),
        }
    }

    /// A user's own name for a directory that is named from the whole root; `None` if it is not his.
    #[must_use]
    pub fn own_name(user: Option<User>, whole: &Directory) -> Option<Directory> {
        let Some(user) = user else { return Some(whole.clone()) };
        whole.as_str().strip_prefix(&format!("{USERS}/{}/", user.uid))?.parse().ok()
    }

    /// Where a checkpoint is or would be. The way there must be made of directories: a symbolic
    /// link could lead out of the root.
    ///
    /// # Errors
    /// If something on the way is no directory.
    pub fn path(&self, directory: &Directory) -> io::Result<PathBuf> {
        let mut path = self.path.clone();
        for part in directory.as_str().split('/') {
            path.push(part);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(path)
    }

    /// The name of the checkpoint at `path`, if it lies below the root.
    #[must_use]
    pub fn name(&self, path: &Path) -> Option<Directory> {
        path.strip_prefix(&self.path).ok()?.to_str()?.parse().ok()
    }

    /// Holds the directories that a checkpoint lies in.
    ///
    /// # Errors
    /// If something on the way is no directory.
    pub fn hold(&self, directory: &Directory) -> io::Result<Way> {
        Ok(self.ways.hold(&self.whole, &self.path(directory)?))
    }

    /// As [`path`](Self::path), and makes the directories that it lies in. They are to be held until something is there.
    ///
    /// # Errors
    /// If something on the way is no directory, or cannot be made.
    pub fn prepare(&self, directory: &Directory) -> io::Result<(PathBuf, Way)> {
        let path = self.path(directory)?;
        let way = self.ways.hold(&self.whole, &path);
        way.make()?;
        Ok((path, way))
    }
}

/// Whether a directory holds a checkpoint: its last image to be written is there.
#[must_use]
pub fn holds_checkpoint(path: &Path) -> bool {
    path.join("inventory.img").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(path: &Path) -> CheckpointRoot {
        CheckpointRoot::open(&CheckpointSettings { checkpoints: path.join("root") }).unwrap()
    }

    #[test]
    fn a_user_has_a_part_of_his_own() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path());
        let user = Some(User { uid: 1000, gid: 50 });
        let name: Directory = "mine/one".parse().unwrap();
        let (path, _way) = root.of(user).prepare(&name).unwrap();
        let whole = CheckpointRoot::whole_name(user, &name).unwrap();
        assert_eq!(root.name(&path), Some(whole.clone()));
        assert_eq!(root.of(Some(User { uid: 1001, gid: 50 })).name(&path), None);
        assert!(CheckpointRoot::is_of_users(&whole));
        assert_eq!(CheckpointRoot::own_name(user, &whole), Some(name.clone()));
        assert_eq!(CheckpointRoot::own_name(Some(User { uid: 100, gid: 0 }), &whole), None);
        assert!(!CheckpointRoot::is_of_users(&name));
    }

    #[test]
    fn links_do_not_lead_out() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path());
        std::os::unix::fs::symlink("/etc", root.path.join("link")).unwrap();
        let error = root.path(&"link/x".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        assert!(root.prepare(&"link".parse().unwrap()).is_err());
        assert_eq!(root.path(&"x/y".parse().unwrap()).unwrap(), root.path.join("x/y"));
    }
}

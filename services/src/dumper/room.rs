//! What checkpoints may take of the disk. It is asked before anything of a tree is looked at.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::{CheckpointSummary, User};
use axum::http::StatusCode;
use ids::HostPid;
use kernel::rights::{self, Right};
use service::{CheckpointRoot, Problem};

use super::index::Index;

/// A process takes about so much beside its memory.
const OF_A_PROCESS: u64 = 64 * 1024;
/// The largest tree that is counted: what has more is let through, and the kernel says when the disk is full.
const LARGEST: usize = 100_000;

/// What checkpoints may take.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct RoomSettings {
    /// So much stays free where the checkpoint root is: a dump that would leave less is refused before its tree stands still. Bytes, or
    /// a number with K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "256M", env = "STASIS_KEEP_FREE", value_parser = size)]
    keep_free: u64,
    /// So much all checkpoints take at most
    #[arg(long, value_name = "SIZE", env = "STASIS_MOST_BYTES", value_parser = size)]
    most_bytes: Option<u64>,
    /// So many checkpoints there are at most
    #[arg(long, value_name = "N", env = "STASIS_MOST_CHECKPOINTS")]
    most_checkpoints: Option<u64>,
    /// So much the checkpoints of each user take at most
    #[arg(long, value_name = "SIZE", env = "STASIS_MOST_BYTES_OF_USER", value_parser = size)]
    most_bytes_of_user: Option<u64>,
    /// So many checkpoints each user has at most
    #[arg(long, value_name = "N", env = "STASIS_MOST_CHECKPOINTS_OF_USER")]
    most_checkpoints_of_user: Option<u64>,
}

fn size(text: &str) -> Result<u64, String> {
    parse_size::Config::new().with_binary().parse_size(text).map_err(|error| error.to_string())
}

/// What a dump will take: of which user, and how much.
type Share = (Option<u32>, u64);

/// The room that there is.
#[derive(Clone, Debug)]
pub(super) struct Room {
    settings: RoomSettings,
    root: CheckpointRoot,
    index: Index,
    /// What dumps will take that are at work: of whom, and how much.
    taken: Arc<Mutex<Vec<Share>>>,
}

/// Room that a dump has while it is at work.
#[derive(Debug)]
pub(super) struct Reserved {
    room: Room,
    what: Share,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut taken = self.room.lock();
        if let Some(place) = taken.iter().position(|other| *other == self.what) {
            taken.swap_remove(place);
        }
    }
}

/// How many checkpoints there are, and what they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Taken {
    checkpoints: u64,
    bytes: u64,
}

impl Taken {
    fn add(&mut self, checkpoint: &CheckpointSummary) {
        self.checkpoints += 1;
        self.bytes = self.bytes.saturating_add(checkpoint.image_bytes);
    }

    /// What speaks against one more.
    fn over(self, bytes: Option<u64>, checkpoints: Option<u64>, expected: u64) -> Option<String> {
        if let Some(most) = checkpoints.filter(|most| self.checkpoints >= *most) {
            return Some(format!(
                "there are {} checkpoints of {most} that may be",
                self.checkpoints
            ));
        }
        let most = bytes.filter(|most| self.bytes.saturating_add(expected) > *most)?;
        Some(format!(
            "checkpoints take {} bytes of {most} that they may, and this one takes up to {expected}",
            self.bytes
        ))
    }
}

impl Room {
    pub(super) fn of(settings: RoomSettings, root: CheckpointRoot, index: Index) -> Self {
        Self { settings, root, index, taken: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Share>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a dump for which there is no room, and keeps that of others. What the tree takes is an upper bound: pages of zeros are
    /// not written.
    pub(super) fn reserve(&self, pid: HostPid, user: Option<User>) -> Result<Reserved, Problem> {
        let asker = user.map(|User { uid, gid }| rights::User { uid, gid });
        if let Some(asker) = asker
            && !rights::held(asker, Right::Attach, &[pid]).is_ok_and(|held| held.contains(&pid))
        {
            // The dump says that he may not. What another's tree takes is none of his.
            return Ok(Reserved { room: self.clone(), what: (user.map(|user| user.uid), 0) });
        }
        let expected = memory_of_tree(pid);
        let what = (user.map(|user| user.uid), expected);
        // Nobody else is looked at until this one is noted.
        let mut taken = self.lock();
        self.check(&taken, user, expected)?;
        taken.push(what);
        drop(taken);
        Ok(Reserved { room: self.clone(), what })
    }

    fn check(&self, at_work: &[Share], user: Option<User>, expected: u64) -> Result<(), Problem> {
        let settings = &self.settings;
        let of_others =
            at_work.iter().map(|(_, bytes)| bytes).fold(0, |a: u64, b| a.saturating_add(*b));
        let no_room = |message: String| {
            let told = match user {
                None => message,
                Some(_) => "there is no room for the checkpoint".to_owned(),
            };
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, told)
                .remedy("remove checkpoints (DELETE /v1/checkpoints/DIRECTORY), or have root give more room")
        };
        let root = self.root.as_path();
        let free = free(root).map_err(|error| {
            let message = format!("ask how much is free at {}: {error}", root.display());
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        })?;
        let needed = expected.saturating_add(of_others).saturating_add(settings.keep_free);
        if free < needed {
            return Err(no_room(format!(
                "the tree takes up to {expected} bytes, others that are dumped up to {of_others}, and of {free} that are free {} are to stay so",
                settings.keep_free
            )));
        }
        let limits = [
            settings.most_bytes,
            settings.most_checkpoints,
            settings.most_bytes_of_user,
            settings.most_checkpoints_of_user,
        ];
        if limits.iter().all(Option::is_none) {
            return Ok(());
        }
        let own = user.map(|user| format!("users/{}/", user.uid));
        let (mut all, mut of_user) = (Taken::default(), Taken::default());
        for (whose, bytes) in at_work {
            let same = user.is_some_and(|user| *whose == Some(user.uid));
            for taken in [Some(&mut all), Some(&mut of_user).filter(|_| same)].into_iter().flatten()
            {
                taken.checkpoints += 1;
                taken.bytes = taken.bytes.saturating_add(*bytes);
            }
        }
        let counted = self.index.show_all(&mut |checkpoint| {
            all.add(checkpoint);
            let name = checkpoint.directory.as_str();
            if own.as_ref().is_some_and(|own| name.starts_with(own)) {
                of_user.add(checkpoint);
            }
        });
        counted.map_err(|error| {
            let message = format!("count the checkpoints: {error}");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        })?;
        let over = all.over(settings.most_bytes, settings.most_checkpoints, expected);
        let over = over.or_else(|| {
            own.as_ref()?;
            let (bytes, checkpoints) =
                (settings.most_bytes_of_user, settings.most_checkpoints_of_user);
            of_user.over(bytes, checkpoints, expected)
        });
        over.map_or(Ok(()), |message| Err(no_room(message)))
    }
}

/// How many bytes a file system has free for who may not have its reserve.
fn free(path: &Path) -> io::Result<u64> {
    let found = nix::sys::statvfs::statvfs(path)?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}

/// What the images of a tree take at most: its memory that no file has. Processes that have gone meanwhile take nothing.
fn memory_of_tree(pid: HostPid) -> u64 {
    let (mut tree, mut next, mut bytes, mut shared) = (vec![pid], 0, 0_u64, 0);
    while let Some(&pid) = tree.get(next) {
        next += 1;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let of_it = memory(&status, &["RssAnon", "VmSwap"]);
        bytes = bytes.saturating_add(of_it).saturating_add(OF_A_PROCESS);
        // Processes mostly share the same, which is written once.
        shared = shared.max(memory(&status, &["RssShmem"]));
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let children = text
                .split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok().and_then(HostPid::new));
            tree.extend(children.take(LARGEST.saturating_sub(tree.len())));
        }
    }
    bytes.saturating_add(shared)
}

/// How much memory of these kinds `/proc/PID/status` tells of.
fn memory(status: &str, kinds: &[&str]) -> u64 {
    let of = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let kilobytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kinds.contains(&name).then(|| kilobytes.saturating_mul(1024))
    };
    status.lines().filter_map(of).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_no_file_has() {
        let status = "Name:\tx\nVmRSS:\t 900 kB\nRssAnon:\t  4 kB\nRssFile:\t 800 kB\nRssShmem:\t1 kB\nVmSwap:\t2 kB\n";
        let own = ["RssAnon", "VmSwap"];
        assert_eq!(memory(status, &own), 6 * 1024);
        assert_eq!(memory(status, &["RssShmem"]), 1024);
        assert_eq!(memory("RssAnon:\t99999999999999999999 kB\nVmSwap:\t-1 kB\nRssAnon\n", &own), 0);
        assert!(memory_of_tree(HostPid::own()) > 100 * 1024);
    }

    #[test]
    fn what_is_over_is_said() {
        let taken = Taken { checkpoints: 3, bytes: 100 };
        assert_eq!(taken.over(None, None, u64::MAX), None);
        assert_eq!(taken.over(Some(110), Some(4), 10), None);
        assert!(taken.over(Some(109), None, 10).unwrap().contains("100 bytes of 109"));
        assert!(taken.over(None, Some(3), 0).unwrap().contains("3 checkpoints of 3"));
        assert_eq!((size("1G"), size("7"), size("2k")), (Ok(1 << 30), Ok(7), Ok(2048)));
        assert!(size("much").is_err());
    }
}

//! The checkpoints under the root, without walking over it: what was found is kept, and inotify(7) tells what has changed.
//!
//! The directories are the truth. The kernel queues an event before the call returns that has changed something, so that whoever asks
//! after a change is told of it; when events were lost, or cannot be had, all is read again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::{CheckpointSummary, Directory, UnfinishedCheckpoint};
use catalog::summarize;
use images::{Unfinished, names};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use service::CheckpointRoot;

/// Directories below the root that are looked into.
const DEEPEST: usize = 8;
/// Directories that are looked at in all.
const MOST: usize = 1_000_000;
/// Checkpoints that are shown before others may ask.
const AT_ONCE: usize = 200;
/// After so long a checkpoint that could not be read is looked at again, though nothing has told of a change: an open that failed
/// may not have been its fault.
const AGAIN: Duration = Duration::from_secs(30);
/// So many are looked at again at a time.
const AGAIN_AT_ONCE: usize = 100;
/// What the names of directories contain that are being written.
const TEMPORARY: &str = ".stasis-tmp-";

/// A checkpoint that is known.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) summary: CheckpointSummary,
    /// The real paths of those that it has left pages to.
    pub(super) parents: Vec<PathBuf>,
    /// When it could not be read.
    damaged: Option<Instant>,
}

/// The checkpoints under a root. A clone is the same.
#[derive(Clone, Debug)]
pub(super) struct Index(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    root: CheckpointRoot,
    events: Option<Events>,
    /// Device and inode of the root.
    identity: Option<(u64, u64)>,
    /// Whether all was read, and events have told of what has changed since.
    is_whole: bool,
    /// How often events were lost.
    lost: u64,
    found: Found,
    /// When what is damaged is looked at again.
    again: Duration,
}

/// What is there.
#[derive(Debug, Default)]
struct Found {
    checkpoints: BTreeMap<Directory, Known>,
    /// All directories, by their names below the root; that of the root is empty.
    directories: BTreeSet<String>,
    /// Those in which something is being written, or was; with a number that grows when something begins there.
    temporary: BTreeMap<String, u64>,
    /// How often something began.
    begun: u64,
    /// Those that could not be read, by when they were looked at.
    damaged: BTreeSet<(Instant, Directory)>,
}

/// Whom the kernel tells of.
#[derive(Debug)]
struct Events {
    inotify: Inotify,
    watched: HashMap<WatchDescriptor, String>,
}

impl Events {
    fn begin() -> Option<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let lacking = |error: &Errno| tracing::warn!("watch the checkpoints: {error}");
        inotify.inspect_err(lacking).ok().map(|inotify| Self { inotify, watched: HashMap::new() })
    }

    /// Has the kernel tell of a directory.
    fn watch(&mut self, path: &Path, name: &str) -> Result<(), Errno> {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_DONT_FOLLOW;
        let watch = self.inotify.add_watch(path, flags)?;
        self.watched.insert(watch, name.to_owned());
        Ok(())
    }

    /// What has happened; `None` where some of it was lost.
    fn read(&self) -> Option<Vec<InotifyEvent>> {
        let mut all = Vec::new();
        loop {
            match self.inotify.read_events() {
                Ok(events) => all.extend(events),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
        let lost = |event: &InotifyEvent| event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
        (!all.iter().any(lost)).then_some(all)
    }
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

impl Found {
    /// Something is being written in a directory.
    fn begins(&mut self, directory: String) {
        self.begun += 1;
        self.temporary.insert(directory, self.begun);
    }

    /// Forgets a checkpoint.
    fn remove(&mut self, directory: &Directory) {
        if let Some(known) = self.checkpoints.remove(directory)
            && let Some(seen) = known.damaged
        {
            self.damaged.remove(&(seen, directory.clone()));
        }
    }

    /// Forgets a directory and all below it.
    fn forget(&mut self, name: &str) {
        let below = |other: &str| {
            other == name || other.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
        };
        if name.is_empty() {
            *self = Self { begun: self.begun, ..Self::default() };
            return;
        }
        // Of names that begin so, those of other directories lie between.
        let near = |other: &str| other.starts_with(name);
        let behind = (Bound::Included(name.to_owned()), Bound::Unbounded);
        let gone = |all: &BTreeSet<String>| -> Vec<String> {
            let near = all.range(behind.clone()).take_while(|other| near(other));
            near.filter(|other| below(other)).cloned().collect()
        };
        for other in gone(&self.directories) {
            self.directories.remove(&other);
            if let Ok(directory) = other.parse::<Directory>() {
                self.remove(&directory);
            }
        }
        self.temporary.retain(|other, _| !below(other));
    }
}

impl Inner {
    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.root.as_path().to_owned()
        } else {
            self.root.as_path().join(name)
        }
    }

    /// Brings what is known up to date.
    fn refresh(&mut self) -> io::Result<()> {
        let is_same = self.identity().is_ok_and(|identity| self.identity == Some(identity));
        let known = self.events.as_ref().filter(|_| self.is_whole && is_same);
        let news = known.map(Events::read);
        if matches!(news, Some(None)) {
            self.lost += 1;
        }
        let Some(news) = news.flatten() else { return self.read_all() };
        let mut looked_at = BTreeSet::new();
        let mut looked_below = BTreeSet::new();
        for event in news {
            let Some(events) = &mut self.events else { break };
            let Some(directory) = events.watched.get(&event.wd).cloned() else { continue };
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                events.watched.remove(&event.wd);
            }
            let of_directory = event.mask.contains(AddWatchFlags::IN_ISDIR);
            match event.name.and_then(|name| name.into_string().ok()) {
                Some(name) if name.contains(TEMPORARY) => {
                    self.found.begins(directory);
                }
                // It may be another one of that name.
                Some(name) if of_directory => {
                    looked_below.insert(join(&directory, &name));
                }
                _ => {
                    looked_at.insert(directory);
                }
            }
        }
        for name in looked_below {
            looked_at.remove(&name);
            self.found.forget(&name);
            self.is_whole &= self.read_below(&name);
        }
        for name in looked_at {
            self.look_at(&name);
        }
        self.look_again();
        Ok(())
    }

    /// Looks again at what could not be read some time ago.
    fn look_again(&mut self) {
        let due = |(seen, _): &&(Instant, Directory)| seen.elapsed() >= self.again;
        let due = self.found.damaged.iter().take_while(due).take(AGAIN_AT_ONCE);
        let due: Vec<Directory> = due.map(|(_, directory)| directory.clone()).collect();
        for directory in due {
            self.look_at(directory.as_str());
        }
    }

    /// Reads all of the root again.
    fn read_all(&mut self) -> io::Result<()> {
        self.is_whole = false;
        self.found = Found { begun: self.found.begun, ..Found::default() };
        self.events = Events::begin();
        self.identity = Some(self.identity()?);
        // That it cannot be read must be said; of what cannot be read below it nothing is known.
        fs::read_dir(self.root.as_path())?;
        let read = self.read_below("");
        self.is_whole = self.events.is_some() && read;
        Ok(())
    }

    /// By which the root is known if another one is put in its place.
    fn identity(&self) -> io::Result<(u64, u64)> {
        fs::metadata(self.root.as_path()).map(|found| (found.dev(), found.ino()))
    }

    /// Reads a directory and all below it; whether that could be done.
    fn read_below(&mut self, name: &str) -> bool {
        let mut all = true;
        let mut waiting = vec![name.to_owned()];
        while let Some(name) = waiting.pop() {
            let is_ours =
                name.is_empty() || name.parse::<Directory>().is_ok_and(|it| !is_part(&it));
            let depth = if name.is_empty() { 0 } else { name.split('/').count() };
            let path = self.path(&name);
            let is_directory = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
            if !is_ours || !is_directory || self.found.directories.len() >= MOST {
                continue;
            }
            // Before it is read: what comes after that is told.
            if let Some(events) = &mut self.events
                && let Err(error) = events.watch(&path, &name)
                && error != Errno::ENOENT
            {
                tracing::warn!(
                    "watch {}: {error}; all checkpoints are read for each list",
                    path.display()
                );
                self.events = None;
            }
            self.found.directories.insert(name.clone());
            self.look_at(&name);
            if depth >= DEEPEST {
                continue;
            }
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) => {
                    all &= error.kind() == io::ErrorKind::NotFound;
                    continue;
                }
            };
            for entry in entries.flatten() {
                let Ok(own) = entry.file_name().into_string() else { continue };
                if own.contains(TEMPORARY) {
                    self.found.begins(name.clone());
                } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    waiting.push(join(&name, &own));
                }
            }
        }
        all
    }

    /// Looks whether a directory holds a checkpoint, and which.
    fn look_at(&mut self, name: &str) {
        let Ok(directory) = name.parse::<Directory>() else { return };
        let path = self.path(name);
        self.found.remove(&directory);
        if let Some(mut summary) = summarize(&path, directory.clone()) {
            let parents = images::parents_of(&path);
            summary.parent = parents.iter().find_map(|parent| self.root.name(parent));
            let damaged = summary.damage.is_some().then(Instant::now);
            if let Some(seen) = damaged {
                self.found.damaged.insert((seen, directory.clone()));
            }
            self.found.checkpoints.insert(directory, Known { summary, parents, damaged });
        }
    }
}

/// A part of another checkpoint: pages that were copied early lie in a checkpoint of their own.
fn is_part(directory: &Directory) -> bool {
    directory.as_str().split('/').next_back() == Some(names::PRE_COPY)
}

impl Index {
    pub(super) fn of(root: CheckpointRoot) -> Self {
        let found = Found::default();
        Self(Arc::new(Mutex::new(Inner {
            root,
            events: None,
            identity: None,
            is_whole: false,
            lost: 0,
            found,
            again: AGAIN,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|poisoned| {
            // What was being brought up to date is read again.
            let mut inner = PoisonError::into_inner(poisoned);
            inner.is_whole = false;
            inner
        })
    }

    /// A page of the checkpoints whose names begin so, in order, from behind `after` on; and whether there are more. `wanted` chooses
    /// among them.
    pub(super) fn list(
        &self,
        prefix: &str,
        after: Option<&Directory>,
        limit: usize,
        wanted: impl Fn(&CheckpointSummary) -> bool,
    ) -> io::Result<(Vec<CheckpointSummary>, bool)> {
        let mut inner = self.lock();
        inner.refresh()?;
        let from = match (after, prefix.trim_end_matches('/').parse::<Directory>()) {
            (Some(after), _) => Bound::Excluded(after.clone()),
            (None, Ok(first)) => Bound::Included(first),
            (None, Err(_)) => Bound::Unbounded,
        };
        let behind = inner.found.checkpoints.range((from, Bound::Unbounded));
        let mut found = Vec::new();
        for (name, known) in behind {
            if !name.as_str().starts_with(prefix) {
                if name.as_str() > prefix {
                    break;
                }
                continue;
            }
            if wanted(&known.summary) {
                if found.len() == limit {
                    return Ok((found, true));
                }
                found.push(known.summary.clone());
            }
        }
        Ok((found, false))
    }

    /// Shows all checkpoints, a few at a time, so that nobody waits for the whole of it; how often until now the kernel did not tell of
    /// all changes. What changes meanwhile may be shown as it was or as it is.
    pub(super) fn show_all(&self, show: &mut dyn FnMut(&CheckpointSummary)) -> io::Result<u64> {
        self.lock().refresh()?;
        let mut from = Bound::Unbounded;
        loop {
            let inner = self.lock();
            let some = inner.found.checkpoints.range((from, Bound::Unbounded)).take(AT_ONCE);
            let mut last = None;
            for (name, known) in some {
                show(&known.summary);
                last = Some(name);
            }
            match last {
                Some(last) => from = Bound::Excluded(last.clone()),
                None => return Ok(inner.lost),
            }
            drop(inner);
            std::thread::yield_now();
        }
    }

    /// One checkpoint.
    pub(super) fn one(&self, directory: &Directory) -> io::Result<Option<Known>> {
        let mut inner = self.lock();
        inner.refresh()?;
        Ok(inner.found.checkpoints.get(directory).cloned())
    }

    /// A checkpoint that has left pages to the one at a real path.
    pub(super) fn child_of(&self, path: &Path) -> io::Result<Option<Directory>> {
        let mut inner = self.lock();
        inner.refresh()?;
        let leads_there = |known: &Known| known.parents.iter().any(|parent| parent == path);
        let found = inner.found.checkpoints.iter().find(|(_, known)| leads_there(known));
        Ok(found.map(|(name, _)| name.clone()))
    }

    /// What is being written below a prefix, or was left by dumpers that were killed.
    pub(super) fn unfinished(&self, prefix: &str) -> io::Result<Vec<UnfinishedCheckpoint>> {
        self.unfinished_by(prefix, &images::unfinished)
    }

    /// The same, told by `look` of each directory. Nobody waits for that who asks for something else: all of a directory is summed up.
    fn unfinished_by(
        &self,
        prefix: &str,
        look: &dyn Fn(&Path) -> io::Result<Vec<Unfinished>>,
    ) -> io::Result<Vec<UnfinishedCheckpoint>> {
        let mut inner = self.lock();
        inner.refresh()?;
        let with_path = |(name, begun): (&String, &u64)| (inner.path(name), name.clone(), *begun);
        let wanted = inner.found.temporary.iter();
        let wanted = wanted.filter(|(name, _)| join(name, "").starts_with(prefix));
        let places: Vec<(PathBuf, String, u64)> = wanted.map(with_path).collect();
        drop(inner);
        let (mut found, mut empty) = (Vec::new(), Vec::new());
        for (path, name, begun) in places {
            let there = look(&path).unwrap_or_default();
            if there.is_empty() {
                empty.push((name, begun));
                continue;
            }
            found.extend(there.into_iter().map(|there| {
                let own = there.path.file_name().unwrap_or_default().to_string_lossy();
                let (bytes, being_written) = (there.bytes, there.being_written);
                UnfinishedCheckpoint { path: join(&name, &own), bytes, being_written }
            }));
        }
        let mut inner = self.lock();
        for (name, begun) in empty {
            // Something may have begun there meanwhile.
            if inner.found.temporary.get(&name) == Some(&begun) {
                inner.found.temporary.remove(&name);
            }
        }
        drop(inner);
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;

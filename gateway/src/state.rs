//! What the gateway remembers: a database of its own (SQLite), in a directory that nobody else reads.
//!
//! It is no truth about checkpoints, which their directories are, nor about processes: what is lost with it is who has asked for
//! what, and what came of it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use nix::unistd::User;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::oneshot;

use crate::audit::{DIRECTORY, NAME};

/// Name of the database in the state directory.
const DATABASE: &str = "state.db";

/// What is in a directory of the gateway's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// The database, what SQLite puts beside it, and the directory of the audit.
    State,
    /// The audit.
    Audit,
}

impl Holds {
    fn has(self, name: &str) -> bool {
        match self {
            Self::State => name
                .strip_prefix(DATABASE)
                .is_some_and(|rest| ["", "-journal", "-shm", "-wal"].contains(&rest)),
            Self::Audit => name.starts_with(NAME.0) && name.ends_with(NAME.1),
        }
    }
}

/// Each brings a database from the version of its place to the next.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE jobs (
        -- Grows: younger jobs have larger ones.
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        -- Who asked; NULL: somebody who may do everything.
        user INTEGER,
        group_id INTEGER,
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        directory TEXT NOT NULL,
        -- The root of the tree that is checkpointed.
        pid INTEGER,
        -- What the asker calls the request by, and the request.
        key TEXT,
        request TEXT,
        -- The job as JSON, as it is told.
        job TEXT NOT NULL
    ) STRICT;
    CREATE INDEX jobs_of_user ON jobs (user, state, number);
    CREATE INDEX jobs_at_work ON jobs (state) WHERE state = 'running';
    CREATE UNIQUE INDEX jobs_by_key ON jobs (ifnull(user, -1), key) WHERE key IS NOT NULL;
",
    "
    CREATE TABLE tokens (
        name TEXT PRIMARY KEY,
        hash BLOB NOT NULL UNIQUE,
        -- Whom it is bound to; NULL: nobody.
        user INTEGER,
        group_id INTEGER,
        -- What is told of it, as JSON.
        token TEXT NOT NULL
    ) STRICT;
    -- Of several who may do everything each names requests for himself.
    ALTER TABLE jobs ADD COLUMN asked_by TEXT NOT NULL DEFAULT '';
    UPDATE jobs SET asked_by = json_extract(job, '$.asked_by');
    DROP INDEX jobs_by_key;
    CREATE UNIQUE INDEX jobs_by_key ON jobs (asked_by, key) WHERE key IS NOT NULL;
",
    "
    CREATE TABLE policies (
        name TEXT PRIMARY KEY,
        -- The policy and how it fared, as JSON.
        policy TEXT NOT NULL
    ) STRICT;
",
    "
    -- What a job does, as JSON: one that waits for its turn is begun by the next gateway.
    ALTER TABLE jobs ADD COLUMN work TEXT;
    DROP INDEX jobs_at_work;
    CREATE INDEX jobs_at_work ON jobs (state) WHERE state IN ('running', 'queued');
",
];

/// Why there is no database.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory cannot be made, or not be given to the gateway's user.
    #[error("make {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// In the directory is something else.
    #[error(
        "use {}: {} is none of the gateway's files; name a directory of its own with --state-dir or --audit-dir",
        path.display(), entry.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What else is there.
        entry: PathBuf,
    },
    /// Another gateway has it.
    #[error(
        "open {0}: another gateway is at work with it; end that one, or name another directory with --state-dir"
    )]
    Taken(PathBuf),
    /// A newer gateway has written it.
    #[error(
        "open {path}: it is of version {version}, which a newer gateway has made; start that one, or move the file away"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// It cannot be given a thread.
    #[error("begin a thread for {path}")]
    Thread {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in it cannot be read.
    #[error("read what jobs there were")]
    Read(#[from] rusqlite::Error),
    /// It cannot be opened or read.
    #[error("open {path}; if it is damaged move it away, and what jobs there were is forgotten")]
    Open {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

/// The database. A clone is the same one.
#[derive(Clone, Debug)]
pub struct State {
    connection: Arc<Mutex<Connection>>,
    /// What asks it without holding up the runtime.
    thread: mpsc::Sender<Question>,
}

/// What the thread of a database is told to do.
type Question = Box<dyn FnOnce() + Send>;

/// Makes a directory, and gives it to the user that the gateway becomes. One that holds anything else is nobody's to
/// give away.
///
/// # Errors
/// If it cannot be made, or holds something else.
pub fn prepare_directory(path: &Path, holds: Holds, user: Option<&str>) -> Result<(), StateError> {
    let failed = |source| StateError::Directory { path: path.into(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let metadata = entry.metadata().map_err(failed)?;
        let name = entry.file_name();
        if holds == Holds::State && name == DIRECTORY && metadata.is_dir() {
            continue;
        }
        let ours = name.to_str().is_some_and(|name| holds.has(name));
        if !ours || !metadata.is_file() || metadata.nlink() != 1 {
            return Err(StateError::Foreign { path: path.into(), entry: entry.path() });
        }
        files.push(entry.path());
    }
    if let Some(user) = user {
        let found = User::from_name(user).map_err(|errno| failed(errno.into()))?;
        // That there is none is said where it is to be become.
        let Some(user) = found else { return Ok(()) };
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        for path in files.into_iter().chain([path.to_owned()]) {
            std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).map_err(failed)?;
        }
    }
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

impl State {
    /// Opens the database in a directory, or makes one.
    ///
    /// # Errors
    /// If another gateway has it, if it is a newer gateway's, or cannot be read.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        let path = directory.join(DATABASE);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let failed = |source| match source {
            rusqlite::Error::SqliteFailure(error, _) if error.code == ErrorCode::DatabaseBusy => {
                StateError::Taken(path.clone())
            }
            source => StateError::Open { path: path.clone(), source },
        };
        let thread = |source| StateError::Thread { path: path.clone(), source };
        let mut connection = Connection::open_with_flags(&path, flags).map_err(failed)?;
        // Whoever has it keeps it: two gateways would end each other's jobs.
        let settings =
            [("locking_mode", "EXCLUSIVE"), ("journal_mode", "WAL"), ("synchronous", "NORMAL")];
        for (name, value) in settings {
            connection.pragma_update(None, name, value).map_err(failed)?;
        }
        match migrate(&mut connection).map_err(failed)? {
            Some(version) => Err(StateError::Newer { path: path.clone(), version }),
            None => Self::of(connection).map_err(thread),
        }
    }

    /// One in memory, which is forgotten.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn forgotten() -> Result<Self, StateError> {
        let failed = |source| StateError::Open { path: ":memory:".into(), source };
        let mut connection = Connection::open_in_memory().map_err(failed)?;
        migrate(&mut connection).map_err(failed)?;
        Self::of(connection)
            .map_err(|source| StateError::Thread { path: ":memory:".into(), source })
    }

    fn of(connection: Connection) -> io::Result<Self> {
        let (thread, told) = mpsc::channel::<Question>();
        std::thread::Builder::new().name("database".to_owned()).spawn(move || {
            for question in told {
                question();
            }
        })?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), thread })
    }

    /// The connection, for who may wait for a disk: before the gateway answers, or in [`aside`](Self::aside).
    pub(crate) fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic leaves nothing half done: what belongs together is a transaction, which ends with it.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what uses the database in its thread, one after the other. A slow disk stops nobody who does not use it. What is begun is done
    /// when nobody waits for it, too. A panic goes on in the caller.
    pub(crate) async fn aside<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (tell, told) = oneshot::channel();
        self.tell(move || drop(tell.send(catch_unwind(AssertUnwindSafe(question)))));
        match told.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => resume_unwind(panic),
            // The process ends.
            Err(_) => std::future::pending().await,
        }
    }

    /// Has its thread do something that nobody waits for. It may not panic.
    pub(crate) fn tell(&self, question: impl FnOnce() + Send + 'static) {
        // It lives as long as any of us.
        drop(self.thread.send(Box::new(question)));
    }
}

/// Brings a database up to date; its version if that is one that we do not know.
fn migrate(connection: &mut Connection) -> Result<Option<u32>, rusqlite::Error> {
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive)?;
    let version: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(lacking) = MIGRATIONS.get(version as usize..) else { return Ok(Some(version)) };
    for migration in lacking {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as u32)?;
    transaction.commit()?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gateway_has_it_and_a_newer_ones_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("gateway");
        prepare_directory(&directory, Holds::State, None).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        let first = State::open(&directory).unwrap();
        assert!(matches!(State::open(&directory), Err(StateError::Taken(_))));
        drop(first);
        let again = State::open(&directory).unwrap();
        again.lock().pragma_update(None, "user_version", 99).unwrap();
        drop(again);
        let error = State::open(&directory).unwrap_err();
        assert!(matches!(error, StateError::Newer { version: 99, .. }), "{error}");
    }

    #[tokio::test]
    async fn who_does_not_use_it_waits_for_no_disk() {
        let state = State::forgotten().unwrap();
        let (disk, slow) = mpsc::channel::<()>();
        let (begun, began) = oneshot::channel();
        let first = state.aside(move || {
            begun.send(()).unwrap();
            slow.recv().is_ok()
        });
        // On this thread, which is the runtime's only one.
        let others = async {
            began.await.unwrap();
            tokio::task::yield_now().await;
            disk.send(()).unwrap();
        };
        assert!(tokio::join!(first, others).0);
        let fails = tokio::spawn({
            let state = state.clone();
            async move { state.aside(|| -> u8 { panic!("a fault of ours") }).await }
        });
        assert!(fails.await.unwrap_err().is_panic());
        let count = state.clone();
        let count = state.aside(move || count.lock().changes()).await;
        assert_eq!(count, 0);
    }

    #[test]
    fn a_directory_with_anything_else_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        prepare_directory(place.path(), Holds::State, None).unwrap();
        drop(State::open(place.path()).unwrap());
        prepare_directory(place.path(), Holds::State, None).unwrap();
        fs::create_dir(place.path().join("checkpoints")).unwrap();
        let error = prepare_directory(place.path(), Holds::State, None).unwrap_err();
        assert!(matches!(error, StateError::Foreign { .. }), "{error}");
    }

    #[test]
    fn what_is_no_database_is_said_to_be_none() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join(DATABASE), [7; 5000]).unwrap();
        assert!(matches!(State::open(place.path()), Err(StateError::Open { .. })));
        fs::remove_file(place.path().join(DATABASE)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", place.path().join(DATABASE)).unwrap();
        assert!(State::open(place.path()).is_err());
    }
}

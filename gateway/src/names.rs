//! The machine's database of users and groups (NSS), which may be asked over a network.
//!
//! It is asked by threads of their own, and not for longer than somebody waits who asks the gateway: one of its modules that hangs takes
//! no more than a few threads, and those answers that it would have given.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::User;
use nix::unistd::Gid;
use tokio::sync::{Semaphore, oneshot};

/// For so long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many ask at a time.
const AT_ONCE: usize = 8;
/// For so long it is remembered which groups a user has.
const FRESH: Duration = Duration::from_secs(30);

/// The database does not answer, or fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the machine's database of users and groups does not answer")]
pub(crate) struct Silent;

/// The database. A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    patience: Duration,
    threads: Arc<Semaphore>,
    groups: Arc<Mutex<HashMap<User, Remembered>>>,
}

#[derive(Clone, Debug)]
struct Remembered {
    since: Instant,
    groups: Arc<[u32]>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            patience: PATIENCE,
            threads: Arc::new(Semaphore::new(AT_ONCE)),
            groups: Arc::default(),
        }
    }
}

impl Names {
    /// Has a thread ask.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Silent> {
        let threads = self.threads.clone();
        let answer = async move {
            let turn = threads.acquire_owned().await.map_err(|_| Silent)?;
            let (tell, told) = oneshot::channel();
            // None of the runtime's, which would wait for it at its end.
            let thread = std::thread::Builder::new().name("names".to_owned()).spawn(move || {
                let answer = question();
                drop(turn);
                // Nobody may wait for it any more.
                drop(tell.send(answer));
            });
            thread.map_err(|_| Silent)?;
            told.await.map_err(|_| Silent)
        };
        tokio::time::timeout(self.patience, answer).await.unwrap_or(Err(Silent))
    }

    /// The groups of a user.
    pub(crate) async fn groups(&self, user: User) -> Result<Arc<[u32]>, Silent> {
        let remembered = self.remembered().get(&user).cloned();
        if let Some(it) = remembered.filter(|it| it.since.elapsed() < FRESH) {
            return Ok(it.groups);
        }
        let groups = self.ask(move || groups(user)).await??;
        let mut all = self.remembered();
        all.retain(|_, it| it.since.elapsed() < FRESH);
        all.insert(user, Remembered { since: Instant::now(), groups: groups.clone() });
        Ok(groups)
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<User, Remembered>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The groups of a user: of one whom the database does not know, the one that it came with.
fn groups(user: User) -> Result<Arc<[u32]>, Silent> {
    let found = nix::unistd::User::from_uid(user.uid.into()).map_err(|_| Silent)?;
    let Some(found) = found else { return Ok([user.gid].into()) };
    let name = CString::new(found.name).map_err(|_| Silent)?;
    let all = nix::unistd::getgrouplist(&name, user.gid.into()).map_err(|_| Silent)?;
    Ok(all.into_iter().map(Gid::as_raw).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn a_database_that_hangs_stops_nobody_for_long() {
        let names = Names { patience: Duration::from_millis(20), ..Names::default() };
        let (go, wait) = channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        for _ in 0..2 * AT_ONCE {
            let wait = wait.clone();
            let hangs = names.ask(move || wait.lock().is_ok_and(|wait| wait.recv().is_ok()));
            assert_eq!(hangs.await, Err(Silent));
        }
        assert_eq!(names.threads.available_permits(), 0, "no more threads than these");
        drop(go);
        let names = Names { patience: Duration::from_secs(60), ..names };
        assert_eq!(names.ask(|| 7).await, Ok(7));
        assert_eq!(names.ask(|| -> u8 { panic!("a module's fault") }).await, Err(Silent));
    }

    #[tokio::test]
    async fn groups_are_remembered() {
        let names = Names { patience: Duration::from_secs(60), ..Names::default() };
        let root = User { uid: 0, gid: 0 };
        assert!(names.groups(root).await.unwrap().contains(&0));
        let nobody = User { uid: 4_000_000_000, gid: 7 };
        assert_eq!(names.groups(nobody).await.unwrap()[..], [7]);
        // Without a thread to ask.
        names.threads.close();
        assert!(names.groups(root).await.is_ok());
        assert_eq!(names.groups(User { uid: 1, gid: 1 }).await, Err(Silent));
    }
}

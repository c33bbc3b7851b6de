//! Leases: freezes that end by themselves, when the connection they were asked on closes or
//! their time is over.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::{FreezeMethod, Lease};
use service::Connection;
use tokio::sync::{oneshot, watch};

use freezer::{Error, Freeze, Method, Target, freeze};

/// Longest time that stopping a target is waited for.
const LONGEST_STOP: Duration = Duration::from_secs(5);

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was given back.
    Released,
    /// Its time was over.
    Expired,
    /// Its holder is gone.
    ConnectionClosed,
}

impl Ended {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Released, Self::Expired, Self::ConnectionClosed];

    /// As metrics name it.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Expired => "expired",
            Self::ConnectionClosed => "connection_closed",
        }
    }
}

/// The leases held now.
#[derive(Clone, Debug)]
pub(super) struct Leases {
    held: Arc<Mutex<HashMap<String, Held>>>,
    /// Where it is written down what to undo.
    undo: Arc<Path>,
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    /// When it is thawed unless renewed; watched by the task that will thaw it.
    expires: watch::Sender<Instant>,
    /// Asks that task to thaw now and to say when that is done.
    release: oneshot::Sender<oneshot::Sender<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left behind is still a table of leases, and they must end.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leases {
    /// No leases yet. Those that would outlive us are written down in the folder `undo`.
    #[must_use]
    pub(super) fn new(undo: PathBuf) -> Self {
        Self { held: Arc::default(), undo: undo.into() }
    }

    /// Stops a target for whoever is at the other end of a connection. `ended` is told when and
    /// why the lease ended, after the target runs again.
    ///
    /// # Errors
    /// If the target cannot be stopped.
    pub(super) async fn grant(
        &self,
        target: Target,
        method: Method,
        ttl: Duration,
        connection: Connection,
        ended: impl FnOnce(Method, Ended) + Send + 'static,
    ) -> Result<Lease, Error> {
        let undo = self.undo.clone();
        let work = move || freeze(&target, method, ttl.min(LONGEST_STOP), &undo);
        // Stopping blocks. When this future is dropped meanwhile (its connection closed), the
        // freeze that comes of it is dropped with the join handle: the target runs.
        let freeze = match tokio::task::spawn_blocking(work).await {
            Ok(result) => result?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        let lease = Lease {
            id: uuid::Uuid::new_v4().to_string(),
            method: as_told(freeze.method()),
            processes: freeze.processes().len() as u64,
            stop_us: u64::try_from(freeze.took().as_micros()).unwrap_or(u64::MAX),
            expires_in_ms: millis(ttl),
        };
        let (expires, expiry) = watch::channel(Instant::now() + ttl);
        let (release, released) = oneshot::channel();
        let id = lease.id.clone();
        lock(&self.held).insert(id.clone(), Held { lease: lease.clone(), expires, release });
        let leases = self.clone();
        tokio::spawn(async move {
            leases.watch(id, freeze, expiry, released, connection, ended).await;
        });
        Ok(lease)
    }

    /// Waits for the end of a lease, and ends it.
    async fn watch(
        self,
        id: String,
        freeze: Freeze,
        expiry: watch::Receiver<Instant>,
        released: oneshot::Receiver<oneshot::Sender<()>>,
        connection: Connection,
        ended: impl FnOnce(Method, Ended),
    ) {
        let (why, done) = tokio::select! {
            done = released => (Ended::Released, done.ok()),
            () = expired(expiry) => (Ended::Expired, None),
            () = connection.closed() => (Ended::ConnectionClosed, None),
        };
        lock(&self.held).remove(&id);
        let method = freeze.method();
        let thaw = tokio::task::spawn_blocking(move || drop(freeze));
        if let Err(error) = thaw.await {
            tracing::error!("thaw for lease {id}: {error}");
        }
        tracing::info!("lease {id} {}", why.name());
        ended(method, why);
        if done.is_some_and(|done| done.send(()).is_err()) {
            tracing::debug!("nobody waited for the release of lease {id}");
        }
    }

    /// Lets a lease last for a time from now; `None` when there is no such lease.
    #[must_use]
    pub(super) fn renew(&self, id: &str, ttl: Duration) -> Option<Lease> {
        let mut held = lock(&self.held);
        let held = held.get_mut(id)?;
        held.expires.send_replace(Instant::now() + ttl);
        Some(held.now())
    }

    /// Ends a lease; false when there is no such lease. The target runs when this returns.
    pub(super) async fn release(&self, id: &str) -> bool {
        let Some(held) = lock(&self.held).remove(id) else { return false };
        let (done, finished) = oneshot::channel();
        if held.release.send(done).is_ok() {
            // An error means that the lease ended meanwhile for another reason.
            drop(finished.await);
        }
        true
    }

    /// The leases held now.
    #[must_use]
    pub(super) fn list(&self) -> Vec<Lease> {
        lock(&self.held).values().map(Held::now).collect()
    }
}

impl Held {
    fn now(&self) -> Lease {
        let left = self.expires.borrow().saturating_duration_since(Instant::now());
        Lease { expires_in_ms: millis(left), ..self.lease.clone() }
    }
}

/// Returns when the time that is being watched is over.
async fn expired(mut expiry: watch::Receiver<Instant>) {
    loop {
        let deadline = *expiry.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep_until(deadline.into()) => return,
            changed = expiry.changed() => if changed.is_err() {
                // The table has let go of the lease: somebody is ending it another way.
                return std::future::pending().await;
            },
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A method as the freezer has it.
pub(super) const fn as_asked(method: FreezeMethod) -> Method {
    match method {
        FreezeMethod::Auto => Method::Auto,
        FreezeMethod::CgroupV2 => Method::CgroupV2,
        FreezeMethod::CgroupV1 => Method::CgroupV1,
        FreezeMethod::Ptrace => Method::Ptrace,
    }
}

/// A method as answers have it.
const fn as_told(method: Method) -> FreezeMethod {
    match method {
        Method::Auto => FreezeMethod::Auto,
        Method::CgroupV2 => FreezeMethod::CgroupV2,
        Method::CgroupV1 => FreezeMethod::CgroupV1,
        Method::Ptrace => FreezeMethod::Ptrace,
    }
}

//! How connections are served: how many there are at a time, and how long a client may take over what it sends and reads.
//!
//! Whoever opens connections and leaves them idle, or sends a request a byte at a time, takes nobody's place: where there are as many
//! as may be, the one that has been idle for longest makes room for the next. Where all are at work, who has most of them loses his
//! youngest to one who has fewer.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::ConnectInfo;
use axum::http::Request;
use axum::serve::Listener;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use crate::peers::Peer;

/// A client has so long for the head of a request, from when it connects or has its last answer: so an idle connection is closed, too.
/// Clients usually close one after 90 seconds; one that we close just as it sends a request would be told of a failure.
const HEAD: Duration = Duration::from_secs(120);
/// A client that takes nothing of its answer for so long is hung up on.
const TAKEN: Duration = Duration::from_secs(30);
/// Descriptors that are left for other things than connections.
const OTHER_DESCRIPTORS: u64 = 256;
/// So many connections a door has at most, however many descriptors there may be: each takes some memory.
const MOST: usize = 4096;

/// Has this process have as many descriptors as it may, and says how many connections each of some doors may have.
pub(crate) fn most_connections(doors: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let resource = Resource::RLIMIT_NOFILE;
    let (soft, hard) = getrlimit(resource).unwrap_or((1024, 1024));
    let limit = match setrlimit(resource, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    let each = limit.saturating_sub(OTHER_DESCRIPTORS) / doors.max(1) as u64;
    usize::try_from(each).unwrap_or(MOST).clamp(16, MOST)
}

/// Serves what comes to a listener until `end` completes, and then until what is under way is answered.
///
/// `open` makes of a connection what requests are read from, and says who is at the other end, which handlers find as
/// [`ConnectInfo`]; `None`: the connection is none. It may take its time.
pub(crate) async fn serve<L, F, I, P>(
    mut listener: L,
    open: F,
    router: Router,
    most: usize,
    end: impl Future<Output = ()>,
) where
    L: Listener<Addr: Client>,
    F: AsyncOpen<L::Io, L::Addr, Io = I, Peer = P>,
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    P: Clone + Send + Sync + 'static,
{
    let places = Places::at_most(most);
    let (told, ending) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut end = pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            (io, peer) = listener.accept() => {
                let Some(place) = places.take(peer.client()) else { continue };
                let (open, router, ending) = (open.clone(), router.clone(), ending.clone());
                tasks.spawn(async move {
                    let opened = tokio::select! {
                        opened = open.open(io, peer) => opened,
                        () = place.wanted() => None,
                    };
                    if let Some((io, peer)) = opened {
                        connection(io, peer, router, place, ending).await;
                    }
                });
            }
            Some(_) = tasks.join_next() => {}
        }
    }
    drop(listener);
    told.send_replace(true);
    while tasks.join_next().await.is_some() {}
}

/// Whose a connection is, as far as that shows before anything is read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Whose {
    User(u32),
    Address(IpAddr),
}

/// What tells whose a connection is.
pub(crate) trait Client {
    fn client(&self) -> Whose;
}

impl Client for Peer {
    fn client(&self) -> Whose {
        Whose::User(self.uid)
    }
}

impl Client for SocketAddr {
    fn client(&self) -> Whose {
        Whose::Address(match self.ip().to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            // One host has as many as there are in its network.
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from(network))
            }
        })
    }
}

/// What becomes of a connection before requests are read from it.
pub(crate) trait AsyncOpen<T, A>: Clone + Send + 'static {
    /// What requests are read from.
    type Io;
    /// Who is at the other end.
    type Peer;

    /// Opens one.
    fn open(
        &self,
        io: T,
        address: A,
    ) -> impl Future<Output = Option<(Self::Io, Self::Peer)>> + Send;
}

/// Requests are read from a connection as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AsItIs;

impl<T: Send, A: Send> AsyncOpen<T, A> for AsItIs {
    type Io = T;
    type Peer = A;

    async fn open(&self, io: T, address: A) -> Option<(T, A)> {
        Some((io, address))
    }
}

async fn connection<I, P>(
    io: I,
    peer: P,
    router: Router,
    place: Place,
    mut ending: watch::Receiver<bool>,
) where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    P: Clone + Send + Sync + 'static,
{
    let mut io = TimeoutStream::new(io);
    io.set_write_timeout(Some(TAKEN));
    let busy = place.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer.clone()));
        let (router, work) = (router.clone(), busy.begin());
        async move {
            let answer = router.oneshot(request).await?;
            // At work until all of the answer is sent.
            Ok::<_, Infallible>(answer.map(|body| {
                body.map_frame(move |frame| {
                    let _at_work = &work;
                    frame
                })
            }))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(Box::pin(io)), service);
    let mut served = pin!(served);
    let wanted = async {
        tokio::select! {
            () = place.wanted() => {}
            _ = ending.wait_for(|ending| *ending) => {}
        }
    };
    tokio::select! {
        result = &mut served => return ended(result),
        () = place.cut() => return,
        () = wanted => {}
    }
    if place.is_busy() {
        served.as_mut().graceful_shutdown();
        tokio::select! {
            result = served => ended(result),
            () = place.cut() => {}
        }
    }
}

/// That a client hangs up, or sends what is no request, is no fault of ours.
fn ended(result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        tracing::debug!("a connection ended: {error}");
    }
}

/// The connections of a door.
#[derive(Clone, Debug)]
struct Places(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    most: usize,
    /// How many there have been, which numbers them and orders what they do.
    count: u64,
    /// Those there are, by number.
    places: BTreeMap<u64, Entry>,
    /// How many of them are whose.
    shares: HashMap<Whose, usize>,
    /// The numbers of those that are idle, by since when.
    idle: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct Entry {
    /// How many requests are at work.
    busy: usize,
    /// Since when it is idle, or was last, by `count`.
    since: u64,
    whose: Whose,
    told: Arc<Told>,
}

/// What a connection is told.
#[derive(Debug, Default)]
struct Told {
    /// Another one has its place: it is to end when it is idle.
    wanted: Notify,
    /// And at once.
    cut: Notify,
}

/// The place of a connection. It is free when all of its clones are dropped.
#[derive(Clone, Debug)]
struct Place(Arc<Held>);

#[derive(Debug)]
struct Held {
    number: u64,
    told: Arc<Told>,
    places: Places,
}

/// A request at work.
#[derive(Debug)]
struct AtWork(Place);

impl Places {
    fn at_most(most: usize) -> Self {
        let (places, shares, idle) = (BTreeMap::new(), HashMap::new(), BTreeMap::new());
        Self(Arc::new(Mutex::new(Open { most, count: 0, places, shares, idle })))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more. Where there are as many as may be, the one that has been idle for longest is told to go, or one at work
    /// of whoever has most; `None` if nobody has more than who comes would have.
    fn take(&self, whose: Whose) -> Option<Place> {
        let mut open = self.lock();
        if open.places.len() >= open.most {
            match open.idle.first_key_value().map(|(_, number)| *number) {
                Some(idle) => open.remove(idle)?.told.wanted.notify_one(),
                None => {
                    let number = open.too_many(whose)?;
                    open.remove(number)?.told.cut.notify_one();
                }
            }
        }
        open.count += 1;
        let (number, told) = (open.count, Arc::<Told>::default());
        open.places.insert(number, Entry { busy: 0, since: number, whose, told: told.clone() });
        *open.shares.entry(whose).or_default() += 1;
        open.idle.insert(number, number);
        Some(Place(Arc::new(Held { number, told, places: self.clone() })))
    }
}

impl Open {
    /// The youngest place of whoever has most, if that is more than one who comes would have.
    fn too_many(&self, comes: Whose) -> Option<u64> {
        let own = self.shares.get(&comes).copied().unwrap_or(0);
        let (whose, most) = self.shares.iter().max_by_key(|(_, share)| **share)?;
        let young = self.places.iter().rev().find(|(_, entry)| entry.whose == *whose);
        young.filter(|_| *most > own + 1).map(|(number, _)| *number)
    }

    /// Takes a place away, if it is there still.
    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.places.remove(&number)?;
        if entry.busy == 0 {
            self.idle.remove(&entry.since);
        }
        if let Some(share) = self.shares.get_mut(&entry.whose) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&entry.whose);
            }
        }
        Some(entry)
    }
}

impl Place {
    /// Completes when the place is given to another connection.
    async fn wanted(&self) {
        self.0.told.wanted.notified().await;
    }

    /// Completes when the connection is to end, whatever it is at.
    async fn cut(&self) {
        self.0.told.cut.notified().await;
    }

    fn begin(&self) -> AtWork {
        let mut open = self.0.places.lock();
        let Open { places, idle, .. } = &mut *open;
        if let Some(entry) = places.get_mut(&self.0.number) {
            entry.busy += 1;
            idle.remove(&entry.since);
        }
        drop(open);
        AtWork(self.clone())
    }

    fn is_busy(&self) -> bool {
        self.0.places.lock().places.get(&self.0.number).is_some_and(|entry| entry.busy > 0)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let Held { number, places, .. } = &*self.0.0;
        let mut open = places.lock();
        let Open { count, places, idle, .. } = &mut *open;
        *count += 1;
        if let Some(entry) = places.get_mut(number) {
            entry.busy -= 1;
            if entry.busy == 0 {
                entry.since = *count;
                idle.insert(*count, *number);
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Its place may be another's by now.
        self.places.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_idle_makes_room_and_who_is_at_work_does_not() {
        let places = Places::at_most(3);
        let whose = Whose::User(7);
        let [first, second, third] = [(); 3].map(|()| places.take(whose).unwrap());
        let at_work = first.begin();
        drop(second.begin());
        let _fourth = places.take(whose).unwrap();
        third.wanted().await;
        let _fifth = places.take(whose).unwrap();
        second.wanted().await;
        assert!(first.is_busy());
        drop(at_work);
        assert!(!first.is_busy());
    }

    #[test]
    fn a_place_is_free_when_its_connection_is_gone() {
        let places = Places::at_most(1);
        let whose = Whose::User(7);
        let place = places.take(whose).unwrap();
        let work = place.begin();
        assert!(places.take(whose).is_none());
        drop(work);
        drop(place);
        assert!(places.lock().places.is_empty() && places.lock().shares.is_empty());
        assert!(places.take(whose).is_some());
    }

    #[tokio::test]
    async fn who_has_most_of_what_is_at_work_makes_room_for_who_has_less() {
        let places = Places::at_most(4);
        let [greedy, other, third] = [1, 2, 3].map(Whose::User);
        let held: Vec<_> = (0..4).map(|_| places.take(greedy).unwrap()).collect();
        let mut work: Vec<_> = held.iter().map(Place::begin).collect();
        assert!(places.take(greedy).is_none());
        for (place, count) in [(3, 1), (2, 2)] {
            let new = places.take(other).unwrap();
            held[place].cut().await;
            work.push(new.begin());
            assert_eq!(places.lock().shares[&other], count);
        }
        assert!(places.take(other).is_none(), "both have as many");
        let new = places.take(third).unwrap();
        work.push(new.begin());
        assert_eq!(places.lock().places.len(), 4);
        assert!(places.take(third).is_none());
        drop(work);
        drop((held, new));
        assert!(places.lock().places.is_empty() && places.lock().idle.is_empty());
    }

    #[test]
    fn hosts_are_known_by_their_addresses() {
        let whose = |address: &str| address.parse::<SocketAddr>().unwrap().client();
        assert_eq!(whose("10.0.0.1:1"), whose("[::ffff:10.0.0.1]:2"));
        assert_ne!(whose("10.0.0.1:1"), whose("10.0.0.2:1"));
        assert_eq!(whose("[fd00::1]:1"), whose("[fd00::2:3]:1"));
        assert_ne!(whose("[fd00::1]:1"), whose("[fd00:0:0:1::1]:1"));
    }
}

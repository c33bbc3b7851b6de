//! Who is at work, and who waits for his turn.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::Priority;
use tokio::sync::oneshot;

/// The queue of jobs: so many are at work at a time, and of those that wait the most urgent is next, then the oldest. A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct Queue(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    most: usize,
    at_work: usize,
    /// Of these, those of users, who have at most half of the turns.
    of_users: usize,
    count: u64,
    /// By how little urgent they are, and since when they wait.
    waiting: BTreeMap<(u8, u64), Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: String,
    of_user: bool,
    turn: oneshot::Sender<Turn>,
}

/// A turn. Dropped, it is the next one's.
#[derive(Debug)]
pub(crate) struct Turn {
    queue: Option<Queue>,
    of_user: bool,
}

/// What a job gets that wants to begin.
#[derive(Debug)]
pub(crate) enum Place {
    /// It is its turn.
    Now(Turn),
    /// It comes when the turn does; an error if it was taken out of the queue.
    Later(oneshot::Receiver<Turn>),
}

/// How little urgent it is.
const fn rank(priority: Priority) -> u8 {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

impl Queue {
    /// So many are at work at a time.
    pub(crate) fn of(most: usize) -> Self {
        let state = State { most, at_work: 0, of_users: 0, count: 0, waiting: BTreeMap::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, state: &mut State, of_user: bool) -> Turn {
        state.at_work += 1;
        state.of_users += usize::from(of_user);
        Turn { queue: Some(self.clone()), of_user }
    }

    /// A turn for what is at work already, however many there are.
    pub(crate) fn at_work(&self, of_user: bool) -> Turn {
        self.turn(&mut self.lock(), of_user)
    }

    /// A place for a job. Those of users are never more urgent than others.
    pub(crate) fn join(&self, id: &str, priority: Priority, of_user: bool) -> Place {
        let mut state = self.lock();
        let waits = |waiting: &Waiting| !waiting.of_user || of_user;
        if state.has_room(of_user) && !state.waiting.values().any(waits) {
            return Place::Now(self.turn(&mut state, of_user));
        }
        let priority = match priority {
            Priority::High if of_user => Priority::Normal,
            priority => priority,
        };
        state.count += 1;
        let (turn, comes) = oneshot::channel();
        let key = (rank(priority), state.count);
        state.waiting.insert(key, Waiting { id: id.to_owned(), of_user, turn });
        Place::Later(comes)
    }

    /// Takes a job out of the queue; whether it waited there.
    pub(crate) fn leave(&self, id: &str) -> bool {
        let mut state = self.lock();
        let before = state.waiting.len();
        state.waiting.retain(|_, waiting| waiting.id != id);
        state.waiting.len() < before
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }
}

impl State {
    /// Whether one more may be at work.
    const fn has_room(&self, of_user: bool) -> bool {
        self.at_work < self.most && (!of_user || self.of_users < self.most.div_ceil(2))
    }

    /// The next whose turn it is.
    fn next(&mut self) -> Option<Waiting> {
        let turn = |waiting: &Waiting| self.has_room(waiting.of_user);
        let key = *self.waiting.iter().find(|(_, waiting)| turn(waiting))?.0;
        self.waiting.remove(&key)
    }

    fn leave(&mut self, of_user: bool) {
        self.at_work -= 1;
        self.of_users -= usize::from(of_user);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        let mut state = queue.lock();
        state.leave(self.of_user);
        while let Some(next) = state.next() {
            let turn = queue.turn(&mut state, next.of_user);
            if let Err(mut turn) = next.turn.send(turn) {
                // Nobody waits for it any more. It must not be dropped with its queue, which is locked here.
                turn.queue = None;
                state.leave(turn.of_user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(place: Place) -> oneshot::Receiver<Turn> {
        match place {
            Place::Later(comes) => comes,
            Place::Now(_) => panic!("it is its turn"),
        }
    }

    #[test]
    fn the_most_urgent_is_next_and_then_the_oldest() {
        let queue = Queue::of(1);
        let Place::Now(first) = queue.join("first", Priority::Low, false) else {
            panic!("it waits")
        };
        let mut low = later(queue.join("low", Priority::Low, false));
        let mut old = later(queue.join("old", Priority::Normal, false));
        let mut young = later(queue.join("young", Priority::Normal, false));
        let mut urgent = later(queue.join("urgent", Priority::High, false));
        let gone = later(queue.join("gone", Priority::High, false));
        drop(gone);
        assert!(queue.leave("young") && !queue.leave("young"));
        assert!(young.try_recv().is_err());
        drop(first);
        let turn = urgent.try_recv().unwrap();
        assert!(old.try_recv().is_err());
        drop(turn);
        let turn = old.try_recv().unwrap();
        drop(turn);
        let turn = low.try_recv().unwrap();
        assert_eq!(queue.waiting(), 0);
        drop(turn);
        assert!(matches!(queue.join("next", Priority::Low, false), Place::Now(_)));
    }

    #[test]
    fn what_is_at_work_already_counts() {
        let queue = Queue::of(1);
        let [one, two] = [(); 2].map(|()| queue.at_work(false));
        let mut waits = later(queue.join("x", Priority::High, false));
        drop(one);
        assert!(waits.try_recv().is_err());
        drop(two);
        assert!(waits.try_recv().is_ok());
    }

    #[test]
    fn users_leave_half_of_the_turns_and_are_not_more_urgent() {
        let queue = Queue::of(3);
        let Place::Now(first) = queue.join("a", Priority::High, true) else { panic!("waits") };
        let Place::Now(_second) = queue.join("b", Priority::High, true) else { panic!("waits") };
        let mut third = later(queue.join("c", Priority::High, true));
        let Place::Now(_roots) = queue.join("root", Priority::Low, false) else { panic!("waits") };
        let mut normal = later(queue.join("normal", Priority::Normal, false));
        let mut high = later(queue.join("high", Priority::High, false));
        drop(first);
        let _turn = high.try_recv().unwrap();
        assert!(third.try_recv().is_err() && normal.try_recv().is_err());
        drop(_second);
        let _turn = third.try_recv().unwrap();
        assert!(normal.try_recv().is_err());
    }
}

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
    count: u64,
    /// By how little urgent they are, and since when they wait.
    waiting: BTreeMap<(u8, u64), Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: String,
    turn: oneshot::Sender<Turn>,
}

/// A turn. Dropped, it is the next one's.
#[derive(Debug)]
pub(crate) struct Turn(Option<Queue>);

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
        let state = State { most, at_work: 0, count: 0, waiting: BTreeMap::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn for what is at work already, however many there are.
    pub(crate) fn at_work(&self) -> Turn {
        self.lock().at_work += 1;
        Turn(Some(self.clone()))
    }

    /// A place for a job.
    pub(crate) fn join(&self, id: &str, priority: Priority) -> Place {
        let mut state = self.lock();
        if state.at_work < state.most && state.waiting.is_empty() {
            state.at_work += 1;
            return Place::Now(Turn(Some(self.clone())));
        }
        state.count += 1;
        let (turn, comes) = oneshot::channel();
        let key = (rank(priority), state.count);
        state.waiting.insert(key, Waiting { id: id.to_owned(), turn });
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

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(queue) = self.0.take() else { return };
        let mut state = queue.lock();
        state.at_work -= 1;
        while state.at_work < state.most
            && let Some((_, next)) = state.waiting.pop_first()
        {
            state.at_work += 1;
            if let Err(mut turn) = next.turn.send(Self(Some(queue.clone()))) {
                // Nobody waits for it any more. It must not be dropped with its queue, which is locked here.
                turn.0 = None;
                state.at_work -= 1;
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
        let Place::Now(first) = queue.join("first", Priority::Low) else { panic!("it waits") };
        let mut low = later(queue.join("low", Priority::Low));
        let mut old = later(queue.join("old", Priority::Normal));
        let mut young = later(queue.join("young", Priority::Normal));
        let mut urgent = later(queue.join("urgent", Priority::High));
        let gone = later(queue.join("gone", Priority::High));
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
        assert!(matches!(queue.join("next", Priority::Low), Place::Now(_)));
    }

    #[test]
    fn what_is_at_work_already_counts() {
        let queue = Queue::of(1);
        let [one, two] = [(); 2].map(|()| queue.at_work());
        let mut waits = later(queue.join("x", Priority::High));
        drop(one);
        assert!(waits.try_recv().is_err());
        drop(two);
        assert!(waits.try_recv().is_ok());
    }
}

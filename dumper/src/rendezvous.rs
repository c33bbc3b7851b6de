//! Where the dumps of several trees wait for each other, so that all of them tell of one moment.
//!
//! Each dump comes to the same points, in a thread of its own ([`crate::together`]); nobody goes on from a point before all have come to
//! it. Whoever fails, in between or while he waits, gives up for all of them: then nobody comes to the next point, every tree is let go,
//! and no checkpoint appears. A point that all have come to stays passed, whatever fails later.
//!
//! Who waits looks at the clock of his own dump: limits of time, and that it is cancelled, end it for all. And with a tree that stands still
//! he does not wait for ever for somebody who makes no step: that one may itself wait for this tree (as for the server of a file system).

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::clock::Clock;
use crate::error::Error;
use crate::pulse::Pulse;

/// In between, who waits looks at his clock.
const LOOK: Duration = Duration::from_millis(2);
/// For so long others are waited for of whom none makes a step, by who has a tree stand still.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes all checkpoints appear at once, when they are written.
pub(crate) type Appear<'g> = dyn Fn() -> Result<(), images::Error> + Sync + 'g;

/// The points that all dumps of a moment come to. It serves one try.
pub(crate) struct Rendezvous<'g> {
    members: usize,
    appear: &'g Appear<'g>,
    pulse: Arc<Pulse>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How many points all have come to.
    passed: usize,
    /// How many have come to the next one.
    come: usize,
    moment: Moment,
}

/// For how long trees stood still, from the first that was told to stop until the last that was let go.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    pub(crate) first: Option<(Instant, SystemTime)>,
    pub(crate) last: Option<Instant>,
}

impl fmt::Debug for Rendezvous<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { members, pulse, state, .. } = self;
        f.debug_struct("Rendezvous")
            .field("members", members)
            .field("pulse", pulse)
            .field("state", state)
            .finish_non_exhaustive()
    }
}

impl<'g> Rendezvous<'g> {
    /// Of so many dumps.
    pub(crate) fn of(members: usize, appear: &'g Appear<'g>) -> Self {
        Self {
            members,
            appear,
            pulse: Arc::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(crate) const fn members(&self) -> usize {
        self.members
    }

    /// What the clock of each dump asks.
    pub(crate) fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all have come here.
    ///
    /// # Errors
    /// [`Error::GivenUp`] if another one has given up; else what has made this one do so.
    pub(crate) fn meet(&self, clock: &Clock) -> Result<(), Error> {
        self.pass(clock, None, &|| Ok(()))
    }

    /// The same, with a tree that stands still.
    ///
    /// # Errors
    /// [`Error::WaitedInVain`] as well.
    pub(crate) fn meet_frozen(&self, clock: &Clock) -> Result<(), Error> {
        self.pass(clock, Some(PATIENCE), &|| Ok(()))
    }

    /// As [`meet`](Self::meet); the last one to come makes the checkpoints appear. How long it takes to write them nobody knows.
    pub(crate) fn appear(&self, clock: &Clock) -> Result<(), Error> {
        self.pass(clock, None, self.appear)
    }

    fn pass(
        &self,
        clock: &Clock,
        patience: Option<Duration>,
        last: &Appear<'_>,
    ) -> Result<(), Error> {
        const STEP: &str = "wait for the other trees";
        let mut state = self.lock();
        clock.check(STEP)?;
        state.come += 1;
        if state.come == self.members {
            // Whoever gives up meanwhile does it for the next point.
            last().inspect_err(|_| self.give_up())?;
            state.come = 0;
            state.passed += 1;
            self.changed.notify_all();
            return Ok(());
        }
        let here = state.passed;
        let (mut seen, mut moved) = (self.pulse.steps(), Instant::now());
        loop {
            let until = clock.frozen_until().map(|it| it.saturating_duration_since(Instant::now()));
            let look = until.map_or(LOOK, |until| until.clamp(Duration::from_micros(50), LOOK));
            let waited = self.changed.wait_timeout(state, look);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.passed != here {
                return Ok(());
            }
            if self.pulse.steps() != seen {
                (seen, moved) = (self.pulse.steps(), Instant::now());
            } else if let Some(within) = patience.filter(|most| moved.elapsed() >= *most) {
                self.give_up();
                return Err(Error::WaitedInVain { within });
            }
            clock.check_quietly(STEP).inspect_err(|_| self.give_up())?;
        }
    }

    /// Gives up for all of them, but for the points that all have come to.
    pub(crate) fn give_up(&self) {
        self.pulse.end();
        self.changed.notify_all();
    }

    /// A tree was told to stop at this time; when the first was.
    pub(crate) fn stopped(&self, at: (Instant, SystemTime)) -> Instant {
        let mut state = self.lock();
        let first = state.moment.first.filter(|first| first.0 <= at.0).unwrap_or(at);
        state.moment.first = Some(first);
        first.0
    }

    /// When the first tree was told to stop.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.lock().moment.first.map(|first| first.0)
    }

    /// A tree was let go at this time.
    pub(crate) fn let_go(&self, at: Instant) {
        let mut state = self.lock();
        state.moment.last = Some(state.moment.last.map_or(at, |last| last.max(at)));
    }

    /// For how long all stood still.
    pub(crate) fn moment(&self) -> Moment {
        self.lock().moment
    }
}

/// A dump on its way: unless it is [done](Self::done), it gives up for all when this is dropped.
#[derive(Debug)]
pub(crate) struct OnTheWay<'r>(Option<&'r Rendezvous<'r>>);

impl<'r> OnTheWay<'r> {
    /// `None`: it is of one tree alone.
    pub(crate) const fn to(rendezvous: Option<&'r Rendezvous<'r>>) -> Self {
        Self(rendezvous)
    }

    pub(crate) fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for OnTheWay<'_> {
    fn drop(&mut self) {
        if let Some(rendezvous) = self.0 {
            rendezvous.give_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::{scope, sleep};

    use ids::HostPid;

    use super::*;
    use crate::options::DumpOptions;

    fn clock(of: &Rendezvous<'_>) -> Clock {
        let options = DumpOptions::new(HostPid::own());
        Clock::start(&options, Instant::now()).with_others(Some(of.pulse()))
    }

    #[test]
    fn nobody_goes_on_before_all_have_come() {
        let appeared = AtomicUsize::new(0);
        let appear = || {
            appeared.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        let all = Rendezvous::of(4, &appear);
        let come = AtomicUsize::new(0);
        scope(|scope| {
            for late in 0..4 {
                let (all, come, appeared) = (&all, &come, &appeared);
                scope.spawn(move || {
                    let clock = clock(all);
                    for round in 1..=3 {
                        sleep(Duration::from_millis(late * 5));
                        come.fetch_add(1, Ordering::SeqCst);
                        all.meet(&clock).unwrap();
                        assert!(come.load(Ordering::SeqCst) >= 4 * round);
                    }
                    all.appear(&clock).unwrap();
                    assert_eq!(appeared.load(Ordering::SeqCst), 1);
                });
            }
        });
    }

    #[test]
    fn who_fails_fails_for_all() {
        let never = || panic!("nothing appears");
        let all = Rendezvous::of(3, &never);
        let outcomes: Vec<_> = scope(|scope| {
            let others = [(); 2].map(|()| {
                scope.spawn(|| {
                    let clock = clock(&all);
                    all.meet(&clock)?;
                    all.appear(&clock)
                })
            });
            let fails = scope.spawn(|| {
                let _on_the_way = OnTheWay::to(Some(&all));
                all.meet(&clock(&all)).unwrap();
                sleep(Duration::from_millis(5));
            });
            fails.join().unwrap();
            others.into_iter().map(|other| other.join().unwrap()).collect()
        });
        for outcome in outcomes {
            assert!(matches!(outcome, Err(Error::GivenUp { .. })), "{outcome:?}");
        }
        // Who is at work hears of it at his next step.
        assert!(clock(&all).check("work").is_err());
    }

    #[test]
    fn a_panic_fails_for_all_and_what_cannot_appear_does() {
        let fails = || Err(images::Error::NotEmpty { path: "x".into() });
        let all = Rendezvous::of(2, &fails);
        let outcomes = scope(|scope| {
            let both = [(); 2].map(|()| scope.spawn(|| all.appear(&clock(&all))));
            both.map(|one| one.join().unwrap())
        });
        let of = |given_up: bool| {
            let is = |it: &&Result<(), Error>| matches!(it, Err(Error::GivenUp { .. })) == given_up;
            outcomes.iter().filter(is).count()
        };
        assert_eq!((of(true), of(false)), (1, 1), "{outcomes:?}");

        let all = Rendezvous::of(2, &|| Ok(()));
        scope(|scope| {
            let waits = scope.spawn(|| all.meet(&clock(&all)));
            let panics = scope.spawn(|| {
                let _on_the_way = OnTheWay::to(Some(&all));
                panic!("on purpose");
            });
            assert!(panics.join().is_err());
            assert!(matches!(waits.join().unwrap(), Err(Error::GivenUp { .. })));
        });
    }

    #[test]
    fn who_makes_no_step_is_not_waited_for() {
        let all = Rendezvous::of(2, &|| Ok(()));
        let patience = Duration::from_millis(40);
        scope(|scope| {
            // He makes some, and then none.
            scope.spawn(|| {
                let clock = clock(&all);
                for _ in 0..6 {
                    sleep(Duration::from_millis(20));
                    clock.check("work").unwrap();
                }
            });
            let began = Instant::now();
            let waited = all.pass(&clock(&all), Some(patience), &|| Ok(())).unwrap_err();
            assert!(matches!(waited, Error::WaitedInVain { .. }), "{waited}");
            assert!(began.elapsed() >= Duration::from_millis(120), "{:?}", began.elapsed());
        });
    }

    #[test]
    fn limits_hold_for_who_waits_and_count_from_the_first() {
        let all = Rendezvous::of(2, &|| Ok(()));
        let (now, date) = (Instant::now(), SystemTime::now());
        assert_eq!(all.stopped((now, date)), now);
        let earlier = now.checked_sub(Duration::from_millis(30)).unwrap();
        assert_eq!(all.stopped((earlier, date)), earlier);
        assert_eq!((all.stopped((now, date)), all.first()), (earlier, Some(earlier)));
        let mut clock = clock(&all);
        clock.freeze(now, Some(Duration::from_millis(20)));
        let waited = all.meet(&clock).unwrap_err();
        assert!(matches!(waited, Error::FrozenTooLong { .. }), "{waited}");
        assert!((20..500).contains(&now.elapsed().as_millis()), "{:?}", now.elapsed());
        all.let_go(Instant::now());
        assert!(all.moment().last.is_some_and(|last| last > now));
    }
}

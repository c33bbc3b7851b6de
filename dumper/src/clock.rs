//! How long a dump and its frozen part may take.

use std::sync::Arc;
use std::time::{Duration, Instant};

use images::Cancel;

use crate::error::Error;
use crate::options::{DumpOptions, FrozenAccount};
use crate::pulse::Pulse;

/// The limits that hold, asked between the steps and within every step whose length depends on the
/// target.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    cancel: Cancel,
    whole: Option<Limit>,
    frozen: Option<Limit>,
    /// Of the dumps that are of the same moment.
    others: Option<Arc<Pulse>>,
    /// Where the frozen time has gone until now.
    pub(crate) account: FrozenAccount,
}

#[derive(Clone, Copy, Debug)]
struct Limit {
    since: Instant,
    limit: Duration,
}

impl Limit {
    fn is_over(&self) -> bool {
        self.since.elapsed() > self.limit
    }
}

impl Clock {
    /// Starts with the dump, at `since`.
    pub(crate) fn start(options: &DumpOptions, since: Instant) -> Self {
        let whole = options.timeout.map(|limit| Limit { since, limit });
        let cancel = options.cancel.clone();
        Self { cancel, whole, frozen: None, others: None, account: FrozenAccount::default() }
    }

    /// The same, of a dump that goes on only as long as others do.
    pub(crate) fn with_others(self, others: Option<Arc<Pulse>>) -> Self {
        Self { others, ..self }
    }

    /// The target has stood still since `since`, for at most `limit`.
    pub(crate) const fn freeze(&mut self, since: Instant, limit: Option<Duration>) {
        self.frozen = match limit {
            Some(limit) => Some(Limit { since, limit }),
            None => None,
        };
    }

    /// It runs on, or is to be ended: how long it stands still no longer matters.
    pub(crate) const fn released(&mut self) {
        self.frozen = None;
    }

    /// When the target has stood still for as long as it may.
    pub(crate) fn frozen_until(&self) -> Option<Instant> {
        self.frozen.and_then(|Limit { since, limit }| since.checked_add(limit))
    }

    /// Fails when a limit is over, the dump is cancelled, or one of the same moment has failed. `step` is what is being done.
    pub(crate) fn check(&self, step: &'static str) -> Result<(), Error> {
        let others = self.others.as_ref();
        self.check_with(step, others.is_none_or(|others| others.step()))
    }

    /// The same, of who only waits: no step is made.
    pub(crate) fn check_quietly(&self, step: &'static str) -> Result<(), Error> {
        let others = self.others.as_ref();
        self.check_with(step, others.is_none_or(|others| others.goes_on()))
    }

    fn check_with(&self, step: &'static str, goes_on: bool) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled { step });
        }
        if !goes_on {
            return Err(Error::GivenUp { step });
        }
        if let Some(Limit { limit, .. }) = self.frozen.filter(Limit::is_over) {
            return Err(Error::FrozenTooLong { step, limit, account: Box::new(self.account) });
        }
        match self.whole.filter(Limit::is_over) {
            Some(Limit { limit, .. }) => Err(Error::TimedOut { step, limit }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_end_what_takes_longer() {
        let cancel = Cancel::default();
        let account = FrozenAccount::default();
        let mut clock =
            Clock { cancel: cancel.clone(), whole: None, frozen: None, others: None, account };
        assert!(clock.check("nothing").is_ok());
        clock.account.memory = Duration::from_millis(3);
        clock.freeze(Instant::now(), Some(Duration::ZERO));
        std::thread::sleep(Duration::from_millis(1));
        let error = clock.check("read the registers").unwrap_err().to_string();
        assert!(error.contains("read the registers") && error.contains("memory 3.0 ms"), "{error}");
        clock.released();
        assert!(clock.check("write").is_ok());
        clock.whole = Some(Limit { since: Instant::now(), limit: Duration::from_secs(60) });
        assert!(clock.check("write").is_ok());
        cancel.cancel();
        let error = clock.check("write").unwrap_err();
        assert!(matches!(error, Error::Cancelled { step: "write" }), "{error}");
    }
}

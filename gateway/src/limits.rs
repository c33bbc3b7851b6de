//! How much one who asks may ask for at once, so that the others are answered.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use service::Problem;

use crate::callers::Asker;

/// In between who has not asked for long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// How much may be asked for.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct LimitSettings {
    /// So many requests that change something each who asks may send a second, and five times as many at once
    #[arg(long, value_name = "N", default_value = "100", env = "STASIS_CHANGES_PER_SECOND")]
    pub changes_per_second: NonZeroU32,
    /// So many requests each user (other than root and the gateway's own) may send a second, and five times as many at once
    #[arg(long, value_name = "N", default_value = "100", env = "STASIS_REQUESTS_PER_SECOND")]
    pub requests_per_second: NonZeroU32,
}

/// The limits. A clone is the same.
#[derive(Clone, Debug)]
pub struct Limits(Arc<State>);

#[derive(Debug)]
struct State {
    changes: DefaultKeyedRateLimiter<Arc<str>>,
    requests: DefaultKeyedRateLimiter<Arc<str>>,
    /// How many requests of each user are being answered.
    at_once: Mutex<HashMap<Arc<str>, usize>>,
}

/// So many requests of a user are answered at a time, streams of events among them.
const AT_ONCE: usize = 64;

/// A request of a user that is being answered.
#[derive(Debug)]
pub(crate) struct AtOnce {
    limits: Limits,
    name: Arc<str>,
}

impl Drop for AtOnce {
    fn drop(&mut self) {
        let mut at_once = self.limits.0.at_once.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = at_once.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                at_once.remove(&self.name);
            }
        }
    }
}

impl Limits {
    /// These.
    #[must_use]
    pub fn of(settings: LimitSettings) -> Self {
        let limiter = |a_second: NonZeroU32| {
            let at_once = a_second.saturating_mul(NonZeroU32::MIN.saturating_add(4));
            RateLimiter::keyed(Quota::per_second(a_second).allow_burst(at_once))
        };
        Self(Arc::new(State {
            changes: limiter(settings.changes_per_second),
            requests: limiter(settings.requests_per_second),
            at_once: Mutex::default(),
        }))
    }

    /// Forgets who has not asked for long, for as long as this runs.
    pub async fn keep_small(self) {
        loop {
            tokio::time::sleep(FORGOTTEN).await;
            for limiter in [&self.0.changes, &self.0.requests] {
                limiter.retain_recent();
                limiter.shrink_to_fit();
            }
        }
    }

    /// Counts a request, and refuses what is too much. What is returned of a user's lives as long as the request is being answered.
    pub(crate) fn check(
        &self,
        asker: &Asker,
        changes: bool,
    ) -> Result<Option<AtOnce>, Box<Response>> {
        let now = DefaultClock::default();
        let limiters = [
            changes.then_some((&self.0.changes, "requests that change something")),
            asker.user.is_some().then_some((&self.0.requests, "requests")),
        ];
        for (limiter, what) in limiters.into_iter().flatten() {
            if let Err(not_until) = limiter.check_key(&asker.name) {
                let wait = not_until.wait_time_from(now.now()).as_secs() + 1;
                let message = format!("{asker} sends more {what} than it may");
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, message)
                    .remedy(format!("send it again in {wait} s, and fewer at once"));
                let mut response = problem.into_response();
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
                return Err(Box::new(response));
            }
        }
        if asker.user.is_none() {
            return Ok(None);
        }
        let mut at_once = self.0.at_once.lock().unwrap_or_else(PoisonError::into_inner);
        let count = at_once.entry(asker.name.clone()).or_default();
        if *count >= AT_ONCE {
            let message = format!("{asker} has {AT_ONCE} requests that are being answered");
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, message)
                .remedy("wait until one is, or hang up");
            return Err(Box::new(problem.into_response()));
        }
        *count += 1;
        Ok(Some(AtOnce { limits: self.clone(), name: asker.name.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use api::{Role, User};

    use super::*;
    use crate::callers::Rights;

    #[test]
    fn who_sends_too_much_is_told_when_to_come_again_and_others_are_answered() {
        let n = |n| NonZeroU32::new(n).unwrap();
        let settings = LimitSettings { changes_per_second: n(1), requests_per_second: n(2) };
        let limits = Limits::of(settings);
        let asker = |name: &str, user| {
            Asker::new(
                name,
                Arc::new(Rights { roles: vec![Role::View], user, ..Rights::default() }),
            )
        };
        let token = asker("token a", None);
        let allowed = |asker: &Asker, changes| {
            (0..100).filter(|_| limits.check(asker, changes).is_ok()).count()
        };
        assert!((5..10).contains(&allowed(&token, true)));
        let refused = limits.check(&token, true).unwrap_err();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(refused.headers().contains_key(header::RETRY_AFTER));
        assert_eq!(allowed(&token, false), 100, "what is only read");
        assert!(allowed(&asker("token b", None), true) >= 5);
        let user = asker("uid 7", Some(User { uid: 7, gid: 7 }));
        assert!((10..20).contains(&allowed(&user, false)));

        let limits =
            Limits::of(LimitSettings { changes_per_second: n(9999), requests_per_second: n(9999) });
        let held: Vec<_> = (0..100).filter_map(|_| limits.check(&user, false).ok()).collect();
        assert_eq!(held.len(), AT_ONCE);
        drop(held);
        assert!(limits.check(&user, false).is_ok());
        assert!(limits.0.at_once.lock().unwrap().is_empty());
    }
}

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
    changes: DefaultKeyedRateLimiter<Whose>,
    requests: DefaultKeyedRateLimiter<Whose>,
    at_once: Mutex<Answered>,
}

/// Whose requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Whose {
    /// A user's, however many tokens and certificates he shows.
    User(u32),
    /// Of one who is bound to no user, by his name.
    Name(Arc<str>),
}

impl Whose {
    fn of(asker: &Asker) -> Self {
        asker.user.map_or_else(|| Self::Name(asker.name.clone()), |user| Self::User(user.uid))
    }
}

/// The requests that are being answered.
#[derive(Debug, Default)]
struct Answered {
    of_each: HashMap<Whose, usize>,
    of_all: usize,
}

impl Answered {
    /// So many each may have: a part of what is left, so that there is some for the next, who may have one in any case.
    fn most(&self) -> usize {
        (ALL_AT_ONCE.saturating_sub(self.of_all) / 4).clamp(1, AT_ONCE)
    }
}

/// So many requests of one who asks are answered at a time, streams of events among them.
const AT_ONCE: usize = 64;
/// And of all together about so many: less than a door has connections.
const ALL_AT_ONCE: usize = 1024;

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct AtOnce {
    limits: Limits,
    whose: Whose,
}

impl Drop for AtOnce {
    fn drop(&mut self) {
        let mut at_once = self.limits.0.at_once.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = at_once.of_each.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                at_once.of_each.remove(&self.whose);
            }
            at_once.of_all -= 1;
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

    /// Counts a request, and refuses what is too much. What is returned lives as long as the request is being answered; of who may do
    /// everything there is nothing to count.
    pub(crate) fn check(
        &self,
        asker: &Asker,
        changes: bool,
    ) -> Result<Option<AtOnce>, Box<Response>> {
        let (now, whose) = (DefaultClock::default(), Whose::of(asker));
        let limiters = [
            changes.then_some((&self.0.changes, "requests that change something")),
            asker.user.is_some().then_some((&self.0.requests, "requests")),
        ];
        for (limiter, what) in limiters.into_iter().flatten() {
            if let Err(not_until) = limiter.check_key(&whose) {
                let wait = not_until.wait_time_from(now.now()).as_secs() + 1;
                let message = format!("{asker} sends more {what} than it may");
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, message)
                    .remedy(format!("send it again in {wait} s, and fewer at once"));
                let mut response = problem.into_response();
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
                return Err(Box::new(response));
            }
        }
        if asker.is_unbound_admin() {
            return Ok(None);
        }
        let mut at_once = self.0.at_once.lock().unwrap_or_else(PoisonError::into_inner);
        let most = at_once.most();
        let count = at_once.of_each.get(&whose).copied().unwrap_or(0);
        if count >= most {
            let message = format!("{asker} has {count} requests that are being answered");
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, message)
                .remedy("wait until one is, or hang up");
            return Err(Box::new(problem.into_response()));
        }
        *at_once.of_each.entry(whose.clone()).or_default() += 1;
        at_once.of_all += 1;
        Ok(Some(AtOnce { limits: self.clone(), whose }))
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
        let root = Asker::new("root", Arc::new(Rights::all()));
        let allowed = |asker: &Asker, changes| {
            (0..100).filter(|_| limits.check(asker, changes).is_ok()).count()
        };
        assert!((5..10).contains(&allowed(&token, true)));
        let refused = limits.check(&token, true).unwrap_err();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(refused.headers().contains_key(header::RETRY_AFTER));
        assert_eq!(allowed(&token, false), 100, "what is only read");
        assert_eq!(allowed(&root, false), 100);
        assert!(allowed(&asker("token b", None), true) >= 5);
        let user = asker("uid 7", Some(User { uid: 7, gid: 7 }));
        assert!((10..20).contains(&allowed(&user, false)));
        // He has another token, and no more for it.
        let his = asker("token c", Some(User { uid: 7, gid: 7 }));
        assert!(allowed(&his, false) < 5);

        let limits =
            Limits::of(LimitSettings { changes_per_second: n(9999), requests_per_second: n(9999) });
        for names in [[&user, &his], [&token, &token]] {
            let both = names.iter().cycle().take(200);
            let held: Vec<_> = both.filter_map(|it| limits.check(it, false).ok()).collect();
            assert_eq!(held.len(), AT_ONCE);
            assert_eq!((0..100).filter(|_| limits.check(&root, false).is_ok()).count(), 100);
        }
        assert!(limits.check(&user, false).is_ok());
        let nobody = limits.0.at_once.lock().unwrap();
        assert!(nobody.of_each.is_empty() && nobody.of_all == 0);
    }

    #[test]
    fn however_many_ask_one_more_is_answered() {
        let n = NonZeroU32::new(100_000).unwrap();
        let limits = Limits::of(LimitSettings { changes_per_second: n, requests_per_second: n });
        let user = |uid| {
            let rights = Rights {
                roles: vec![Role::View],
                user: Some(User { uid, gid: 7 }),
                ..Rights::default()
            };
            Asker::new(format!("uid {uid}"), Arc::new(rights))
        };
        let mut held = Vec::new();
        for uid in 0..500 {
            let mut own: Vec<_> =
                (0..100).filter_map(|_| limits.check(&user(uid), false).ok()).collect();
            assert!((1..=AT_ONCE).contains(&own.len()), "{uid}: {}", own.len());
            held.append(&mut own);
        }
        assert!(held.len() < ALL_AT_ONCE + 500, "{}", held.len());
        // Who has many is given no more until there is room.
        assert!(limits.check(&user(0), false).is_err());
        assert!(limits.check(&user(1000), false).is_ok());
    }
}

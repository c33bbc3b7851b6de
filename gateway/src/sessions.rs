//! Who has logged in to the page. A browser shows a cookie where a program shows the token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};

use crate::callers::{Asker, Caller};
use crate::identities::Identities;
use crate::tokens::{Hash, hash, random};

/// The cookie's name.
pub(crate) const COOKIE: &str = "stasis-session";
/// A session ends after that.
const LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// So many there are at most; the oldest ends first.
const MOST: usize = 1000;

/// The sessions of this gateway. They end with it. A clone is the same.
#[derive(Clone, Debug)]
pub struct Sessions {
    identities: Identities,
    /// By what the cookie says.
    open: Arc<Mutex<HashMap<String, Session>>>,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    /// Of the token that was shown: the session is good for what that is good for now.
    token: Hash,
    since: Instant,
}

impl Sessions {
    /// For who shows the token of one of these.
    pub(crate) fn of(identities: Identities) -> Self {
        Self { identities, open: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new session for who shows a token, as the cookie's value, and who that is.
    pub(crate) fn log_in(&self, token: &str) -> Option<(String, Asker)> {
        let token = hash(token.trim().as_bytes());
        let Some(Caller::Asker(asker)) = self.identities.token(&token) else { return None };
        let session = random();
        let mut open = self.lock();
        open.retain(|_, it| it.since.elapsed() < LIFE);
        if open.len() >= MOST
            && let Some(oldest) =
                open.iter().min_by_key(|(_, it)| it.since).map(|(name, _)| name.clone())
        {
            open.remove(&oldest);
        }
        open.insert(session.clone(), Session { token, since: Instant::now() });
        Some((session, asker))
    }

    /// Ends the session of a request.
    pub(crate) fn log_out(&self, headers: &HeaderMap) {
        if let Some(session) = shown(headers) {
            self.lock().remove(session);
        }
    }

    /// Whose session a request shows, if it is open.
    pub(crate) fn asker(&self, headers: &HeaderMap) -> Option<Asker> {
        let found = *self.lock().get(shown(headers)?)?;
        match self.identities.token(&found.token)? {
            Caller::Asker(asker) if found.since.elapsed() < LIFE => Some(asker),
            Caller::Asker(_) | Caller::Metrics => None,
        }
    }
}

/// The session that a request shows.
fn shown(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|it| it.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;
    use crate::callers::Rights;
    use crate::issued::Issued;
    use crate::state::State;
    use crate::tokens::{TokenSettings, Tokens};

    #[test]
    fn a_session_is_had_for_the_token_alone() {
        let place = tempfile::tempdir().unwrap();
        let settings = TokenSettings {
            token_file: place.path().join("token"),
            metrics_token_file: place.path().join("metrics"),
        };
        let tokens = Tokens::open(&settings).unwrap();
        let issued = Issued::of(State::forgotten().unwrap()).unwrap();
        let access = Access::open(None).unwrap();
        let sessions = Sessions::of(Identities { tokens, issued: issued.clone(), access });
        let read = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!(sessions.log_in(""), None);
        assert_eq!(sessions.log_in(&read(&settings.metrics_token_file)), None);
        let (session, _) = sessions.log_in(&read(&settings.token_file)).unwrap();
        let with = |cookie: &str| {
            let mut headers = HeaderMap::new();
            headers.append(header::COOKIE, cookie.parse().unwrap());
            headers
        };
        let good = with(&format!("a=b; {COOKIE}={session}"));
        assert_eq!(&*sessions.asker(&good).unwrap().name, "token");
        for wrong in
            [format!("{COOKIE}="), format!("{COOKIE}={session}x"), format!("x{COOKIE}={session}")]
        {
            assert_eq!(sessions.asker(&with(&wrong)), None, "{wrong}");
        }
        sessions.log_out(&good);
        assert_eq!(sessions.asker(&good), None);

        let given = issued.give("ops", &Rights::all(), None).unwrap();
        let (session, _) = sessions.log_in(&given.token).unwrap();
        let shown = with(&format!("{COOKIE}={session}"));
        assert_eq!(&*sessions.asker(&shown).unwrap().name, "token ops");
        issued.take_back("ops").unwrap();
        assert_eq!(sessions.asker(&shown), None, "taken back");
    }
}

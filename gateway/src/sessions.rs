//! Who has logged in to the page. A browser shows a cookie where a program shows the token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};

use crate::tokens::{Good, Tokens, random};

/// The cookie's name.
pub(crate) const COOKIE: &str = "stasis-session";
/// A session ends after that.
const LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// So many there are at most; the oldest ends first.
const MOST: usize = 1000;

/// The sessions of this gateway. They end with it. A clone is the same.
#[derive(Clone, Debug)]
pub struct Sessions {
    tokens: Tokens,
    /// Since when, by what the cookie says.
    open: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Sessions {
    /// For who shows these tokens.
    #[must_use]
    pub fn of(tokens: Tokens) -> Self {
        Self { tokens, open: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new session for who shows the token, as the cookie's value.
    pub(crate) fn log_in(&self, token: &str) -> Option<String> {
        if self.tokens.good(token.trim().as_bytes()) != Some(Good::ForAll) {
            return None;
        }
        let session = random();
        let mut open = self.lock();
        open.retain(|_, since| since.elapsed() < LIFE);
        if open.len() >= MOST
            && let Some(oldest) =
                open.iter().min_by_key(|(_, since)| **since).map(|(it, _)| it.clone())
        {
            open.remove(&oldest);
        }
        open.insert(session.clone(), Instant::now());
        Some(session)
    }

    /// Ends the session of a request.
    pub(crate) fn log_out(&self, headers: &HeaderMap) {
        if let Some(session) = shown(headers) {
            self.lock().remove(session);
        }
    }

    /// Whether a request shows a session that is open.
    pub(crate) fn knows(&self, headers: &HeaderMap) -> bool {
        let open = self.lock();
        shown(headers).and_then(|it| open.get(it)).is_some_and(|since| since.elapsed() < LIFE)
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
    use crate::tokens::TokenSettings;

    #[test]
    fn a_session_is_had_for_the_token_alone() {
        let place = tempfile::tempdir().unwrap();
        let settings = TokenSettings {
            token_file: place.path().join("token"),
            metrics_token_file: place.path().join("metrics"),
        };
        let sessions = Sessions::of(Tokens::open(&settings).unwrap());
        let read = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!(sessions.log_in(""), None);
        assert_eq!(sessions.log_in(&read(&settings.metrics_token_file)), None);
        let session = sessions.log_in(&read(&settings.token_file)).unwrap();
        let with = |cookie: &str| {
            let mut headers = HeaderMap::new();
            headers.append(header::COOKIE, cookie.parse().unwrap());
            headers
        };
        let good = with(&format!("a=b; {COOKIE}={session}"));
        assert!(sessions.knows(&good));
        for wrong in
            [format!("{COOKIE}="), format!("{COOKIE}={session}x"), format!("x{COOKIE}={session}")]
        {
            assert!(!sessions.knows(&with(&wrong)), "{wrong}");
        }
        sessions.log_out(&good);
        assert!(!sessions.knows(&good));
    }
}

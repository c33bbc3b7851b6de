//! The tokens that were given to others, of which the hashes alone are kept.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use api::{NewToken, Token, User};
use rusqlite::{OptionalExtension, Row, params};

use crate::callers::{Asker, Rights};
use crate::jobs::now_ms;
use crate::state::State;
use crate::tokens::{Hash, hash, random};

/// So many there are at most.
const MOST: usize = 10_000;
/// How exactly it is remembered when a token was shown last.
const USED: u64 = 60_000;

/// The tokens that were given to others. A clone is the same.
#[derive(Clone, Debug)]
pub struct Issued {
    state: State,
    /// It is locked for moments: nobody waits for a disk meanwhile.
    known: Arc<RwLock<HashMap<Hash, Known>>>,
}

#[derive(Clone, Debug)]
struct Known {
    about: Token,
    asker: Asker,
}

/// Why there is no new token.
#[derive(Debug)]
pub(crate) enum NoToken {
    /// There is one of that name.
    Taken,
    /// There are as many as may be.
    TooMany,
    /// It cannot be remembered.
    Lost(rusqlite::Error),
}

impl From<rusqlite::Error> for NoToken {
    fn from(error: rusqlite::Error) -> Self {
        Self::Lost(error)
    }
}

impl Issued {
    /// Those that are remembered in a database.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(state: State) -> Result<Self, rusqlite::Error> {
        let known = state
            .lock()
            .prepare("SELECT hash, token, user, group_id FROM tokens")?
            .query_map([], |row| Ok((row.get::<_, Hash>(0)?, read(row)?)))?
            .collect::<Result<HashMap<_, _>, _>>()?;
        Ok(Self { state, known: Arc::new(RwLock::new(known)) })
    }

    /// Asks something of them that the database is asked for.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let issued = self.clone();
        self.state.aside(move || question(&issued)).await
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Hash, Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Hash, Known>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a token.
    pub(crate) fn give(
        &self,
        name: &str,
        rights: &Rights,
        expires_ms: Option<u64>,
    ) -> Result<NewToken, NoToken> {
        let token = random();
        let user = rights.user;
        let about = Token {
            name: name.to_owned(),
            roles: rights.roles.clone(),
            labels: rights.labels.clone(),
            uid: user.map(|user| user.uid),
            created_ms: now_ms(),
            expires_ms,
            used_ms: None,
        };
        // Of two who give at once one is first here.
        let connection = self.state.lock();
        if self.read().len() >= MOST {
            return Err(NoToken::TooMany);
        }
        let taken = connection
            .query_row("SELECT 1 FROM tokens WHERE name = ?1", [name], |_| Ok(()))
            .optional()?;
        if taken.is_some() {
            return Err(NoToken::Taken);
        }
        connection.execute(
            "INSERT INTO tokens (name, hash, user, group_id, token) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                name,
                hash(token.as_bytes()),
                user.map(|user| user.uid),
                user.map(|user| user.gid),
                text(&about)?
            ],
        )?;
        self.write().insert(
            hash(token.as_bytes()),
            Known { asker: asker(&about, user), about: about.clone() },
        );
        Ok(NewToken { about, token })
    }

    /// All of them, by name.
    pub(crate) fn list(&self) -> Vec<Token> {
        let mut tokens: Vec<Token> =
            self.read().values().map(|known| known.about.clone()).collect();
        tokens.sort_by(|a, b| a.name.cmp(&b.name));
        tokens
    }

    /// Takes one back; whether there was one.
    pub(crate) fn take_back(&self, name: &str) -> Result<bool, rusqlite::Error> {
        let connection = self.state.lock();
        let removed = connection.execute("DELETE FROM tokens WHERE name = ?1", [name])?;
        self.write().retain(|_, known| known.about.name != name);
        Ok(removed > 0)
    }

    /// Who shows a token that hashes to this.
    pub(crate) fn asker(&self, shown: &Hash) -> Option<Asker> {
        let now = now_ms();
        let known = self.read();
        let found = known.get(shown)?;
        if found.about.expires_ms.is_some_and(|end| end <= now) {
            return None;
        }
        let asker = found.asker.clone();
        if found.about.used_ms.is_none_or(|used| used + USED <= now) {
            drop(known);
            self.used(shown, now);
        }
        Some(asker)
    }

    /// Remembers that a token was shown.
    fn used(&self, shown: &Hash, now: u64) {
        let mut known = self.write();
        let Some(found) = known.get_mut(shown) else { return };
        found.about.used_ms = Some(now);
        let (state, about, shown) = (self.state.clone(), found.about.clone(), *shown);
        drop(known);
        self.state.tell(move || {
            let noted = text(&about).and_then(|text| {
                let update = "UPDATE tokens SET token = ?2 WHERE hash = ?1";
                state.lock().execute(update, params![shown, text])
            });
            if let Err(error) = noted {
                tracing::warn!("note that token {} was used: {error}", about.name);
            }
        });
    }
}

fn asker(about: &Token, user: Option<User>) -> Asker {
    let rights = Rights { roles: about.roles.clone(), user, labels: about.labels.clone() };
    Asker::new(format!("token {}", about.name), Arc::new(rights))
}

fn text(about: &Token) -> Result<String, rusqlite::Error> {
    serde_json::to_string(about)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn read(row: &Row<'_>) -> Result<Known, rusqlite::Error> {
    let text: String = row.get(1)?;
    let about: Token = serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, error.into())
    })?;
    let user = row.get::<_, Option<u32>>(2)?.zip(row.get::<_, Option<u32>>(3)?);
    let user = user.map(|(uid, gid)| User { uid, gid });
    Ok(Known { asker: asker(&about, user), about })
}

#[cfg(test)]
mod tests {
    use api::{Labels, Role};

    use super::*;

    fn rights(role: Role, labels: &str) -> Rights {
        let labels = labels.parse::<Labels>().unwrap_or_default();
        Rights { roles: vec![role], user: None, labels }
    }

    #[test]
    fn a_token_is_good_until_it_is_taken_back_and_its_hash_alone_is_kept() {
        let state = State::forgotten().unwrap();
        let issued = Issued::of(state.clone()).unwrap();
        let made = issued.give("ci", &rights(Role::Checkpoint, "team=web"), None).unwrap();
        assert!(matches!(issued.give("ci", &rights(Role::View, ""), None), Err(NoToken::Taken)));
        let shown = hash(made.token.as_bytes());
        let asker = issued.asker(&shown).unwrap();
        assert_eq!(&*asker.name, "token ci");
        assert!(asker.has(Role::Checkpoint) && asker.has(Role::View) && !asker.has(Role::Admin));
        assert!(issued.list()[0].used_ms.is_some());

        let again = Issued::of(state.clone()).unwrap();
        assert_eq!(again.asker(&shown), Some(asker));
        let all: String = state
            .lock()
            .query_row("SELECT group_concat(token || quote(hash)) FROM tokens", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert!(!all.contains(&made.token));
        assert!(again.take_back("ci").unwrap() && !again.take_back("ci").unwrap());
        assert_eq!(again.asker(&shown), None);
    }

    #[test]
    fn a_token_ends() {
        let issued = Issued::of(State::forgotten().unwrap()).unwrap();
        let over = issued.give("over", &rights(Role::View, ""), Some(now_ms() - 1)).unwrap();
        assert_eq!(issued.asker(&hash(over.token.as_bytes())), None);
        let good = issued.give("good", &rights(Role::View, ""), Some(now_ms() + 60_000)).unwrap();
        assert!(issued.asker(&hash(good.token.as_bytes())).is_some());
    }
}

//! Who is known, and by what.

use std::sync::Arc;

use crate::access::Access;
use crate::callers::{Asker, Caller, Rights};
use crate::issued::Issued;
use crate::tokens::{Good, Hash, Tokens};

/// Who is known: by the tokens of the gateway's own files, by those that were given, and by what the access file grants.
#[derive(Clone, Debug)]
pub struct Identities {
    /// The tokens of files.
    pub tokens: Tokens,
    /// Those that were given.
    pub issued: Issued,
    /// What users and certificates may do.
    pub access: Access,
}

impl Identities {
    /// Who shows a token that hashes to this.
    pub(crate) fn token(&self, shown: &Hash) -> Option<Caller> {
        match self.tokens.good(shown) {
            Some(Good::ForAll) => Some(Caller::Asker(Asker::new("token", Arc::new(Rights::all())))),
            Some(Good::ForMetrics) => Some(Caller::Metrics),
            None => self.issued.asker(shown).map(Caller::Asker),
        }
    }
}

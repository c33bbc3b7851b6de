//! User namespaces: which ids there are in it (user_namespaces(7)). They are looked at before the freeze ([`crate::users`]).

use images::messages::UsernsEntry;
use images::{ImageWriter, names};

use super::{Described, Namespace};
use crate::error::Error;

/// What a user namespace says of itself.
#[derive(Debug)]
struct User(UsernsEntry);

/// Describes the one that all of the tree are in, or one below.
#[allow(clippy::unnecessary_wraps, reason = "other kinds can fail")]
pub(super) fn read(namespace: &Namespace<'_>) -> Result<Box<dyn Described>, Error> {
    let nested = namespace.users.nested.entry(namespace.id, namespace.numbers);
    Ok(Box::new(User(nested.unwrap_or_else(|| namespace.users.entry(namespace.numbers)))))
}

impl Described for User {
    fn encode(&self, number: u32, writer: &ImageWriter) -> Result<(), images::Error> {
        writer.write_one(&names::userns(number), &self.0)
    }
}

//! Pages of lists: all lists are asked for and told in the same way.

use std::str::FromStr;

use crate::Problem;

/// As many entries are told if nothing is said.
const USUAL: u32 = 100;
/// As many are told at most.
const MOST: u32 = 1000;

/// What part of a list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<P> {
    /// As many entries as there may be.
    pub limit: u32,
    /// The place of the last entry of the page before.
    pub after: Option<P>,
}

impl<P: FromStr> Page<P> {
    /// By what is in the query of a request.
    ///
    /// # Errors
    /// If there may not be so many, or the cursor is none.
    pub fn asked(limit: Option<u32>, cursor: Option<&str>) -> Result<Self, Problem> {
        let limit = limit.unwrap_or(USUAL);
        if !(1..=MOST).contains(&limit) {
            return Err(Problem::field("limit", format!("limit is {limit}"))
                .remedy(format!("send 1 to {MOST}, or leave it out ({USUAL})")));
        }
        let after = cursor.map(str::parse).transpose().map_err(|_| {
            Problem::field("cursor", "the cursor is none of this list")
                .remedy("send `next` of the page before, or leave it out")
        })?;
        Ok(Self { limit, after })
    }
}

//! Policies: what is checkpointed again and again, and for how long that is kept.

mod retention;
mod schedule;
mod store;

pub(crate) use retention::Limits;
pub(crate) use schedule::Schedule;
pub(crate) use store::{AtWork, Expected, NotSet, Policies};

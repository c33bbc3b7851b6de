//! Policies: what is checkpointed again and again, and for how long that is kept.

mod retention;
mod routes;
mod schedule;
mod store;
mod work;

pub(crate) use routes::{no_policy, remove, router, run, set};
pub(crate) use store::Policies;
pub(crate) use work::keep_at_work;

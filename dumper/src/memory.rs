//! Memory: which pages are content, and where their bytes go.
//!
//! What is large is copied while the target runs ([`early`]), with the kernel noting what is
//! written meanwhile ([`tracked`]). The rest is copied while it stands still; where to depends on
//! what happens to it next. If it runs on, into memory that was filled with pages beforehand and
//! is written when it runs. If it is to end anyway, or there is not memory enough, straight into
//! the pages file ([`store`]). Either way the work is cut into pieces that several threads take.

mod copies;
mod copy;
mod early;
mod keeper;
mod look;
mod origin;
mod pages;
mod parent;
mod room;
mod runs;
mod shared;
mod store;
mod survey;
mod tracked;

pub(crate) use early::{Early, untrack};
pub use keeper::{KEEP, keep};
pub(crate) use pages::Pages;
pub(crate) use store::Store;
pub(crate) use survey::{PlannedMemory, find, learn, resident_bytes};

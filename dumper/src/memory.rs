//! Memory: which pages are content, and where their bytes go.
//!
//! What is large is copied while the target runs ([`pre_copy`]), with the kernel noting what is
//! written meanwhile ([`dirty_log`]). The rest is copied while it stands still; where to depends on
//! what happens to it next. If it runs on, into memory that was filled with pages beforehand and
//! is written when it runs. If it is to end anyway, or there is not memory enough, straight into
//! the pages file ([`frozen_pages`]). Either way the work is cut into pieces that several threads take.

mod copies;
mod copy;
mod dirty_log;
mod frozen_pages;
mod look;
mod origin;
mod pages;
mod parent;
mod pre_copy;
mod room;
mod runs;
mod shared;
mod survey;
mod uffd_holder;

pub(crate) use frozen_pages::FrozenPages;
pub(crate) use pages::Pages;
pub(crate) use pre_copy::{PreCopy, end_dirty_log};
pub(crate) use survey::{PlannedMemory, find, learn, resident_bytes};
pub use uffd_holder::{KEEP, keep};

//! Page servers: the images of a checkpoint come to one place, and its pages, over a connection, to another. Dumps
//! send to one ([`PagesElsewhere`]), [`receive`] is one, and both speak as CRIU's do ([`protocol`]).
//!
//! | who | does |
//! |---|---|
//! | dump | connects before anything is stopped, and asks whether the server has the parent that pages are to be left to |
//! | | writes pages beside its images as without a server, and sends them when all is written: a tree that is to run on runs by then |
//! | | page by page the newest copy: what was copied early ([`names::PRE_COPIES`](crate::names::PRE_COPIES)) comes in one page map with the rest |
//! | server | writes what comes where nobody looks for it, and puts it in place when it has been told that this was all |
//! | | answers then: only now the dump's images appear, and a tree that is to end ends |
//!
//! A dump notes what it has sent (`stasis-served.img`): a restore that does not find it with the images, as whoever moves them has to
//! put it there, says so.

mod client;
mod flat;
mod protocol;
mod server;
mod wire;

pub use client::{Client, Ending, PagesElsewhere};
pub use server::{Received, Serving, link_parent, receive};
pub use wire::Wire;

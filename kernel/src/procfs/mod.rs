//! `/proc/PID`: one file per kernel file, each with a parser that takes bytes and makes no system
//! call, and a thin reader on a [`Dir`].
//!
//! The text comes from the kernel, but names in it (commands, paths) come from anybody: a parser
//! answers hostile text with [`Malformed`], never with a panic, and allocates no more than a small
//! multiple of what it was given. Fields that newer kernels add are passed over; fields that older
//! kernels lack are `Option`s.

mod auxv;
mod cgroup;
mod children;
mod dir;
mod fdinfo;
mod limits;
mod links;
mod maps;
mod mountinfo;
mod namespaces;
mod net;
mod parse;
mod smaps;
mod stat;
mod status;
mod timers;
mod values;

pub use auxv::Auxv;
pub use cgroup::{Cgroup, CgroupMembership};
pub use children::{children, tree};
pub use dir::{Dir, Error, Malformed, ProcFile, processes};
pub use fdinfo::{
    Detail, EpollEntry, FanotifyMark, FdInfo, InotifyWatch, Lock, LockKind, PidfdTarget,
    TimerSetting, locks,
};
pub use limits::{Limit, Limits, Resource};
pub use links::{FileStat, LinkTarget};
pub use maps::{Map, maps};
pub use mountinfo::{Mount, Mounts};
pub use namespaces::{NAMESPACES, Namespaces};
pub use net::{Peer, SocketKind, Sockets, datagram_peers, udp_sockets_at};
pub use parse::unescape_octal;
pub use smaps::{Smap, smaps};
pub use stat::{Stat, is_worker};
pub use status::{Ids, Status};
pub use timers::{Notify, NotifyTarget, PosixTimer, PosixTimers};
pub use values::{Autogroup, CoreDumpFilter, LoginUid, OomScoreAdj, TimerSlack};

#[cfg(test)]
mod hostile_tests;

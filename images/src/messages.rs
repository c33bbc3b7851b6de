//! The protobuf messages of the images, wire compatible with CRIU 4.2.
//!
//! Names and field numbers are CRIU's (its `.proto` files are MIT). What differs is how they look in Rust:
//!
//! - **Enumerations are plain `u32`** with named constants beside the message, so that a value from a newer
//!   writer survives reading and writing.
//! - **Text that the kernel does not promise to be UTF-8 is `Vec<u8>`**: paths, `comm`, host names. On the wire
//!   both are the same.
//! - `required` members are plain, `optional` ones are `Option`. prost takes a missing required member for zero.
//! - Repeated numbers are not packed, as in proto2; the decoder takes both.
//! - Registers of other processors are kept as undecoded bytes.
//!
//! Encodings that the types do not tell:
//!
//! - *Devices* (`dev`, `s_dev`, `root_dev`): the kernel's own packing, `major << 20 | minor`. Except
//!   [`GhostFileEntry::rdev`] and [`TtyInfoEntry::rdev`], which are what `stat` gives (`st_rdev`).
//! - *File flags*: `open` flags as `F_GETFL` gives them; `O_CLOEXEC` is in [`FdinfoEntry::flags`] (as
//!   `FD_CLOEXEC`), never in the file's.
//! - *Ids of files* ([`FileEntry::id`]) are one number space for a whole checkpoint: descriptors, mapped files
//!   ([`VmaEntry::shmid`]), executables, working and root directories refer to it.

mod autofs;
mod bpfmap;
mod cgroups;
mod core;
mod epoll;
mod eventfd;
mod external;
mod fanotify;
mod fifos;
mod file_body;
mod files;
mod ghosts;
mod inet_sockets;
mod inotify;
mod inventory;
mod io_uring;
mod ipc;
mod locks;
mod manifest;
mod memfd;
mod memory;
mod mqueue;
mod namespaces;
mod netlink_sockets;
mod networks;
mod nsfs;
mod owned;
mod packet_sockets;
mod parts;
mod pidfd;
mod pipes;
mod processor;
mod regular;
mod seal;
mod seccomp;
mod served;
mod signalfd;
mod signals;
mod signature;
mod sockets;
mod stats;
mod task;
mod terminals;
mod timerfd;
mod timers;
mod tun;
mod unix_sockets;
mod userfault;
mod x86;

pub use autofs::*;
pub use bpfmap::*;
pub use cgroups::*;
pub use core::*;
pub use epoll::*;
pub use eventfd::*;
pub use external::*;
pub use fanotify::*;
pub use fifos::*;
pub use file_body::FileBody;
pub use files::*;
pub use ghosts::*;
pub use inet_sockets::*;
pub use inotify::*;
pub use inventory::*;
pub use io_uring::*;
pub use ipc::*;
pub use locks::*;
pub use manifest::*;
pub use memfd::*;
pub use memory::*;
pub use mqueue::*;
pub use namespaces::*;
pub use netlink_sockets::*;
pub use networks::*;
pub use nsfs::*;
pub use owned::{Id, NOBODY, Owned};
pub use packet_sockets::*;
pub use parts::*;
pub use pidfd::*;
pub use pipes::*;
pub use processor::*;
pub use regular::*;
pub use seal::*;
pub use seccomp::*;
pub use served::*;
pub use signalfd::*;
pub use signals::*;
pub use signature::*;
pub use sockets::*;
pub use stats::*;
pub use task::*;
pub use terminals::*;
pub use timerfd::*;
pub use timers::*;
pub use tun::*;
pub use unix_sockets::*;
pub use userfault::*;
pub use x86::*;

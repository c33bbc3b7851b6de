//! What stasis does not carry, why, and what to do about it: all of its rules.
//!
//! A rule is a pure function or a constant: from what is known it makes a [`Refusal`] (a reason, and a remedy
//! that works), or, where it also knows what to call the thing, an [`Unsupported`]. `stasis ps`, a dump
//! (while the target runs, and again when it is frozen) and a restore ask these rules and no others; nothing
//! here makes a system call. Who cannot tell something without looking at it (a kind of open file, say)
//! looks, and takes the rule that fits what it has seen.
//!
//! | module | what it is about |
//! |---|---|
//! | [`tree`] | processes and threads: what they share, where they are, who has them |
//! | [`tracers`] | tasks that others of the tree trace |
//! | [`pids`] | pid namespaces below that of a tree's root |
//! | [`births`] | who makes a process again, in its session |
//! | [`users`] | user namespaces |
//! | [`settings`] | what few tasks have set for themselves |
//! | [`keys`] | session keyrings that hold keys |
//! | [`mappings`] | memory |
//! | [`files`] | open files |
//! | [`rings`] | io_urings |
//! | [`mounts`] | mounts of other namespaces |
//! | [`paths`] | files by their names |
//! | [`sockets`] | sockets |
//! | [`networks`] | network namespaces |
//! | [`ipc`] | System V shared memory and semaphores, and queues in IPC namespaces |
//! | [`mqueue`] | POSIX message queues |
//! | [`bpfmap`] | BPF maps |
//! | [`userfaults`] | memory whose faults a program serves |
//! | [`terminals`] | terminals |
//! | [`peculiar`] | what open files do not tell themselves |
//! | `shared_memory` | memory that processes have together |
//! | [`sharing`] | what others hold as well |
//! | [`cgroups`] | control groups |
//! | [`containers`] | containers, which their engines checkpoint |
//! | [`rights`] | why stasis may not look into a process |
//! | [`room`] | what the settings of a machine must leave room for |
//! | [`images`] | a restore: what images hold that is not made |
//! | [`host`] | a restore: what it needs of the machine and of whoever asks |
//! | [`changed`] | a restore: files that are not what they were |
//! | [`unsupported`] | the types, and how they are said to people |

pub mod births;
pub mod bpfmap;
pub mod cgroups;
pub mod changed;
pub mod containers;
pub mod files;
pub mod host;
pub mod images;
pub mod ipc;
pub mod keys;
pub mod mappings;
pub mod mounts;
pub mod mqueue;
pub mod networks;
pub mod paths;
pub mod peculiar;
pub mod pids;
pub mod rights;
pub mod rings;
pub mod room;
pub mod settings;
mod shared_memory;
pub mod sharing;
pub mod sockets;
pub mod terminals;
pub mod tracers;
pub mod tree;
pub mod unsupported;
pub mod userfaults;
pub mod users;

pub use unsupported::{Refusal, Unsupported, remedies, said, word};

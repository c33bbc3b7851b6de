//! Typed, safe doors to kernel interfaces.
//!
//! Every `unsafe` of the host side that is not `arch` or `parasite` lives here, each block with
//! the reason it holds. Parsers of kernel text take `&[u8]` and make no system calls, so that
//! they can be fuzzed anywhere. Each module is one kernel interface.
#![allow(
    unsafe_code,
    reason = "this is one of the rooms where unsafe lives: each block says why it holds"
)]

pub mod aio;
pub mod arena;
pub mod attributes;
pub mod automounts;
pub mod boot;
pub mod bpf;
pub mod bpfmap;
pub mod btf;
pub mod cgroup;
pub mod clocks;
pub mod compat;
pub mod credentials;
pub mod datagrams;
pub mod descriptors;
pub mod fanotify;
pub mod features;
pub mod files;
pub mod firewall;
pub mod handles;
pub mod huge_pages;
pub mod inotify;
pub mod io_uring;
pub mod kcmp;
pub mod keyrings;
pub mod landlock;
pub mod layout;
pub mod limits;
pub mod memory;
pub mod mounts;
pub mod mqueue;
pub mod multicast;
pub mod namespaces;
pub mod netfilter;
pub mod netlink_diag;
pub mod own_page;
pub mod packet_diag;
pub mod packet_ring;
pub mod pagemap;
pub mod passing;
pub mod paths;
pub mod pidfd;
pub mod process;
pub mod procfs;
pub mod ptrace;
pub mod queues;
pub mod region;
pub mod reserved;
pub mod rights;
pub mod rseq;
pub mod rtnetlink;
pub mod sched;
pub mod seccomp;
pub mod seeking;
mod shared_mapping;
pub mod shared_memory;
pub mod signalfd;
pub mod sock_diag;
pub mod socket_filter;
pub mod socket_names;
pub mod sockets;
pub mod spare;
pub mod symbols;
pub mod sysctl;
pub mod sysv;
pub mod tcp;
pub mod timerfd;
pub mod tty;
pub mod tun;
pub mod turn;
pub mod uncovered;
pub mod user_namespaces;
pub mod userfaultfd;

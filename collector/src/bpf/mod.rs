//! The inventory from eBPF iterators: a few reads where /proc takes thousands of system calls.

mod aio;
mod cache;
mod calls;
mod change_detection;
mod fallback;
mod files;
mod files_pass;
mod held;
mod keys;
mod landlock;
mod load;
mod mappings;
mod mqueue;
mod object;
mod offsets;
mod pins;
mod programs;
mod reading;
mod ready;
mod records;
mod rings;
mod source;
mod tables;
mod terminal_source;
mod terminals;
mod tracks;
mod undo;
mod userfaults;
mod waiting;

use ids::HostPid;
use kernel::bpf::IterTarget;

pub use load::Loaded;
pub use pins::PIN_ROOT;
pub use reading::BpfSource;
pub(crate) use reading::quicker_at_once;
pub use ready::{Home, Stored, StoredItem};
pub(crate) use ready::{chain, open, serve};
pub(crate) use terminal_source::TerminalSource;
pub(crate) use tracks::{Counts, NotEntered, Tracers, now};

/// What can go wrong with the eBPF programs.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The kernel does not tell this process how far its clocks are from the machine's.
    #[error("use eBPF iterators in a process whose children are to be in another time namespace")]
    OtherClocks,
    /// How far the clocks of this process are shifted could not be read.
    #[error("read how far the clocks of this time namespace are shifted")]
    Clocks(#[source] std::io::Error),
    /// The kernel's type information could not be read.
    #[error("read the kernel's type information in {path}")]
    TypeInformation {
        /// The file.
        path: &'static str,
        /// What is wrong with it.
        #[source]
        source: std::io::Error,
    },
    /// The kernel's structures are not as the programs need them.
    #[error("find {0} in the kernel's type information")]
    Field(&'static str),
    /// The object is not as it should be.
    #[error("link the eBPF object")]
    Object(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// This process may not.
    #[error(
        "load eBPF programs, for which it takes root, or the capabilities CAP_BPF and CAP_PERFMON"
    )]
    NoRight(#[source] nix::Error),
    /// A map could not be made.
    #[error("make the map {name} of the eBPF programs")]
    MakeMap {
        /// The map.
        name: String,
        /// The kernel's answer.
        #[source]
        source: nix::Error,
    },
    /// A program is not in the object.
    #[error("find program {0} in the eBPF object")]
    Missing(&'static str),
    /// The kernel refused a program.
    #[error("load eBPF program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// Its answer.
        #[source]
        source: nix::Error,
    },
    /// The BPF file system could not be mounted.
    #[error("mount the BPF file system at {path}")]
    Mount {
        /// Where.
        path: &'static str,
        /// The kernel's answer.
        #[source]
        source: nix::Error,
    },
    /// The folder for pins could not be opened or made, or something in it not be changed.
    #[error("use the folder {path} for pinned programs")]
    PinFolder {
        /// The folder.
        path: std::path::PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// Another process has its programs in the folder for pins.
    #[error(
        "pin the programs in {0}: another collector has its own there; give one of the two another folder (--bpf-dir)"
    )]
    PinsTaken(std::path::PathBuf),
    /// Others may change what is in the folder for pins.
    #[error(
        "use the programs in {path}: not only this user may change them (it belongs to user {owner}); remove it"
    )]
    PinsForeign {
        /// The folder.
        path: std::path::PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Nothing can be pinned there.
    #[error("pin the programs in {0}: that is in no BPF file system")]
    NoBpfFs(std::path::PathBuf),
    /// Somebody has been changing the folder for too long.
    #[error("pin the programs in {0}: another command is busy there")]
    PinsBusy(std::path::PathBuf),
    /// A collector's service keeps tracks by the pinned programs.
    #[error(
        "remove the programs in {0}: the collector's service keeps tracks by them; stop it first"
    )]
    PinsKept(std::path::PathBuf),
    /// What was looked up for later commands could not be removed.
    #[error("remove what is kept in {path}")]
    Cache {
        /// The folder.
        path: std::path::PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A program or map could not be pinned.
    #[error("pin {name} of the eBPF programs")]
    Pin {
        /// The program or map.
        name: &'static str,
        /// The kernel's answer.
        #[source]
        source: nix::Error,
    },
    /// A thread of our own could not be given a landlock domain.
    #[error("try out what a landlock domain looks like")]
    Landlock(#[source] std::io::Error),
    /// A map could not be used.
    #[error("use the map {name} of tracked processes")]
    Map {
        /// The map.
        name: &'static str,
        /// The kernel's answer.
        #[source]
        source: aya::maps::MapError,
    },
    /// A program could not be put to its tracepoint.
    #[error("attach eBPF program {name}")]
    Attach {
        /// The program.
        name: &'static str,
        /// The kernel's answer.
        #[source]
        source: nix::Error,
    },
    /// A pinned program could not be opened.
    #[error("open the pinned eBPF program {path}")]
    Pinned {
        /// The pin.
        path: std::path::PathBuf,
        /// The kernel's answer.
        #[source]
        source: nix::Error,
    },
    /// An iterator could not be made or read.
    #[error("iterate over the {what} of {of}")]
    Iterate {
        /// Threads, files or mappings.
        what: &'static str,
        /// Whose.
        of: IterTarget,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A program wrote something that is no record.
    #[error("understand the records of the {what} of {of}")]
    Record {
        /// Threads, files or mappings.
        what: &'static str,
        /// Whose.
        of: IterTarget,
    },
    /// What /proc had to be asked for would not be told.
    #[error("read from /proc what a record had no room for, of process {pid}")]
    Proc {
        /// The process.
        pid: HostPid,
        /// What was being read.
        #[source]
        source: kernel::procfs::Error,
    },
    /// The two sources do not agree about this very process.
    #[error("agree with /proc about the mappings of this process")]
    SelfCheck,
}

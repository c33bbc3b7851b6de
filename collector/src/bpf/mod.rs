//! The inventory from eBPF iterators: a few reads where /proc takes thousands of system calls.

mod fallback;
mod files;
mod files_pass;
mod load;
mod mappings;
mod offsets;
mod records;
mod settled;
mod source;
mod tracks;

pub use load::{Loaded, PIN_ROOT};
pub(crate) use settled::Basis;
pub use source::BpfSource;
pub(crate) use source::quicker_at_once;
pub(crate) use tracks::{Counts, NotEntered, Tracers};

/// What can go wrong with the eBPF programs.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The numbers that the programs give are not those that this process sees.
    #[error("use eBPF iterators from inside a {0} namespace that is not the initial one")]
    Namespace(&'static str),
    /// The kernel's type information could not be read.
    #[error("read the kernel's type information in {path}")]
    TypeInformation {
        /// The file.
        path: &'static str,
        /// What is wrong with it.
        #[source]
        source: btf::Error,
    },
    /// The kernel's structures are not as the programs need them.
    #[error("find {0} in the kernel's type information")]
    Field(&'static str),
    /// aya could not read the kernel's type information.
    #[error("read the kernel's type information for loading")]
    Btf(#[source] aya::BtfError),
    /// The object could not be loaded.
    #[error("load the eBPF object")]
    Object(#[source] aya::EbpfError),
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
        source: aya::programs::ProgramError,
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
    /// The folder for pins could not be made, or an old one not be emptied.
    #[error("make the folder {path} for pinned programs")]
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
    /// Somebody else made the folder for pins.
    #[error("pin the programs in {path}: it belongs to user {owner}; remove it")]
    PinsForeign {
        /// The folder.
        path: std::path::PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A program could not be pinned.
    #[error("pin eBPF program {name}")]
    Pin {
        /// The program.
        name: &'static str,
        /// The kernel's answer.
        #[source]
        source: aya::pin::PinError,
    },
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
    #[error("iterate over the {what} of process {pid}")]
    Iterate {
        /// Threads, files or mappings.
        what: &'static str,
        /// The process.
        pid: i32,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A program wrote something that is no record.
    #[error("understand the records of the {what} of process {pid}")]
    Record {
        /// Threads, files or mappings.
        what: &'static str,
        /// The process.
        pid: i32,
    },
    /// What /proc had to be asked for would not be told.
    #[error("read from /proc what a record had no room for, of process {pid}")]
    Proc {
        /// The process.
        pid: i32,
        /// What was being read.
        #[source]
        source: kernel::procfs::Error,
    },
    /// The two sources do not agree about this very process.
    #[error("agree with /proc about the mappings of this process")]
    SelfCheck,
}

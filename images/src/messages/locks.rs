//! Locks on files: `filelocks.img`.

use prost::Message;

/// Kinds of locks ([`FileLockEntry::flag`]).
pub mod lock_kind {
    /// Of a process, on a range (`F_SETLK`).
    pub const POSIX: u32 = 1;
    /// Of an open file, on all of it (`flock`).
    pub const FLOCK: u32 = 2;
    /// Of an open file, on a range (`F_OFD_SETLK`).
    pub const OFD: u32 = 4;
    /// A lease (`F_SETLEASE`).
    pub const LEASE: u32 = 8;
}

/// Bit of [`FileLockEntry::type`]: somebody waits for the lease.
pub const LEASE_BREAKING: u32 = 4;

/// `filelocks.img`: a lock on a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct FileLockEntry {
    /// One of [`lock_kind`].
    #[prost(uint32, required, tag = "1")]
    pub flag: u32,
    /// `F_RDLCK` 0, `F_WRLCK` 1, `F_UNLCK` 2, for flock as well; of a lease that is being broken what it is
    /// to become, with [`LEASE_BREAKING`].
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    /// Process that holds it.
    #[prost(int32, required, tag = "3")]
    pub pid: i32,
    /// Descriptor that it was taken through.
    #[prost(int32, required, tag = "4")]
    pub fd: i32,
    /// First byte.
    #[prost(int64, required, tag = "5")]
    pub start: i64,
    /// How many bytes; 0 to the end.
    #[prost(int64, required, tag = "6")]
    pub len: i64,
}

//! `seccomp.img`: the filters of all tasks.

use prost::Message;

/// The only entry of the image. Its index in the list is a filter's number.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SeccompEntry {
    /// Filters, by number.
    #[prost(message, repeated, tag = "1")]
    pub seccomp_filters: Vec<SeccompFilter>,
}

/// A filter, and the one installed before it.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SeccompFilter {
    /// Its instructions, eight bytes each.
    #[prost(bytes = "vec", required, tag = "1")]
    pub filter: Vec<u8>,
    /// Number of the one installed before.
    #[prost(uint32, optional, tag = "2")]
    pub prev: Option<u32>,
    /// Flags it was installed with.
    #[prost(uint32, optional, tag = "3")]
    pub flags: Option<u32>,
}

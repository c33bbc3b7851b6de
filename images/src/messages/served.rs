//! What a dump has sent to a page server: `stasis-served.img`. CRIU has no such file, and does not look at this one.

use prost::Message;

/// `stasis-served.img`: a page map that a page server has. As many [`PagemapEntry`](crate::messages::PagemapEntry) follow as it
/// has runs.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ServedEntry {
    /// The name of its image.
    #[prost(string, required, tag = "1")]
    pub name: String,
    /// How many runs it has.
    #[prost(uint64, required, tag = "2")]
    pub runs: u64,
}

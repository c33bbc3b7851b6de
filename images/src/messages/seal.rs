//! What binds the files of an encrypted checkpoint to each other: `stasis-seal`. CRIU has no such file, and does not look at this one.

use prost::Message;

/// `stasis-seal`: encrypted as the images are. One entry.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SealEntry {
    /// BLAKE3 of what the manifest beside it says of each file, as [`crate::encryption`] has it.
    #[prost(bytes = "vec", required, tag = "1")]
    pub digest: Vec<u8>,
}

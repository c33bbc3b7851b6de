//! Who vouches for a checkpoint: `stasis-signature`. CRIU has no such file, and does not look at this one.

use prost::Message;

/// `stasis-signature`: an entry for each who has signed the manifest beside it and what stands here of the parent.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SignatureEntry {
    /// The id of the key: SHA-256 of the public key as `SubjectPublicKeyInfo`.
    #[prost(bytes = "vec", required, tag = "1")]
    pub key: Vec<u8>,
    /// The signature, by ed25519.
    #[prost(bytes = "vec", required, tag = "2")]
    pub signature: Vec<u8>,
    /// The checkpoint that pages are left to, or the directory inside this one with pages that were copied early.
    #[prost(message, optional, tag = "3")]
    pub parent: Option<SignedParent>,
}

/// A parent, known by its `inventory.img`, which tells each dump from all others.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SignedParent {
    /// How long its inventory is.
    #[prost(uint64, required, tag = "1")]
    pub bytes: u64,
    /// BLAKE3 of its inventory.
    #[prost(bytes = "vec", required, tag = "2")]
    pub digest: Vec<u8>,
}

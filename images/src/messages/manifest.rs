//! What a checkpoint consists of: `stasis-manifest`. CRIU has no such file, and does not look at this one.

use prost::Message;

/// `stasis-manifest`: an entry for each other file of the directory, and one called `parent` for the checkpoint that pages
/// are left to, with length and digest of its `inventory.img`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ManifestEntry {
    /// Its name.
    #[prost(string, required, tag = "1")]
    pub name: String,
    /// Its length in bytes.
    #[prost(uint64, required, tag = "2")]
    pub bytes: u64,
    /// BLAKE3 of its contents; of a file that is longer than [`DIGEST_WHOLE`], of the [`SAMPLES`] that are taken of it.
    /// By these alone it is known until all of it has been read, when the target runs again.
    #[prost(bytes = "vec", required, tag = "3")]
    pub digest: Vec<u8>,
    /// Of pages whose room was partly given back: the dumps that have newer copies of them, by `dump_criu_run_id`. While it is given back the
    /// digest is empty.
    #[prost(string, repeated, tag = "4")]
    pub given_to: Vec<String>,
    /// Of a file that is longer than [`DIGEST_WHOLE`]: BLAKE3 of each [`PIECE_BYTES`] of it, the last piece being what is left, of
    /// [`PIECE_DIGEST_BYTES`] each, one behind the other. Empty where it has not been read yet, and while room is given back.
    #[prost(bytes = "vec", optional, tag = "5")]
    pub pieces: Option<Vec<u8>>,
}

/// Pages were given back when they had been restored.
pub const RESTORED: &str = "restored";

/// How long the pieces of a long file are, in bytes.
pub const PIECE_BYTES: u64 = 4 << 20;

/// How long the digest of a piece is, in bytes.
pub const PIECE_DIGEST_BYTES: usize = 32;

/// The longest file, in bytes, of which [`ManifestEntry::digest`] covers all.
pub const DIGEST_WHOLE: u64 = 4 << 20;

/// How many pieces of a longer file the digest covers. They are of [`SAMPLE_BYTES`] each, the first at its beginning,
/// the last at its end, and the others at even distances between.
pub const SAMPLES: u64 = 256;

/// How long such a piece is, in bytes.
pub const SAMPLE_BYTES: u64 = 4096;

//! What can be wrong with a checkpoint.

use std::io;
use std::path::PathBuf;

use crate::keys::Distrust;

/// Why images could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory cannot be opened.
    #[error("open image directory {}", path.display())]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no `inventory.img`.
    #[error("{} is not a checkpoint: it has no inventory.img", path.display())]
    NotACheckpoint {
        /// The directory.
        path: PathBuf,
    },
    /// Nobody wants it any more.
    #[error("{}: its verification was cancelled", path.display())]
    Cancelled {
        /// The directory.
        path: PathBuf,
    },
    /// The images are of a version that is not known.
    #[error(
        "inventory.img: images of version {version} are not supported (1 and 2 are); restore the checkpoint by the CRIU or stasis that wrote it"
    )]
    Version {
        /// The version.
        version: u32,
    },
    /// An image that must be there is not.
    #[error("image {name} is missing")]
    Missing {
        /// The image.
        name: String,
    },
    /// An image is not as it was written.
    #[error(
        "image {name} is not what was written with this checkpoint: {what}; put it back from a copy (if it was \
         changed on purpose, remove stasis-manifest beside it, and nothing is compared)"
    )]
    Changed {
        /// The image.
        name: String,
        /// What differs.
        what: String,
    },
    /// An image cannot be opened, read or written.
    #[error("{operation} image {name}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The image.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An image is not of the kind its name says.
    #[error("read image {name}: it begins with {found:#010x}, not {expected:#010x}")]
    Magic {
        /// The image.
        name: String,
        /// The number found.
        found: u32,
        /// The number that should be there.
        expected: u32,
    },
    /// An image ends early.
    #[error("read image {name}: {wanted} bytes expected at offset {offset}, {left} left")]
    Truncated {
        /// The image.
        name: String,
        /// Where.
        offset: u64,
        /// Bytes that should follow.
        wanted: u64,
        /// Bytes that do.
        left: u64,
    },
    /// A message is too large to be believed.
    #[error(
        "read image {name}: a message of {size} bytes at offset {offset} (the limit is {limit})"
    )]
    MessageSize {
        /// The image.
        name: String,
        /// Where.
        offset: u64,
        /// Its length.
        size: u64,
        /// The longest that is accepted.
        limit: u64,
    },
    /// An image of many messages has one without contents, as a hole in a file would be.
    #[error("read image {name}: an empty message at offset {offset}; the image is damaged")]
    EmptyMessage {
        /// The image.
        name: String,
        /// Where.
        offset: u64,
    },
    /// An image has more messages than are held in memory.
    #[error("read image {name}: more than {limit} messages")]
    TooMany {
        /// The image.
        name: String,
        /// How many are accepted.
        limit: u64,
    },
    /// A message cannot be decoded.
    #[error("decode message {index} of image {name}")]
    Decode {
        /// The image.
        name: String,
        /// Which message, from 0.
        index: u64,
        /// Why.
        #[source]
        source: prost::DecodeError,
    },
    /// An image that holds one message holds none, or more.
    #[error("read image {name}: one message expected, {found} found")]
    Count {
        /// The image.
        name: String,
        /// How many there are.
        found: &'static str,
    },
    /// What an image says cannot be.
    #[error("image {name}: {what}")]
    Invalid {
        /// The image.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The directory holds a checkpoint and leave to overwrite it was not given.
    #[error("{} holds a checkpoint already: remove it, or choose another directory", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// A directory that several checkpoints are to come to has something in it.
    #[error(
        "{} is not empty: checkpoints of one moment come to a directory of their own; choose one that is not there yet",
        path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The labels of a checkpoint that has not appeared yet cannot be written.
    #[error("write the labels of {}", path.display())]
    Labels {
        /// Where it is until then.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory lies inside a checkpoint.
    #[error(
        "{} lies inside the checkpoint {}, which would hide it: choose a directory outside",
        path.display(), checkpoint.display()
    )]
    Inside {
        /// The directory.
        path: PathBuf,
        /// The checkpoint.
        checkpoint: PathBuf,
    },
    /// A checkpoint lies inside the directory.
    #[error(
        "{} has the checkpoint {} inside, which it would hide: choose another directory",
        path.display(), checkpoint.display()
    )]
    Above {
        /// The directory.
        path: PathBuf,
        /// The checkpoint.
        checkpoint: PathBuf,
    },
    /// In the directory of a checkpoint that is to be removed is something that is no part of it.
    #[error(
        "{} is no part of the checkpoint in {}, and would go with it: move it out, or remove it",
        other.display(), path.display()
    )]
    Holds {
        /// The directory.
        path: PathBuf,
        /// What else is there.
        other: PathBuf,
    },
    /// Nobody who is trusted vouches for the checkpoint.
    #[error(
        "{} is not trusted: {why}; restore one that a trusted key has signed, or have its holder sign it, who has looked at it (stasis sign)",
        path.display()
    )]
    Untrusted {
        /// The checkpoint.
        path: PathBuf,
        /// Why.
        why: Distrust,
    },
    /// Nothing was given to read an encrypted checkpoint by.
    #[error(
        "{} is encrypted: give the identities that can read it (--identities FILE or --identity-command COMMAND of stasis and its services; \
         criu has no such option: stasis restore has)",
        path.display()
    )]
    Encrypted {
        /// The checkpoint.
        path: PathBuf,
    },
    /// An encrypted checkpoint is encrypted to others.
    #[error("{} is encrypted, and none of the identities can read it: give one that belongs to a recipient of it", path.display())]
    NotARecipient {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A checkpoint that had to be encrypted is not.
    #[error(
        "{} is not encrypted, which is demanded here (--demand-encryption); anybody may have changed it: use one that is, or leave that out",
        path.display()
    )]
    Plain {
        /// The checkpoint.
        path: PathBuf,
    },
    /// What an encrypted checkpoint consists of is not what was written.
    #[error(
        "the files of {} do not belong together: {what}; put the checkpoint back from a copy",
        path.display()
    )]
    Unsealed {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// An increment of an encrypted checkpoint would not be encrypted.
    #[error(
        "{} is encrypted, and what is left to it would be named by a checkpoint that is not: name recipients for that, too (--recipients FILE), or \
         dump without a parent",
        path.display()
    )]
    PlainChild {
        /// The parent.
        path: PathBuf,
    },
    /// Pages that a page server was sent are not with the images.
    #[error(
        "image {name} is missing: its pages went to a page server; copy the page maps and pages that it wrote into \
         this directory"
    )]
    Elsewhere {
        /// The image.
        name: String,
    },
    /// Room of pages was given back, which were newer in a child, or restored.
    #[error(
        "{} has given back pages that another checkpoint has newer copies of, or that have been restored: use that \
         checkpoint, or make one anew",
        path.display()
    )]
    GivenBack {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A page server, or who sends to it, does not do as it has to.
    #[error("page server: {what}")]
    PageServer {
        /// What is wrong.
        what: String,
    },
    /// The connection between a dump and a page server fails.
    #[error("page server: {operation}")]
    PageServerLink {
        /// What was tried.
        operation: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The writer was misused: a mistake in the dumper, not in its input.
    #[error("write image {name}: {what}")]
    Misuse {
        /// The image.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Something other than an image cannot be made, moved or removed.
    #[error("{operation} {}", path.display())]
    Path {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// This and its causes in one line.
    #[must_use]
    pub fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    pub(crate) fn io(operation: &'static str, name: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, name: name.to_owned(), source }
    }

    pub(crate) fn path(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Path { operation, path: path.into(), source }
    }

    pub(crate) fn invalid(name: &str, what: impl Into<String>) -> Self {
        Self::Invalid { name: name.to_owned(), what: what.into() }
    }
}

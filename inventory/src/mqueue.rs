//! What is in a POSIX message queue.

/// What is in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Messages {
    /// All of it, in the order in which it is received.
    All {
        /// The messages.
        messages: Vec<Message>,
        /// Somebody is to be told of the next one.
        notifies: bool,
    },
    /// More than was asked for: so many bytes.
    More(u64),
    /// It changed while it was read.
    Moves,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its priority.
    pub priority: u32,
    /// What it says.
    pub bytes: Vec<u8>,
}

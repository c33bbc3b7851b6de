//! io_urings.

use super::Table;

/// An io_uring to which one thread alone may submit.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct IssuedRing {
    /// The thread.
    pub tid: i32,
    /// A descriptor of its process.
    pub fd: i32,
    /// Where the memory of both queues is mapped.
    pub queues: u64,
    /// Where that of the submissions is.
    pub submissions: u64,
    /// How many submissions the kernel has taken: not less than the completions.
    pub submitted: u32,
    /// How many completions it has posted.
    pub completed: u32,
    /// How many of these wait.
    pub unread: u32,
    /// Entries of the submission queue.
    pub entries: u32,
    /// Bytes of a submission.
    pub submission_bytes: u32,
    /// 1 if a request may ask for no completion.
    pub no_drain: u32,
    /// Where the heads of the submissions and of the completions are in the memory of the queues.
    pub head: [u32; 2],
    /// Where their tails are.
    pub tail: [u32; 2],
    /// Where the order of the submissions is; 0 for none.
    pub array: u32,
    /// Where the word is that says whether an eventfd is told.
    pub signal_flags: u32,
    /// What the memory of the queues is to hold.
    pub queues_content: Table<u8>,
    /// What that of the submissions is to hold.
    pub submissions_content: Table<u8>,
}

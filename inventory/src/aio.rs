//! Asynchronous I/O contexts (`io_setup`).

/// A mapping of a context's ring, and the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AioContext {
    /// The mapping's first address.
    pub start: u64,
    /// What the process calls the context: the address of its ring.
    pub context: u64,
    /// How many requests it was made for.
    pub requests: u32,
    /// How many events the ring has room for.
    pub events: u32,
    /// Where the next event goes.
    pub tail: u32,
    /// Requests that have not been completed; `None` where the kernel does not tell.
    pub in_flight: Option<u32>,
    /// It is one of the process that has the mapping. (A child inherits the mapping without.)
    pub owned: bool,
    /// There are requests that wait for something to happen, for as long as that takes (`IOCB_CMD_POLL`).
    pub waiting: bool,
}

//! Which parts of an inventory are asked for.

bitflags::bitflags! {
    /// Parts of an [`Inventory`](crate::Inventory). What is not asked for is left empty; the
    /// processes' ids and state are always there.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Parts: u8 {
        /// Threads.
        const THREADS = 1;
        /// Mappings.
        const MAPPINGS = 2;
        /// Open files.
        const FILES = 4;
        /// Namespaces, and which tables are shared with whom.
        const SHARING = 8;
    }
}

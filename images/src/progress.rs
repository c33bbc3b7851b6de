//! How long work tells of itself.

/// Who is told how far a dump or a restore is.
pub trait Progress {
    /// A step begins; the one before it is done. `total` is how many bytes it will move, where that is known.
    fn begin(&mut self, step: &str, total: Option<u64>);

    /// The step has moved `bytes` more.
    fn advance(&mut self, bytes: u64);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn begin(&mut self, _step: &str, _total: Option<u64>) {}

    fn advance(&mut self, _bytes: u64) {}
}

//! Time namespaces: what the clocks that they shift show (time_namespaces(7)).

use images::messages::{TimensEntry, Timespec};
use images::{ImageWriter, names};
use kernel::clocks::Clocks;

use super::{Described, Namespace};
use crate::error::Error;

/// What a time namespace says of itself.
#[derive(Debug)]
struct Time(TimensEntry);

/// Reads the clocks in a namespace.
pub(super) fn read(namespace: &Namespace) -> Result<Box<dyn Described>, Error> {
    let pid = namespace.member;
    let operation = "read the clocks in the namespace of";
    let clocks =
        Clocks::of_process(pid).map_err(|source| Error::Process { operation, pid, source })?;
    let [monotonic, boottime] = [clocks.monotonic, clocks.boottime].map(timespec);
    Ok(Box::new(Time(TimensEntry { monotonic, boottime })))
}

/// The kernel lets no clock show less than nothing.
fn timespec(nanoseconds: i128) -> Timespec {
    const SECOND: u128 = 1_000_000_000;
    let nanoseconds = nanoseconds.max(0).unsigned_abs();
    Timespec { tv_sec: (nanoseconds / SECOND) as u64, tv_nsec: (nanoseconds % SECOND) as u64 }
}

impl Described for Time {
    fn encode(&self, number: u32, writer: &ImageWriter) -> Result<(), images::Error> {
        writer.write_one(&names::timens(number), &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_has_seconds_and_the_rest() {
        assert_eq!(timespec(3_000_000_007), Timespec { tv_sec: 3, tv_nsec: 7 });
        assert_eq!(timespec(-1), Timespec { tv_sec: 0, tv_nsec: 0 });
    }
}

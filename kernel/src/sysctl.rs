//! Settings of the kernel: files in `/proc/sys`, those of a namespace as the calling thread's.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What all settings fit into but the bitmaps of ports. The kernel clears as much room as it is asked for.
const USUAL: usize = 4 << 10;
/// Longest that is read.
const LONGEST: usize = 256 << 10;

/// The text of a setting.
///
/// It is read by one call, or by a longer one from the start: of a setting of several numbers the kernel gives nothing to a
/// second call, and the standard library's first is for 32 bytes.
///
/// # Errors
/// If it is not there, cannot be read, or is longer than any setting.
pub fn read(path: impl AsRef<Path>) -> io::Result<String> {
    for room in [USUAL, LONGEST] {
        let mut bytes = vec![0; room];
        let length = File::open(&path)?.read(&mut bytes)?;
        if length < room {
            bytes.truncate(length);
            return String::from_utf8(bytes).map_err(io::Error::other);
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_many_numbers_is_read_whole() {
        let text = read("/proc/sys/net/ipv4/udp_mem").unwrap();
        assert_eq!(text.split_ascii_whitespace().count(), 3, "{text}");
        let whole = read("/proc/sys/kernel/random/boot_id").unwrap();
        assert_eq!(whole.trim().len(), 36, "{whole}");
        assert!(read("/proc/sys/nothing").is_err());
        // A bitmap of ports, or any other file that does not fit in at first.
        let long = tempfile::NamedTempFile::new().unwrap();
        for (bytes, fits) in [(USUAL - 1, true), (USUAL, true), (LONGEST, false)] {
            std::fs::write(long.path(), "x".repeat(bytes)).unwrap();
            assert_eq!(read(long.path()).map(|text| text.len()).ok(), fits.then_some(bytes));
        }
    }
}

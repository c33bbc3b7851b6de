//! Settings of the kernel: files in `/proc/sys`, those of a namespace as the calling thread's.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Longest that is read: no setting is as long but a bitmap of ports.
const LONGEST: usize = 256 << 10;

/// The text of a setting.
///
/// It is read by one call: of a setting of several numbers the kernel gives nothing to a second one, and the standard library's
/// first is for 32 bytes.
///
/// # Errors
/// If it is not there, cannot be read, or is longer than any setting.
pub fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; LONGEST];
    let length = file.read(&mut bytes)?;
    if length == LONGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    bytes.truncate(length);
    String::from_utf8(bytes).map_err(io::Error::other)
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
    }
}

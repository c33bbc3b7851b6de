//! Settings of the kernel: files in `/proc/sys`, those of a namespace as the calling thread's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
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

/// The texts of all settings below a directory that can be written, by their paths below it. Left out are those that cannot be
/// read: that only do something as they are written, or have no value.
///
/// # Errors
/// If a directory that is there cannot be read.
pub fn all_below(directory: &Path) -> io::Result<BTreeMap<String, String>> {
    const OF_OWNER: u32 = 0o600;
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(at) = left.pop() {
        // A device may go at any moment, its directory with it, and a machine need not have them.
        let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let entries = match std::fs::read_dir(&at) {
            Err(error) if is_gone(&error) => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = match entry {
                Err(error) if is_gone(&error) => break,
                entry => entry?,
            };
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(path);
                continue;
            }
            let can_be_set = entry.metadata().is_ok_and(|it| it.mode() & OF_OWNER == OF_OWNER);
            let name = path.strip_prefix(directory).ok().and_then(Path::to_str);
            if let Some(name) = name.filter(|_| can_be_set)
                && let Ok(text) = read(&path)
            {
                found.insert(name.to_owned(), text.trim().to_owned());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_set_is_found_below() {
        let all = all_below(Path::new("/proc/sys/net")).unwrap();
        assert_eq!(all["ipv4/udp_mem"].split_ascii_whitespace().count(), 3);
        // Nobody writes the first one, and nobody reads the other.
        assert!(!all.contains_key("ipv4/tcp_available_congestion_control"));
        assert!(!all.contains_key("ipv4/route/flush"));
        assert!(all_below(Path::new("/proc/sys/nothing")).unwrap().is_empty());
    }

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

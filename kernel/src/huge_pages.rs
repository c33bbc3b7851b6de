//! Huge pages that are set aside (`MAP_HUGETLB`): their sizes, and how many there are.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};

/// The sizes that this kernel has: two to the power of each.
///
/// # Errors
/// When `/sys` cannot be read.
pub fn shifts() -> io::Result<Vec<u32>> {
    let mut shifts = Vec::new();
    match std::fs::read_dir(ROOT) {
        Ok(entries) => {
            for entry in entries {
                shifts.extend(entry?.file_name().to_str().and_then(shift));
            }
        }
        // A kernel without them.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(shifts)
}

/// The size of the pages of what is on a device, as `st_dev` has it: the kernel has an own file system for each.
///
/// # Errors
/// When it cannot be found out.
pub fn shift_of_device(device: u64) -> io::Result<Option<u32>> {
    for shift in shifts()? {
        let size = MFdFlags::from_bits_retain(shift << HUGE_SHIFT);
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB | size;
        let file = std::fs::File::from(memfd_create(c"stasis-probe", flags)?);
        if file.metadata()?.dev() == device {
            return Ok(Some(shift));
        }
    }
    Ok(None)
}

/// The size that the kernel takes where none is given.
#[must_use]
pub fn default_shift() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Hugepagesize:"))?;
    kibibytes(line.trim().strip_suffix(" kB")?)
}

/// How many pages of a size there may be, in use or not. `None` if this kernel has not that size.
#[must_use]
pub fn most(shift: u32) -> Option<u64> {
    Some(number(shift, "nr_hugepages")?.saturating_add(number(shift, "nr_overcommit_hugepages")?))
}

/// How many pages of a size can be had: those that are free and promised to nobody, and those that the kernel
/// would make if it could. `None` if this kernel has not that size.
#[must_use]
pub fn available(shift: u32) -> Option<u64> {
    let promised = number(shift, "resv_hugepages")?;
    let surplus = number(shift, "surplus_hugepages")?;
    let more = number(shift, "nr_overcommit_hugepages")?.saturating_sub(surplus);
    Some(number(shift, "free_hugepages")?.saturating_sub(promised).saturating_add(more))
}

fn number(shift: u32, name: &str) -> Option<u64> {
    std::fs::read_to_string(directory(shift).join(name)).ok()?.trim().parse().ok()
}

/// Where the kernel tells of the pages of a size.
#[must_use]
pub fn directory(shift: u32) -> PathBuf {
    let kibibytes = 1u64.checked_shl(shift).unwrap_or(0) >> 10;
    PathBuf::from(ROOT).join(format!("hugepages-{kibibytes}kB"))
}

const ROOT: &str = "/sys/kernel/mm/hugepages";
/// Where flags of mmap, memfd_create and shmget have the size of huge pages: two to the power of that.
pub const HUGE_SHIFT: u32 = libc::MAP_HUGE_SHIFT.cast_unsigned();
/// Its bits, when they are shifted down.
pub const HUGE_MASK: u32 = libc::MAP_HUGE_MASK.cast_unsigned();

/// Of the name of such a directory.
fn shift(name: &str) -> Option<u32> {
    kibibytes(name.strip_prefix("hugepages-")?.strip_suffix("kB")?)
}

fn kibibytes(text: &str) -> Option<u32> {
    let number: u64 = text.trim().parse().ok()?;
    number.checked_mul(1024).filter(|bytes| bytes.is_power_of_two()).map(u64::trailing_zeros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_sizes() {
        assert_eq!(shift("hugepages-2048kB"), Some(21));
        assert_eq!(shift("hugepages-1048576kB"), Some(30));
        assert_eq!(shift("hugepages-3kB"), None);
        assert_eq!(shift("hugepages-99999999999999999999kB"), None);
        assert!(directory(21).ends_with("hugepages-2048kB"));
        assert_eq!(available(63), None);
    }

    #[test]
    fn each_size_has_a_device() {
        for shift in shifts().unwrap() {
            assert!(available(shift).is_some());
        }
        assert_eq!(shift_of_device(0).unwrap_or(None), None);
    }
}

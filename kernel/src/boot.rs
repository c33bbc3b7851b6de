//! Which boot of the machine this is.

/// The first half of the id that the kernel has drawn for this boot; `None` where it does not tell.
#[must_use]
pub fn boot() -> Option<u64> {
    let text = crate::sysctl::read("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).ok()
}

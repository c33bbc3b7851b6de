//! Which process a number means: the kernel gives numbers anew, also after a start of the machine.

use std::fs;

/// The kernel tells it in one piece, however it is read: it is no list of numbers.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// What a process is known by for as long as the machine runs, and after: the boot, and when in it the process began. `None` if there is
/// no such process, or it may not be looked at.
#[must_use]
pub fn process_identity(pid: i32) -> Option<String> {
    let boot = fs::read_to_string(BOOT).ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(format!("{}:{}", boot.trim(), start_time(&stat)?))
}

/// When a process began, in clock ticks since the boot: the 22nd field of `/proc/PID/stat`. The second may have spaces and brackets.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_no_other() {
        let own = std::process::id() as i32;
        assert_eq!(process_identity(own), process_identity(own));
        assert!(process_identity(own).is_some());
        assert_ne!(process_identity(own), process_identity(1));
        assert_eq!(process_identity(-1), None);
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(start_time(stat), Some(4711));
        assert_eq!(start_time("7 (a S 1"), None);
    }
}

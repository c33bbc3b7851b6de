//! Takes the file locks of a process, by its leader: when its descriptors are as they stay.

use std::io;

use arch::syscall::nr;
use ids::{HostPid, ImagePid};
use images::messages::{FileLockEntry, lock_kind};
use kernel::ptrace::Stopped;

use super::inject::{inject, lay_out};
use crate::error::Error;
use crate::locks::{in_the_way, name};
use crate::prepare::Region;

/// `F_OFD_SETLK`.
const SET_OF_OPEN_FILE: libc::c_int = libc::F_OFD_SETLK;

/// `struct flock` as every 64-bit kernel has it, but for the process behind it, which is read of none.
fn range(entry: &FileLockEntry) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&(entry.r#type as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&(libc::SEEK_SET as u16).to_ne_bytes());
    bytes[8..16].copy_from_slice(&entry.start.to_ne_bytes());
    bytes[16..24].copy_from_slice(&entry.len.to_ne_bytes());
    bytes
}

/// Takes the `locks` of process `pid`, whose leader is parked in the `region` and makes calls at `at`.
pub(super) fn take(
    mut leader: Stopped,
    (region, at): (&Region, u64),
    (pid, host): (ImagePid, HostPid),
    locks: &[FileLockEntry],
) -> Result<Stopped, Error> {
    for lock in locks {
        let fd = u64::from(lock.fd.cast_unsigned());
        let (number, args) = match lock.flag {
            lock_kind::FLOCK => {
                let is_write = lock.r#type.cast_signed() == libc::F_WRLCK;
                let how = if is_write { libc::LOCK_EX } else { libc::LOCK_SH } | libc::LOCK_NB;
                (nr::FLOCK, [fd, u64::from(how.cast_unsigned()), 0, 0, 0, 0])
            }
            flag => {
                let is_process = flag == lock_kind::POSIX;
                let command = if is_process { libc::F_SETLK } else { SET_OF_OPEN_FILE };
                let place = lay_out(&leader, region, &range(lock))?;
                (nr::FCNTL, [fd, u64::from(command.cast_unsigned()), place, 0, 0, 0])
            }
        };
        let (stopped, answer) = inject(leader, region, at, number, args)?;
        leader = stopped;
        match -(answer as i32) {
            0 => {}
            libc::EAGAIN | libc::EACCES => {
                let object = format!("{} by descriptor {}", name(lock), lock.fd);
                let refusal = in_the_way(lock, host, lock.fd);
                return Err(Error::refused(refusal.of(pid.get(), object)));
            }
            error => {
                let operation =
                    format!("take the {} by descriptor {} of process {pid}", name(lock), lock.fd);
                return Err(Error::kernel(operation)(io::Error::from_raw_os_error(error)));
            }
        }
    }
    Ok(leader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_as_the_c_library_has_it() {
        let entry =
            FileLockEntry { flag: 1, r#type: 1, pid: 7, fd: 3, start: 1 << 40, len: (1 << 40) + 5 };
        let bytes = range(&entry);
        assert_eq!(size_of::<libc::flock>(), bytes.len());
        let at = std::mem::offset_of!(libc::flock, l_start);
        assert_eq!(bytes[at..at + 8], entry.start.to_ne_bytes());
        let at = std::mem::offset_of!(libc::flock, l_len);
        assert_eq!(bytes[at..at + 8], entry.len.to_ne_bytes());
        assert_eq!(std::mem::offset_of!(libc::flock, l_type), 0);
        assert_eq!(std::mem::offset_of!(libc::flock, l_whence), 2);
    }
}

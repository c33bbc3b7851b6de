//! Extended attributes of files (xattr(7)): what programs and access lists keep beside the contents. And
//! their flags, as chattr(1) sets them.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// What security modules give a file by themselves.
const OF_MODULES: [&[u8]; 6] = [
    b"security.selinux",
    b"security.SMACK64",
    b"security.apparmor",
    b"security.ima",
    b"security.evm",
    b"security.sehash",
];

/// The way to a file by a handle (`O_PATH`), which these calls do not take.
fn path(file: impl AsFd) -> io::Result<CString> {
    Ok(CString::new(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))?)
}

/// Calls with more and more room until what there is fits.
fn read(call: impl Fn(*mut u8, usize) -> isize) -> io::Result<Vec<u8>> {
    const LARGEST: usize = 1 << 16;
    let mut bytes = vec![0; 1024];
    loop {
        let length = call(bytes.as_mut_ptr(), bytes.len());
        if let Ok(length) = usize::try_from(length) {
            bytes.truncate(length);
            return Ok(bytes);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || bytes.len() >= LARGEST {
            return Err(error);
        }
        bytes.resize(LARGEST, 0);
    }
}

/// Names and values of a file's attributes, access lists and capabilities among them; not those that a
/// security module gives it. None where its file system has none.
///
/// # Errors
/// As listxattr(2) and getxattr(2).
pub fn list(file: impl AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = path(file)?;
    // SAFETY: a string that ends in 0, and a buffer with its length.
    let names = read(|to, room| unsafe { libc::listxattr(path.as_ptr(), to.cast(), room) });
    let names = match names {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        names => names?,
    };
    let mut found = Vec::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if OF_MODULES.iter().any(|module| name.starts_with(module)) {
            continue;
        }
        let word = CString::new(name)?;
        // SAFETY: as above, with a second string.
        let value = read(|to, room| unsafe {
            libc::getxattr(path.as_ptr(), word.as_ptr(), to.cast(), room)
        });
        match value {
            Ok(value) => found.push((name.to_vec(), value)),
            // Taken away meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Gives a file an attribute.
///
/// # Errors
/// As setxattr(2).
pub fn set(file: impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    let (path, name) = (path(file)?, CString::new(name)?);
    // SAFETY: two strings that end in 0, and bytes with their length.
    let set = unsafe {
        libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

bitflags::bitflags! {
    /// Flags of a file that say how it is used, of those that its file system has (`FS_*_FL`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct FileFlags: u32 {
        /// Each write is waited for.
        const SYNC = 0x8;
        /// It cannot be changed.
        const IMMUTABLE = 0x10;
        /// It can only be added to.
        const APPEND = 0x20;
        /// Backups leave it out.
        const NO_DUMP = 0x40;
        /// Its time of access is not kept.
        const NO_ACCESS_TIME = 0x80;
    }
}

/// The flags of an open file; none where its file system has none.
///
/// # Errors
/// As `FS_IOC_GETFLAGS`.
pub fn file_flags(file: impl AsFd) -> io::Result<FileFlags> {
    match all_flags(&file) {
        Ok(flags) => Ok(FileFlags::from_bits_truncate(flags)),
        Err(error) if is_without(&error) => Ok(FileFlags::empty()),
        Err(error) => Err(error),
    }
}

/// Gives an open file these flags, beside those that are not of [`FileFlags`].
///
/// # Errors
/// As `FS_IOC_SETFLAGS`.
pub fn set_file_flags(file: impl AsFd, wanted: FileFlags) -> io::Result<()> {
    let flags = all_flags(&file)? & !FileFlags::all().bits() | wanted.bits();
    // SAFETY: the kernel reads one int, although the call's number says a long.
    let set =
        unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn all_flags(file: impl AsFd) -> io::Result<u32> {
    // A file system that a process serves may fill a long, as the call's number says.
    let mut flags = [0_u32; 2];
    // SAFETY: there is room for a long.
    let got =
        unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::FS_IOC_GETFLAGS, flags.as_mut_ptr()) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(flags[0]) }
}

fn is_without(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS)
    )
}

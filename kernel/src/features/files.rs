//! Probes of files: what the kernel tells of them in `/proc`, and what they can do.

use std::ffi::{CStr, CString, c_void};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::ptr::null_mut;

use arch::memory::PAGE_SIZE;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::Answer;
use super::probes::{exists, no, outcome, owned, unknown};

/// What `/proc/self/fdinfo` says of an open file.
fn fdinfo(file: &impl AsFd) -> Result<String, Answer> {
    let path = format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd());
    std::fs::read_to_string(&path).map_err(|error| Answer::Unknown(format!("read {path}: {error}")))
}

fn says(text: Result<String, Answer>, word: &str, missing: &str) -> Answer {
    match text {
        Ok(text) if text.lines().any(|line| line.starts_with(word)) => Answer::Yes,
        Ok(_) => Answer::No(missing.to_owned()),
        Err(answer) => answer,
    }
}

fn root() -> Result<File, Answer> {
    File::open("/").map_err(|error| Answer::Unknown(format!("open /: {error}")))
}

pub(super) fn mnt_id() -> Answer {
    says(root().and_then(|root| fdinfo(&root)), "mnt_id:", "fdinfo does not tell a file's mount")
}

/// Takes a lock of a file that nobody else has open.
pub(super) fn fdinfo_lock() -> Answer {
    let locked = memfd_create(c"stasis-probe", MFdFlags::MFD_CLOEXEC).and_then(|file| {
        Flock::lock(File::from(file), FlockArg::LockExclusive).map_err(|(_, errno)| errno)
    });
    match locked {
        Ok(file) => says(fdinfo(&*file), "lock:", "fdinfo does not tell a file's locks"),
        Err(errno) => unknown("lock a memfd", errno),
    }
}

pub(super) fn nspid() -> Answer {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| Answer::Unknown(format!("read /proc/self/status: {error}")));
    says(status, "NSpid:", "the status of a process does not tell its pids in namespaces")
}

/// A kernel that can set the ticks refuses to read them from nowhere.
pub(super) fn timerfd_ticks() -> Answer {
    const TFD_IOC_SET_TICKS: libc::c_ulong = 0x4008_5400;
    let timer = match TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC) {
        Ok(timer) => timer,
        Err(errno) => return no("timerfd_create", errno),
    };
    // SAFETY: the kernel reads from address 0, where nothing is, and says so.
    let result = unsafe {
        libc::ioctl(timer.as_fd().as_raw_fd(), TFD_IOC_SET_TICKS, std::ptr::null::<u64>())
    };
    match (result, Errno::last()) {
        (-1, Errno::EFAULT) => Answer::Yes,
        (-1, Errno::ENOTTY) => Answer::No("the kernel cannot set the ticks of a timerfd".into()),
        (_, errno) => unknown("TFD_IOC_SET_TICKS", errno),
    }
}

fn tun_device() -> Result<File, Answer> {
    let path = "/dev/net/tun";
    File::options().read(true).write(true).open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Answer::No(format!("{path} is not there")),
        _ => Answer::No(format!("open {path}: {error}")),
    })
}

/// `TUNGETFEATURES`, of a device that is attached to nothing.
pub(super) fn tun() -> Answer {
    const TUNGETFEATURES: libc::c_ulong = 0x8004_54cf;
    let device = match tun_device() {
        Ok(device) => device,
        Err(answer) => return answer,
    };
    let mut features: libc::c_uint = 0;
    // SAFETY: the kernel writes one unsigned int at the address.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), TUNGETFEATURES, &raw mut features) };
    outcome("TUNGETFEATURES", result.into())
}

/// The network namespace of a tun device, by `SIOCGSKNS`.
pub(super) fn tun_namespace() -> Answer {
    tun_device()
        .map_or_else(|answer| answer, |device| super::sockets::namespace(&device, "a tun device"))
}

pub(super) fn hugetlb_memfd() -> Answer {
    match memfd_create(c"stasis-probe", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB) {
        Ok(_) => Answer::Yes,
        Err(errno) => no("a memfd of huge pages", errno),
    }
}

/// Names nothing: a kernel that has the call says that there is no such file.
pub(super) fn openat2() -> Answer {
    // SAFETY: all-zero is a valid open_how.
    let how: libc::open_how = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a string with its terminating zero, and the structure has the size that is passed along.
    let result = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            libc::AT_FDCWD,
            c"".as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    match (result, Errno::last()) {
        (-1, Errno::ENOENT) => Answer::Yes,
        (-1, errno) => no("openat2", errno),
        _ => Answer::Unknown("openat2 opened a file without a name".into()),
    }
}

/// Moves the ring of an AIO context, whose address is the context's name, and uses it there.
pub(super) fn aio_remap() -> Answer {
    let mut context: libc::c_ulong = 0;
    // SAFETY: the kernel makes a context for one event and writes its name at the address.
    let made = unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) };
    if made < 0 {
        return no("io_setup", Errno::last());
    }
    let moved = move_ring(context);
    let context = moved.as_ref().copied().unwrap_or(context);
    let answer = moved.err().unwrap_or_else(|| {
        // SAFETY: asks for no events, so nothing is written.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                context,
                0,
                1,
                null_mut::<c_void>(),
                null_mut::<c_void>(),
            )
        };
        outcome("use an AIO ring that has moved", result)
    });
    // SAFETY: the context was made above, and nobody else knows of it.
    unsafe { libc::syscall(libc::SYS_io_destroy, context) };
    answer
}

/// Moves the mapping that begins at an address, and returns where it is.
fn move_ring(context: libc::c_ulong) -> Result<libc::c_ulong, Answer> {
    let told = |error: &dyn std::fmt::Display| Answer::Unknown(format!("/proc/self/maps: {error}"));
    let text = std::fs::read("/proc/self/maps").map_err(|error| told(&error))?;
    let ring = crate::procfs::maps(&text).flatten().find(|map| map.start == context);
    let ring = ring.ok_or_else(|| told(&"nothing begins at an AIO context"))?;
    let length = (ring.end - ring.start) as usize;
    let room = std::num::NonZeroUsize::new(length).ok_or_else(|| told(&"an empty mapping"))?;
    // SAFETY: maps new pages where the kernel likes.
    let there = unsafe { mmap_anonymous(None, room, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }
        .map_err(|errno| unknown("mmap", errno))?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: the ring is the kernel's, made for this probe, and what it replaces was mapped above for it.
    let moved =
        unsafe { libc::mremap(context as *mut c_void, length, length, flags, there.as_ptr()) };
    if moved == libc::MAP_FAILED {
        return Err(no("move an AIO ring", Errno::last()));
    }
    Ok(moved as libc::c_ulong)
}

/// Writes what is there. That changes the number of the audit session, so a child does it.
pub(super) fn loginuid() -> Answer {
    let path = "/proc/self/loginuid";
    match std::fs::read(path) {
        Ok(value) => match super::ptrace::child_writes(c"/proc/self/loginuid", &value) {
            Ok(()) => Answer::Yes,
            Err(errno) => no("write /proc/self/loginuid", errno),
        },
        Err(_) => exists(path, "the kernel was built without CONFIG_AUDIT"),
    }
}

pub(super) fn autofs() -> Answer {
    match std::fs::read_to_string("/proc/filesystems") {
        Ok(text) if text.lines().any(|line| line.ends_with("\tautofs")) => Answer::Yes,
        Ok(_) => Answer::No("the kernel has no autofs".into()),
        Err(error) => Answer::Unknown(format!("read /proc/filesystems: {error}")),
    }
}

pub(super) fn apparmor_stacking() -> Answer {
    let path = "/sys/kernel/security/apparmor/features/domain/stack";
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim() == "yes" => Answer::Yes,
        Ok(_) => Answer::No("AppArmor does not stack profiles".into()),
        Err(_) => exists(path, "the kernel has no AppArmor, or it is switched off"),
    }
}

/// Maps a file of an overlay that is mounted nowhere, and compares it with what `/proc` says of the mapping.
pub(super) fn overlayfs_maps() -> Answer {
    overlay_map().map_or_else(
        |answer| answer,
        |same| match same {
            true => Answer::Yes,
            false => Answer::No("mappings of files on overlayfs show another file".into()),
        },
    )
}

fn overlay_map() -> Result<bool, Answer> {
    let told = |what: &'static str| {
        move |error: std::io::Error| Answer::Unknown(format!("{what}: {error}"))
    };
    let below = mounted(c"tmpfs", &[])?;
    let there = |fd: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let lower = there(&below).join("lower");
    std::fs::create_dir(&lower).map_err(told("make a directory on tmpfs"))?;
    std::fs::create_dir(there(&below).join("other")).map_err(told("make a directory on tmpfs"))?;
    std::fs::write(lower.join("file"), [1; 8]).map_err(told("write a file on tmpfs"))?;
    let directories = format!("{}:{}", lower.display(), there(&below).join("other").display());
    let directories = CString::new(directories).unwrap_or_default();
    let overlay = mounted(c"overlay", &[(c"lowerdir", &directories)])?;
    let file =
        File::open(there(&overlay).join("file")).map_err(told("open a file on overlayfs"))?;
    let length = std::num::NonZeroUsize::MIN;
    // SAFETY: maps a page where the kernel likes.
    let page = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, &file, 0) }
        .map_err(|errno| unknown("map a file on overlayfs", errno))?;
    let start = page.as_ptr() as u64;
    let link = format!("/proc/self/map_files/{start:x}-{:x}", start + PAGE_SIZE);
    let shown = std::fs::metadata(link).map_err(told("look at a link of /proc/self/map_files"));
    // SAFETY: the page was mapped above, and nothing refers to it.
    unsafe { munmap(page, PAGE_SIZE as usize) }
        .map_err(|errno| unknown("unmap a file on overlayfs", errno))?;
    let (shown, open) = (shown?, file.metadata().map_err(told("look at a file on overlayfs"))?);
    Ok((shown.dev(), shown.ino()) == (open.dev(), open.ino()))
}

/// A new file system that has no place in the tree of mounts.
fn mounted(name: &CStr, settings: &[(&CStr, &CStr)]) -> Result<OwnedFd, Answer> {
    const CLOEXEC: libc::c_uint = 1;
    const SET_STRING: libc::c_uint = 1;
    const CREATE: libc::c_uint = 6;
    let what = format!("mount a {} of its own", name.to_string_lossy());
    // SAFETY: the name is a string with its terminating zero.
    let opened = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), CLOEXEC) };
    let opened = owned(&what, opened)?;
    let context = opened.as_raw_fd();
    for (key, value) in settings {
        // SAFETY: key and value are strings with their terminating zeros.
        let set = unsafe {
            libc::syscall(libc::SYS_fsconfig, context, SET_STRING, key.as_ptr(), value.as_ptr(), 0)
        };
        if set < 0 {
            return Err(unknown(&what, Errno::last()));
        }
    }
    // SAFETY: the command takes neither key nor value.
    let made = unsafe { libc::syscall(libc::SYS_fsconfig, context, CREATE, 0_usize, 0_usize, 0) };
    if made < 0 {
        return Err(no(&what, Errno::last()));
    }
    // SAFETY: fsmount touches no memory.
    owned(&what, unsafe { libc::syscall(libc::SYS_fsmount, context, CLOEXEC, 0) })
}

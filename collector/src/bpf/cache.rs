//! Keeps what was looked up in the kernel's type information, for the next start of the machine.
//!
//! A file for each kernel, named by its build id (and by what is looked up, so that versions do not
//! take turns in it). It is believed only if nobody but root, or whoever runs this, can have written it:
//! owner and mode of the file and of every folder on the way say so; and if it is whole: its form,
//! build id, length and checksum. Anything else is as if it were not there, and is made anew.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use ebpf_common::offsets::FIELDS;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::offsets::{Layout, WORDS, paths};
use super::programs::PROGRAMS;
use kernel::btf::VMLINUX;

/// What the kernel says of itself, its build id among it.
const NOTES: &str = "/sys/kernel/notes";

/// What a file starts with; the digit is the version of its form.
const MAGIC: &[u8; 8] = b"stasisK1";

/// What the names of files start with.
const PREFIX: &str = "kernel-";

/// Longest build id: the kernel's own limit (include/linux/buildid.h).
const ID_BYTES: usize = 20;

/// Who a file is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    id: Vec<u8>,
    /// Bytes of its type information.
    types: u64,
}

impl Kernel {
    /// The one that runs; `None` if it does not tell.
    pub(super) fn running() -> Option<Self> {
        let id = build_id(&std::fs::read(NOTES).ok()?)?.to_vec();
        Some(Self { id, types: std::fs::metadata(VMLINUX).ok()?.len() })
    }

    fn file_name(&self) -> String {
        let digits: String = self.id.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{PREFIX}{digits}-{:016x}", wanted())
    }

    /// What a file of this kernel holds.
    fn content(&self, layout: &Layout) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(wanted().to_ne_bytes());
        bytes.extend(self.types.to_ne_bytes());
        bytes.extend((self.id.len() as u64).to_ne_bytes());
        bytes.extend(&self.id);
        bytes.extend(layout.words().flat_map(u32::to_ne_bytes));
        let sum = checksum(&bytes);
        bytes.extend(sum.to_ne_bytes());
        bytes
    }

    /// What a file of this kernel says; `None` if it is not one, or not whole.
    fn understand(&self, bytes: &[u8]) -> Option<Layout> {
        let (rest, sum) = bytes.split_last_chunk::<8>()?;
        let (_, words) = rest.split_at_checked(rest.len().checked_sub(WORDS * 4)?)?;
        let mut numbers = [0; WORDS];
        for (number, bytes) in numbers.iter_mut().zip(words.chunks_exact(4)) {
            *number = u32::from_ne_bytes(bytes.try_into().ok()?);
        }
        let layout = Layout::from_words(numbers);
        let is_whole = checksum(rest).to_ne_bytes() == *sum && self.content(&layout) == bytes;
        is_whole.then_some(layout)
    }

    /// Bytes of a file.
    fn bytes(&self) -> usize {
        MAGIC.len() + 3 * 8 + self.id.len() + WORDS * 4 + 8
    }
}

/// Names what is looked up.
fn wanted() -> u64 {
    let mut hasher = DefaultHasher::new();
    for (path, (_, want)) in paths().into_iter().zip(FIELDS) {
        (path, want as u8).hash(&mut hasher);
    }
    for program in PROGRAMS {
        (program.target.0 as u8, program.target.1).hash(&mut hasher);
    }
    hasher.finish()
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// The build id among a kernel's notes (include/uapi/linux/elf.h).
fn build_id(mut notes: &[u8]) -> Option<&[u8]> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let padded = |length: u32| (length as usize).checked_next_multiple_of(4);
    loop {
        let (name, text) = (word(notes, 0)?, word(notes, 4)?);
        let start = padded(name)?.checked_add(12)?;
        let found = notes.get(start..start.checked_add(text as usize)?)?;
        let owner = notes.get(12..)?.get(..name as usize)?;
        if word(notes, 8)? == NT_GNU_BUILD_ID && owner == b"GNU\0" {
            return (1..=ID_BYTES).contains(&found.len()).then_some(found);
        }
        notes = notes.get(start.checked_add(padded(text)?)?..)?;
    }
}

/// Whether nobody but root and whoever runs this can change what has this owner and mode. In a folder
/// with the sticky bit others can make something, but not take away what is there.
fn is_trusted(owner: u32, mode: u32, is_folder: bool) -> bool {
    let is_own = owner == 0 || owner == geteuid().as_raw();
    is_own && (mode & 0o022 == 0 || is_folder && mode & libc::S_ISVTX != 0)
}

fn untrusted(path: &Path) -> Error {
    let why = format!("others can change {}", path.display());
    Error::new(ErrorKind::PermissionDenied, why)
}

/// Opens a folder that nobody else can have changed, nor anything on the way to it; makes the last one
/// of the way, if it is to be made.
fn folder(path: &Path, make: bool) -> Result<OwnedFd> {
    // Links that are believed are those which were there before the way is looked at.
    let path = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize()?.join(name),
        _ => PathBuf::from(path),
    };
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let mut at = OwnedFd::from(File::open("/")?);
    let mut way = path.components().peekable();
    while let Some(component) = way.next() {
        let Component::Normal(name) = component else { continue };
        if make && way.peek().is_none() {
            match mkdirat(&at, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(nix::Error::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        at = openat(&at, name, flags, Mode::empty())?;
        let found = fstat(&at)?;
        if !is_trusted(found.st_uid, found.st_mode, true) {
            return Err(untrusted(&path));
        }
    }
    Ok(at)
}

/// What is kept of a kernel in a folder.
///
/// # Errors
/// If there is nothing, or nothing that can be believed.
pub(super) fn read(path: &Path, kernel: &Kernel) -> Result<Layout> {
    let folder = folder(path, false)?;
    let name = kernel.file_name();
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::from(openat(&folder, name.as_str(), flags, Mode::empty())?);
    let found = file.metadata()?;
    if !found.is_file() || !is_trusted(found.uid(), found.mode(), false) {
        return Err(untrusted(&path.join(name)));
    }
    let damaged =
        || Error::new(ErrorKind::InvalidData, format!("{} is damaged", path.join(&name).display()));
    if found.len() != kernel.bytes() as u64 {
        return Err(damaged());
    }
    let mut bytes = Vec::with_capacity(kernel.bytes());
    Read::take(file, kernel.bytes() as u64 + 1).read_to_end(&mut bytes)?;
    kernel.understand(&bytes).ok_or_else(damaged)
}

/// Keeps what was looked up in a kernel, in place of what is there.
///
/// # Errors
/// If it cannot be written, or others could change it.
pub(super) fn write(path: &Path, kernel: &Kernel, layout: &Layout) -> Result<()> {
    let folder = folder(path, true)?;
    let name = kernel.file_name();
    // Two who write at once write the same; and what is not whole is not believed.
    let new = format!(".{name}");
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let create = || openat(&folder, new.as_str(), flags, Mode::from_bits_truncate(0o600));
    let made = match create() {
        // Of one that was killed.
        Err(nix::Error::EEXIST) => remove(&folder, &new).and_then(|()| Ok(create()?)),
        made => Ok(made?),
    };
    let mut file = File::from(made?);
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    let written = file.write_all(&kernel.content(layout));
    let placed = written.and_then(|()| {
        // Somebody may have put a folder there.
        renameat(&folder, new.as_str(), &folder, name.as_str()).map_err(Error::from)
    });
    if placed.is_err() {
        remove(&folder, &new).ok();
    }
    placed
}

fn remove(folder: &OwnedFd, name: &str) -> Result<()> {
    match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The files in a folder, with whether each is believed for the kernel that runs.
///
/// # Errors
/// If the folder cannot be read; that there is none is no error.
pub(super) fn list(path: &Path) -> Result<Vec<(PathBuf, bool)>> {
    let running = Kernel::running();
    let own = running.as_ref().map(Kernel::file_name);
    let is_good = running.as_ref().is_some_and(|kernel| read(path, kernel).is_ok());
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text.starts_with(PREFIX) {
            files.push((entry.path(), is_good && own.as_deref() == Some(&*text)));
        }
    }
    files.sort();
    Ok(files)
}

/// Removes the files of all kernels, and the folder if nothing else is in it. Returns how many there were.
///
/// # Errors
/// If one cannot be removed.
pub(super) fn clear(path: &Path) -> Result<usize> {
    let files = list(path)?;
    let count = files.len();
    if count == 0 && !path.exists() {
        return Ok(0);
    }
    let folder = folder(path, false)?;
    for (file, _) in files {
        if let Some(name) = file.file_name().and_then(|name| name.to_str()) {
            remove(&folder, name)?;
            remove(&folder, &format!(".{name}"))?;
        }
    }
    std::fs::remove_dir(path).ok();
    Ok(count)
}

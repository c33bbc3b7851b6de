//! Brings the programs into the kernel, and keeps them there for others by pinning.

use std::fs::{self, DirBuilder, File, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aya::programs::{BtfTracePoint, Iter};
use aya::{Btf, Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use ebpf_common::offsets::ABSENT;
use kernel::bpf::object_get;
use kernel::procfs::{Dir, Namespaces};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::tracks::{Counting, Counts, Tracers, Watch};
use super::{BpfError, offsets};

/// The programs' object, in the alignment that its parser wants.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/stasis-ebpf"));

const BPF_FS: &str = "/sys/fs/bpf";

/// Where programs are pinned unless another folder is named: there in a folder named by what they
/// are, so that no version uses another one's.
pub const PIN_ROOT: &str = "/sys/fs/bpf/stasis";

/// The iterator programs' names, in the object and as pins, with those that the kernel has for what
/// they iterate over.
const NAMES: [(&str, &str); 4] = [
    ("task", "task"),
    ("task_file", "task_file"),
    ("task_file_some", "task_file"),
    ("task_vma", "task_vma"),
];

/// The programs, in the kernel.
#[derive(Debug)]
pub struct Loaded {
    pub(super) task: OwnedFd,
    pub(super) files: OwnedFd,
    /// Shows what is asked for.
    pub(super) some_files: OwnedFd,
    pub(super) vmas: OwnedFd,
    /// Counts changes; not there on every processor.
    counting: Option<Counting>,
    /// Whether tracks are kept by this already.
    is_tracing: bool,
    /// Programs and maps, when this process loaded them.
    ebpf: Option<Ebpf>,
    messages: Option<Messages>,
    /// Where they are pinned, if this process pinned them.
    pins: Option<Pins>,
}

/// The programs' own messages on their way to this process's log.
struct Messages(EbpfLogger<tracing_log::LogTracer>);

impl std::fmt::Debug for Messages {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Messages")
    }
}

/// The initial namespaces' ids are fixed (include/uapi/linux/nsfs.h).
const INITIAL: [(&str, u64); 2] = [("pid", 0xEFFF_FFFC), ("time", 0xEFFF_FFFA)];

/// The programs give numbers of the initial pid namespace and times since the machine's boot. From
/// inside other namespaces /proc gives others, and only those are of use.
fn check_namespaces() -> Result<(), BpfError> {
    let pid = std::process::id().cast_signed();
    let own = Dir::open(pid)
        .and_then(|dir| Namespaces::read(&dir))
        .map_err(|source| BpfError::Proc { pid, source })?;
    for (name, initial) in INITIAL {
        if own.0.get(name).is_some_and(|id| *id != initial) {
            return Err(BpfError::Namespace(name));
        }
    }
    Ok(())
}

impl Loaded {
    /// Loads the programs.
    ///
    /// # Errors
    /// If this kernel's structures are not as needed, or it refuses the programs.
    pub fn load() -> Result<Self, BpfError> {
        Self::load_for(None)
    }

    /// Like [`Loaded::load`], with room for so many tracked processes.
    ///
    /// # Errors
    /// As [`Loaded::load`].
    pub fn load_for(tracked: Option<NonZeroU32>) -> Result<Self, BpfError> {
        check_namespaces()?;
        let offsets = offsets::resolve()?;
        let btf = Btf::from_sys_fs().map_err(BpfError::Btf)?;
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf)).override_global("OFFSETS", &offsets, true);
        if let Some(tracked) = tracked {
            loader.map_max_entries("TRACKED", tracked.get());
        }
        let mut ebpf = loader.load(OBJECT).map_err(BpfError::Object)?;
        let mut fds = Vec::with_capacity(NAMES.len());
        for (name, of) in NAMES {
            fds.push(load_program(&mut ebpf, name, of, &btf)?);
        }
        let counting = match offsets[ebpf_common::offsets::REGISTERS_CALL] {
            ABSENT => None,
            _ => Counting::load(&mut ebpf, &btf)
                .inspect_err(|error| tracing::warn!(%error, "nothing is counted: no tracks, no marks of sockets and pipes"))
                .ok(),
        };
        // Messages are a help, not a need: an object without them works.
        let messages = EbpfLogger::init_with_logger(&mut ebpf, tracing_log::LogTracer::new())
            .map_err(|error| tracing::warn!(%error, "the eBPF programs' messages are not read"))
            .ok()
            .map(Messages);
        let Ok([task, files, some_files, vmas]) = <[OwnedFd; 4]>::try_from(fds) else {
            return Err(BpfError::Missing(NAMES[0].0));
        };
        let ebpf = Some(ebpf);
        let is_tracing = false;
        Ok(Self { task, files, some_files, vmas, counting, is_tracing, ebpf, messages, pins: None })
    }

    /// Opens the programs that another process has pinned.
    ///
    /// # Errors
    /// If they are not there, or may not be used.
    pub fn pinned(root: &Path) -> Result<Self, BpfError> {
        check_namespaces()?;
        let folder = folder(root);
        let open = |name: &str| {
            let path = folder.join(name);
            object_get(&path).map_err(|source| BpfError::Pinned { path, source })
        };
        let [task, files, some_files, vmas] = NAMES.map(|(name, _)| name);
        Ok(Self {
            task: open(task)?,
            files: open(files)?,
            some_files: open(some_files)?,
            vmas: open(vmas)?,
            counting: Counting::pinned(&folder)
                .inspect_err(|error| tracing::debug!(%error, "nothing is counted"))
                .ok(),
            is_tracing: true,
            ebpf: None,
            messages: None,
            pins: None,
        })
    }

    /// Pins the programs below `root`, which must be in the BPF file system, for others to open until
    /// this goes, and removes what is there of a process that was killed. Programs that came from
    /// pins stay where they are.
    ///
    /// # Errors
    /// [`BpfError::PinsTaken`] if another process has its programs there. If the BPF file system
    /// cannot be mounted or written to.
    pub fn pin(&mut self, root: &Path) -> Result<(), BpfError> {
        let Some(ebpf) = &mut self.ebpf else { return Ok(()) };
        mount_bpf_fs()?;
        self.pins = None;
        self.pins = Some(Pins::take(root)?);
        let folder = folder(root);
        let in_folder = |source| BpfError::PinFolder { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(in_folder)?;
        for (name, _) in NAMES {
            let program = ebpf.program_mut(name).ok_or(BpfError::Missing(name))?;
            program.pin(folder.join(name)).map_err(|source| BpfError::Pin { name, source })?;
        }
        if let Some(counting) = &mut self.counting {
            counting.pin(&folder)?;
        }
        Ok(())
    }

    /// What tracks are kept by; `None` if the programs were not loaded here, and when asked again.
    pub(crate) fn tracing(&mut self) -> Option<(Tracers, Counts)> {
        if std::mem::replace(&mut self.is_tracing, true) {
            return None;
        }
        let tracers = self.counting.as_ref()?.tracers();
        tracers.inspect_err(|error| tracing::warn!(%error, "processes cannot be tracked")).ok()
    }

    /// Has changes counted, for as long as what it returns is kept. `None` where that is not to be
    /// had.
    pub(super) fn watch(&self) -> Option<Watch> {
        let watch = self.counting.as_ref()?.watch();
        watch.inspect_err(|error| tracing::debug!(%error, "nothing is counted")).ok()
    }

    /// Makes use of what is counted for tracks; `None` when nothing is.
    pub(super) fn follow(&self) -> Option<Watch> {
        self.counting.as_ref()?.follow()
    }

    /// Passes on the messages that the programs have left.
    pub(super) fn pass_messages(&mut self) {
        if let Some(Messages(logger)) = &mut self.messages {
            logger.flush();
        }
    }
}

/// A folder for pins, and the right to it: a lock that ends with the process that holds it.
#[derive(Debug)]
struct Pins {
    root: PathBuf,
    _lock: Flock<File>,
}

impl Pins {
    /// Takes the folder, and empties it of what other processes have left there.
    fn take(root: &Path) -> Result<Self, BpfError> {
        let failed = |source| BpfError::PinFolder { path: root.into(), source };
        loop {
            // Nobody else may open it: whoever can could hold the lock.
            DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed)?;
            let folder = File::open(root).map_err(failed)?;
            let found = folder.metadata().map_err(failed)?;
            if found.uid() != nix::unistd::geteuid().as_raw() {
                return Err(BpfError::PinsForeign { path: root.into(), owner: found.uid() });
            }
            folder.set_permissions(Permissions::from_mode(0o700)).map_err(failed)?;
            let lock = match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, nix::Error::EWOULDBLOCK)) => {
                    return Err(BpfError::PinsTaken(root.into()));
                }
                Err((_, source)) => return Err(failed(source.into())),
            };
            // Whoever had it before may have removed it this moment, on its way out.
            match fs::symlink_metadata(root) {
                Ok(there) if (there.dev(), there.ino()) == (found.dev(), found.ino()) => {
                    let pins = Self { root: root.into(), _lock: lock };
                    pins.remove_all().map_err(failed)?;
                    return Ok(pins);
                }
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
    }

    /// Removes what is pinned there, of every version; what does not look like it is somebody else's.
    fn remove_all(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.len() == 16 && name.as_encoded_bytes().iter().all(u8::is_ascii_hexdigit) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Drop for Pins {
    /// Processes that use the programs go on to do so.
    fn drop(&mut self) {
        if let Err(error) = self.remove_all().and_then(|()| fs::remove_dir(&self.root)) {
            tracing::warn!(%error, "remove the pinned programs in {}", self.root.display());
        }
    }
}

fn load_program(
    ebpf: &mut Ebpf,
    name: &'static str,
    of: &str,
    btf: &Btf,
) -> Result<OwnedFd, BpfError> {
    let refused = |source| BpfError::Program { name, source };
    let program: &mut Iter =
        ebpf.program_mut(name).ok_or(BpfError::Missing(name))?.try_into().map_err(refused)?;
    program.load(of, btf).map_err(refused)?;
    let fd = program.fd().map_err(refused)?.as_fd().try_clone_to_owned();
    fd.map_err(|source| refused(aya::programs::ProgramError::IOError(source)))
}

/// Loads a program of a tracepoint.
pub(super) fn load_tracepoint(
    ebpf: &mut Ebpf,
    name: &'static str,
    tracepoint: &str,
    btf: &Btf,
) -> Result<OwnedFd, BpfError> {
    let refused = |source| BpfError::Program { name, source };
    let program: &mut BtfTracePoint =
        ebpf.program_mut(name).ok_or(BpfError::Missing(name))?.try_into().map_err(refused)?;
    program.load(tracepoint, btf).map_err(refused)?;
    let fd = program.fd().map_err(refused)?.as_fd().try_clone_to_owned();
    fd.map_err(|source| refused(aya::programs::ProgramError::IOError(source)))
}

fn folder(root: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    OBJECT.hash(&mut hasher);
    root.join(format!("{:016x}", hasher.finish()))
}

fn mount_bpf_fs() -> Result<(), BpfError> {
    if statfs(BPF_FS).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|source| BpfError::Mount { path: BPF_FS, source })
}

//! Makes the programs ready for a command: those that are pinned, else new ones, which it pins for the
//! next.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use kernel::bpf::{MapSpec, map_create};

use super::cache::{self, Kernel};
use super::load::boot_shift;
use super::offsets::Layout;
use super::pins::{Lock, Pins};
use super::{BpfError, BpfSource, Loaded, PIN_ROOT};
use kernel::btf::VMLINUX;

/// What was looked up in the kernel's type information is kept here.
const CACHE: &str = "/var/cache/stasis";

/// Where programs are left for other commands, and what it takes to load them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// Folder of the BPF file system; [`Home::NONE`] to do without eBPF.
    pub pins: PathBuf,
    /// Folder for what was looked up in the kernel's type information.
    pub cache: PathBuf,
}

impl Default for Home {
    fn default() -> Self {
        Self { pins: PIN_ROOT.into(), cache: CACHE.into() }
    }
}

impl Home {
    /// In place of a folder: all comes from /proc.
    pub const NONE: &'static str = "none";

    /// With other folders, where some are named.
    #[must_use]
    pub fn at(pins: Option<PathBuf>, cache: Option<PathBuf>) -> Self {
        let usual = Self::default();
        Self { pins: pins.unwrap_or(usual.pins), cache: cache.unwrap_or(usual.cache) }
    }

    /// Whether to do without eBPF.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.pins == Path::new(Self::NONE)
    }

    /// What has to be known of this kernel.
    fn layout(&self) -> Result<Layout, BpfError> {
        let Some(kernel) = Kernel::running() else { return Layout::resolve(VMLINUX) };
        match cache::read(&self.cache, &kernel) {
            Ok(layout) => return Ok(layout),
            Err(error) => tracing::debug!(%error, "the kernel's type information is looked up"),
        }
        let layout = Layout::resolve(VMLINUX)?;
        if let Err(error) = cache::write(&self.cache, &kernel, &layout) {
            tracing::debug!(%error, "what was looked up is not kept in {}", self.cache.display());
        }
        Ok(layout)
    }

    /// Loads the programs, and sees that they tell what /proc tells.
    fn load(&self, tracked: Option<NonZeroU32>) -> Result<BpfSource, BpfError> {
        let mut source = BpfSource::new(Loaded::load_by(&self.layout()?, tracked)?);
        source.check()?;
        Ok(source)
    }
}

impl Home {
    /// Loads the programs where their numbers are not those of /proc, so that they cannot be compared.
    pub(super) fn load_unchecked(&self) -> Result<BpfSource, BpfError> {
        may_load()?;
        Ok(BpfSource::new(Loaded::load_by(&self.layout()?, None)?))
    }
}

/// Takes the programs that are pinned; else loads them, and pins them if that is possible.
pub(crate) fn open(home: &Home) -> Result<BpfSource, BpfError> {
    boot_shift()?;
    match pinned(home) {
        Ok(source) => Ok(source),
        Err(error) => {
            tracing::debug!(%error, "no programs are pinned: they are loaded");
            may_load()?;
            match LockedPins::take(home) {
                Ok(locked) => locked.fill(home, None),
                Err(error) => {
                    tracing::warn!(
                        "the eBPF programs are loaded for this command alone: {}",
                        chain(&error)
                    );
                    home.load(None)
                }
            }
        }
    }
}

/// Takes or makes programs with room for so many tracked processes, by which this process keeps tracks.
/// If another one does already, they are its own; the reason is returned with them.
pub(crate) fn serve(
    home: &Home,
    tracked: NonZeroU32,
) -> Result<(BpfSource, Option<BpfError>), BpfError> {
    boot_shift()?;
    may_load()?;
    let kept = LockedPins::take(home).and_then(|locked| {
        let keeper = locked.pins.keep(&locked.lock)?;
        let keeper = keeper.ok_or_else(|| BpfError::PinsTaken(home.pins.clone()))?;
        Ok((locked, keeper))
    });
    match kept {
        Ok((locked, keeper)) => {
            let mut source = locked.fill(home, Some(tracked))?;
            let programs = source.programs();
            if let Some(counting) = programs.counting() {
                counting.sweep()?;
            }
            programs.keep(keeper);
            Ok((source, None))
        }
        Err(error) => Ok((home.load(Some(tracked))?, Some(error))),
    }
}

fn pinned(home: &Home) -> Result<BpfSource, BpfError> {
    let pins = Pins::open(&home.pins)?;
    let (objects, folder) = pins.find()?;
    let programs = Loaded::pinned(objects, folder);
    if let Some(counting) = programs.counting()
        && counting.is_attached()
        && !pins.is_kept()
        && let Ok(lock) = pins.lock()
        && let Ok(Some(_keeper)) = pins.keep(&lock)
    {
        tracing::info!("the programs of a collector that was killed are detached");
        counting.sweep()?;
    }
    Ok(BpfSource::new(programs))
}

/// The right to what is pinned.
struct LockedPins {
    pins: Pins,
    lock: Lock,
}

impl LockedPins {
    fn take(home: &Home) -> Result<Self, BpfError> {
        let pins = Pins::make(&home.pins)?;
        let lock = pins.lock()?;
        Ok(Self { pins, lock })
    }

    /// Takes what is there, if somebody else has been quicker and there is room, else puts new programs
    /// there. What cannot be pinned is good for this process.
    fn fill(&self, home: &Home, tracked: Option<NonZeroU32>) -> Result<BpfSource, BpfError> {
        if let Ok((objects, folder)) = self.pins.find() {
            let programs = Loaded::pinned(objects, folder);
            let has_room = match (tracked, programs.counting()) {
                (Some(tracked), Some(counting)) => counting.room()? >= tracked.get(),
                _ => true,
            };
            if has_room {
                return Ok(BpfSource::new(programs));
            }
        }
        let mut source = home.load(tracked)?;
        match self.pins.put(&self.lock, source.programs().objects()) {
            Ok(folder) => source.programs().pinned_in(folder),
            Err(error) => tracing::warn!("the eBPF programs are not pinned: {}", chain(&error)),
        }
        Ok(source)
    }
}

/// Whether this process may load any: asked first, as it is soon answered.
fn may_load() -> Result<(), BpfError> {
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    let spec = MapSpec {
        name: "may_load",
        kind: BPF_MAP_TYPE_ARRAY,
        key_bytes: 4,
        value_bytes: 4,
        entries: 1,
        flags: 0,
    };
    let made = map_create(&spec);
    made.map(drop).map_err(BpfError::NoRight)
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(cause.to_string().lines().next().unwrap_or_default());
        next = cause.source();
    }
    text
}

/// What is kept for the next command.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stored {
    /// The folders of programs that are pinned, one for each version.
    pub pinned: Vec<StoredItem>,
    /// The files with what was looked up in the type information of a kernel.
    pub cached: Vec<StoredItem>,
    /// Whether a collector's service keeps tracks by what is pinned.
    pub kept: bool,
}

/// Something that is kept.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StoredItem {
    /// Where.
    pub path: PathBuf,
    /// Whether this version uses it, with the kernel that runs.
    pub used: bool,
}

impl Home {
    /// Has the programs ready for the commands after this.
    ///
    /// # Errors
    /// If they cannot be loaded or found, or cannot be left for others.
    pub fn prepare(&self) -> Result<(), BpfError> {
        let mut source = open(self)?;
        if source.programs().is_pinned() {
            return Ok(());
        }
        // Said again by whatever it failed by.
        let locked = LockedPins::take(self)?;
        locked.pins.put(&locked.lock, source.programs().objects()).map(drop)
    }

    /// What is kept; nothing of what this user may not see.
    #[must_use]
    pub fn stored(&self) -> Stored {
        let pins = Pins::open(&self.pins).ok();
        let sets = pins.as_ref().and_then(|pins| pins.list().ok()).unwrap_or_default();
        let item = |(path, used)| StoredItem { path, used };
        Stored {
            pinned: sets
                .into_iter()
                .map(|set| item((self.pins.join(set.name), set.is_own)))
                .collect(),
            cached: cache::list(&self.cache).unwrap_or_default().into_iter().map(item).collect(),
            kept: pins.is_some_and(|pins| pins.is_kept()),
        }
    }

    /// Removes what is kept, of every version and kernel; returns how many sets of programs and files
    /// there were. Commands that run go on to use what they have.
    ///
    /// # Errors
    /// [`BpfError::PinsKept`] if a collector's service keeps tracks by it; if it cannot be removed.
    pub fn clear(&self) -> Result<(usize, usize), BpfError> {
        let sets = match Pins::open(&self.pins) {
            Ok(pins) => pins.clear()?,
            Err(BpfError::PinFolder { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                0
            }
            // Nothing can be pinned there.
            Err(BpfError::NoBpfFs(_)) => 0,
            Err(error) => return Err(error),
        };
        let files = cache::clear(&self.cache)
            .map_err(|source| BpfError::Cache { path: self.cache.clone(), source })?;
        Ok((sets, files))
    }
}

//! CRIU's options: those that are supported, and the names of all others, so that each is
//! refused by name and none is ignored.
//!
//! Names, kinds and defaults are those of CRIU 4.2. [`Reading`](crate::Reading) reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use api::{CgroupRoot, CgroupsMode};
use dumper::LockMethod;
use ids::HostPid;

use crate::capabilities::Capabilities;
use crate::external::{External, ExternalMounts};
use crate::joining::Joining;
use crate::networks::Networks;
use crate::table::Known;

/// What becomes of the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FinalState {
    /// A dumped tree is ended, a restored one runs.
    #[default]
    Default,
    /// It runs on.
    Running,
    /// It stays stopped.
    Stopped,
}

/// What a command line says beside the command. `Default` is what CRIU does unless told otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The root of the tree to dump.
    pub tree: Option<HostPid>,
    /// Where the images are; `None` for the working directory.
    pub images_dir: Option<PathBuf>,
    /// Where log, statistics and pidfile are; `None` for the images' directory.
    pub work_dir: Option<PathBuf>,
    /// Where the log goes: `-` for standard output, `None` for standard error.
    pub log_file: Option<OsString>,
    /// How much is logged; `None` for the default.
    pub verbosity: Option<u32>,
    /// What becomes of the tree.
    pub final_state: FinalState,
    /// Its session or terminal may lie outside it.
    pub shell_job: bool,
    /// Unix sockets that send datagrams may be connected to processes outside it.
    pub external_datagrams: bool,
    /// Unix sockets of it, by inode, that may be connected to processes outside it.
    pub external_sockets: BTreeSet<u32>,
    /// `--external` of open files: names such as `tty[RDEV:DEV]`.
    pub external_files: BTreeSet<String>,
    /// Mounts that come from outside.
    pub external_mounts: ExternalMounts,
    /// More kinds of file systems that a restore just mounts.
    pub file_systems: Vec<String>,
    /// Mounts that are left out.
    pub skipped_mounts: Vec<PathBuf>,
    /// Who restores does not wait for the tree to end.
    pub detach: bool,
    /// The restored root is the sibling of who restores.
    pub sibling: bool,
    /// Where the number of the restored root is written.
    pub pidfile: Option<PathBuf>,
    /// The root directory of the tree.
    pub root: Option<PathBuf>,
    /// File locks and leases are carried.
    pub file_locks: bool,
    /// The largest deleted file that goes into the images; `None` for the default.
    pub ghost_limit: Option<u64>,
    /// Files that have lost their names are given others.
    pub link_remap: bool,
    /// Names of watched files are looked for in directories, too, if their handles can be opened.
    pub force_irmap: bool,
    /// Directories below which such names are looked for.
    pub irmap_scan_paths: Vec<PathBuf>,
    /// Go on tracking what changes in memory.
    pub track_mem: bool,
    /// Images of before, relative to the images' directory.
    pub previous: Option<PathBuf>,
    /// Of programs and mapped files only the sizes are noted, or compared.
    pub sizes_only: bool,
    /// The permissions of files may differ from what the images say.
    pub any_permissions: bool,
    /// A device may be dumped by a path that leads to another node of it.
    pub evasive_devices: bool,
    /// Who asks is not root, and takes what he can have without being.
    pub unprivileged: bool,
    /// The statistics are printed.
    pub shows_statistics: bool,
    /// What to check for, by CRIU's names; nothing for all that is needed.
    pub features: Vec<String>,
    /// Check for what only some programs need as well.
    pub check_extra: bool,
    /// Check for what CRIU calls experimental as well.
    pub check_experimental: bool,
    /// Programs to start at the notification points.
    pub scripts: Vec<OsString>,
    /// What becomes of control groups.
    pub cgroups: CgroupsMode,
    /// Control groups in place of those that the tree was in.
    pub cgroup_roots: Vec<CgroupRoot>,
    /// Settings of control groups to describe, as `cgroup_properties.rs` reads them.
    pub cgroup_props: Option<String>,
    /// A file with such settings, relative to the working directory.
    pub cgroup_props_file: Option<PathBuf>,
    /// The only hierarchies of which something is said.
    pub cgroup_controllers: Vec<String>,
    /// Where all hierarchies are mounted, relative to the working directory; `None` to look for them.
    pub cgroup_yard: Option<PathBuf>,
    /// The directory of the control group that stops the tree.
    pub freeze_cgroup: Option<PathBuf>,
    /// TCP connections are carried.
    pub tcp_established: bool,
    /// TCP connections are closed in the restored tree.
    pub tcp_close: bool,
    /// TCP connections that nobody has accepted yet are left out.
    pub skip_in_flight: bool,
    /// How connections are locked; `None` for what this machine has.
    pub network_lock: Option<LockMethod>,
    /// Pid namespaces, by the kernel's ids, that a restore is given, with their names (`--external pid[INODE]:NAME`).
    pub external_pids: BTreeMap<u64, String>,
    /// What is said of network namespaces.
    pub networks: Networks,
    /// Namespaces that a restored tree is to be in (`--join-ns`).
    pub joining: Joining,
    /// How long to try to stop every task; `None` for the default.
    pub timeout: Option<Duration>,
    /// Descriptors of this process, by number, that take the place of files of the tree, by CRIU's names.
    pub inherited: Vec<(RawFd, Vec<u8>)>,
    /// Whoever asks takes the masters of terminals that are outside the tree. The RPC alone says so.
    pub gives_masters: bool,
    /// The inode of the socket by which a client asks, who may be of the tree. The RPC alone says so.
    pub client: Option<u32>,
    /// What is asked of the processor (`--cpu-cap`); `None` for what is asked unless told otherwise.
    pub processor: Option<Capabilities>,
    /// What is executed in place of the program that has restored, with its arguments; nothing for none.
    pub exec: Vec<OsString>,
    /// Where a service listens; which page server there is to send to, or where one listens. `None` for the default.
    pub address: Option<PathBuf>,
    /// The port of that page server.
    pub port: Option<u16>,
    /// Pages are sent to a page server.
    pub page_server: bool,
    /// Room of pages that nobody will read any more is given back.
    pub auto_dedup: bool,
    /// Processes may have uprobes, which are there at the restore as well.
    pub allow_uprobes: bool,
    /// The descriptor of a connection between a dump and a page server, in place of an address.
    pub ps_socket: Option<RawFd>,
    /// A descriptor to which a page server writes who it is and where it listens. The RPC alone says so.
    pub tells: Option<RawFd>,
    /// A descriptor to which a service writes a byte when it is ready.
    pub status_fd: Option<RawFd>,
    /// Options that CRIU has and this version of stasis has not, as they were written.
    pub refused: Vec<String>,
    /// What is external of kinds that are not known, as it was written. A restore that is given more than the images ask
    /// for has no use for it.
    pub unknown_external: Vec<String>,
    /// Options that other commands have, and this one has no use for, as they were written.
    pub misplaced: Vec<String>,
}

/// Why a command line is not understood.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// CRIU has no such option.
    #[error("unrecognized option '{0}'")]
    Unknown(String),
    /// Several options begin so.
    #[error("option '{0}' is ambiguous")]
    Ambiguous(String),
    /// A value is missing.
    #[error("option '{0}' requires an argument")]
    NoValue(String),
    /// A value is none that the option takes.
    #[error("invalid argument for {option}: {value}")]
    Value {
        /// The option as it was written.
        option: String,
        /// The value.
        value: String,
    },
    /// There is no command.
    #[error("command is required")]
    NoCommand,
    /// CRIU has no such command.
    #[error("unknown command: {0}")]
    UnknownCommand(String),
    /// `cpuinfo` alone.
    #[error("cpuinfo requires an action: dump or check")]
    NoAction,
    /// CRIU has the command, and stasis has not.
    #[error("command {0} is not supported by this version of stasis: {1}")]
    UnsupportedCommand(String, &'static str),
    /// What a worker has for a descriptor is none.
    #[error("a worker takes one number, that of its socket: criu swrk <fd>")]
    Worker,
    /// There is nothing to execute.
    #[error("--exec-cmd requires a command")]
    NoProgram,
    /// A command takes no more words.
    #[error("excessive parameter for command {0}")]
    Excessive(String),
    /// Not even that.
    #[error(transparent)]
    Syntax(#[from] lexopt::Error),
}

impl Options {
    /// How much is logged: CRIU's default is errors, messages and warnings.
    #[must_use]
    pub fn verbosity(&self) -> u32 {
        self.verbosity.unwrap_or(2)
    }

    pub(crate) fn take(
        &mut self,
        known: &Known,
        written: &str,
        on: bool,
        value: Option<&OsString>,
    ) -> Result<(), UsageError> {
        let value = || value.cloned().unwrap_or_default();
        match known.long {
            "action-script" => self.scripts.push(value()),
            "tree" => self.tree = Some(parsed(written, &value())?),
            "images-dir" => self.images_dir = Some(value().into()),
            "work-dir" => self.work_dir = Some(value().into()),
            "log-file" => self.log_file = Some(value()),
            "verbosity" => self.verbosity = Some(verbosity(self.verbosity, &value())),
            "leave-running" => self.final_state = FinalState::Running,
            "leave-stopped" => self.final_state = FinalState::Stopped,
            "shell-job" => self.shell_job = on,
            "restore-detached" | "daemon" => self.detach = on,
            "restore-sibling" => self.sibling = on,
            // With inodes, by commas, those sockets may be of any type.
            "ext-unix-sk" => {
                let text = value().to_string_lossy().into_owned();
                for inode in text.split(',').filter(|inode| !inode.is_empty()) {
                    self.external_sockets.insert(parsed(written, OsStr::new(inode))?);
                }
                self.external_datagrams = true;
            }
            "external" => match External::parse(&value()) {
                Some(External::UnixSocket(inode)) => drop(self.external_sockets.insert(inode)),
                Some(External::File(name)) => drop(self.external_files.insert(name)),
                Some(External::Pids { key, value: name }) => {
                    drop(self.external_pids.insert(parsed(written, OsStr::new(&key))?, name));
                }
                Some(mount) => drop(self.external_mounts.add(mount)),
                None if self.networks.take_external(&value()) => {}
                None => {
                    self.unknown_external.push(format!("{written} {}", value().to_string_lossy()));
                }
            },
            "empty-ns" => {
                one_of(written, &value(), &["net"])?;
                self.networks.empty = true;
            }
            "veth-pair" => wrong_unless(self.networks.take_pair(&value()), written, &value())?,
            "join-ns" => match self.joining.take(&value()) {
                true => {}
                false => self.refused.push(format!("{written} {}", value().to_string_lossy())),
            },
            "weak-sysctls" => self.networks.weak_settings = on,
            "ext-mount-map" => self.take_mount(written, &value())?,
            "enable-external-sharing" => self.external_mounts.shared = true,
            "enable-external-masters" => self.external_mounts.masters = true,
            "enable-fs" => {
                let kinds = value().to_string_lossy().into_owned();
                self.file_systems.extend(kinds.split(',').map(str::to_owned));
            }
            "skip-mnt" => self.skipped_mounts.push(value().into()),
            // Which of CRIU's ways builds the mounts; ours is one, and they come out the same.
            "mntns-compat-mode" => {}
            "pidfile" => self.pidfile = Some(value().into()),
            "timeout" => {
                // CRIU takes 0 for its default.
                let seconds = whole(written, &value())?;
                if seconds > 0 {
                    self.timeout = Some(Duration::from_secs(seconds));
                }
            }
            "file-locks" => self.file_locks = on,
            // Holes are found by SEEK_DATA and SEEK_HOLE, which tell the same of every file system.
            "ghost-fiemap" => {}
            "ghost-limit" => self.ghost_limit = Some(size(written, &value())?),
            "link-remap" => self.link_remap = on,
            "force-irmap" => self.force_irmap = on,
            "irmap-scan-path" => self.irmap_scan_paths.push(value().into()),
            "root" => self.root = Some(value().into()),
            "track-mem" => self.track_mem = on,
            "prev-images-dir" => self.previous = Some(value().into()),
            "feature" => self.features.push(value().to_string_lossy().into_owned()),
            "extra" => self.check_extra = on,
            "experimental" => self.check_experimental = on,
            "all" => (self.check_extra, self.check_experimental) = (true, true),
            // Without a mode, and by default, CRIU makes what is gone and leaves what is there.
            "manage-cgroups" => {
                let mode = Some(value()).filter(|mode| !mode.is_empty());
                self.cgroups = mode.map_or(Ok(CgroupsMode::Soft), |mode| parsed(written, &mode))?;
            }
            "cgroup-root" => self.cgroup_roots.push(parsed(written, &value())?),
            "cgroup-props" => {
                self.cgroup_props = Some(value().to_string_lossy().into_owned());
            }
            "cgroup-props-file" => self.cgroup_props_file = Some(value().into()),
            "cgroup-dump-controller" => {
                self.cgroup_controllers.push(value().to_string_lossy().into_owned());
            }
            "cgroup-yard" => self.cgroup_yard = Some(value().into()),
            "freeze-cgroup" => self.freeze_cgroup = Some(value().into()),
            "file-validation" => {
                self.sizes_only = one_of(written, &value(), &["buildid", "filesize"])? == 1;
            }
            // They have been followed before the words of files came to those of the command line.
            "config" | "no-default-config" => {}
            // How memory is read while the target runs. Ours is one way, which needs nothing of the target.
            "pre-dump-mode" => {
                one_of(written, &value(), &["splice", "read"])?;
            }
            "tcp-established" => self.tcp_established = on,
            "tcp-close" => self.tcp_close = on,
            "skip-in-flight" => self.skip_in_flight = on,
            "network-lock" => {
                let methods = [LockMethod::Nftables, LockMethod::Iptables, LockMethod::Skip];
                let names = &["nftables", "iptables", "skip"];
                self.network_lock = Some(methods[one_of(written, &value(), names)?]);
            }
            "cpu-cap" => {
                let mut asked = self.processor.unwrap_or_default();
                let text = value();
                wrong_unless(asked.take(&text.to_string_lossy()), written, &text)?;
                self.processor = Some(asked);
            }
            "skip-file-rwx-check" => self.any_permissions = on,
            "evasive-devices" => self.evasive_devices = on,
            "unprivileged" => self.unprivileged = on,
            "display-stats" => self.shows_statistics = on,
            // What CRIU has given up of old images is read without it, or refused by its own name.
            "deprecated" => {}
            // It is about features that no kernel has yet, of which nothing is asked.
            "ms" => {}
            "address" => self.address = Some(value().into()),
            "port" => self.port = Some(parsed(written, &value())?),
            "page-server" => self.page_server = on,
            "allow-uprobes" => self.allow_uprobes = on,
            "auto-dedup" => self.auto_dedup = on,
            "ps-socket" => self.ps_socket = Some(parsed(written, &value())?),
            "inherit-fd" => {
                let inherited = inherited(&value());
                self.inherited.push(inherited.ok_or_else(|| UsageError::Value {
                    option: written.to_owned(),
                    value: value().to_string_lossy().into_owned(),
                })?);
            }
            "status-fd" => self.status_fd = Some(parsed(written, &value())?),
            // The words after the command are the program.
            "exec-cmd" => {}
            // What we lack is refused by the table, for the commands that would do something with it.
            _ => {}
        }
        Ok(())
    }
}

/// Fails for a value that an option does not take.
fn wrong_unless(is_right: bool, option: &str, value: &OsStr) -> Result<(), UsageError> {
    let (option, value) = (option.to_owned(), value.to_string_lossy().into_owned());
    if is_right { Ok(()) } else { Err(UsageError::Value { option, value }) }
}

impl Options {
    /// `KEY:VALUE`, or `auto` for all.
    fn take_mount(&mut self, written: &str, value: &OsStr) -> Result<(), UsageError> {
        let external = match value == "auto" {
            true => Some(External::Mounts { shared: false, masters: false }),
            false => {
                let text = value.to_string_lossy();
                // LXC names its console with no path where the container has none: a restore may be
                // given nothing by a name that no mount has.
                let parts = text.split_once(':').filter(|(key, _)| !key.is_empty());
                parts.map(|(key, value)| External::Mount { key: key.into(), value: value.into() })
            }
        };
        let wrong = || UsageError::Value {
            option: written.to_owned(),
            value: value.to_string_lossy().into_owned(),
        };
        self.external_mounts.add(external.ok_or_else(wrong)?).map_err(|_| wrong())
    }
}

/// Which of its values an option has.
fn one_of(option: &str, value: &OsStr, values: &[&str]) -> Result<usize, UsageError> {
    values.iter().position(|known| value == *known).ok_or_else(|| UsageError::Value {
        option: option.to_owned(),
        value: value.to_string_lossy().into_owned(),
    })
}

/// The number and the name in `fd[NUMBER]:NAME`.
fn inherited(value: &OsStr) -> Option<(RawFd, Vec<u8>)> {
    let rest = value.as_bytes().strip_prefix(b"fd[")?;
    let end = rest.iter().position(|byte| *byte == b']')?;
    let number = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    let name = rest[end + 1..].strip_prefix(b":").filter(|name| !name.is_empty())?;
    Some((number, name.to_vec())).filter(|(number, _)| *number >= 0)
}

fn whole(option: &str, value: &OsStr) -> Result<u64, UsageError> {
    value.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| UsageError::Value {
        option: option.to_owned(),
        value: value.to_string_lossy().into_owned(),
    })
}

fn size(option: &str, value: &OsStr) -> Result<u64, UsageError> {
    let text = value.to_string_lossy();
    crate::size::parse(&text)
        .map_err(|_| UsageError::Value { option: option.to_owned(), value: text.into_owned() })
}

fn parsed<T: std::str::FromStr>(option: &str, value: &OsStr) -> Result<T, UsageError> {
    value.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| UsageError::Value {
        option: option.to_owned(),
        value: value.to_string_lossy().into_owned(),
    })
}

/// `-v` counts up, `-vN` sets, `-vvv` counts its letters; anything else is read as C's `atoi` reads it, as
/// CRIU does (its own tests say `-verbosity=0`, and mean none).
fn verbosity(before: Option<u32>, value: &OsStr) -> u32 {
    let count = |more: usize| before.unwrap_or(2) + u32::try_from(more).unwrap_or(u32::MAX - 9);
    let text = value.to_string_lossy();
    if text.is_empty() {
        return count(1);
    }
    if text.starts_with('v') {
        return count(text.len() + 1);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text[..digits].parse().unwrap_or(0)
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;

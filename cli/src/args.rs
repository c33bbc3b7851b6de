//! The command line of `stasis`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use collector::Home;
use criu::{External, ExternalMounts};
use ids::HostPid;
use service::{
    DemandSettings, EngineSettings, IdentitySettings, RecipientSettings, SigningSettings,
    TrustSettings,
};

use crate::gateway_options::GatewayOptions;
use crate::voice::Voice;

/// Checkpoint running process trees and restore them.
#[derive(Debug, Parser)]
#[command(name = "stasis", version, propagate_version = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) voice: Voice,
    #[command(flatten)]
    pub(crate) gateway: GatewayOptions,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Checkpoint a process and all its descendants
    Dump(Box<DumpOptions>),
    /// End the tracking of memory that `dump --track` or `criu pre-dump` let go on, or a track of
    /// `stasis track`
    Untrack(UntrackOptions),
    /// Restore a checkpoint
    Restore(RestoreOptions),
    /// Let go of the TCP connections of a checkpoint that is not going to be restored: what comes for
    /// them is dropped no longer
    Unlock(UnlockOptions),
    /// Say what runs, what of it can be dumped, and what speaks against it
    Ps(PsOptions),
    /// Say what this kernel can do; the exit code is 0 when all that is required is there
    Check(CheckOptions),
    /// Show, load or remove the eBPF programs that commands leave in the kernel for the next; they are
    /// attached to nothing, and cost nothing but the memory they are in
    Programs(ProgramsOptions),
    /// Say what is in a checkpoint: processes, memory, files, sizes, times
    Show(ShowOptions),
    /// List the checkpoints below a directory
    List(ListOptions),
    /// Say what differs between two checkpoints: tasks, memory, files, sizes, times; the exit code is 0 whether or not something does
    Diff(DiffOptions),
    /// Read all of a checkpoint, and of those that it is an increment of, and compare it with what was written; the exit code is 0 when
    /// nothing has changed
    Verify(VerifyOptions),
    /// Sign a checkpoint, when all of it has been read and is as it was written, in the place of who had signed it
    Sign(SignOptions),
    /// Remove checkpoints; each is there whole until it is gone
    Rm(RemoveOptions),
    /// Write a checkpoint of a gateway's to standard output, as an archive of tar(1)
    Download(TransferOptions),
    /// Have a gateway take a checkpoint from standard input, as `download` writes it
    Upload(TransferOptions),
    /// What holds the tracking of changes between two dumps
    #[command(hide = true)]
    HoldUffds {
        /// The file to say it in
        file: PathBuf,
        /// What is held
        holding: String,
    },
    /// Have the collector's service count what processes change, so that dumps need not look at all
    /// of it again while they are frozen; prints the track's id
    Track(TrackOptions),
    /// List what is tracked
    Tracks(TracksOptions),
    /// List a gateway's jobs, newest first, or show one of them (with --gateway)
    Jobs(JobsOptions),
    /// Check or show the configuration file of all programs
    Config {
        /// What of it.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Behave as CRIU does: `stasis criu dump …`, `stasis criu restore …`, `stasis criu check`
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Criu {
        /// CRIU's command and options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct DumpOptions {
    /// Process at the root of the tree. Of several each has its own checkpoint, DIR/PID
    #[arg(required_unless_present = "container")]
    pub(crate) pid: Vec<HostPid>,
    /// Dump the trees in one frozen moment, in which all of them stand still, so that what they share fits all of their checkpoints. They
    /// come to be all at once (DIR must be empty, or not there) or not at all: if one tree cannot be dumped, none is. --max-freeze counts
    /// for all, and with --parent that is the directory of such a dump. Without this several are dumped one after the other
    #[arg(long)]
    pub(crate) together: bool,
    /// A container in place of a process, by its name or id: it is checkpointed by its engine, with stasis as its criu
    #[arg(long, value_name = "NAME", conflicts_with_all = NOT_OF_ENGINES)]
    pub(crate) container: Option<String>,
    /// Whose container it is, where several engines have one of that name: docker, containerd, podman, crun, runc
    #[arg(long, value_name = "ENGINE", requires = "container")]
    pub(crate) engine: Option<api::ContainerEngine>,
    /// Directory for the images; it is made, and must not hold a checkpoint yet. Podman keeps its own, Docker where
    /// none is named
    #[arg(short = 'D', long, value_name = "DIR", required_unless_present_any = ["container", "dry_run"])]
    pub(crate) directory: Option<PathBuf>,
    /// Find out what would be refused, for how long the tree would stand still, and how large the images would be: all is done as for a tree
    /// that runs on, which it does, and nothing is written. So it does stand still for a moment: --max-freeze says for how long at most
    #[arg(long, conflicts_with_all = ["leave_stopped", "track", "parent"])]
    pub(crate) dry_run: bool,
    /// Let the tree run on; without this and --leave-stopped it is ended once its images are safe
    #[arg(long)]
    pub(crate) leave_running: bool,
    /// Leave the tree stopped, as by SIGSTOP
    #[arg(long, conflicts_with = "leave_running")]
    pub(crate) leave_stopped: bool,
    /// Allow a tree whose session or terminal lies outside it
    #[arg(long)]
    pub(crate) shell_job: bool,
    /// Allow Unix sockets that send datagrams to processes outside the tree (syslog, the journal): a restore
    /// with --ext-unix-sk connects them again, by the name of the other end
    #[arg(long)]
    pub(crate) ext_unix_sk: bool,
    /// What the tree has of the outside. unix[INODE]: a Unix socket, of any type, that is connected to a process
    /// outside; a restore with --ext-unix-sk makes a new connection to the name of the other end. mnt[PATH]:NAME: what
    /// is mounted there in the tree's own mount namespace; a restore is given it by that name. mnt[]: all that is
    /// mounted here, too; mnt[]:sm also if it shares mounts with others or receives them. dev[MAJOR/MINOR]:NAME: a
    /// disk that is mounted; a restore is given one by that name. pid[INODE]:NAME: the pid namespace of the tree, of
    /// which others have the first process; a restore is given one by that name. May be given more than once
    #[arg(long, value_name = "WHAT", value_parser = external)]
    pub(crate) external: Vec<External>,
    /// Largest deleted file whose contents go into the images: bytes, or a number with K, M or G
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = criu::size::parse)]
    pub(crate) ghost_limit: u64,
    /// Give a file that has lost its name, and has others, a name beside the lost one (link_remap.N), by which a
    /// restore finds it, and which it removes
    #[arg(long)]
    pub(crate) link_remap: bool,
    /// Directory below which names of watched files (inotify, fanotify) are looked for that the kernel does not
    /// tell; may be given more than once
    #[arg(long, value_name = "DIR")]
    pub(crate) irmap_scan_path: Vec<PathBuf>,
    /// Carry all TCP connections, those to programs outside the tree as well. While the tree is away,
    /// what comes for them is dropped by the machine's packet filter, until a restore
    #[arg(long)]
    pub(crate) tcp_established: bool,
    /// Carry no TCP connection: they are closed in the restored tree
    #[arg(long, conflicts_with = "tcp_established")]
    pub(crate) tcp_close: bool,
    /// Leave out TCP connections that nobody has accepted yet
    #[arg(long)]
    pub(crate) skip_in_flight: bool,
    /// How what comes for TCP connections is dropped; without this by nftables, or else by iptables
    #[arg(long, value_name = "METHOD")]
    pub(crate) network_lock: Option<NetworkLock>,
    /// Go on tracking what changes, for a dump with this one as its --parent
    #[arg(long)]
    pub(crate) track: bool,
    /// Checkpoint to leave all pages to that have not changed since it was made with --track; it has
    /// to be kept for as long as this one
    #[arg(long, value_name = "DIR")]
    pub(crate) parent: Option<PathBuf>,
    /// What the checkpoint is to be called by, for `stasis list --labels` and the services
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub(crate) labels: Option<api::Labels>,
    #[command(flatten)]
    pub(crate) signing: SigningSettings,
    #[command(flatten)]
    pub(crate) recipients: RecipientSettings,
    #[command(flatten)]
    pub(crate) identities: IdentitySettings,
    #[command(flatten)]
    pub(crate) demand: DemandSettings,
    /// Directory of what is known at run time
    #[arg(long, value_name = "DIR", default_value = "/run/stasis", env = "STASIS_RUN_DIR")]
    pub(crate) run_dir: PathBuf,
    /// How long the tree may stand still (20ms, 1s); when that is over it runs on, and there is no
    /// checkpoint
    #[arg(long, value_name = "TIME")]
    pub(crate) max_freeze: Option<humantime::Duration>,
    /// How long the whole dump may take (30s, 5min)
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<humantime::Duration>,
    /// Ask the tasks themselves, too, for what the kernel's structures tell, read again what has not
    /// changed, and fail if that differs
    #[arg(long, env = "STASIS_CROSS_CHECK", value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) cross_check: bool,
    #[command(flatten)]
    pub(crate) programs: ProgramPlaces,
    #[command(flatten)]
    pub(crate) engines: EngineSettings,
}

/// What the command of no engine has, or would be another process than the container's.
const NOT_OF_ENGINES: [&str; 15] = [
    "pid",
    "together",
    "leave_stopped",
    "external",
    "ghost_limit",
    "link_remap",
    "irmap_scan_path",
    "tcp_close",
    "skip_in_flight",
    "network_lock",
    "track",
    "parent",
    "max_freeze",
    "timeout",
    "cross_check",
];

fn external(text: &str) -> Result<External, &'static str> {
    // An open file that is left to the outside has to be handed to the restore, which `criu` alone can be asked for.
    let is_known = |it: &External| !matches!(it, External::File(_)) && it.is_of_dump();
    External::parse(text.as_ref()).filter(is_known).ok_or(
        "only unix[INODE], pid[INODE]:NAME, dev[MAJOR/MINOR]:NAME, mnt[KEY]:VALUE and mnt[]:FLAGS can be external here; file[…], tty[…] and net[…] are options \
         of `criu dump`, whose restore is given what takes their place",
    )
}

/// What is external to a restore.
fn external_place(text: &str) -> Result<External, &'static str> {
    let is_place = |it: &External| !matches!(it, External::UnixSocket(_) | External::File(_));
    External::parse(text.as_ref()).filter(is_place).ok_or(
        "only mnt[NAME]:PATH, mnt[], dev[NAME]:PATH and pid[NAME]:PATH can be given to a restore; a Unix socket is connected again with --ext-unix-sk, and \
         veth[…] and macvlan[…] are options of `criu restore`",
    )
}

/// The inode of a Unix socket.
pub(crate) const fn socket(external: &External) -> Option<u32> {
    match external {
        External::UnixSocket(inode) => Some(*inode),
        _ => None,
    }
}

/// The id of a pid namespace that is external, and its name.
pub(crate) fn pids(external: &External) -> Option<(u64, String)> {
    match external {
        External::Pids { key, value } => Some((key.parse().ok()?, value.clone())),
        _ => None,
    }
}

/// A pid namespace that a restore is given, opened.
pub(crate) fn given_pids(
    external: &External,
) -> Option<Result<restorer::Inherited, restorer::Error>> {
    let External::Pids { key, value } = external else { return None };
    let opened = std::fs::File::open(value);
    let opened = opened
        .map_err(|source| restorer::Error::Kernel { operation: format!("open {value}"), source });
    let key = key.clone().into_bytes();
    Some(opened.map(|file| restorer::Inherited { key, file: std::sync::Arc::new(file.into()) }))
}

/// What is external of mounts.
pub(crate) fn mounts(external: &[External]) -> ExternalMounts {
    let mut mounts = ExternalMounts::default();
    for one in external {
        // All others that an option takes are sockets and pid namespaces, which `socket` and `pids` take.
        mounts.add(one.clone()).unwrap_or_default();
    }
    mounts
}

/// How the network of a tree is locked: CRIU's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum NetworkLock {
    /// A table of nftables.
    Nftables,
    /// Rules of iptables.
    Iptables,
    /// Not at all: who asks sees to it.
    Skip,
}

impl NetworkLock {
    /// What a dump is asked for by it.
    pub(crate) const fn asked(self) -> dumper::LockMethod {
        match self {
            Self::Nftables => dumper::LockMethod::Nftables,
            Self::Iptables => dumper::LockMethod::Iptables,
            Self::Skip => dumper::LockMethod::Skip,
        }
    }
}

/// Where eBPF programs are, and what it takes to load them.
#[derive(Debug, clap::Args)]
pub(crate) struct ProgramPlaces {
    /// Folder of the BPF file system in which eBPF programs are found, or left for other commands; `none`
    /// to do without them
    #[arg(long, value_name = "DIR", env = "STASIS_BPF_DIR")]
    bpf_dir: Option<PathBuf>,
    /// Folder for what is looked up in the kernel's type information
    #[arg(long, value_name = "DIR", env = "STASIS_CACHE_DIR", hide = true)]
    cache_dir: Option<PathBuf>,
}

impl ProgramPlaces {
    pub(crate) fn home(&self) -> Home {
        Home::at(self.bpf_dir.clone(), self.cache_dir.clone())
    }

    /// The same for a command that is run.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let of = |name, place: &Option<PathBuf>| Some((name, place.clone()?.into()));
        let all = [of("STASIS_BPF_DIR", &self.bpf_dir), of("STASIS_CACHE_DIR", &self.cache_dir)];
        all.into_iter().flatten().collect()
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ProgramsOptions {
    /// Load them now, if they are not there, so that the next command need not
    #[arg(long)]
    pub(crate) load: bool,
    /// Remove them, of all versions of stasis, with all that is kept to load them sooner
    #[arg(long, conflicts_with = "load")]
    pub(crate) remove: bool,
    #[command(flatten)]
    pub(crate) places: ProgramPlaces,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UntrackOptions {
    /// Process at the root of the tree whose memory is tracked
    #[arg(required_unless_present = "id")]
    pub(crate) pid: Option<HostPid>,
    /// The track to end, by the id that `stasis track` printed
    #[arg(long, conflicts_with = "pid")]
    pub(crate) id: Option<u64>,
    /// Directory of what is known at run time, and of the services' sockets
    #[arg(long, value_name = "DIR", default_value = "/run/stasis", env = "STASIS_RUN_DIR")]
    pub(crate) run_dir: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RestoreOptions {
    /// Directory that holds the checkpoint
    #[arg(short = 'D', long, value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Print the pid of the restored root and return; without this, wait for the root to end
    /// and return its exit status
    #[arg(long)]
    pub(crate) detach: bool,
    /// File for the pid of the restored root; it must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) pidfile: Option<PathBuf>,
    /// The directory with the tree's files: it becomes the root of the tree's own mount namespace, or, where the tree
    /// had none, all paths count from it
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// What the tree had of the outside. mnt[NAME]:PATH: what the dump was told of by that name; mnt[]: all that
    /// the dump found, from the same paths. May be given more than once
    #[arg(long, value_name = "WHAT", value_parser = external_place)]
    pub(crate) external: Vec<External>,
    /// Join the caller's session and terminal
    #[arg(long)]
    pub(crate) shell_job: bool,
    /// Connect Unix sockets to processes outside the tree again, by the names of the other ends
    #[arg(long)]
    pub(crate) ext_unix_sk: bool,
    /// Leave the tree stopped, as by SIGSTOP
    #[arg(long)]
    pub(crate) leave_stopped: bool,
    /// Control groups: soft makes those that are gone and puts the tree back; full also sets all as they
    /// were; strict makes all; none and props make none; ignore leaves the tree in those of the caller
    #[arg(long, value_name = "MODE", default_value = "soft")]
    pub(crate) cgroups: api::CgroupsMode,
    /// Another control group in the place of the highest one that the tree was in
    #[arg(long, value_name = "[CONTROLLER:]/PATH")]
    pub(crate) cgroup_root: Vec<api::CgroupRoot>,
    /// Give the tree whatever has the names of its files now, through links and with your own rights:
    /// for a checkpoint from another machine, whose directories nobody else can write to. Without
    /// this a file has to be the one that was dumped, or one that the processes may open themselves
    #[arg(long)]
    pub(crate) trust_paths: bool,
    /// What of programs and mapped files has to be as it was: their contents, by build ids,
    /// times of change and checksums, or only their sizes
    #[arg(long, value_name = "METHOD", default_value = "buildid")]
    pub(crate) file_validation: FileValidation,
    #[command(flatten)]
    pub(crate) trust: TrustSettings,
    #[command(flatten)]
    pub(crate) identities: IdentitySettings,
    #[command(flatten)]
    pub(crate) demand: DemandSettings,
    /// Have TCP connections come back closed
    #[arg(long)]
    pub(crate) tcp_close: bool,
    /// Directory of what is known at run time: which trees were restored
    #[arg(long, value_name = "DIR", default_value = "/run/stasis", env = "STASIS_RUN_DIR")]
    pub(crate) run_dir: PathBuf,
}

/// How programs and mapped files are compared with what they were: CRIU's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FileValidation {
    /// Their contents.
    #[value(name = "buildid")]
    BuildId,
    /// Their sizes.
    #[value(name = "filesize")]
    FileSize,
}

impl FileValidation {
    /// What a restore is asked for by it.
    pub(crate) const fn asked(self) -> restorer::Validation {
        match self {
            Self::BuildId => restorer::Validation::Contents,
            Self::FileSize => restorer::Validation::Size,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct UnlockOptions {
    /// Directory that holds the checkpoint
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    #[command(flatten)]
    pub(crate) identities: IdentitySettings,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PsOptions {
    /// Show threads of the kernel's and zombies too
    #[arg(long)]
    pub(crate) all: bool,
    /// List containers, of Docker, containerd, Podman, crun and runc, in place of processes
    #[arg(long, conflicts_with = "all")]
    pub(crate) containers: bool,
    #[command(flatten)]
    pub(crate) programs: ProgramPlaces,
    #[command(flatten)]
    pub(crate) engines: EngineSettings,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckOptions {
    #[command(flatten)]
    pub(crate) programs: ProgramPlaces,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowOptions {
    /// Directory that holds the checkpoint
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    #[command(flatten)]
    pub(crate) identities: IdentitySettings,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListOptions {
    /// Directory below which they are; that of the services without it
    #[arg(value_name = "DIR", default_value = service::CHECKPOINTS, env = "STASIS_CHECKPOINTS")]
    pub(crate) directory: PathBuf,
    /// Those that have all of these labels alone
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub(crate) labels: Option<api::Labels>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TransferOptions {
    /// Directory of the checkpoint, from the gateway's checkpoint root
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DiffOptions {
    /// Directory that holds the first checkpoint
    #[arg(value_name = "BEFORE")]
    pub(crate) before: PathBuf,
    /// Directory that holds the second
    #[arg(value_name = "AFTER")]
    pub(crate) after: PathBuf,
    #[command(flatten)]
    pub(crate) identities: IdentitySettings,
}

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyOptions {
    /// Directory that holds the checkpoint
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    #[command(flatten)]
    pub(crate) trust: TrustSettings,
    #[command(flatten)]
    pub(crate) identities: IdentitySettings,
    #[command(flatten)]
    pub(crate) demand: DemandSettings,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SignOptions {
    /// Directory that holds the checkpoint
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Private key of ed25519 (PKCS#8, PEM); its owner alone may be able to read it
    #[arg(long, value_name = "FILE", env = "STASIS_SIGNING_KEY")]
    pub(crate) signing_key: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RemoveOptions {
    /// Directories that hold the checkpoints
    #[arg(value_name = "DIR", required = true)]
    pub(crate) directories: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct JobsOptions {
    /// The job to show, by its id
    #[arg(value_name = "ID", conflicts_with_all = ["state", "kind", "limit"])]
    pub(crate) id: Option<String>,
    /// Wait for its end, and tell it as the command that began it would
    #[arg(long, requires = "id")]
    pub(crate) wait: bool,
    /// Have it cancelled, and wait for its end: the tree runs on, or is not there, and there are no images. What is done already stays done
    #[arg(long, requires = "id", conflicts_with = "wait")]
    pub(crate) cancel: bool,
    /// Those that are so far alone
    #[arg(long, value_parser = ["queued", "running", "done", "failed", "cancelled"])]
    pub(crate) state: Option<String>,
    /// Those of this kind alone
    #[arg(long, value_parser = ["checkpoint", "restore", "verify"])]
    pub(crate) kind: Option<String>,
    /// As many are listed at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
}

/// Where the collector's service listens.
#[derive(Debug, clap::Args)]
pub(crate) struct CollectorSocket {
    /// Directory of the services' sockets
    #[arg(long, value_name = "DIR", default_value = "/run/stasis", env = "STASIS_RUN_DIR")]
    pub(crate) run_dir: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TrackOptions {
    /// Process to track, with those that it makes from now on
    #[arg(required_unless_present = "cgroup")]
    pub(crate) pid: Option<HostPid>,
    /// Track the whole tree below it too
    #[arg(long, requires = "pid")]
    pub(crate) tree: bool,
    /// Track what is in a cgroup and below it, named as /proc/PID/cgroup does
    #[arg(long, value_name = "PATH", conflicts_with = "pid")]
    pub(crate) cgroup: Option<String>,
    /// Count system calls too, which spares dumps the look at open files that have not changed, and
    /// makes every system call of the machine a little slower while the track lasts
    #[arg(long)]
    pub(crate) files: bool,
    #[command(flatten)]
    pub(crate) socket: CollectorSocket,
}

/// What is done with the configuration file.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read it as all programs do, and say what is wrong; the exit code is 0 when nothing is
    Check {
        /// The file, in place of the one that --config names
        file: Option<PathBuf>,
    },
    /// Print it as the programs document it: every key, its help, its default, and what is in force in this
    /// environment. What is printed is a configuration that says the same
    Show {
        /// The file, in place of the one that --config names
        file: Option<PathBuf>,
        /// Print a file to begin with: of this machine only what FILE says, if one is named, and nothing of what
        /// is in force
        #[arg(long)]
        template: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct TracksOptions {
    #[command(flatten)]
    pub(crate) socket: CollectorSocket,
}

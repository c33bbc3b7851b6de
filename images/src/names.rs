//! The files of a checkpoint: what each is called, which number it begins with and which message it holds.
//!
//! An [`Image`] carries the type of its message, so that `dir.read_one(&names::core(41))` is a
//! [`CoreEntry`] and nothing else.

use std::marker::PhantomData;

use crate::magic;
use crate::messages::{
    AutofsEntry, BpfmapDataEntry, CgroupEntry, CoreEntry, CpuinfoEntry, FdinfoEntry, FileEntry,
    FileLockEntry, FsEntry, GhostFileEntry, InventoryEntry, IpcMsgEntry, IpcSemEntry, IpcShmEntry,
    IpcVarEntry, ManifestEntry, MemfdInodeEntry, MmEntry, MntEntry, MqueueEntry, NetDeviceEntry,
    NetnsEntry, PagemapHead, PidnsEntry, PipeDataEntry, PstreeEntry, RemapFilePathEntry, SealEntry,
    SeccompEntry, ServedEntry, SignatureEntry, SkPacketEntry, StatsEntry, TaskKobjIdsEntry,
    TcpStreamEntry, TimensEntry, TtyDataEntry, TtyInfoEntry, UsernsEntry, UtsnsEntry,
};

/// What an image begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The number of its kind: `inventory.img`.
    Own,
    /// The common number, then that of its kind.
    Common,
    /// The number of service files, then that of its kind.
    Service,
}

/// An image file that holds messages of type `M`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image<M> {
    name: String,
    magic: u32,
    head: Head,
    message: PhantomData<fn() -> M>,
}

impl<M> Image<M> {
    fn new(name: impl Into<String>, magic: u32) -> Self {
        Self { name: name.into(), magic, head: Head::Common, message: PhantomData }
    }

    fn with_head(self, head: Head) -> Self {
        Self { head, ..self }
    }

    /// The file's name in the directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of its kind.
    pub fn magic(&self) -> u32 {
        self.magic
    }

    /// What the file begins with, in a checkpoint of the current version.
    pub fn head(&self) -> Head {
        self.head
    }
}

/// `inventory.img`: written last, read first. One entry.
pub fn inventory() -> Image<InventoryEntry> {
    Image::new("inventory.img", magic::INVENTORY).with_head(Head::Own)
}

/// `pstree.img`: the processes, parents first.
pub fn pstree() -> Image<PstreeEntry> {
    Image::new("pstree.img", magic::PSTREE)
}

/// `core-TID.img`: a thread. One entry.
pub fn core(tid: u32) -> Image<CoreEntry> {
    Image::new(format!("core-{tid}.img"), magic::CORE)
}

/// `ids-PID.img`: the kernel objects a process uses. One entry.
pub fn ids(pid: u32) -> Image<TaskKobjIdsEntry> {
    Image::new(format!("ids-{pid}.img"), magic::IDS)
}

/// `mm-PID.img`: an address space. One entry.
pub fn mm(pid: u32) -> Image<MmEntry> {
    Image::new(format!("mm-{pid}.img"), magic::MM)
}

/// `fs-PID.img`: working directory, root, umask. One entry.
pub fn fs(pid: u32) -> Image<FsEntry> {
    Image::new(format!("fs-{pid}.img"), magic::FS)
}

/// `pagemap-PID.img`: where the pages of an address space are. Read it with
/// [`Images::page_map`](crate::Images::page_map): its first entry differs from the others.
pub fn pagemap(pid: u32) -> Image<PagemapHead> {
    Image::new(format!("pagemap-{pid}.img"), magic::PAGEMAP)
}

/// `pagemap-shmem-ID.img`: the same for shared anonymous memory; addresses count from its start.
pub fn pagemap_shmem(shmid: u64) -> Image<PagemapHead> {
    Image::new(format!("pagemap-shmem-{shmid}.img"), magic::PAGEMAP)
}

/// The page map that has this name.
pub(crate) fn page_map_of(name: &str) -> Option<Image<PagemapHead>> {
    let number = name.strip_prefix("pagemap-")?.strip_suffix(".img")?;
    match number.strip_prefix("shmem-") {
        Some(id) => id.parse().ok().map(pagemap_shmem),
        None => number.parse().ok().map(pagemap),
    }
}

/// `pages-ID.img`: pages, and nothing else. Not a message file, so this is its bare name.
pub fn pages(pages_id: u32) -> String {
    format!("pages-{pages_id}.img")
}

/// Whether a file is called as those of pages are.
pub(crate) fn is_pages(name: &str) -> bool {
    let number = name.strip_prefix("pages-").and_then(|name| name.strip_suffix(".img"));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// `files.img`: the open file descriptions of the tree, and everything else that has a file id.
pub fn files() -> Image<FileEntry> {
    Image::new("files.img", magic::FILES)
}

/// `fdinfo-ID.img`: the descriptor table with id `files_id`.
pub fn fdinfo(files_id: u32) -> Image<FdinfoEntry> {
    Image::new(format!("fdinfo-{files_id}.img"), magic::FDINFO)
}

/// `bpfmap-data.img`: each entry is followed by `keys_bytes` and `values_bytes` bytes.
pub fn bpfmap_data() -> Image<BpfmapDataEntry> {
    Image::new("bpfmap-data.img", magic::BPFMAP_DATA)
}

/// `pipes-data.img`: each entry is followed by `bytes` bytes.
pub fn pipes_data() -> Image<PipeDataEntry> {
    Image::new("pipes-data.img", magic::PIPES_DATA)
}

/// `fifo-data.img`: each entry is followed by `bytes` bytes.
pub fn fifo_data() -> Image<PipeDataEntry> {
    Image::new("fifo-data.img", magic::FIFO_DATA)
}

/// `sk-queues.img`: each entry is followed by `length` bytes.
pub fn sk_queues() -> Image<SkPacketEntry> {
    Image::new("sk-queues.img", magic::SK_QUEUES)
}

/// `tcp-stream-INO.img` (hexadecimal): one entry, then the bytes of both queues.
pub fn tcp_stream(ino: u32) -> Image<TcpStreamEntry> {
    Image::new(format!("tcp-stream-{ino:x}.img"), magic::TCP_STREAM)
}

/// `remap-fpath.img`: files whose names are gone.
pub fn remap_fpath() -> Image<RemapFilePathEntry> {
    Image::new("remap-fpath.img", magic::REMAP_FPATH)
}

/// `ghost-file-ID.img` (hexadecimal): one entry, then the contents.
pub fn ghost_file(id: u32) -> Image<GhostFileEntry> {
    Image::new(format!("ghost-file-{id:x}.img"), magic::GHOST_FILE)
}

/// `memfd.img`: memfds.
pub fn memfd() -> Image<MemfdInodeEntry> {
    Image::new("memfd.img", magic::MEMFD_INODE)
}

/// `filelocks.img`: locks on files.
pub fn file_locks() -> Image<FileLockEntry> {
    Image::new("filelocks.img", magic::FILE_LOCKS)
}

/// `tty-info.img`: terminals.
pub fn tty_info() -> Image<TtyInfoEntry> {
    Image::new("tty-info.img", magic::TTY_INFO)
}

/// `tty-data.img`: what is in their input queues.
pub fn tty_data() -> Image<TtyDataEntry> {
    Image::new("tty-data.img", magic::TTY_DATA)
}

/// `seccomp.img`: filters. One entry.
pub fn seccomp() -> Image<SeccompEntry> {
    Image::new("seccomp.img", magic::SECCOMP)
}

/// `cgroup.img`: control groups. One entry.
pub fn cgroup() -> Image<CgroupEntry> {
    Image::new("cgroup.img", magic::CGROUP)
}

/// `cpuinfo.img`: the processor. One entry.
pub fn cpuinfo() -> Image<CpuinfoEntry> {
    Image::new("cpuinfo.img", magic::CPUINFO)
}

/// `timens-ID.img`: clocks (CRIU always writes id 0). One entry.
pub fn timens(id: u32) -> Image<TimensEntry> {
    Image::new(format!("timens-{id}.img"), magic::TIMENS)
}

/// `utsns-ID.img`: host names. One entry.
pub fn utsns(id: u32) -> Image<UtsnsEntry> {
    Image::new(format!("utsns-{id}.img"), magic::UTSNS)
}

/// `ipcns-var-ID.img`: limits of an IPC namespace. One entry.
pub fn ipcns_var(id: u32) -> Image<IpcVarEntry> {
    Image::new(format!("ipcns-var-{id}.img"), magic::IPC_VAR)
}

/// `ipcns-shm-ID.img`: its shared memory; in that of the dumper's own namespace, what the processes have attached.
pub fn ipcns_shm(id: u32) -> Image<IpcShmEntry> {
    Image::new(format!("ipcns-shm-{id}.img"), magic::IPCNS_SHM)
}

/// `ipcns-sem-ID.img`: its sets of semaphores. Each entry is followed by their values.
pub fn ipcns_sem(id: u32) -> Image<IpcSemEntry> {
    Image::new(format!("ipcns-sem-{id}.img"), magic::IPCNS_SEM)
}

/// `ipcns-mq-ID.img`: extension: its POSIX queues. Each entry is followed by its messages.
pub fn ipcns_mq(id: u32) -> Image<MqueueEntry> {
    Image::new(format!("ipcns-mq-{id}.img"), magic::IPCNS_MQ)
}

/// `ipcns-msg-ID.img`: its message queues. Each entry is followed by its messages ([`IpcMsg`](crate::messages::IpcMsg)),
/// and each of these by its bytes.
pub fn ipcns_msg(id: u32) -> Image<IpcMsgEntry> {
    Image::new(format!("ipcns-msg-{id}.img"), magic::IPCNS_MSG)
}

/// `userns-ID.img`: mappings of ids. One entry.
pub fn userns(id: u32) -> Image<UsernsEntry> {
    Image::new(format!("userns-{id}.img"), magic::USERNS)
}

/// `pidns-ID.img`: an external pid namespace. One entry.
pub fn pidns(id: u32) -> Image<PidnsEntry> {
    Image::new(format!("pidns-{id}.img"), magic::PIDNS)
}

/// `mountpoints-ID.img`: mounts.
pub fn mountpoints(id: u32) -> Image<MntEntry> {
    Image::new(format!("mountpoints-{id}.img"), magic::MNTS)
}

/// `autofs-DEVICE.img`: a file system of kind `autofs`, by its device as the kernel packs it.
pub fn autofs(device: u32) -> Image<AutofsEntry> {
    Image::new(format!("autofs-{device}.img"), magic::AUTOFS)
}

/// `netns-ID.img`: a network namespace. One entry, or none where it is restored empty.
pub fn netns(id: u32) -> Image<NetnsEntry> {
    Image::new(format!("netns-{id}.img"), magic::NETNS)
}

/// `netdev-ID.img`: network devices.
pub fn netdev(id: u32) -> Image<NetDeviceEntry> {
    Image::new(format!("netdev-{id}.img"), magic::NETDEV)
}

/// What a network namespace has beside, in images that hold no messages: `ifaddr-ID.img` and the like.
pub fn of_network(kind: NetworkImage, id: u32) -> String {
    format!("{}-{id}.img", kind.stem())
}

/// An image of a network namespace that holds no messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetworkImage {
    /// Addresses, as `ip address save` writes them.
    Addresses,
    /// Routes of IPv4, as `ip route save` writes them.
    Routes,
    /// Routes of IPv6, as `ip -6 route save` writes them.
    Routes6,
    /// Rules of IPv4, as `ip rule save` writes them.
    Rules,
    /// Rules of IPv6, in the same form. Only stasis writes it.
    Rules6,
    /// Neighbours that somebody has told of, proxies among them, and addresses that bridges know so, as messages of netlink. Only
    /// stasis writes it.
    Neighbours,
    /// Labels of addresses of IPv6, in the same form, where they are not the usual ones. Only stasis writes it.
    Labels,
    /// As `nft list ruleset` writes it.
    Nftables,
    /// As `iptables-legacy-save` writes it.
    Iptables,
    /// As `ip6tables-legacy-save` writes it.
    Ip6tables,
    /// Tracked connections, as messages of netlink with nothing before them.
    Tracked,
}

impl NetworkImage {
    /// All of them, in the order in which they are restored.
    pub const ALL: [Self; 11] = [
        Self::Addresses,
        Self::Routes,
        Self::Routes6,
        Self::Rules,
        Self::Rules6,
        Self::Neighbours,
        Self::Labels,
        Self::Iptables,
        Self::Ip6tables,
        Self::Nftables,
        Self::Tracked,
    ];

    /// What its name begins with.
    pub const fn stem(self) -> &'static str {
        match self {
            Self::Addresses => "ifaddr",
            Self::Routes => "route",
            Self::Routes6 => "route6",
            Self::Rules => "rule",
            Self::Rules6 => "rule6",
            Self::Neighbours => "neighbour",
            Self::Labels => "addrlabel",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Ip6tables => "ip6tables",
            Self::Tracked => "netns-ct",
        }
    }

    /// The number that it begins with, if it has one. It is iproute2's.
    pub const fn magic(self) -> Option<u32> {
        match self {
            Self::Addresses => Some(0x4736_1222),
            Self::Routes | Self::Routes6 => Some(0x4531_1224),
            Self::Rules | Self::Rules6 => Some(0x7170_6986),
            _ => None,
        }
    }

    /// Whether it holds the text of a program.
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Nftables | Self::Iptables | Self::Ip6tables)
    }
}

/// `tmpfs-dev-ID.tar.gz.img`: what is in a file system that lives in memory, by its device as the kernel packs it. It
/// is an archive without any head.
pub fn tmpfs(device: u32) -> String {
    format!("tmpfs-dev-{device}.tar.gz.img")
}

/// The name by which CRIU 1.x had the same, by the number of the mount.
pub fn older_tmpfs(mount: u32) -> String {
    format!("tmpfs-{mount}.tar.gz.img")
}

/// `stasis-signature`: who vouches for the manifest. Written when the checkpoint is safe, or later.
pub fn signature() -> Image<SignatureEntry> {
    Image::new("stasis-signature", magic::SIGNATURE).with_head(Head::Own)
}

/// `stasis-manifest`: what the checkpoint consists of. Written after all others, by whoever commits them.
pub fn manifest() -> Image<ManifestEntry> {
    Image::new("stasis-manifest", magic::MANIFEST).with_head(Head::Own)
}

/// `stasis-seal`: of an encrypted checkpoint, what binds its files to each other. Written after the manifest. One entry.
pub fn seal() -> Image<SealEntry> {
    Image::new("stasis-seal", magic::SEAL).with_head(Head::Own)
}

/// Whether a file of this name can be read without keys where a checkpoint is encrypted: what it consists of, who has signed it, and what it
/// took.
pub(crate) fn stays_plain(name: &str) -> bool {
    let name = name.rsplit_once('/').map_or(name, |(_, name)| name);
    is_service(name) && name != "stasis-seal"
}

/// `stasis-served.img`: which pages have gone to a page server.
pub fn served() -> Image<ServedEntry> {
    Image::new("stasis-served.img", magic::SERVED)
}

/// Whether a file of this name is a page map, or has pages.
pub fn is_of_pages(name: &str) -> bool {
    let stem = name.strip_suffix(".img").and_then(|stem| stem.rsplit_once('-'));
    is_image(name)
        && stem.is_some_and(|(kind, _)| matches!(kind, "pagemap" | "pagemap-shmem" | "pages"))
}

/// `stats-dump`: what a dump cost. A service file: it lies in the work directory. One entry.
pub fn stats_dump() -> Image<StatsEntry> {
    Image::new("stats-dump", magic::STATS).with_head(Head::Service)
}

/// `stats-restore`: what a restore cost. A service file: it lies in the work directory. One entry.
pub fn stats_restore() -> Image<StatsEntry> {
    Image::new("stats-restore", magic::STATS).with_head(Head::Service)
}

/// Name of the link to the checkpoint that holds the pages marked as being in the parent.
pub const PARENT_LINK: &str = "parent";

/// Name of the file of a checkpoint's labels, which is no image.
pub const LABELS: &str = "stasis-labels.json";

/// Name of the file beside the images that says that they came as an archive, and so from anybody. No archive brings it or takes it along.
pub const UPLOADED: &str = "stasis-uploaded";

/// Whether a file is one that is put beside the images: labels, logs, and what container engines note for themselves.
pub fn is_beside(name: &str) -> bool {
    matches!(name, LABELS | UPLOADED | "config.json" | "descriptors.json") || name.ends_with(".log")
}

/// Name of the directory inside a checkpoint for pages that were copied while the processes still ran: a parent
/// checkpoint of its own, with page maps and pages.
pub const PRE_COPY: &str = PRE_COPIES[0];

/// The same, and those inside it for what was copied later, or by another thread: a page map speaks of one pages file,
/// so each file needs a directory of its own. The parent of each is the one that it lies in, and
/// [`PARENT_LINK`] of the checkpoint leads to the last.
pub const PRE_COPIES: [&str; 12] = {
    let mut names = [""; 12];
    let mut depth = 0;
    while depth < names.len() {
        names[depth] = NESTED.split_at("pre-copy/".len() * depth + "pre-copy".len()).0;
        depth += 1;
    }
    names
};

/// The deepest of them.
const NESTED: &str = concat!(
    "pre-copy/pre-copy/pre-copy/pre-copy/",
    "pre-copy/pre-copy/pre-copy/pre-copy/",
    "pre-copy/pre-copy/pre-copy/pre-copy",
);

/// Images of which a checkpoint has one.
const SINGLE: &[&str] = &[
    "apparmor",
    "autofs",
    "binfmt-misc",
    "bpfmap-data",
    "bpfmap-file",
    "cgroup",
    "cpuinfo",
    "eventfd",
    "eventpoll",
    "eventpoll-tfd",
    "ext-files",
    "fanotify",
    "fanotify-mark",
    "fifo",
    "fifo-data",
    "filelocks",
    "files",
    "inetsk",
    "inotify",
    "inotify-wd",
    "inventory",
    "memfd",
    "netlinksk",
    "ns-files",
    "packetsk",
    "pidfd",
    "pipes",
    "pipes-data",
    "pstree",
    "reg-files",
    "remap-fpath",
    "seccomp",
    "signalfd",
    "sk-queues",
    "stasis-served",
    "timerfd",
    "tty",
    "tty-data",
    "tty-info",
    "tunfile",
    "unixsk",
];

/// Images of which there may be many: the name goes on with `-` and a number, decimal or hexadecimal.
const NUMBERED: &[&str] = &[
    "addrlabel",
    "autofs",
    "binfmt-misc",
    "core",
    "creds",
    "fdinfo",
    "fs",
    "ghost-file",
    "ids",
    "ifaddr",
    "ip6tables",
    "ipcns-mq",
    "ipcns-msg",
    "ipcns-sem",
    "ipcns-shm",
    "ipcns-var",
    "iptables",
    "itimers",
    "mm",
    "mountpoints",
    "neighbour",
    "netdev",
    "netns",
    "netns-ct",
    "netns-exp",
    "nftables",
    "pagemap",
    "pagemap-shmem",
    "pages",
    "pages-shmem",
    "pidns",
    "posix-timers",
    "rlimit",
    "route",
    "route6",
    "rule",
    "rule6",
    "sigacts",
    "signal-p",
    "signal-s",
    "tcp-stream",
    "timens",
    "tmpfs",
    "tmpfs-dev",
    "userns",
    "utsns",
    "vmas",
];

/// Whether a file of this name is one of the images of a checkpoint, ours or CRIU's of any version. A file that
/// merely ends in `.img` is not: it may be somebody's disk.
pub fn is_image(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".img") else { return false };
    let stem = stem.strip_suffix(".tar.gz").unwrap_or(stem);
    SINGLE.contains(&stem)
        || stem.rsplit_once('-').is_some_and(|(kind, number)| {
            NUMBERED.contains(&kind)
                && !number.is_empty()
                && number.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
}

/// Images of CRIU that are not read, with what is in them: those that CRIU wrote before it had the same in others, and those of
/// what is not restored.
const UNREAD: &[(&str, &str)] = &[
    ("apparmor", "policies of AppArmor"),
    ("binfmt-misc", "formats of programs"),
    ("creds", "credentials"),
    ("itimers", "interval timers"),
    ("pages-shmem", "shared memory"),
    ("posix-timers", "POSIX timers"),
    ("rlimit", "resource limits"),
    ("sigacts", "signal actions"),
    ("signal-p", "pending signals of a process"),
    ("signal-s", "pending signals of a thread"),
    ("vmas", "mappings"),
];

/// What is in an image that is not read; `None` of one that is, or of no meaning to a restore.
pub fn unread(name: &str) -> Option<&'static str> {
    let stem = name.strip_suffix(".img")?;
    let is_one = |kind: &str| match stem.strip_prefix(kind) {
        Some("") => true,
        Some(rest) => rest.strip_prefix('-').is_some_and(|it| it.parse::<u64>().is_ok()),
        None => false,
    };
    UNREAD.iter().find(|(kind, _)| is_one(kind)).map(|(_, what)| *what)
}

/// Whether a file of this name is a service file, of no meaning to a restore.
pub fn is_service(name: &str) -> bool {
    matches!(
        name,
        "stats-dump" | "stats-restore" | "stasis-manifest" | "stasis-signature" | "stasis-seal"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_read_is_known_by_name() {
        assert_eq!(unread("itimers-12.img"), Some("interval timers"));
        assert_eq!(unread("apparmor.img"), Some("policies of AppArmor"));
        for read in ["core-12.img", "itimers-x.img", "pages-shmem", "signal-p.txt", "files.img"] {
            assert_eq!(unread(read), None, "{read}");
        }
        assert!(UNREAD.iter().all(|(kind, _)| SINGLE.contains(kind) || NUMBERED.contains(kind)));
    }

    #[test]
    fn images_are_known_by_name_and_disks_are_not_images() {
        let ours = [
            inventory().name().to_owned(),
            core(1).name().to_owned(),
            pagemap_shmem(77).name().to_owned(),
            ghost_file(0xdead).name().to_owned(),
            tcp_stream(0xbeef).name().to_owned(),
            pages(3),
            sk_queues().name().to_owned(),
            "tmpfs-5.tar.gz.img".to_owned(),
        ];
        for name in &ours {
            assert!(is_image(name), "{name}");
        }
        for name in ["disk.img", "core.img", "pages-.img", "core-1", "fs-x1.img", "my-fs-1.img"] {
            assert!(!is_image(name), "{name}");
        }
    }

    /// Each name that is made in this file: one that is left out of the lists would stay behind when its checkpoint is
    /// overwritten, and be read as part of the new one.
    #[test]
    fn every_name_of_this_file_is_one_of_an_image() {
        let (own, _) = include_str!("names.rs").split_once("#[cfg(test)]").unwrap();
        let code = own.lines().filter(|line| !line.trim_start().starts_with("//"));
        let literals = code.flat_map(|line| line.split('"').skip(1).step_by(2));
        let names: Vec<_> =
            literals.filter(|literal| literal.len() > 4 && literal.ends_with(".img")).collect();
        assert!(names.len() > 30, "{names:?}");
        for name in names {
            match name.split_once('{') {
                // Those of networks.
                Some(("", _)) => {}
                Some((before, _)) => assert!(is_image(&format!("{before}7f.img")), "{name}"),
                None => assert!(is_image(name), "{name}"),
            }
        }
        for kind in NetworkImage::ALL {
            assert!(is_image(&of_network(kind, 7)), "{kind:?}");
        }
    }
}

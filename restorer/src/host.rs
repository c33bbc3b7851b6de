//! What this machine and this process can give, and whether it is enough for the images.
//!
//! [`Host`] is probed once; the comparison makes no system call.

use arch::fpu::Layout;
use arch::regs::Abi;
use ids::{HostPid, ImagePid};
use images::MappingKind;
use images::id_map::Id;
use images::messages::{CredsEntry, VmaEntry};
use inventory::{VmFlags, mapping_kind};
use kernel::features::{Answer, Feature};
use kernel::procfs::{Dir, Limits, ProcFile, Status, maps};
use support::Unsupported;

use crate::error::Error;
use crate::load::{Body, Checkpoint, Mapping, Process, Thread, capability_set, ids_of};

/// A stretch of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Range {
    pub(crate) const fn bytes(self) -> u64 {
        self.end - self.start
    }
}

/// The kernel's own mappings in this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vdso {
    /// The code.
    pub(crate) code: Option<Range>,
    /// The data, in the one or several pieces that the kernel made.
    pub(crate) data: Vec<Range>,
    /// The bytes of the code.
    pub(crate) image: Vec<u8>,
}

/// What this process has.
#[derive(Debug)]
pub(crate) struct Host {
    /// `None` for a session or group whose leader is outside of our pid namespace.
    pub(crate) sid: Option<HostPid>,
    pub(crate) pgid: Option<HostPid>,
    pub(crate) permitted: u64,
    /// Those that tasks may be given: what programs of the caller have as well, and this one not for its file's sake alone.
    pub(crate) grantable: u64,
    pub(crate) bounding: u64,
    /// Capabilities that the kernel knows.
    pub(crate) known: u64,
    /// Components of the processor's extended state.
    pub(crate) components: u64,
    /// Hard limits by number of the resource.
    pub(crate) hard_limits: Vec<u64>,
    /// The kernel has guard regions.
    pub(crate) guards: bool,
    /// Nobody may set supplementary groups in the user namespace of the tree: its first task is born with them.
    pub(crate) born_with_groups: bool,
    /// This process may set no ids, groups, bounding set and secure bits: the tasks are born with its own.
    pub(crate) born_with_ids: Option<OwnIds>,
    pub(crate) vdso: Vdso,
    /// That of tasks of 32-bit code, where there are some to be restored.
    pub(crate) compat_vdso: Option<kernel::compat::Vdso>,
    /// All of its mappings.
    pub(crate) mappings: Vec<Range>,
}

/// Whose the tasks are that are born with the ids of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnIds {
    /// Real, effective, saved and of the file system.
    users: [u32; 4],
    groups: [u32; 4],
    supplementary: Vec<u32>,
    inheritable: u64,
    securebits: u32,
}

const CAP_SETGID: u64 = 6;
const CAP_SETUID: u64 = 7;
const CAP_SETPCAP: u64 = 8;
const CAP_SYS_RESOURCE: u64 = 24;

impl OwnIds {
    /// `None` if this process may set any.
    fn of(status: &Status) -> Option<Self> {
        let needed = 1 << CAP_SETGID | 1 << CAP_SETUID | 1 << CAP_SETPCAP;
        if status.cap_effective & needed == needed {
            return None;
        }
        let (uid, gid) = (&status.uid, &status.gid);
        let mut supplementary = status.groups.clone();
        supplementary.sort_unstable();
        Some(Self {
            users: [uid.real, uid.effective, uid.saved, uid.fs],
            groups: [gid.real, gid.effective, gid.saved, gid.fs],
            supplementary,
            inheritable: status.cap_inheritable,
            securebits: kernel::process::secure_bits(),
        })
    }

    /// What of a thread is another than this process's.
    fn differs(&self, creds: &CredsEntry, host: &Host) -> Option<&'static str> {
        let mut supplementary = creds.groups.clone();
        supplementary.sort_unstable();
        let bounding = |set: u64| set & host.known;
        let inheritable = capability_set(&creds.cap_inh) & host.known;
        [
            ("users", [creds.uid, creds.euid, creds.suid, creds.fsuid] == self.users),
            ("groups", [creds.gid, creds.egid, creds.sgid, creds.fsgid] == self.groups),
            ("supplementary groups", supplementary == self.supplementary),
            ("secure bits", creds.secbits == self.securebits),
            (
                "bounding capabilities",
                bounding(capability_set(&creds.cap_bnd)) == bounding(host.bounding),
            ),
            ("inheritable capabilities", inheritable & !(self.inheritable | host.permitted) == 0),
        ]
        .into_iter()
        .find_map(|(what, same)| (!same).then_some(what))
    }
}

impl Host {
    /// Asks the kernel about this process.
    pub(crate) fn probe() -> Result<Self, Error> {
        let dir = Dir::open(HostPid::own())?;
        let status = Status::read(&dir)?;
        let limits = Limits::read(&dir)?;
        let last = kernel::sysctl::read("/proc/sys/kernel/cap_last_cap")
            .map_err(Error::kernel("read /proc/sys/kernel/cap_last_cap"))?;
        let last: u32 = last.trim().parse().unwrap_or(63);
        let session = nix::unistd::getsid(None).ok();
        let mut host = Self {
            sid: session.and_then(|sid| HostPid::new(sid.as_raw())),
            pgid: HostPid::new(nix::unistd::getpgrp().as_raw()),
            permitted: status.cap_permitted,
            grantable: match nix::unistd::geteuid().is_root() {
                true => status.cap_permitted,
                false => status.cap_permitted & status.cap_ambient,
            },
            bounding: status.cap_bounding,
            known: u64::MAX >> (63 - last.min(63)),
            components: Layout::of_this_processor().components(),
            hard_limits: limits.0.iter().map(|limit| limit.hard.unwrap_or(u64::MAX)).collect(),
            guards: Feature::GuardRegions.probe() == Answer::Yes,
            born_with_groups: false,
            born_with_ids: OwnIds::of(&status),
            vdso: Vdso::default(),
            compat_vdso: None,
            mappings: Vec::new(),
        };
        host.map()?;
        Ok(host)
    }

    /// Notes the mappings as they are now.
    pub(crate) fn map(&mut self) -> Result<(), Error> {
        let text =
            std::fs::read("/proc/self/maps").map_err(Error::kernel("read /proc/self/maps"))?;
        self.mappings.clear();
        self.vdso = Vdso::default();
        for map in maps(&text) {
            let map =
                map.map_err(|malformed| Error::image("/proc/self/maps", malformed.to_string()))?;
            let range = Range { start: map.start, end: map.end };
            match mapping_kind(map.raw_name, map.inode, VmFlags::default()) {
                MappingKind::Vdso => self.vdso.code = Some(range),
                MappingKind::Vvar => self.vdso.data.push(range),
                MappingKind::Vsyscall => continue,
                _ => {}
            }
            self.mappings.push(range);
        }
        if let Some(code) = self.vdso.code {
            self.vdso.image = vec![0; code.bytes() as usize];
            kernel::memory::read_exact(HostPid::own(), code.start, &mut self.vdso.image)
                .map_err(Error::kernel("read the vdso"))?;
        }
        Ok(())
    }

    /// Asks the kernel for what tasks of 32-bit code have of it, if there are any, and refuses them if it runs none.
    pub(crate) fn check_compat(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let mut living = checkpoint.living();
        let Some((process, _)) = living.find(|(_, body)| body.abi() == Abi::Compat) else {
            return Ok(());
        };
        let vdso = kernel::compat::vdso();
        self.compat_vdso = vdso.map_err(Error::kernel("map the vdso of 32-bit code"))?;
        if self.compat_vdso.is_some() {
            return Ok(());
        }
        let object = format!("process {}", process.pid);
        Err(Error::refused(support::host::NO_COMPAT.of(process.pid.get(), object)))
    }

    /// How long each piece of the vDSO's data is that tasks of a kind have, and its code.
    pub(crate) fn vdso_of(&self, abi: Abi) -> (Vec<u64>, &[u8]) {
        match (abi, &self.compat_vdso) {
            (Abi::Compat, Some(vdso)) => (vdso.data.clone(), &vdso.image),
            (Abi::Compat, None) => (Vec::new(), &[]),
            (Abi::Native, _) => {
                (self.vdso.data.iter().map(|range| range.bytes()).collect(), &self.vdso.image)
            }
        }
    }

    /// Refuses, by name, all that cannot be had here.
    pub(crate) fn check(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let mut found = Vec::new();
        if self.born_with_groups {
            check_groups(checkpoint, &mut found);
        }
        for (process, body) in checkpoint.living() {
            let users = checkpoint.namespaces.users();
            check_ids_of_threads(checkpoint, process, body, &mut found);
            // In a user namespace nobody may raise a limit: who passes on the way there does.
            if self.permitted & 1 << CAP_SYS_RESOURCE == 0 {
                self.check_limits(process, &mut found);
            }
            // There everybody begins with all capabilities.
            if users.is_none() {
                self.check_capabilities(body, &mut found);
            }
            self.check_ids(body, &mut found);
            self.check_processor(process, body, &mut found);
            self.check_guards(process, body, &mut found);
            check_mappings(process, body, &mut found);
        }
        if found.is_empty() { Ok(()) } else { Err(Error::Refused(found)) }
    }

    /// A hard limit can be lowered by anyone, raised only with CAP_SYS_RESOURCE.
    fn check_limits(&self, process: &Process, found: &mut Vec<Unsupported>) {
        let limits = process.core.rlimits.iter().flat_map(|all| &all.rlimits);
        for (resource, limit) in limits.enumerate() {
            let ours = self.hard_limits.get(resource).copied().unwrap_or(u64::MAX);
            found.extend(support::host::of_limit(process.pid, resource, limit.max, ours));
        }
    }

    fn check_guards(&self, process: &Process, body: &Body, found: &mut Vec<Unsupported>) {
        let mut guards = body.mappings.iter().filter(|mapping| mapping.kind == MappingKind::Guard);
        if let Some(Mapping { vma, .. }) = guards.next().filter(|_| !self.guards) {
            found.push(support::host::of_guard(process.pid, vma.start, vma.end));
        }
    }

    fn check_processor(&self, process: &Process, body: &Body, found: &mut Vec<Unsupported>) {
        let names = |mask| arch::fpu::names(mask).collect::<Vec<_>>().join(" and ");
        for thread in &body.threads {
            let missing = thread.processor.missing(self.components);
            if missing != 0 {
                let refusal = support::host::processor_state(&names(missing));
                found.push(refusal.of(thread.tid.get(), "processor state"));
            }
        }
        let missing = body.permitted_components() & !self.components;
        if missing != 0 {
            found.push(support::host::of_permitted(process.pid, &names(missing)));
        }
    }

    fn check_ids(&self, body: &Body, found: &mut Vec<Unsupported>) {
        let Some(own) = &self.born_with_ids else { return };
        for thread in &body.threads {
            let creds = thread.core.creds.as_ref();
            if let Some(what) = creds.and_then(|creds| own.differs(creds, self)) {
                found.push(support::host::other_ids(what).of(thread.tid.get(), what));
            }
        }
    }

    fn check_capabilities(&self, body: &Body, found: &mut Vec<Unsupported>) {
        for thread in &body.threads {
            let Some(creds) = &thread.core.creds else { continue };
            let wanted = capability_set(&creds.cap_prm) | capability_set(&creds.cap_amb);
            let missing = wanted & !self.grantable;
            let unbounded = capability_set(&creds.cap_bnd) & self.known & !self.bounding;
            if missing | unbounded != 0 {
                let names = kernel::rights::names_of(missing | unbounded);
                found.push(support::host::of_capabilities(thread.tid, &names));
            }
        }
    }

    /// Refuses a process that was dumped under another vDSO: its threads may be inside, or hold
    /// addresses of, functions that are elsewhere in ours.
    pub(crate) fn check_vdso(
        &self,
        pid: ImagePid,
        body: &Body,
        stored: Option<&[u8]>,
    ) -> Result<(), Error> {
        let sum = |kind: MappingKind| -> u64 {
            let of = body.mappings.iter().filter(|mapping| mapping.kind == kind);
            of.map(|mapping| mapping.vma.end - mapping.vma.start).sum()
        };
        let code = sum(MappingKind::Vdso);
        let data = sum(MappingKind::Vvar);
        let (our_data, image) = self.vdso_of(body.abi());
        let same = code == 0
            || code == image.len() as u64
                && data == our_data.iter().sum::<u64>()
                && stored.is_none_or(|stored| stored == image);
        if same {
            return Ok(());
        }
        Err(Error::refused(support::host::OTHER_VDSO.of(pid.get(), format!("process {pid}"))))
    }
}

/// All threads have the supplementary groups of the first, where nobody may set them.
fn check_groups(checkpoint: &Checkpoint, found: &mut Vec<Unsupported>) {
    let threads = checkpoint.living().flat_map(|(_, body)| &body.threads);
    let groups = |thread: &Thread| thread.core.creds.as_ref().map(|creds| creds.groups.clone());
    let of_first = checkpoint.living().next().and_then(|(_, body)| groups(body.threads.first()?));
    let other = threads.filter(|thread| groups(thread) != of_first);
    let refusal = || support::users::OTHER_GROUPS;
    found.extend(other.map(|thread| refusal().of(thread.tid.get(), "supplementary groups")));
}

/// Mappings of kinds that this kernel may not have. It is asked only if there are some.
fn check_mappings(process: &Process, body: &Body, found: &mut Vec<Unsupported>) {
    let vmas = || body.mappings.iter().map(|mapping| &mapping.vma);
    let first = |is_it: fn(&&VmaEntry) -> bool| vmas().find(is_it);
    let sealed = first(|vma| vma.sealed == Some(true));
    let droppable = first(|vma| vma.is_droppable());
    let keys = body.mm.protection_keys.is_some_and(|taken| taken != 0)
        || first(|vma| vma.protection_key.is_some()).is_some();
    if keys && Feature::ProtectionKeys.probe() != Answer::Yes {
        found.push(support::host::NO_KEYS.of(process.pid.get(), "memory protection keys"));
    }
    for (vma, feature, refusal) in [
        (sealed, Feature::SealedMemory, support::host::NO_SEALS),
        (droppable, Feature::DroppableMemory, support::host::NO_DROPPABLE),
    ] {
        if let Some(vma) = vma
            && feature.probe() != Answer::Yes
        {
            let object = format!("mapping {:#x}-{:#x}", vma.start, vma.end);
            found.push(refusal.of(process.pid.get(), object));
        }
    }
}
/// Other threads of a process in a user namespace below that of the root take their ids in there, if they have others than the first.
fn check_ids_of_threads(
    checkpoint: &Checkpoint,
    process: &Process,
    body: &Body,
    found: &mut Vec<Unsupported>,
) {
    let nested = checkpoint.namespaces.nested_users();
    let Some(user) = nested.number(process.pid) else { return };
    let Some((first, others)) = body.threads.split_first() else { return };
    let ids = nested.ids(user);
    for thread in others {
        let (of_first, own) =
            (ids_of(first.core.creds.as_ref()), ids_of(thread.core.creds.as_ref()));
        if of_first == own {
            continue;
        }
        let object = format!("thread {}", thread.tid);
        let (Some((ids, no_groups)), Some((own, groups))) = (&ids, own) else {
            found.push(support::users::WITHOUT_IDS.of(process.pid.get(), object));
            continue;
        };
        let (users, own_groups) = own.split_at(4);
        let mut all = users
            .iter()
            .map(|user| (Id::User, *user))
            .chain(own_groups.iter().chain(groups).map(|group| (Id::Group, *group)));
        let lacks = |(kind, id): &(Id, u32)| ids.inside(*kind, *id) == images::id_map::NOBODY;
        if all.any(|id| lacks(&id)) {
            found.push(support::users::THREAD_IDS.of(process.pid.get(), object));
        } else if *no_groups && of_first.map(|it| it.1) != Some(groups) {
            found.push(support::users::OTHER_GROUPS.of(process.pid.get(), object));
        }
    }
}

//! `/proc/PID/status`.

use ids::{HostPid, ImagePid};

use super::parse::{dec, hex, key_value, lines, oct, words};
use super::{Malformed, ProcFile};

/// A real, effective, saved and file-system id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Ids {
    pub real: u32,
    pub effective: u32,
    pub saved: u32,
    pub fs: u32,
}

/// What a checkpoint wants of `/proc/PID/status`. Signal and capability sets have signal 1 and
/// capability 0 at bit 0. Zombies lack what belongs to an address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// File mode creation mask; `None` for a task whose file system state is gone (a zombie).
    pub umask: Option<u32>,
    /// The state's letter.
    pub state: u8,
    /// Thread group id.
    pub tgid: HostPid,
    /// Thread id.
    pub pid: HostPid,
    /// Parent's thread group id; `None` if it is outside of the reader's pid namespace.
    pub ppid: Option<HostPid>,
    /// Who traces the task.
    pub tracer: Option<HostPid>,
    /// User ids.
    pub uid: Ids,
    /// Group ids.
    pub gid: Ids,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The thread's id in each pid namespace, from the reader's inwards to its own.
    pub ns_pid: Vec<ImagePid>,
    /// The process group's id in each of them; `None` where it has none.
    pub ns_pgid: Vec<Option<ImagePid>>,
    /// The session's id in each of them; `None` where it has none.
    pub ns_sid: Vec<Option<ImagePid>>,
    /// A thread of the kernel's (kernel 6.8 and later say so).
    pub kernel_thread: Option<bool>,
    /// `PR_SET_THP_DISABLE` is not in force.
    pub thp_enabled: Option<bool>,
    /// Number of threads.
    pub threads: u32,
    /// Pending for this thread.
    pub pending: u64,
    /// Pending for the process.
    pub shared_pending: u64,
    /// Blocked.
    pub blocked: u64,
    /// Ignored.
    pub ignored: u64,
    /// Caught.
    pub caught: u64,
    /// Inheritable capabilities.
    pub cap_inheritable: u64,
    /// Permitted capabilities.
    pub cap_permitted: u64,
    /// Effective capabilities.
    pub cap_effective: u64,
    /// Capability bounding set.
    pub cap_bounding: u64,
    /// Ambient capabilities (kernel 4.3 and later).
    pub cap_ambient: u64,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Seccomp mode: 0 none, 1 strict, 2 filter.
    pub seccomp: u32,
    /// Number of seccomp filters (kernel 5.9 and later).
    pub seccomp_filters: Option<u32>,
    /// Processor features that the thread has switched on, a shadow stack for one; as the
    /// kernel lists them. `None` where the kernel has no such line.
    pub thread_features: Option<String>,
    /// Those of the features that are locked.
    pub thread_features_locked: Option<String>,
}

fn ids(value: &[u8]) -> Option<Ids> {
    let mut words = words(value).map(dec);
    Some(Ids {
        real: words.next()??,
        effective: words.next()??,
        saved: words.next()??,
        fs: words.next()??,
    })
}

fn numbers<T: std::str::FromStr>(value: &[u8]) -> Option<Vec<T>> {
    words(value).map(dec).collect()
}

/// A number of a task; 0 stands for none.
fn pid(value: &[u8]) -> Option<Option<HostPid>> {
    dec(value).map(HostPid::new)
}

fn levels(value: &[u8]) -> Option<Vec<Option<ImagePid>>> {
    Some(numbers(value)?.into_iter().map(ImagePid::new).collect())
}

fn flag(value: &[u8]) -> Option<bool> {
    dec::<u8>(value).map(|number| number != 0)
}

fn text(value: &[u8]) -> Option<String> {
    Some(std::str::from_utf8(value).ok()?.to_owned())
}

impl Status {
    /// What nothing is known of yet but its ids.
    fn of(tgid: HostPid, pid: HostPid) -> Self {
        Self {
            umask: None,
            state: 0,
            tgid,
            pid,
            ppid: None,
            tracer: None,
            uid: Ids::default(),
            gid: Ids::default(),
            groups: Vec::new(),
            ns_pid: Vec::new(),
            ns_pgid: Vec::new(),
            ns_sid: Vec::new(),
            kernel_thread: None,
            thp_enabled: None,
            threads: 0,
            pending: 0,
            shared_pending: 0,
            blocked: 0,
            ignored: 0,
            caught: 0,
            cap_inheritable: 0,
            cap_permitted: 0,
            cap_effective: 0,
            cap_bounding: 0,
            cap_ambient: 0,
            no_new_privs: false,
            seccomp: 0,
            seccomp_filters: None,
            thread_features: None,
            thread_features_locked: None,
        }
    }

    /// Takes one line in; `None` for a value that cannot be understood.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"Umask" => self.umask = Some(u32::try_from(oct(value)?).ok()?),
            b"State" => self.state = *value.first()?,
            b"PPid" => self.ppid = pid(value)?,
            b"TracerPid" => self.tracer = pid(value)?,
            b"Uid" => self.uid = ids(value)?,
            b"Gid" => self.gid = ids(value)?,
            b"Groups" => self.groups = numbers(value)?,
            b"NSpid" => self.ns_pid = numbers(value)?,
            b"NSpgid" => self.ns_pgid = levels(value)?,
            b"NSsid" => self.ns_sid = levels(value)?,
            b"Kthread" => self.kernel_thread = Some(flag(value)?),
            b"THP_enabled" => self.thp_enabled = Some(flag(value)?),
            b"Threads" => self.threads = dec(value)?,
            b"SigPnd" => self.pending = hex(value)?,
            b"ShdPnd" => self.shared_pending = hex(value)?,
            b"SigBlk" => self.blocked = hex(value)?,
            b"SigIgn" => self.ignored = hex(value)?,
            b"SigCgt" => self.caught = hex(value)?,
            b"CapInh" => self.cap_inheritable = hex(value)?,
            b"CapPrm" => self.cap_permitted = hex(value)?,
            b"CapEff" => self.cap_effective = hex(value)?,
            b"CapBnd" => self.cap_bounding = hex(value)?,
            b"CapAmb" => self.cap_ambient = hex(value)?,
            b"NoNewPrivs" => self.no_new_privs = flag(value)?,
            b"Seccomp" => self.seccomp = dec(value)?,
            b"Seccomp_filters" => self.seccomp_filters = Some(dec(value)?),
            arch::kernel::STATUS_FEATURES => self.thread_features = Some(text(value)?),
            arch::kernel::STATUS_FEATURES_LOCKED => {
                self.thread_features_locked = Some(text(value)?);
            }
            _ => {}
        }
        Some(())
    }
}

impl ProcFile for Status {
    const NAME: &'static str = "status";

    fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let id = |name: &[u8]| {
            let mut all = lines(text).filter_map(key_value);
            all.find(|(key, _)| *key == name).and_then(|(_, value)| dec(value))
        };
        let has_none = |name: &[u8]| {
            let mut all = lines(text).filter_map(key_value);
            all.any(|(key, value)| key == name && value == b"0")
        };
        // A task that is being taken away has given up its numbers, and still has a folder that somebody holds.
        // It can do so between two lines: each line asks anew, and the later ones then have zeros.
        let lost_one = || {
            let mut all = lines(text).filter_map(key_value);
            all.any(|(key, value)| key == b"NSpid" && words(value).any(|number| number == b"0"))
        };
        if has_none(b"Tgid") || has_none(b"Pid") || lost_one() {
            return Err(Malformed::ENDED);
        }
        let ids = id(b"Tgid").zip(id(b"Pid"));
        let (tgid, pid) = ids.ok_or(Malformed("Pid or Tgid"))?;
        let mut status = Self::of(tgid, pid);
        for line in lines(text) {
            // The name's line escapes line ends, so no line of its own making comes in here.
            let (key, value) = key_value(line).ok_or(Malformed("a line"))?;
            status.take(key, value).ok_or(Malformed("a value"))?;
        }
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"Name:\tc\\nPid:\t7\nUmask:\t0027\nState:\tS (sleeping)\nTgid:\t12\nNgid:\t0\nPid:\t13\nPPid:\t1\nTracerPid:\t0\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t256\nGroups:\t10 20 \nNSpid:\t13\t2\nTHP_enabled:\t1\nThreads:\t2\nSigQ:\t0/96365\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000000002\nSigBlk:\t8000000000000000\nSigIgn:\t0000000000001000\nSigCgt:\t0000000180004a02\nCapInh:\t0000000000000000\nCapEff:\t000001fffeffffff\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\nx86_Thread_features:\tshstk wrss \n";

    #[test]
    fn values_are_read() {
        let status = Status::parse(TEXT).unwrap();
        assert_eq!(status.umask, Some(0o27));
        assert_eq!([status.tgid, status.pid].map(HostPid::get), [12, 13]);
        assert_eq!((status.threads, status.tracer, status.ppid), (2, None, HostPid::new(1)));
        assert_eq!(status.uid, Ids { real: 1, effective: 2, saved: 3, fs: 4 });
        assert_eq!(status.groups, [10, 20]);
        assert_eq!(status.ns_pid.iter().map(|pid| pid.get()).collect::<Vec<_>>(), [13, 2]);
        assert_eq!((status.pending, status.shared_pending, status.blocked), (1, 2, 1 << 63));
        assert_eq!(status.cap_effective, 0x1ff_feff_ffff);
        assert_eq!(
            (status.no_new_privs, status.seccomp, status.seccomp_filters),
            (true, 2, Some(3))
        );
        assert_eq!(status.thread_features.as_deref(), Some("shstk wrss"));
        assert_eq!(status.thp_enabled, Some(true));
    }

    #[test]
    fn bad_values_are_refused() {
        assert!(Status::parse(b"Pid:\tx\nTgid:\t1\n").is_err());
        // As it reads in the moment in which a task is taken away.
        assert_eq!(Status::parse(b"Tgid:\t0\nPid:\t0\n").unwrap_err(), Malformed::ENDED);
        let between_lines = b"Tgid:\t12\nPid:\t12\nNSpid:\t0\t0\n";
        assert_eq!(Status::parse(between_lines).unwrap_err(), Malformed::ENDED);
        assert_eq!(
            Status::parse(b"Tgid:\t12\nPid:\t12\nNSpid:\t12\t0\n").unwrap_err(),
            Malformed::ENDED
        );
        assert!(Status::parse(b"Uid:\t1\t2\t3\n").is_err());
        assert!(Status::parse(b"").is_err());
        assert!(Status::parse(b"\xff\n").is_err());
    }
}

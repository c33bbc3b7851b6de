//! `/proc/PID/stat`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use ids::HostPid;

use super::parse::{dec, words};
use super::{Malformed, ProcFile};

/// `/proc/PID/stat`, field by field (`Documentation/filesystems/proc.rst`, table 1-4). Addresses
/// read as 0 without the right to trace the process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the kernel's own table")]
pub struct Stat {
    pub pid: HostPid,
    /// The name, raw, at most 15 bytes for user tasks.
    pub comm: OsString,
    /// `R`, `S`, `D`, `T`, `t`, `Z`, `X`, `I`, …
    pub state: u8,
    /// `None` for a parent outside of the reader's pid namespace, and so on.
    pub ppid: Option<HostPid>,
    pub pgrp: Option<HostPid>,
    pub session: Option<HostPid>,
    /// Controlling terminal, in the kernel's encoding, 0 for none.
    pub tty_nr: i32,
    pub tty_pgrp: Option<HostPid>,
    /// `PF_*` flags.
    pub flags: u32,
    pub min_flt: u64,
    pub cmin_flt: u64,
    pub maj_flt: u64,
    pub cmaj_flt: u64,
    pub utime: u64,
    pub stime: u64,
    pub cutime: i64,
    pub cstime: i64,
    pub priority: i64,
    pub nice: i64,
    pub num_threads: i32,
    /// Start, in clock ticks since boot.
    pub start_time: u64,
    pub vsize: u64,
    pub rss: i64,
    pub rsslim: u64,
    pub start_code: u64,
    pub end_code: u64,
    pub start_stack: u64,
    pub esp: u64,
    pub eip: u64,
    /// Blocked signals, the first 31 of them: `/proc/PID/status` has them whole.
    pub blocked: u64,
    pub wchan: u64,
    pub exit_signal: i32,
    pub processor: i32,
    pub rt_priority: u32,
    pub policy: u32,
    pub blkio_ticks: u64,
    pub gtime: u64,
    pub cgtime: i64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    /// As `wait` reports it.
    pub exit_code: i32,
}

/// Whether flags and blocked signals, as far as `known`, are those of a thread of the kernel's own that works for a process as one of
/// its threads (`PF_IO_WORKER`, `PF_USER_WORKER`): it runs no code of the program, and nobody can stop it. The kernel has all signals
/// blocked in such a thread for good but those that end or stop it; before it had these flags others had their bits.
#[must_use]
pub const fn is_worker(flags: u32, blocked: u64, known: u64) -> bool {
    const WORKERS: u32 = 0x10 | 0x4000;
    const NEVER_BLOCKED: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);
    flags & WORKERS != 0 && blocked & known == !NEVER_BLOCKED & known
}

impl Stat {
    /// `PF_KTHREAD`: a thread of the kernel's.
    #[must_use]
    pub const fn is_kernel_thread(&self) -> bool {
        self.flags & 0x0020_0000 != 0
    }

    /// A thread of the kernel's own that works for a process as one of its threads ([`is_worker`]).
    #[must_use]
    pub const fn is_worker(&self) -> bool {
        // The kernel tells signals 1 to 31 alone here, and none of who has ended.
        let known = if self.is_dead() { 0 } else { u64::MAX >> 33 };
        is_worker(self.flags, self.blocked, known)
    }

    /// Whether the task has exited.
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// The blank-separated fields behind the name.
struct Fields<'a, I: Iterator<Item = &'a [u8]>>(I);

impl<'a, I: Iterator<Item = &'a [u8]>> Fields<'a, I> {
    fn next<T: std::str::FromStr>(&mut self, name: &'static str) -> Result<T, Malformed> {
        self.0.next().and_then(dec).ok_or(Malformed(name))
    }

    /// A number of a task; 0 and -1 stand for none.
    fn pid(&mut self, name: &'static str) -> Result<Option<HostPid>, Malformed> {
        self.next(name).map(HostPid::new)
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.0.next();
        }
    }
}

impl ProcFile for Stat {
    const NAME: &'static str = "stat";

    fn parse(text: &[u8]) -> Result<Self, Malformed> {
        // The name may hold blanks and parentheses: it ends at the last one.
        let open = text.iter().position(|&byte| byte == b'(').ok_or(Malformed("comm"))?;
        let close = text.iter().rposition(|&byte| byte == b')').ok_or(Malformed("comm"))?;
        let comm = text.get(open + 1..close).ok_or(Malformed("comm"))?;
        let pid = dec(text[..open].trim_ascii()).ok_or(Malformed("pid"))?;
        let mut words = words(&text[close + 1..]);
        let state =
            words.next().and_then(|word| word.first().copied()).ok_or(Malformed("state"))?;
        let mut f = Fields(words);
        // A struct expression evaluates its fields in the order written: the order of the file.
        Ok(Self {
            pid,
            comm: OsString::from_vec(comm.to_vec()),
            state,
            ppid: f.pid("ppid")?,
            pgrp: f.pid("pgrp")?,
            session: f.pid("session")?,
            tty_nr: f.next("tty_nr")?,
            tty_pgrp: f.pid("tty_pgrp")?,
            flags: f.next("flags")?,
            min_flt: f.next("min_flt")?,
            cmin_flt: f.next("cmin_flt")?,
            maj_flt: f.next("maj_flt")?,
            cmaj_flt: f.next("cmaj_flt")?,
            utime: f.next("utime")?,
            stime: f.next("stime")?,
            cutime: f.next("cutime")?,
            cstime: f.next("cstime")?,
            priority: f.next("priority")?,
            nice: f.next("nice")?,
            num_threads: f.next("num_threads")?,
            start_time: {
                f.skip(1); // it_real_value, always 0
                f.next("start_time")?
            },
            vsize: f.next("vsize")?,
            rss: f.next("rss")?,
            rsslim: f.next("rsslim")?,
            start_code: f.next("start_code")?,
            end_code: f.next("end_code")?,
            start_stack: f.next("start_stack")?,
            esp: f.next("esp")?,
            eip: f.next("eip")?,
            blocked: {
                f.skip(1); // pending signals, 31 of them, as the other masks
                f.next("blocked")?
            },
            wchan: {
                f.skip(2); // ignored and caught ones
                f.next("wchan")?
            },
            exit_signal: {
                f.skip(2); // nswap, cnswap, always 0
                f.next("exit_signal")?
            },
            processor: f.next("processor")?,
            rt_priority: f.next("rt_priority")?,
            policy: f.next("policy")?,
            blkio_ticks: f.next("blkio_ticks")?,
            gtime: f.next("gtime")?,
            cgtime: f.next("cgtime")?,
            start_data: f.next("start_data")?,
            end_data: f.next("end_data")?,
            start_brk: f.next("start_brk")?,
            arg_start: f.next("arg_start")?,
            arg_end: f.next("arg_end")?,
            env_start: f.next("env_start")?,
            env_end: f.next("env_end")?,
            exit_code: f.next("exit_code")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"17132 (c) a(t) R 17130 17129 14382 1026 -1 4194304 103 0 0 0 1 2 0 0 20 0 3 0 156452 3133440 393 18446744073709551615 93837328588800 93837328608681 140724907285392 0 0 0 0 0 0 7 8 9 17 1 50 2 0 0 0 93837328624688 93837328626304 93837979918336 140724907289099 140724907289137 140724907289138 140724907290603 256\n";

    #[test]
    fn every_field_lands_in_its_place() {
        let stat = Stat::parse(TEXT).unwrap();
        assert_eq!(stat.comm, "c) a(t");
        let numbers = [Some(stat.pid), stat.ppid, stat.session, stat.tty_pgrp];
        assert_eq!(numbers, [17132, 17130, 14382, -1].map(HostPid::new));
        assert_eq!(stat.state, b'R');
        assert_eq!((stat.tty_nr, stat.num_threads, stat.start_time), (1026, 3, 156_452));
        assert_eq!((stat.wchan, stat.exit_signal, stat.rt_priority, stat.policy), (7, 17, 50, 2));
        assert_eq!((stat.start_data, stat.env_end), (93_837_328_624_688, 140_724_907_290_603));
        assert_eq!(stat.exit_code, 256);
    }

    #[test]
    fn the_kernel_s_own_workers_take_no_signals() {
        let all_but_kill_and_stop = 0x7ffb_feff;
        let stat = Stat::parse(TEXT).unwrap();
        let worker = Stat { flags: 0x40_4050, blocked: all_but_kill_and_stop, ..stat.clone() };
        assert!(worker.is_worker());
        // What these bits meant before there were such threads.
        assert!(!Stat { blocked: 0, ..worker.clone() }.is_worker());
        assert!(!Stat { flags: 0x40_0040, ..worker.clone() }.is_worker());
        assert!(Stat { blocked: 0, state: b'X', ..worker }.is_worker());
        assert!(is_worker(0x4000, !(1 << 8 | 1 << 18), u64::MAX));
        assert!(!is_worker(0x4000, 0x7ffb_feff, u64::MAX) && !stat.is_worker());
    }

    #[test]
    fn text_cut_anywhere_is_refused_not_a_panic() {
        for end in 0..TEXT.len() - 4 {
            assert!(Stat::parse(&TEXT[..end]).is_err(), "cut at {end}");
        }
        assert_eq!(Stat::parse(b") ("), Err(Malformed("comm")));
    }
}

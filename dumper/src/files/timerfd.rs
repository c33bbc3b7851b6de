//! timerfd: all of it is in `/proc/PID/fdinfo`.

use collector::{OpenFile, Process};
use images::messages::{FileEntry, FownEntry, TimerfdEntry, fd_type};
use kernel::procfs::{Detail, FdInfo, TimerSetting};

use super::file_kind::FileKind;
use super::problem::{Doing, Problem, unexpected};
use super::survey::Survey;

/// A timerfd.
#[derive(Debug)]
pub(super) struct Timerfd;

impl FileKind for Timerfd {
    fn types(&self) -> &'static [u32] {
        &[fd_type::TIMERFD]
    }

    fn is(&self, file: &OpenFile) -> bool {
        file.target == "anon_inode:[timerfd]"
    }

    fn capture(
        &self,
        survey: &mut Survey<'_>,
        process: &Process,
        file: &OpenFile,
        entry: FileEntry,
    ) -> Result<FileEntry, Problem> {
        let fown = survey.owner(process.pid, file)?;
        let mut info = survey.fdinfo(process.pid, file)?;
        if survey.frozen && stands_still(&info) {
            let timer = survey.held.borrow(process.pid, file.fd)?;
            kernel::timerfd::catch_up(&timer).doing("count expirations of")?;
            info = survey.fdinfo(process.pid, file)?;
        }
        let tfd = self::entry(&info, entry.id, file.flags, fown)?;
        Ok(FileEntry { r#type: fd_type::TIMERFD, tfd: Some(tfd), ..entry })
    }
}

/// Whether this is a periodic timer that has run out and that nobody has read: the kernel has not
/// counted how often.
fn stands_still(info: &FdInfo) -> bool {
    matches!(
        info.detail,
        Detail::Timerfd(timer) if timer.ticks > 0 && timer.value == (0, 0) && timer.interval != (0, 0)
    )
}

/// The entry of a timerfd.
fn entry(info: &FdInfo, id: u32, flags: u32, fown: FownEntry) -> Result<TimerfdEntry, Problem> {
    let Detail::Timerfd(TimerSetting { clock, ticks, settime_flags, value, interval }) =
        info.detail
    else {
        return Err(unexpected("a timerfd"));
    };
    let part = |part: i64| u64::try_from(part).map_err(|_| unexpected("a timerfd"));
    Ok(TimerfdEntry {
        id,
        flags,
        fown,
        clockid: clock.cast_unsigned(),
        ticks,
        settime_flags,
        vsec: part(value.0)?,
        vnsec: part(value.1)?,
        isec: part(interval.0)?,
        insec: part(interval.1)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_from_the_kernels_text() {
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1038\nclockid: 1\nticks: 4\n\
            settime flags: 01\nit_value: (999, 57)\nit_interval: (100, 5)\n";
        let entry = entry(&FdInfo::parse(text).unwrap(), 8, 2, FownEntry::default()).unwrap();
        assert_eq!((entry.clockid, entry.ticks, entry.settime_flags), (1, 4, 1));
        assert_eq!((entry.vsec, entry.vnsec, entry.isec, entry.insec), (999, 57, 100, 5));
    }
}

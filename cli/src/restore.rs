//! `stasis restore`.

use std::process::ExitCode;

use ids::HostPid;
use images::Images;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid, getpgrp};
use restorer::{AfterRestore, Connections, Parent, RestoreOptions, RestoreReport, Trust, Unlocked};

use crate::args;
use crate::progress::Bar;
use crate::summaries::{self, Restored};
use crate::voice::Voice;
use api::RestoreSummary;
use criu::Failure;
use criu::Pidfile;
use serde_json::json;
use service::DemandSettings;
use services::access::{AccessError, access};

/// Why the restored tree could not be waited for.
#[derive(Debug, thiserror::Error)]
#[error("wait for process {pid}")]
struct WaitError {
    pid: HostPid,
    #[source]
    source: Errno,
}

pub(crate) fn run(options: &args::RestoreOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let trusted = options.trust.trusted_keys.as_deref();
    let access = access(trusted, &options.identities, options.demand).map_err(no_keys)?;
    let images = Images::open_as(&options.directory, &access).map_err(restorer::Error::from)?;
    restorer::layout::take(&images)?;
    let pidfile = options.pidfile.as_deref().map(Pidfile::reserve).transpose()?;
    let report = restore(options, &images, &mut voice.bar())?;
    if let Some(mut pidfile) = pidfile {
        pidfile.write(report.pid)?;
        pidfile.keep();
    }
    let summary = RestoreSummary::from(&report);
    let restored = Restored {
        root: Some(report.pid.get()),
        directory: options.directory.display().to_string(),
        job: None,
        restore: Some(summary),
    };
    if options.detach {
        voice.print(&restored, || format!("{}\n", report.pid))?;
        return Ok(ExitCode::SUCCESS);
    }
    voice.sum_up(&restored, || summaries::of_restore(&summary))?;
    wait(report.pid)
}

fn restore(
    options: &args::RestoreOptions,
    images: &Images,
    bar: &mut Bar,
) -> Result<RestoreReport, restorer::Error> {
    let inherited = options.external.iter().filter_map(args::given_pids);
    let asked = RestoreOptions {
        after: if options.leave_stopped { AfterRestore::Stop } else { AfterRestore::Resume },
        shell_job: options.shell_job,
        external_unix: options.ext_unix_sk,
        root: options.root.clone(),
        mounts: args::mounts(&options.external).of_restore(),
        until_told: false,
        parent: if options.detach { Parent::WhoRemains } else { Parent::Caller },
        records: Some(options.run_dir.join("restores")),
        labels: catalog::labels::read(&options.directory),
        undo: options.run_dir.join(freezer::UNDO),
        cgroups: options.cgroups,
        cgroup_roots: options.cgroup_root.clone(),
        cgroup_yard: None,
        trust: if options.trust_paths { Trust::Paths } else { Trust::Files },
        connections: match options.tcp_close {
            true => Connections::Closed,
            false => Connections::Restored,
        },
        validation: options.file_validation.asked(),
        any_permissions: false,
        file_locks: true,
        allow_uprobes: false,
        inherited: inherited.collect::<Result<_, _>>()?,
        networks: Default::default(),
        joined: Default::default(),
        on_behalf_of: None,
    };
    restorer::restore(&asked, images, &mut hooks::Nobody, bar)
}

/// That keys cannot be used.
pub(crate) fn no_keys(error: AccessError) -> Failure {
    match error.remedy() {
        Some(remedy) => Failure::with_remedy(error, remedy),
        None => error.into(),
    }
}

/// `stasis unlock`.
pub(crate) fn unlock(options: &args::UnlockOptions, voice: Voice) -> Result<ExitCode, Failure> {
    let access = access(None, &options.identities, DemandSettings::default());
    let images = Images::open_as(&options.directory, &access.map_err(no_keys)?)?;
    let (state, lock, text) = match restorer::unlock(&images)? {
        Unlocked::Taken(name) => {
            let text = format!("unlocked: {name} is gone\n");
            ("taken", Some(name), text)
        }
        Unlocked::Gone(name) => {
            let text = format!("nothing is locked: there is no {name}\n");
            ("gone", Some(name), text)
        }
        Unlocked::Never => ("never", None, "nothing was locked for this checkpoint\n".to_owned()),
    };
    let lock = lock.map(|name| name.to_string());
    voice.conclude(&json!({"unlocked": state, "lock": lock}), || text)?;
    Ok(ExitCode::SUCCESS)
}

/// The signals by which people and their programs ask something of a command.
const PASSED_ON: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// Stands in for the restored root until it ends: what we are sent it is sent, and its exit
/// status becomes ours (128 and the signal's number when a signal ended it, as shells have it).
fn wait(root: HostPid) -> Result<ExitCode, Failure> {
    let pid = Pid::from_raw(root.get());
    let failed = |source| WaitError { pid: root, source };
    let mut awaited: SigSet = PASSED_ON.into_iter().collect();
    awaited.add(Signal::SIGCHLD);
    awaited.thread_block().map_err(failed)?;
    loop {
        // Looked at before each wait: the root may have ended before its signal was blocked.
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(exit_code(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(exit_code(128 + signal as i32)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno).into()),
        }
        let signal = awaited.wait().map_err(failed)?;
        // Whoever is in our process group has had the terminal's signal already.
        if signal != Signal::SIGCHLD && getpgid(Some(pid)) != Ok(getpgrp()) {
            match kill(pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(failed(errno).into()),
            }
        }
    }
}

fn exit_code(code: i32) -> ExitCode {
    // An exit status has eight bits.
    ExitCode::from(code.to_le_bytes()[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_have_eight_bits() {
        assert_eq!(exit_code(3), ExitCode::from(3));
        assert_eq!(exit_code(128 + 9), ExitCode::from(137));
    }
}

//! Why dumps fail, as problems of the API.

use api::Code;
use axum::http::StatusCode;
use dumper::{Error, FreezeError};
use ids::HostPid;
use service::{Problem, chain};

use crate::{has_no_room, no_room};

/// Why the dump of a process failed.
pub(super) fn problem(error: &Error, pid: HostPid) -> Problem {
    let unprocessable = || Problem::new(StatusCode::UNPROCESSABLE_ENTITY, chain(error)).of("pid");
    let over_budget = |field: &str, remedy: &str| {
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, chain(error));
        problem.coded(Code::OverBudget).of(field).remedy(remedy)
    };
    // Of several trees the one is meant that stands in the way.
    let (reason, pid) = match error {
        Error::Together { root, source } => (&**source, *root),
        error => (error, pid),
    };
    let reason = match reason {
        Error::Tried { source, .. } => source,
        error => error,
    };
    // That of one that has ended leads nowhere, and it does while nobody has waited for it.
    let has_ended = || !std::path::Path::new(&format!("/proc/{pid}/exe")).exists();
    match reason {
        Error::Refused { found, .. } => unprocessable().refused(found),
        Error::Procfs(error) if error.is_gone() => {
            unprocessable().remedy("send the pid of a running process")
        }
        reason if reason.is_gone() && has_ended() => {
            unprocessable().remedy("send the pid of a process that stays while it is dumped")
        }
        Error::Freeze { source: FreezeError::Traced { .. }, .. } => {
            Problem::new(StatusCode::CONFLICT, chain(error))
                .of("pid")
                .remedy("try again when the debugger has let go of it")
        }
        // What locks connections is not installed, or not allowed.
        Error::Lock(_) => Problem::new(StatusCode::NOT_IMPLEMENTED, chain(error)),
        Error::FrozenTooLong { .. } => over_budget(
            "max_freeze_ms",
            "allow it to stand still for longer, or dump it when it does less",
        ),
        Error::Cancelled { .. } => {
            Problem::new(StatusCode::CONFLICT, chain(error)).coded(Code::Cancelled)
        }
        Error::Overlap { .. } => {
            unprocessable().of("pids").remedy("name the root of the whole tree alone")
        }
        Error::WaitedInVain { .. } => {
            unprocessable().of("together").remedy("checkpoint them one by one")
        }
        Error::TimedOut { .. } => over_budget("timeout_ms", "give the dump more time"),
        Error::Claimed { .. } => Problem::new(StatusCode::CONFLICT, chain(error))
            .of("pid")
            .remedy("try again when that dump has ended"),
        Error::Denied { refusal, .. } => {
            Problem::new(StatusCode::NOT_IMPLEMENTED, chain(error)).remedy(refusal.remedy.clone())
        }
        Error::NotAllowed { .. } => {
            Problem::new(StatusCode::FORBIDDEN, chain(error)).of("pid").remedy(
                "name a process of your own, none of whose tree has other rights, or have root send the request (or send it with the gateway's token)",
            )
        }
        Error::Images(
            images::Error::Exists { .. }
            | images::Error::Inside { .. }
            | images::Error::Above { .. }
            | images::Error::NotEmpty { .. },
        ) => Problem::new(StatusCode::CONFLICT, chain(error))
            .of("directory")
            .remedy("name another directory"),
        reason if has_no_room(reason) => no_room(error),
        _ => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, chain(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use api::Fault;

    use super::*;

    /// The code of the problem that an error is, of a dump of this very process.
    fn code(error: &Error) -> Code {
        problem(error, HostPid::own()).detail.code
    }

    #[test]
    fn it_is_known_whose_fault_an_error_is() {
        let (pid, limit) = (HostPid::own(), Duration::from_millis(1));
        let pages = |number| {
            let source = io::Error::from_raw_os_error(number);
            code(&Error::Pages { pid, source })
        };
        assert_eq!(pages(nix::libc::ENOSPC), Code::NoRoom);
        assert_eq!(pages(nix::libc::EDQUOT), Code::NoRoom);
        assert_eq!(pages(nix::libc::EIO).fault(), Fault::Product);
        let account = Box::default();
        let frozen = Error::FrozenTooLong { step: "read", limit, account };
        let late = Box::new(Error::TimedOut { step: "read", limit });
        let late = Error::Tried { tries: 2, within: limit, source: late };
        for error in [frozen, late] {
            assert_eq!(code(&error), Code::OverBudget);
        }
        let source = FreezeError::Traced { tid: pid, tracer: pid };
        assert_eq!(code(&Error::Freeze { root: pid, source }).fault(), Fault::User);
        let lock = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(code(&Error::Lock(lock)).fault(), Fault::Environment);
        let source = || io::Error::from_raw_os_error(nix::libc::ESRCH);
        let gone = || Error::Process { operation: "read the memory", pid, source: source() };
        assert_eq!(code(&gone()).fault(), Fault::Product, "this process is there");
        let nobody = HostPid::new(i32::MAX).unwrap();
        assert_eq!(problem(&gone(), nobody).detail.code.fault(), Fault::User);
    }
}

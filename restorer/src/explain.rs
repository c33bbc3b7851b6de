//! What became of a task that was lost: the error that says so.

use std::fs::File;
use std::io::{self, Read};

use ids::HostPid;
use kernel::memory::read_exact;
use parasite::restorer::{Step, ThreadProgress};

use crate::error::{Error, chain};
use crate::failure::Failure;
use crate::load::Checkpoint;
use crate::pids::Pids;
use crate::task::PreparedTask;
use crate::tracer::Loss;

/// Turns a loss into an error. A task that could still speak has left a complaint in the pipe; one
/// that failed in the restorer has left a report in its memory.
pub(crate) fn explain(
    loss: Loss,
    (checkpoint, pids): (&Checkpoint, &Pids),
    prepared: &[Option<PreparedTask>],
    complaints: &mut File,
) -> Error {
    if let Some(error) = complaint(complaints) {
        return error;
    }
    match loss {
        Loss::Failed(error) => error,
        Loss::Ended { tid, status } => Error::Lost { pid: tid.get(), what: ending(status) },
        Loss::Crashed { task, signal } => {
            let tid = task.tid();
            let told = report((checkpoint, pids), prepared, tid);
            if let Some((pid, report)) = told {
                let step = Step::describe(report.step);
                let object = report.object;
                if report.error != 0 {
                    let source = io::Error::from_raw_os_error(report.error);
                    let message = format!("{step} {object:#x}: {}", chain(&source));
                    return Error::Task { pid, message };
                }
                let message = format!("{step} {object:#x}: signal {signal}");
                return Error::Task { pid, message };
            }
            Error::Lost { pid: tid.get(), what: format!("signal {signal} while it was being made") }
        }
    }
}

fn ending(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        format!("it was ended by signal {}", libc::WTERMSIG(status))
    } else {
        format!("it ended with status {}", libc::WEXITSTATUS(status))
    }
}

/// The first complaint in the pipe.
fn complaint(pipe: &mut File) -> Option<Error> {
    let mut bytes = Vec::new();
    // It does not wait: what there is comes before the error that says there is no more.
    drop(pipe.take(4096).read_to_end(&mut bytes));
    Some(Failure::heard(&bytes)?.into_error())
}

/// The report of a thread, if its process has left for the restorer.
fn report(
    (checkpoint, pids): (&Checkpoint, &Pids),
    prepared: &[Option<PreparedTask>],
    tid: HostPid,
) -> Option<(i32, ThreadProgress)> {
    let wanted = pids.image(tid);
    for (index, process) in checkpoint.processes.iter().enumerate() {
        let Some(body) = &process.body else { continue };
        let Some(thread) = body.threads.iter().position(|thread| Some(thread.tid) == wanted) else {
            continue;
        };
        let address = prepared[index].as_ref()?.region.report(thread)?;
        let mut bytes = [0u8; size_of::<ThreadProgress>()];
        read_exact(tid, address, &mut bytes).ok()?;
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let object = u64::from_ne_bytes(bytes[8..16].try_into().ok()?);
        let report = ThreadProgress {
            step: u32::from_ne_bytes(word(0)),
            error: i32::from_ne_bytes(word(4)),
            object,
        };
        return Some((process.pid.get(), report));
    }
    None
}

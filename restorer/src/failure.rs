//! An error as one process of a restore tells it to another: in words, and with what was refused as it is.

use serde::{Deserialize, Serialize};
use support::Unsupported;

use crate::error::{Error, chain};

/// Longest complaint of a task: what a pipe takes in one piece.
const COMPLAINT: usize = 4000;

/// What failed, in words.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pid: Option<i32>,
    message: String,
    /// What cannot be restored, if that is it.
    refused: Vec<Unsupported>,
}

impl Failure {
    /// What this error says.
    pub(crate) fn of(error: &Error) -> Self {
        let (pid, message) = match error {
            Error::Task { pid, message } => (Some(*pid), message.clone()),
            Error::Lost { pid, what } => (Some(*pid), what.clone()),
            error => (None, chain(error)),
        };
        let refused = match error {
            Error::Refused(found) => found.clone(),
            _ => Vec::new(),
        };
        Self { pid, message, refused }
    }

    /// A line that a task leaves in a pipe before it ends. It is whole, whatever it has to leave out.
    pub(crate) fn complaint(task: i32, error: &Error) -> Vec<u8> {
        let mut failure = Self { pid: Some(task), ..Self::of(error) };
        for refused in failure.refused.iter_mut().filter(|refused| refused.task == 0) {
            refused.task = task;
        }
        loop {
            let mut line = serde_json::to_vec(&failure).unwrap_or_default();
            if line.len() < COMPLAINT {
                line.push(b'\n');
                return line;
            }
            if failure.refused.is_empty() {
                let half = failure.message.floor_char_boundary(failure.message.len() / 2);
                failure.message.truncate(half);
            }
            failure.refused.clear();
        }
    }

    /// The first complaint in what a pipe had.
    pub(crate) fn heard(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes.split(|byte| *byte == b'\n').next()?).ok()
    }

    /// The error again, as far as it has been told.
    pub(crate) fn into_error(self) -> Error {
        match self.pid {
            _ if !self.refused.is_empty() => Error::Refused(self.refused),
            Some(pid) => Error::Task { pid, message: self.message },
            None => Error::Told(self.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retold(task: i32, error: &Error) -> Error {
        let line = Failure::complaint(task, error);
        assert!(line.len() <= COMPLAINT && line.ends_with(b"\n"));
        // Others may have complained after it.
        let told = [&line[..], b"{\"pid\":"].concat();
        Failure::heard(&told).expect("a complaint").into_error()
    }

    #[test]
    fn what_a_task_refuses_keeps_its_remedy() {
        let error = Error::refused(support::host::NO_TERMINAL.of(0, "terminal of the job"));
        let Error::Refused(found) = retold(7, &error) else { panic!("it is a refusal") };
        let Error::Refused(said) = error else { panic!("it is a refusal") };
        assert_eq!((found[0].task, &found[0].remedy), (7, &said[0].remedy));
        // What has a task keeps it.
        let error = Error::refused(support::host::NO_SIGNAL.of(9, "the tree"));
        assert!(matches!(retold(7, &error), Error::Refused(found) if found[0].task == 9));
    }

    #[test]
    fn other_errors_are_of_the_task_and_as_long_as_a_pipe_takes() {
        let long = || Error::Told("ä\u{1}".repeat(COMPLAINT));
        let Error::Task { pid: 7, message } = retold(7, &long()) else { panic!("of the task") };
        assert!(message.len() > 100 && long().to_string().starts_with(&message));
        assert!(Failure::heard(b"").is_none());
    }
}

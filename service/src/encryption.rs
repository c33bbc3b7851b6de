//! Settings of encrypted checkpoints, and the command that says by which keys they are read.
//!
//! The command is the machine's owner's, and is carried out by `sh -c`, so that it may be a pipeline; it is run each time keys are needed, and
//! what it says is kept no longer. It has [`WITHIN`] to say it, on its standard output, and is ended with all that it started if it takes longer.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use zeroize::Zeroizing;

/// How long a command may take.
const WITHIN: Duration = Duration::from_secs(30);

/// The most bytes that a command may say.
const MOST: u64 = 1 << 20;

/// To whom checkpoints are encrypted.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RecipientSettings {
    /// Encrypt checkpoints to these: a file of age's public keys (age1…), one a line; nobody but its owner may be able to change it. A container
    /// is checkpointed by its engine, which encrypts nothing
    #[arg(long, value_name = "FILE", env = "STASIS_RECIPIENTS")]
    pub recipients: Option<PathBuf>,
}

/// By what encrypted checkpoints are read.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::Args,
)]
pub struct IdentitySettings {
    /// Read encrypted checkpoints by these: a file of age's private keys (AGE-SECRET-KEY-1…), as age-keygen makes it; its owner alone may be
    /// able to read it
    #[arg(long, value_name = "FILE", env = "STASIS_IDENTITIES")]
    pub identities: Option<PathBuf>,
    /// Read encrypted checkpoints by what this command writes to its standard output, which is such a file. It is carried out by sh -c whenever keys are
    /// needed, and has 30 seconds. With --identities, the keys of both are tried
    #[arg(long, value_name = "COMMAND", env = "STASIS_IDENTITY_COMMAND")]
    pub identity_command: Option<String>,
}

/// Whether checkpoints have to be encrypted.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct DemandSettings {
    /// Write no checkpoint that is not encrypted, and read none
    #[arg(long, env = "STASIS_DEMAND_ENCRYPTION", value_parser = clap::builder::BoolishValueParser::new())]
    pub demand_encryption: bool,
}

/// Why a command has said no keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// It cannot be run.
    #[error("run the identity command ({command})")]
    Run {
        /// The command.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has ended, or was ended, without saying them.
    #[error(
        "the identity command ({command}) {what}; have it write an identity file to its standard output"
    )]
    Failed {
        /// The command.
        command: String,
        /// What it did.
        what: String,
    },
}

impl IdentitySettings {
    /// Whether something is named.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.identities.is_some() || self.identity_command.is_some()
    }

    /// Runs the command, if there is one; what it says.
    ///
    /// # Errors
    /// If it cannot be run, fails, takes too long, or says too much.
    pub fn said(&self) -> Result<Option<Zeroizing<String>>, CommandError> {
        self.identity_command.as_deref().map(|command| said(command, WITHIN)).transpose()
    }
}

fn said(command: &str, within: Duration) -> Result<Zeroizing<String>, CommandError> {
    let run = |source| CommandError::Run { command: command.to_owned(), source };
    let failed = |what: String| CommandError::Failed { command: command.to_owned(), what };
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut child = shell.spawn().map_err(run)?;
    let output = child.stdout.take().ok_or_else(|| run(io::ErrorKind::BrokenPipe.into()))?;
    let (sender, reading) = channel();
    let reader = thread::Builder::new().name("identities".to_owned()).spawn(move || {
        // No room is given back with a part of a key in it.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MOST as usize + 1));
        let read = output.take(MOST + 1).read_to_end(&mut bytes);
        // Who waited no longer has ended the command.
        drop(sender.send(read.map(|_| bytes)));
    });
    let reader = match reader {
        Ok(reader) => reader,
        Err(error) => {
            end(&mut child);
            return Err(run(error));
        }
    };
    let read = reading.recv_timeout(within);
    let bytes = match read {
        Ok(Ok(bytes)) if bytes.len() as u64 <= MOST => bytes,
        other => {
            end(&mut child);
            return Err(match other {
                Ok(Ok(_)) => failed(format!("has said more than {MOST} bytes")),
                Ok(Err(error)) => run(error),
                Err(RecvTimeoutError::Timeout) => {
                    failed(format!("has not ended within {} s", within.as_secs_f64()))
                }
                Err(RecvTimeoutError::Disconnected) => run(io::ErrorKind::BrokenPipe.into()),
            });
        }
    };
    // It has told, and ends: a restore that follows has to be alone in its process.
    if reader.join().is_err() {
        tracing::debug!("the thread that read the identities has panicked");
    }
    match child.wait() {
        Ok(status) if !status.success() => return Err(failed(format!("has failed ({status})"))),
        // A service that waits for all of its children has waited for this one: what it has said is looked at all the same.
        Err(error) if error.raw_os_error() != Some(Errno::ECHILD as i32) => return Err(run(error)),
        _ => {}
    }
    let text =
        std::str::from_utf8(&bytes).map_err(|_| failed("has said what is no text".to_owned()))?;
    let mut kept = Zeroizing::new(String::with_capacity(text.len()));
    kept.push_str(text);
    Ok(kept)
}

/// Ends a command and all that it has started.
fn end(child: &mut Child) {
    // Nobody has waited for it, so that the number is its own.
    if let Err(errno) = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL) {
        tracing::debug!("end the identity command: {errno}");
    }
    if let Err(error) = child.wait() {
        tracing::debug!(%error, "wait for the identity command");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn failure(command: &str) -> String {
        said(command, WITHIN).unwrap_err().to_string()
    }

    #[test]
    fn what_a_command_says_is_what_is_said() {
        assert_eq!(said("echo a; printf b | tr b c", WITHIN).unwrap().as_str(), "a\nc");
        assert!(IdentitySettings::default().said().unwrap().is_none());
        assert!(failure("exit 3").contains("has failed (exit status: 3)"));
        assert!(failure("cat /dev/zero").contains("more than"));
        assert!(failure("printf '\\377'").contains("no text"));
    }

    #[test]
    fn one_that_takes_too_long_is_ended_with_all_that_it_started() {
        let start = Instant::now();
        let error = said("sleep 100 | cat", Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("within 0.05 s"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}

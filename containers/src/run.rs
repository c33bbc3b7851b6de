//! Runs a command to its end.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ids::HostPid;
use kernel::pidfd::{End, PidFd};

use crate::error::Error;

/// So much of what a command says is read.
const LONGEST: u64 = 16 << 20;
/// So much of it is said when it failed.
const SAID: usize = 2000;
/// How long an engine may take to say something of itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A program by its name, in the directories of a PATH that lead somewhere from everywhere.
pub(crate) fn find(name: &str, path: &OsStr) -> Option<PathBuf> {
    let places = std::env::split_paths(path).filter(|place| place.is_absolute());
    places.map(|place| place.join(name)).find(|file| is_program(file))
}

/// A program by its name, in this process' PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    find(name, &std::env::var_os("PATH").unwrap_or_default())
}

fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// One command.
pub(crate) struct Run<'a> {
    /// The program.
    pub(crate) program: &'a Path,
    /// Its words.
    pub(crate) words: &'a [OsString],
    /// Variables of its environment beside ours.
    pub(crate) with: &'a [(&'static str, OsString)],
    /// How long it may take.
    pub(crate) patience: Option<Duration>,
}

/// What a command said, and whether it ended well.
pub(crate) struct Ended {
    pub(crate) success: bool,
    pub(crate) out: Vec<u8>,
    pub(crate) err: Vec<u8>,
}

impl Run<'_> {
    /// The program's name and its first words, for people.
    pub(crate) fn called(&self) -> String {
        let name = self.program.file_name().unwrap_or(self.program.as_os_str());
        let plain = |word: &&OsString| !word.to_string_lossy().starts_with('-');
        let words = self.words.iter().filter(plain).map(|word| word.to_string_lossy().into_owned());
        // What follows an option may be its value: the first words without one are enough.
        let verb = words.filter(|word| !word.contains('/') && !word.contains('{')).take(2);
        let all: Vec<String> =
            [name.to_string_lossy().into_owned()].into_iter().chain(verb).collect();
        plain_text(&all.join(" "))
    }

    /// Runs it, with nothing to read.
    ///
    /// # Errors
    /// If it cannot be run, or does not end in time: then it is ended.
    pub(crate) fn end(&self) -> Result<Ended, Error> {
        let failed = |source| Error::Run { command: self.called(), source };
        // What a command leaves running must not be waited for, as the end of a pipe would be.
        let (out, err) =
            (tempfile::tempfile().map_err(failed)?, tempfile::tempfile().map_err(failed)?);
        let mut command = Command::new(self.program);
        command.args(self.words).stdin(Stdio::null());
        command.stdout(out.try_clone().map_err(failed)?).stderr(err.try_clone().map_err(failed)?);
        // An engine that is elsewhere has no process here.
        command.env_remove("CONTAINER_HOST").env_remove("CONTAINER_CONNECTION");
        command.env_remove("DOCKER_CONTEXT");
        command.envs(self.with.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().map_err(failed)?;
        if let Some(patience) = self.patience {
            let pid = HostPid::new(child.id().cast_signed());
            let pid = pid.ok_or_else(|| failed(io::Error::other("a pid that is none")))?;
            let deadline = Instant::now() + patience;
            let waited = PidFd::open(pid).and_then(|pidfd| pidfd.await_end(false, deadline));
            if waited.map_err(failed)? == End::Alive {
                child.kill().map_err(failed)?;
                child.wait().map_err(failed)?;
                return Err(Error::Late { command: self.called(), seconds: patience.as_secs() });
            }
        }
        let status = child.wait().map_err(failed)?;
        let (out, err) = (read(out).map_err(failed)?, read(err).map_err(failed)?);
        Ok(Ended { success: status.success(), out, err })
    }

    /// Runs it; what it said, if it ended well.
    ///
    /// # Errors
    /// If it cannot be run, or fails.
    pub(crate) fn succeed(&self) -> Result<Vec<u8>, Error> {
        let ended = self.end()?;
        if ended.success {
            return Ok(ended.out);
        }
        Err(Error::Failed { command: self.called(), said: said(&ended.err) })
    }
}

fn read(mut file: File) -> io::Result<Vec<u8>> {
    file.rewind()?;
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(text)
}

/// The end of what a command said, behind a colon.
pub(crate) fn said(text: &[u8]) -> String {
    let start = text.len().saturating_sub(SAID);
    let text = plain_text(String::from_utf8_lossy(text.get(start..).unwrap_or_default()).trim());
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// Text of others, which must not drive a terminal.
fn plain_text(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<'a>(words: &'a [OsString], patience: Duration) -> Run<'a> {
        Run { program: Path::new("/bin/sh"), words, with: &[], patience: Some(patience) }
    }

    #[test]
    fn commands_that_do_not_end_are_ended() {
        let words = ["-c".into(), "echo x; exec sleep 100".into()];
        let start = Instant::now();
        let error = run(&words, Duration::from_millis(50)).succeed().unwrap_err();
        assert!(matches!(error, Error::Late { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn what_stays_behind_is_not_waited_for() {
        let words = ["-c".into(), "echo x; sleep 30 & echo y >&2".into()];
        let start = Instant::now();
        let ended = run(&words, PATIENCE).end().unwrap();
        assert_eq!((ended.success, &*ended.out, &*ended.err), (true, &b"x\n"[..], &b"y\n"[..]));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn failures_say_what_was_said() {
        let words = ["-c".into(), "printf 'bad\\033[2J' >&2; exit 3".into()];
        let error = run(&words, PATIENCE).succeed().unwrap_err();
        assert!(error.to_string().ends_with("failed: bad [2J"), "{error}");
    }

    #[test]
    fn programs_are_found_by_absolute_directories() {
        assert_eq!(find("sh", OsStr::new("bin:.:/nowhere:/bin")), Some("/bin/sh".into()));
        assert_eq!(find("sh", OsStr::new("")), None);
    }
}

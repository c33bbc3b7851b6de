//! Programs to checkpoint.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::built::built_program;
use crate::machine::wait_until;

/// A directory for a program's files and one for its images, gone at the end of the test.
///
/// On a failed assertion it stays, and its name is printed, when `STASIS_TEST_KEEP` is set.
#[derive(Debug)]
pub struct Scratch(Option<tempfile::TempDir>);

impl Scratch {
    /// Makes the directory.
    #[must_use]
    pub fn new() -> Self {
        Self::new_in(std::env::temp_dir())
    }

    /// Makes it in a directory of the caller's choice.
    #[must_use]
    pub fn new_in(parent: impl AsRef<Path>) -> Self {
        let dir = tempfile::Builder::new().prefix("stasis-test.").tempdir_in(parent);
        Self(Some(dir.expect("make a directory")))
    }

    /// A path inside.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.as_ref().expect("there until dropped").path().join(name)
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    #[allow(clippy::print_stderr, reason = "for the person who reads why a test failed")]
    fn drop(&mut self) {
        if std::thread::panicking()
            && std::env::var_os("STASIS_TEST_KEEP").is_some()
            && let Some(dir) = self.0.take()
        {
            eprintln!("kept: {}", dir.keep().display());
        }
    }
}

/// A started program in a session of its own, its standard streams being `/dev/null` and a file.
#[derive(Debug)]
pub struct Program {
    child: Child,
}

impl Program {
    /// Starts the command.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let log = File::create(log).expect("make the log");
        // A session of its own, so that nothing of the test's terminal is in the checkpoint.
        let mut in_session = Command::new("setsid");
        in_session.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => in_session.env(name, value),
                None => in_session.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            in_session.current_dir(dir);
        }
        let child = in_session
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("dup"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Self { child }
    }

    /// Its process id, also after a restore.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// Whether a process of this id runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.len() > 2 && !rest.starts_with(" Z"))
    }
}

/// One of the programs of `tests/workloads`, which check their own state.
#[derive(Debug)]
pub struct Workload {
    program: Program,
    dir: PathBuf,
}

impl Workload {
    /// Starts the family's program with the directory as its own, and waits until its state
    /// stands.
    ///
    /// # Panics
    /// When it does not come to stand.
    #[must_use]
    pub fn start(family: &str, dir: PathBuf) -> Self {
        Self::start_with(family, dir, &[])
    }

    /// The same, with variables added to its environment.
    ///
    /// # Panics
    /// When it does not come to stand.
    #[must_use]
    pub fn start_with(family: &str, dir: PathBuf, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(built_program("stasis-workload"));
        Self::begin(command.envs(environment.iter().copied()), family, dir)
    }

    /// The same of another program, that is told and asked in the same way.
    ///
    /// # Panics
    /// When it does not come to stand.
    #[must_use]
    pub fn start_as(program: &Path, family: &str, dir: PathBuf) -> Self {
        Self::begin(&mut Command::new(program), family, dir)
    }

    fn begin(command: &mut Command, family: &str, dir: PathBuf) -> Self {
        if !dir.is_dir() {
            fs::create_dir(&dir).expect("make the workload's directory");
        }
        command.arg(family).arg(&dir);
        let program = Program::start(command, &dir.join("log"));
        let workload = Self { program, dir };
        let stands = wait_until(Duration::from_secs(60), || workload.dir.join("ready").exists());
        assert!(stands, "{family} does not stand: {}", workload.log());
        workload
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.program.pid()
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// A path in its directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What it printed, and what its children had to say.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("child-") {
                text += &fs::read_to_string(entry.path()).unwrap_or_default();
            }
        }
        text
    }

    /// What its pulse saw since it was last asked, or since it stood: the largest gap between two
    /// of its beats. For families that wait with a pulse.
    ///
    /// # Errors
    /// That it did not answer.
    pub fn gap(&self) -> Result<Duration, String> {
        let gap = self.path("gap");
        let written = fs::write(self.path("measure"), "");
        written.map_err(|error| format!("write measure: {error}"))?;
        if !wait_until(Duration::from_secs(10), || gap.exists()) {
            return Err(format!("the pulse does not answer: {}", self.log()));
        }
        let nanos = fs::read_to_string(&gap).ok().and_then(|text| text.parse().ok());
        fs::remove_file(&gap).map_err(|error| format!("remove gap: {error}"))?;
        nanos.map(Duration::from_nanos).ok_or_else(|| "the pulse's gap is no number".to_owned())
    }

    /// Takes back that it was asked to check its state, for a copy of it made before.
    ///
    /// # Errors
    /// The reason that a file could not be removed.
    pub fn forget_check(&self) -> std::io::Result<()> {
        for name in ["go", "result"] {
            match fs::remove_file(self.path(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Asks it to check its state.
    ///
    /// # Errors
    /// What it found to differ, or that it did not answer.
    pub fn check(&self) -> Result<(), String> {
        fs::write(self.dir.join("go"), "").expect("write go");
        if self.dir.join("waits-at-fifo").exists() {
            let fifo = File::options().read(true).write(true).open(self.dir.join("fifo"));
            fifo.and_then(|mut fifo| fifo.write_all(b"g")).expect("write to the fifo");
        }
        self.verdict()
    }

    fn verdict(&self) -> Result<(), String> {
        let result = self.dir.join("result");
        let answered =
            wait_until(Duration::from_secs(60), || result.exists() || !self.program.is_alive());
        match fs::read_to_string(&result) {
            Ok(text) if text == "PASS\n" => Ok(()),
            Ok(text) => Err(format!("{text}{}", self.log())),
            Err(_) if answered => Err(format!("it died: {}", self.log())),
            Err(_) => Err(format!("no answer: {}", self.log())),
        }
    }
}

//! What checkpoints and restores: stasis, its `criu` face, or CRIU itself.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::built::{built_program, criu_program, stasis_program};
use crate::services::Collector;

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// `stasis dump`, `stasis restore`.
    Stasis,
    /// `stasis criu dump`, `stasis criu restore`.
    CriuFace,
    /// CRIU itself.
    Criu,
}

/// How to dump.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dump<'a> {
    /// The target runs on.
    pub leave_running: bool,
    /// The target is a job of a shell.
    pub shell_job: bool,
    /// The collector whose eBPF programs are used; without one, /proc is read.
    pub collector: Option<&'a Collector>,
    /// The tasks are asked also for what the programs tell.
    pub cross_check: bool,
    /// Its TCP connections to programs outside are carried, too.
    pub connections: bool,
}

impl Dump<'_> {
    /// The target is ended.
    pub const ENDING: Self = Self {
        leave_running: false,
        shell_job: false,
        collector: None,
        cross_check: false,
        connections: false,
    };
    /// The target runs on.
    pub const RUNNING_ON: Self = Self { leave_running: true, ..Self::ENDING };
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    /// It ended with status 0.
    pub success: bool,
    /// Its exit status, if it ended by itself.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error, and the end of the log file if there is one.
    pub stderr: String,
}

impl Outcome {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        let output = command
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("run {command:?}: {error}"));
        Self {
            success: output.status.success(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails the test unless it ended well.
    ///
    /// # Panics
    /// When it did not.
    pub fn must_succeed(self, what: &str) -> Self {
        assert!(self.success, "{what}: status {:?}\n{}{}", self.code, self.stdout, self.stderr);
        self
    }
}

impl Engine {
    /// The program with what every call of it needs.
    #[must_use]
    pub fn command(self, subcommand: &str) -> Command {
        let mut command = match self {
            Self::Stasis => Command::new(stasis_program()),
            Self::CriuFace => Command::new(built_program("criu")),
            Self::Criu => Command::new(criu_program()),
        };
        command.arg(subcommand);
        command
    }

    /// The command that dumps `pid` to `images`.
    #[must_use]
    pub fn dump_command(self, pid: i32, images: &Path, how: Dump<'_>) -> Command {
        let mut command = self.command("dump");
        if self == Self::Stasis {
            command.arg(pid.to_string());
        } else {
            // CRIU wants the directory to be there.
            std::fs::create_dir_all(images).expect("make the images directory");
            command.arg("-t").arg(pid.to_string()).args(["-v4", "-o", "dump.log", "--file-locks"]);
        }
        if self == Self::Criu || how.connections {
            // Stasis carries what concerns nobody else without being told to.
            command.arg("--tcp-established");
        }
        command.arg("-D").arg(images);
        if how.leave_running {
            command.arg("--leave-running");
        }
        if how.shell_job {
            command.arg("--shell-job");
        }
        // Not what a collector of another test has left.
        command.env("STASIS_BPF_DIR", how.collector.map_or(Path::new("none"), Collector::programs));
        if how.cross_check {
            command.env("STASIS_CROSS_CHECK", "yes");
        }
        command
    }

    /// The command that restores from `images` and leaves what it restored to itself.
    #[must_use]
    pub fn restore_command(self, images: &Path, how: Dump<'_>) -> Command {
        let mut command = self.command("restore");
        command.arg("-D").arg(images);
        if self == Self::Stasis {
            command.arg("--detach");
        } else {
            command.args(["-d", "-v4", "-o", "restore.log", "--file-locks"]);
        }
        if self == Self::Criu || (how.connections && self == Self::CriuFace) {
            command.arg("--tcp-established");
        }
        if how.shell_job {
            command.arg("--shell-job");
        }
        command
    }

    /// Dumps.
    #[must_use]
    pub fn dump(self, pid: i32, images: &Path, how: Dump<'_>) -> Outcome {
        self.run(&mut self.dump_command(pid, images, how), &images.join("dump.log"))
    }

    /// Restores.
    #[must_use]
    pub fn restore(self, images: &Path, how: Dump<'_>) -> Outcome {
        self.run(&mut self.restore_command(images, how), &images.join("restore.log"))
    }

    fn run(self, command: &mut Command, log: &Path) -> Outcome {
        let mut outcome = Outcome::of(command);
        if !outcome.success && self != Self::Stasis {
            let text = std::fs::read(log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let errors = lines.iter().filter(|line| line.contains("Error"));
            let last = lines.iter().rev().take(5).rev();
            for line in errors.chain(last) {
                outcome.stderr += line;
                outcome.stderr += "\n";
            }
        }
        outcome
    }
}

//! Programs of the distribution at work: started, loaded, and asked whether they go on.

use std::fmt;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::clients::{Client, Exchange};
use crate::machine::wait_until;
use crate::program::Program;

/// How long a program may take to come up, or to get on.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A question to a program: whether its state is what it was, and it goes on.
pub type Question = Box<dyn FnMut() -> Result<(), String>>;

/// A program at work.
pub struct AtWork {
    /// The root of its tree.
    pub pid: i32,
    /// Whether it has TCP connections to programs outside of its tree.
    pub connections: bool,
    ask: Vec<Question>,
    /// What it printed.
    log: PathBuf,
}

impl fmt::Debug for AtWork {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "process {} at work", self.pid)
    }
}

impl AtWork {
    /// Starts a program in a session of its own, with `dir` as its working directory.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(dir: &Path, command: &mut Command) -> Self {
        let log = dir.join("log");
        let program = Program::start(command.current_dir(dir), &log);
        Self::of(program.pid(), log)
    }

    /// One that has been started already.
    #[must_use]
    pub fn of(pid: i32, log: PathBuf) -> Self {
        Self { pid, connections: false, ask: Vec::new(), log }
    }

    /// Adds a question, which must be answered now.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn asked(mut self, mut question: impl FnMut() -> Result<(), String> + 'static) -> Self {
        let mut said = String::new();
        let answered = wait_until(PATIENCE, || question().map_err(|what| said = what).is_ok());
        assert!(answered, "it does not come up: {said}\n{}", self.log());
        self.ask.push(Box::new(question));
        self
    }

    /// A file that it makes longer and longer.
    #[must_use]
    pub fn writes(self, file: &Path) -> Self {
        let file = file.to_owned();
        let size = move || fs::metadata(&file).map_or(0, |metadata| metadata.len());
        self.asked(move || {
            let before = size();
            match wait_until(PATIENCE, || size() > before) {
                true => Ok(()),
                false => Err(format!("its output stands at {before} bytes")),
            }
        })
    }

    /// A server at a port of 127.0.0.1, with clients outside of the tree, old ones and a new one each time.
    #[must_use]
    pub fn serves(mut self, port: u16, exchange: Exchange) -> Self {
        const CLIENTS: usize = 3;
        let up = wait_until(PATIENCE, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok_and(|mut stream| {
                stream.set_read_timeout(Some(PATIENCE)).is_ok() && exchange(&mut stream).is_ok()
            })
        });
        assert!(up, "it does not serve: {}", self.log());
        self.connections = true;
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::start(port, exchange)).collect();
        self.asked(move || {
            clients.iter_mut().try_for_each(Client::goes_on)?;
            Client::start(port, exchange).goes_on()
        })
    }

    /// Whether it goes on, by all questions.
    ///
    /// # Panics
    /// When it does not.
    pub fn must_go_on(&mut self, when: &str) {
        for question in &mut self.ask {
            if let Err(what) = question() {
                panic!("{when}: {what}\n{}", self.log());
            }
        }
    }

    fn log(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned()
    }
}

/// The output of a command, which must end well.
///
/// # Errors
/// What it said.
pub fn output_of(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| format!("run {command:?}: {error}"))?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{command:?}: {}", text(&output.stderr))),
    }
}

//! Work that needs a process of its own: a fresh copy of the service's binary, started with the
//! hidden argument `worker`, which reads its request as JSON from standard input and writes its
//! answer as JSON to standard output.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use api::ErrorDetail;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What a worker writes: the answer, or why there is none.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer<A> {
    Done(A),
    Failed(ErrorDetail),
}

/// The binary that workers run.
#[derive(Clone, Debug)]
pub struct Worker {
    program: PathBuf,
}

/// Why a worker gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Our own binary cannot be found.
    #[error("find the service's own binary")]
    Program(#[source] io::Error),
    /// The worker cannot be started.
    #[error("start worker {program}")]
    Start {
        /// The binary.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The request cannot be handed over, or the answer not taken.
    #[error("talk to the worker")]
    Talk(#[source] io::Error),
    /// It ended without an answer, or with one that is not understood.
    #[error("read the worker's answer")]
    Strange(#[source] serde_json::Error),
    /// The request cannot be written as JSON.
    #[error("write the worker's request")]
    Request(#[source] serde_json::Error),
    /// The worker did its work, and it failed.
    #[error("{}", .0.message)]
    Failed(ErrorDetail),
}

impl Worker {
    /// Workers of this very program.
    pub fn of_this_program() -> Result<Self, WorkerError> {
        let program = std::env::current_exe().map_err(WorkerError::Program)?;
        Ok(Self { program })
    }

    /// Starts a worker, gives it the request and waits for its answer; blocks meanwhile.
    ///
    /// `spawn` starts the command and sees to it that the child is reaped: a service that reaps
    /// children which are not its own must know its workers before they can end. The answer is
    /// taken as soon as it is whole, whatever may have inherited the worker's output.
    pub fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        request: &Q,
        spawn: impl FnOnce(Command) -> io::Result<(ChildStdin, ChildStdout)>,
    ) -> Result<A, WorkerError> {
        let request = serde_json::to_vec(request).map_err(WorkerError::Request)?;
        // Not by its path: that may lead to a newer program since an upgrade, or nowhere in the mount namespace that we are in.
        let mut command = Command::new("/proc/self/exe");
        command.arg0(&self.program).arg("worker").stdin(Stdio::piped()).stdout(Stdio::piped());
        let (mut input, output) = spawn(command)
            .map_err(|source| WorkerError::Start { program: self.program.clone(), source })?;
        input.write_all(&request).map_err(WorkerError::Talk)?;
        drop(input);
        let mut reader = serde_json::Deserializer::from_reader(BufReader::new(output));
        match Answer::deserialize(&mut reader).map_err(WorkerError::Strange)? {
            Answer::Done(answer) => Ok(answer),
            Answer::Failed(detail) => Err(WorkerError::Failed(detail)),
        }
    }
}

/// The worker's side: reads the request, does the work, writes the answer.
pub fn answer<Q: DeserializeOwned, A: Serialize>(
    work: impl FnOnce(Q) -> Result<A, ErrorDetail>,
) -> Result<(), WorkerError> {
    // A worker may have to stay alone in its process, so its log has no thread: what deserves a
    // warning goes to the service's standard error.
    let filter = tracing_subscriber::EnvFilter::try_from_env("STASIS_LOG");
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "warn".into()))
        .with_ansi(false)
        .with_writer(io::stderr)
        .init();
    let mut request = Vec::new();
    io::stdin().read_to_end(&mut request).map_err(WorkerError::Talk)?;
    let answer = match serde_json::from_slice(&request).map_err(WorkerError::Request) {
        Ok(request) => match work(request) {
            Ok(answer) => Answer::Done(answer),
            Err(detail) => Answer::Failed(detail),
        },
        Err(error) => {
            Answer::Failed(ErrorDetail { message: crate::chain(&error), ..ErrorDetail::default() })
        }
    };
    let answer = serde_json::to_vec(&answer).map_err(WorkerError::Request)?;
    io::stdout().write_all(&answer).map_err(WorkerError::Talk)
}

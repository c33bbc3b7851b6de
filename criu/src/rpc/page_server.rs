//! A page server for a client.
//!
//! It is a process of its own, started by the worker, and tells the worker by a pipe who it is and where it listens, or why it does
//! not.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use hooks::Nobody;
use kernel::process::{exit_now, fork_any};
use nix::fcntl::OFlag;

use super::connection::Connection;
use super::fields::work_in;
use super::messages::PageServer;
use crate::carrying_out::run_told;
use crate::command::Command;
use crate::error::PageServerError;
use crate::options::Options;
use crate::{Error, Host};

/// No answer of a server is longer, in bytes.
const LONGEST: u64 = 16 << 10;

fn failed(source: io::Error) -> Error {
    let error = PageServerError { what: "start a page server".to_owned(), source };
    Error::PageServer(error.into())
}

/// Starts one. It is a child of the worker, or nobody's.
pub(super) fn start(
    options: Options,
    as_child: bool,
    host: &Host,
    connection: &mut Connection,
) -> Result<PageServer, Error> {
    let (answer, ours) =
        nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()))?;
    let options = Options { detach: !as_child, tells: Some(ours.as_raw_fd()), ..options };
    let child = match fork_any().map_err(failed)? {
        Some(child) => child,
        None => {
            drop(answer);
            let is_alone = connection.leave().is_ok();
            exit_now(i32::from(!(is_alone && serve(&options, host, ours))))
        }
    };
    drop(ours);
    let said = hear(&mut File::from(answer).take(LONGEST)).map_err(failed);
    let server = said.as_ref().ok().and_then(|said| started(said));
    if !as_child || server.is_none() {
        // It has gone on in another process, or has ended.
        kernel::process::wait_status(child).map_err(failed)?;
    }
    let lost = |said: String| if said.is_empty() { "it has ended".to_owned() } else { said };
    server
        .ok_or_else(|| said.map_or_else(|error| error, |said| failed(io::Error::other(lost(said)))))
}

/// What a server says: that it listens, or all that it has to say before it ends.
fn hear(answer: &mut impl Read) -> io::Result<String> {
    let mut said = Vec::new();
    let mut portion = [0; 512];
    loop {
        let read = answer.read(&mut portion)?;
        said.extend_from_slice(&portion[..read]);
        let text = String::from_utf8_lossy(&said);
        if read == 0 || started(&text).is_some() {
            return Ok(text.into_owned());
        }
    }
}

/// What a server that listens has said.
fn started(said: &str) -> Option<PageServer> {
    let (line, _) = said.split_once('\n')?;
    let (pid, port) = line.split_once(' ')?;
    let (pid, port) = (pid.parse().ok()?, port.parse::<u16>().ok()?);
    Some(PageServer { pid: Some(pid), port: Some(port.into()), ..PageServer::default() })
}

/// Serves, in the process that is for it; whether all went well. The worker is told why it does not listen; of what comes later it
/// does not hear.
fn serve(options: &Options, host: &Host, worker: OwnedFd) -> bool {
    let done = work_in(options)
        .and_then(|()| run_told(Command::PageServer, options, host, &mut Nobody).map(drop));
    if let Err(error) = &done {
        let told = File::from(worker).write_all(error.to_string().as_bytes());
        tracing::debug!(?told, "the page server ends");
    }
    done.is_ok()
}

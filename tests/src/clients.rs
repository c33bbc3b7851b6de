//! Clients outside of the tree that keep talking to a server over one connection each.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::machine::wait_until;

/// How long a connection may take to go on: what was lost is sent again, later and later.
const PATIENCE: Duration = Duration::from_secs(60);

/// One exchange with a server.
pub type Exchange = fn(&mut TcpStream) -> io::Result<()>;

/// A client, which has one exchange after the other until it is dropped.
#[derive(Debug)]
pub struct Client {
    exchanges: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Client {
    /// Connects to a port of 127.0.0.1 and begins.
    ///
    /// # Panics
    /// When it cannot connect.
    #[must_use]
    pub fn start(port: u16, exchange: Exchange) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("set a time limit");
        let (exchanges, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ends) = (exchanges.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                exchange(&mut stream)?;
                count.fetch_add(1, Ordering::SeqCst);
                // So that the server has time for others on a small machine.
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        Self { exchanges, over, thread: Some(thread) }
    }

    /// Waits until it has had a few exchanges more.
    ///
    /// # Errors
    /// Why it has ended, or that it hears nothing.
    pub fn goes_on(&mut self) -> Result<(), String> {
        let now = || self.exchanges.load(Ordering::SeqCst);
        let before = now();
        let ended = || self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        if wait_until(PATIENCE, || now() > before + 3 || ended()) && !ended() {
            return Ok(());
        }
        match self.thread.take_if(|thread| thread.is_finished()).map(JoinHandle::join) {
            None => Err(format!("a client hears nothing after {before} exchanges")),
            Some(Ok(Err(error))) => Err(format!("a client after {} exchanges: {error}", now())),
            Some(ended) => Err(format!("a client ended: {ended:?}")),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // What it had to say is of no interest any more.
            drop(thread.join());
        }
    }
}

/// A program outside of the tree, which ends with this.
#[derive(Debug)]
pub struct Outside(Child);

impl Outside {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).spawn();
        Self(child.unwrap_or_else(|error| panic!("start {command:?}: {error}")))
    }

    /// The way to its input.
    ///
    /// # Panics
    /// The second time.
    pub fn input(&mut self) -> ChildStdin {
        self.0.stdin.take().expect("its input")
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // It may have ended, and been waited for, already.
        drop(self.0.kill().and_then(|()| self.0.wait()));
    }
}

/// Says something and reads until the answer ends so.
///
/// # Errors
/// What went wrong, or that the server hung up.
pub fn say(stream: &mut TcpStream, words: &[u8], answer_ends: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(words)?;
    let (mut answer, mut bytes) = (Vec::new(), [0; 1 << 16]);
    while !answer.ends_with(answer_ends) {
        match stream.read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => answer.extend(&bytes[..count]),
        }
    }
    Ok(answer)
}

/// Gets `/` over HTTP/1.1, and leaves the connection open.
///
/// # Errors
/// What went wrong, or that the answer is no page of a known length.
pub fn get(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")?;
    let (mut answer, mut bytes) = (Vec::new(), [0; 1 << 16]);
    loop {
        if let Some(whole) = length(&answer)?
            && answer.len() >= whole
        {
            return Ok(());
        }
        match stream.read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => answer.extend(&bytes[..count]),
        }
    }
}

/// How long an answer is with its head, as soon as that is there.
fn length(answer: &[u8]) -> io::Result<Option<usize>> {
    let text = String::from_utf8_lossy(answer);
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    let head = head.to_ascii_lowercase();
    if !head.starts_with("http/1.1 200") {
        return Err(io::Error::other(format!("no page: {head}")));
    }
    let value = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let body: Option<usize> = value.and_then(|value| value.trim().parse().ok());
    body.map(|body| Some(head.len() + 4 + body))
        .ok_or_else(|| io::Error::other(format!("a page of no known length: {head}")))
}
